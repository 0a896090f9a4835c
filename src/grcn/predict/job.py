"""`grcn predict`: a detector over images and videos; drawn pictures, COCO results, and labels to correct and train on.

```
OUT/drawn/NAME.jpg, NAME.mp4   the pictures and videos with their detections
OUT/results.jsonl              detections in COCO's results format, one a line; grows image by image
OUT/results.json               the same as the one list that COCO's tools read; only when all images are done
OUT/images.json                what the ids mean: `images` done (id, file_name, path, width, height), `categories`, and
                               `complete`: false until results.json is there
OUT/frames/NAME.jsonl          per video: a line a frame with its detections; image_id is its number
OUT/frames/NAME.json           the same when the video is done: width, height, fps and `frames`
OUT/voc, OUT/coco, OUT/yolo    with --save: data sets of the images (not of videos) and what was found in them
OUT/labelstudio                with --save: tasks.json (pre-annotations), interface.txt and the images, for Label Studio
OUT/fiftyone                   with --save: samples.json and the images, for FiftyOne
```
Image ids count from 1 in the order of the sources, category ids from 1 in the order of the classes, frames from 0. In
names that are not UTF-8 the odd bytes are escaped (`\\udce9`), as `json.loads` and `os.fsencode` understand them.
"""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from grcn.data.formats import WRITERS
from grcn.data.image import SUFFIXES, read_image
from grcn.data.records import AnnotatedImage
from grcn.errors import CheckpointError, ConfigError, ImageError, first_line
from grcn.files import atomic_file, to_json, write_json
from grcn.predict.draw import draw_detections
from grcn.predict.sources import Source
from grcn.predict.video import read_video, write_video
from grcn.types import Detections

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from grcn.predict.detector import Detector

MAX_JPEG = 65_500  # pixels a side that libjpeg writes; the format's own limit is 65,535


@dataclass
class Summary:
    """What `predict` did: images and video frames done, objects found per class, and what could not be done.

    A source is among the broken ones where it cannot be read, or what belongs to it cannot be written.
    """

    images: int = 0
    frames: int = 0
    found: Counter[str] = field(default_factory=Counter)
    broken: list[ImageError] = field(default_factory=list)


def predict(
    detector: Detector,
    sources: Sequence[Source],
    out: Path,
    *,
    score: float | None = 0.3,
    save: Sequence[str] = (),
    on_broken: Callable[[ImageError], None] = lambda error: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Finds objects in every source and writes the files that the module's head lists, and nothing outside `out`.

    Whatever ends it, what was found so far is kept. An image of which anything cannot be written is not among the
    results; of a video that is not done to its end the lines of its frames stay.

    Args:
        detector: the detector.
        sources: from `find_sources`.
        out: the folder of results, made where absent; results of an earlier run are replaced.
        score: detections below it are left out; None: the model's own threshold.
        save: any of `grcn.data.formats.WRITERS`.
        on_broken: called for each source that cannot be done; the others are done all the same.
        progress: called with sources done and sources in all.

    Raises:
        ConfigError: where saved labels of an earlier run, perhaps corrected since, would be replaced.
        CheckpointError: where what is written once, such as the list of images, cannot be written.
    """
    for kind in save:
        if (out / kind).exists():
            raise ConfigError(f"{out / kind}: exists, perhaps with corrected labels; move it or choose another --out")
    summary = Summary()
    results = _Results(out, detector.class_names)
    with ExitStack() as last:  # done also when it is stopped, and each also where another fails
        saved: dict[str, list[AnnotatedImage]] = {kind: [] for kind in save}
        for kind in save:
            last.callback(_finish_labels, kind, out / kind, saved[kind], detector)
        last.callback(results.close)
        for done, source in enumerate(sources):
            progress(done, len(sources))
            try:
                if source.is_video:
                    _predict_video(detector, source, out, score, summary)
                    continue
                # Read once: what was decoded is what is copied, also from standard input.
                content = _read(source)
                image = read_image(content, name=str(source))
                found = detector.predict(image, score=score)
                with _files_of(source) as files:
                    labels = [_save_labels(kind, out / kind, source, content, image, found, files) for kind in save]
                    files.write(out / "drawn" / f"{source.name}.jpg", _drawn(source, image, found))
                    results.add(source, image, found)
            except ImageError as error:
                summary.broken.append(error)
                on_broken(error)
                continue
            for kind, annotated in zip(save, labels, strict=True):
                saved[kind].append(annotated)
            summary.images += 1
            summary.found.update(found.names)
        progress(len(sources), len(sources))
        results.finish()
    return summary


class _Results:
    """results.jsonl, which grows; images.json, which is kept up to it; and results.json, once all is there.

    Args:
        out: the folder, made where absent.
    """

    def __init__(self, out: Path, class_names: Sequence[str]) -> None:
        self._out = out
        self._categories = [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)]
        self._images: list[dict[str, Any]] = []
        self._list_images(complete=False)
        try:
            (out / "results.json").unlink(missing_ok=True)  # of an earlier run
            self._lines = open(out / "results.jsonl", "wb", buffering=0)  # noqa: SIM115 - see close
        except OSError as error:
            raise CheckpointError(f"{error.filename}: cannot be written: {error.strerror}") from None

    def add(self, source: Source, image: NDArray[np.uint8], found: Detections) -> None:
        """Appends what was found in an image, all of it or, where an error is raised, nothing."""
        image_id = len(self._images) + 1
        _append(self._lines, b"".join(map(to_json, found.to_coco(image_id))))
        self._images.append(_describe(image_id, source, image))
        if time.monotonic() >= self._next:
            with suppress(CheckpointError):  # of a full disk; the next image tries again, and the end for good
                self._list_images(complete=False)

    def finish(self) -> None:
        """Makes results.json of the lines."""
        with atomic_file(self._out / "results.json") as file, open(self._out / "results.jsonl", "rb") as lines:
            file.write(b"[")
            for number, line in enumerate(lines):
                file.write((b",\n" if number else b"") + line.rstrip())
            file.write(b"]\n")
        self._list_images(complete=True)

    def close(self) -> None:
        """Leaves a list of the images that are done, also of a run that was stopped."""
        self._lines.close()
        if not self._complete:
            self._list_images(complete=False)

    def _list_images(self, *, complete: bool) -> None:
        started = time.monotonic()
        content = {"complete": complete, "images": self._images, "categories": self._categories}
        write_json(self._out / "images.json", content, durable=complete)
        self._complete = complete
        # Of thousands of images it takes a while: never more than a twentieth of the whole time.
        self._next = started + max(1.0, 20 * (time.monotonic() - started))


def _append(file: io.FileIO, data: bytes) -> None:
    """Writes all of `data` at the end of an unbuffered file, or raises and leaves it as it was."""
    end = file.tell()
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except BaseException as error:
        file.truncate(end)
        file.seek(end)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, file.name) from None
        raise


class _Files:
    """The files of one source, which go where it is not done to its end."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def write(self, path: Path, data: bytes) -> None:
        with atomic_file(self.claim(path), durable=False) as file:
            file.write(data)

    def claim(self, path: Path) -> Path:
        """Makes place for a file that someone else writes."""
        path.unlink(missing_ok=True)  # of an earlier run
        self._made.append(path)
        return path

    def remove(self) -> None:
        for path in self._made:
            path.unlink(missing_ok=True)


@contextmanager
def _files_of(source: Source) -> Iterator[_Files]:
    """The files of a source to be written: all, or none and an ImageError that names source and file."""
    files = _Files()
    try:
        yield files
    except BaseException as error:
        with suppress(OSError):
            files.remove()
        if isinstance(error, OSError) and error.filename is not None:
            raise ImageError(f"{source}: {error.filename}: cannot be written: {error.strerror}") from None
        if isinstance(error, OSError | CheckpointError):
            raise ImageError(f"{source}: {error}") from None
        raise


def _drawn(source: Source, image: NDArray[np.uint8], found: Detections) -> bytes:
    """The JPEG of an image with its detections.

    Raises:
        ImageError: where it is larger than a JPEG can be.
    """
    picture = draw_detections(image, found)
    height, width = picture.shape[:2]
    if max(height, width) > MAX_JPEG:
        raise ImageError(f"{source}: {width} x {height} pixels drawn; a JPEG has at most {MAX_JPEG} a side")
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=92)
    return file.getvalue()


def _read(source: Source) -> bytes:
    try:
        return sys.stdin.buffer.read() if source.path is None else source.path.read_bytes()
    except OSError as error:
        raise ImageError(f"{source}: cannot be read: {error.strerror}") from None


def _describe(image_id: int, source: Source, image: NDArray[np.uint8]) -> dict[str, Any]:
    where = {"file_name": source.path.name, "path": str(source.path.resolve())} if source.path else {"file_name": "-"}
    return {"id": image_id, **where, "width": image.shape[1], "height": image.shape[0]}


def _predict_video(detector: Detector, source: Source, out: Path, score: float | None, summary: Summary) -> None:
    """Draws one video, frame by frame, and writes the detections of each frame.

    Raises:
        ImageError: where it cannot be opened, holds no frame, or cannot be written.
    """
    assert source.path is not None
    listed = out / "frames" / f"{source.name}.json"
    lines = listed.with_suffix(f"{listed.suffix}l")
    with read_video(source.path) as video, _files_of(source) as files:
        files.claim(listed)
        lines.unlink(missing_ok=True)  # of an earlier run; this one's stay, whatever happens
        names: Counter[str] = Counter()
        with closing(_predict_frames(detector, video.frames, score, lines, names)) as frames:
            count = _write_video(frames, out / "drawn" / f"{source.name}.mp4", video.fps, files)
        about = {"video": str(source), "width": video.width, "height": video.height, "fps": video.fps}
        with atomic_file(listed) as file, open(lines, "rb") as every:
            file.write(to_json(about).rstrip()[:-1] + b', "frames": [')
            for number, line in enumerate(every):
                file.write((b",\n" if number else b"\n") + line.rstrip())
            file.write(b"]}\n")
    summary.frames += count
    summary.found.update(names)


def _predict_frames(
    detector: Detector,
    images: Iterable[NDArray[np.uint8]],
    score: float | None,
    lines: Path,
    names: Counter[str],
) -> Generator[NDArray[np.uint8]]:
    """The drawn frames, [H, W, 3] uint8 RGB.

    Args:
        lines: the file to fill with the results of each frame, a line each; it is made with the first.
        names: to fill with what was found.
    """
    with ExitStack() as opened:
        for number, image in enumerate(images):
            if not number:
                lines.parent.mkdir(parents=True, exist_ok=True)
                file = opened.enter_context(open(lines, "wb", buffering=0))
            found = detector.predict(image, score=score)
            _append(file, to_json(found.to_coco(number)))
            names.update(found.names)
            yield draw_detections(image, found)


def _write_video(frames: Iterator[NDArray[np.uint8]], path: Path, fps: float, files: _Files) -> int:
    """Writes a video whole or not at all, and returns its number of frames.

    Raises:
        OSError: where it cannot be written.
    """
    first = next(frames)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    files.claim(partial)
    files.claim(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with ExitStack() as opened:
        with _naming(path):
            write = opened.enter_context(write_video(partial, fps, *first.shape[:2]))
        for frame in chain([first], frames):
            with _naming(path):
                write(frame)
            count += 1
        with _naming(path):
            opened.close()
    partial.replace(path)
    return count


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Names the video in whatever its writer raises: PyAV has errors of its own."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{path}: cannot be written: {first_line(error)}") from None


def _save_labels(
    kind: str,
    root: Path,
    source: Source,
    content: bytes,
    image: NDArray[np.uint8],
    found: Detections,
    files: _Files,
) -> AnnotatedImage:
    """Puts a picture and what was found in it into the folder `root` of a format.

    The file is copied as it is, so that training sees the same pixels; one of a kind that data sets cannot hold, as
    from standard input, becomes a PNG.
    """
    if source.path is not None and source.path.suffix.lower() in SUFFIXES:
        name = f"{source.name}{source.path.suffix}"
    else:
        name, png = f"{source.name}.png", io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        content = png.getvalue()
    writer = WRITERS[kind]
    files.write(root / writer.images / name, content)
    keep = (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)  # a box without area is no label
    height, width = image.shape[:2]
    boxes, class_ids, scores = found.boxes[keep], found.class_ids[keep].tolist(), found.scores[keep].tolist()
    annotated = AnnotatedImage(name, height, width, boxes, class_ids, scores)
    if writer.labels:  # a file of labels an image, without scores; those of the other formats are written at the end
        labels = files.claim(root / writer.labels.format(source.name))
        writer.write(labels, replace(annotated, scores=None), found.class_names)
    return annotated


def _finish_labels(kind: str, root: Path, images: Sequence[AnnotatedImage], detector: Detector) -> None:
    """Completes the folder `root` of a format by what is written once: lists of images and of classes, all tasks."""
    if images:
        WRITERS[kind].finish(root, images, detector.class_names, detector.preset or "grcn")
