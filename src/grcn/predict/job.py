"""`grcn predict`: a detector over images and videos; drawn pictures, COCO results, and labels to correct and train on.

```
OUT/drawn/NAME.jpg, NAME.mp4   the pictures and videos with their detections
OUT/results.jsonl              detections in COCO's results format, one per line; grows image by image
OUT/results.json               the same as one list, which COCO's tools read; written when all images are done
OUT/images.json                the ids: `images` done (id, file_name, path, width, height), `categories`, and
                               `complete`, which is false until results.json is written
OUT/frames/NAME.jsonl          per video: one line per frame with its detections; image_id is the frame number
OUT/frames/NAME.json           the same when the video is done: width, height, fps and `frames`; for a live source also
                               `dropped`, the number of frames that were skipped
OUT/voc, OUT/coco, OUT/yolo    with --save: data sets of the images (not of videos) and what was found in them
OUT/labelstudio                with --save: tasks.json (pre-annotations), interface.txt and the images, for Label Studio
OUT/fiftyone                   with --save: samples.json and the images, for FiftyOne
```
Image ids start at 1, in the order of the sources. Category ids start at 1, in the order of the classes. Frames start at
0, and dropped frames of a live source are counted. With tracking, detections in videos have a `track_id` (null: none
yet). In names that are not UTF-8, the invalid bytes are escaped (`\\udce9`), as `json.loads` and `os.fsencode` do.
"""

from __future__ import annotations

import io
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
from PIL import Image

from grcn.config import Tiles
from grcn.data.formats import WRITERS
from grcn.data.image import HEIC_SUFFIXES, MAX_PIXELS, SUFFIXES, read_image
from grcn.data.records import AnnotatedImage
from grcn.errors import CheckpointError, ConfigError, ImageError, first_line
from grcn.files import atomic_file
from grcn.locks import locked_folder
from grcn.predict.draw import draw_detections
from grcn.predict.results import FrameLines, PredictedFiles, Results, files_of
from grcn.predict.sources import Source
from grcn.predict.track import Tracker
from grcn.predict.video import Video, read_live, read_video, write_video
from grcn.types import Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from grcn.config import Score
    from grcn.predict.detector import Detector

See = Callable[..., Any]
"""`Detector.stream` with the score, tiles and threads that photos and videos share."""
MAX_JPEG = 65_500  # pixels per side that libjpeg can write; the format's own limit is 65,535


@dataclass
class Summary:
    """The outcome of `predict`: images and video frames done, objects found per class, and the sources that failed.

    A source counts as broken if it cannot be read or if its results cannot be written.
    """

    images: int = 0
    frames: int = 0
    found: Counter[str] = field(default_factory=Counter)
    broken: list[ImageError] = field(default_factory=list)


def predict_sources(
    detector: Detector,
    sources: Sequence[Source],
    out: Path,
    *,
    score: Score | None = 0.3,
    save: Sequence[str] = (),
    batch_size: int = 1,
    workers: int = 2,
    tiles: Tiles | None = None,
    max_pixels: int = MAX_PIXELS,
    track: bool = False,
    stop: threading.Event | None = None,
    on_broken: Callable[[ImageError], None] = lambda error: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Finds objects in every source and writes the files listed at the top of this module; nothing outside `out`.

    Whatever stops it, the results so far are kept. If a file of an image cannot be written, that image is left out of
    the results. If a video stops before its end, the lines of its frames are kept.

    Args:
        detector: the detector.
        sources: from `find_sources`.
        out: the folder of results, created if it does not exist; results of an earlier run are replaced.
        score: as in `Detector.predict`; detections with a lower score are left out.
        save: names of formats from `grcn.data.formats.WRITERS`.
        batch_size, workers, tiles: as in `Detector.stream`.
        max_pixels: images with more pixels are refused.
        track: give an object in a video the same number in each frame (`grcn.predict.track`).
        stop: when set, ends a live source; its files are then complete.
        on_broken: called with the error of each source that fails; the other sources are done as usual.
        progress: called with the number of sources done and of all sources.

    Raises:
        ConfigError: on a score that the detector does not have; if saved labels of an earlier run, which may have been
            corrected, would be replaced; if another process is using the folder.
        ModuleNotFoundError: if an extra that is needed is not installed.
        CheckpointError: if a file of the whole run, such as the list of images, cannot be written.
    """
    detector.least(score)  # raises its error before anything is replaced
    if track:
        Tracker(1, 0)  # raises its error at once if it is not installed
    draw = draw_detections
    if tiles is not None:  # such a photo is viewed in parts
        draw = partial(draw_detections, view=2 * (tiles.size or detector.config.input.short_side))
    summary = Summary()
    see: See = partial(detector.stream, score=score, tiles=tiles, workers=workers)
    begin = _least(detector, score) if track else None
    one_video = partial(_predict_video, see=see, out=out, begin=begin, stop=stop, summary=summary)
    saved: dict[str, list[AnnotatedImage]] = {kind: [] for kind in save}
    with locked_folder(out), ExitStack() as last:  # each of its callbacks runs, also after a stop or another's failure
        _refuse_to_replace([out / kind for kind in save])
        results = Results(out, detector.class_names)
        for kind in save:
            last.callback(_finish_labels, kind, out / kind, saved[kind], detector)
        last.callback(results.close)
        done = 0
        progress(0, len(sources))
        for are_videos, group in groupby(sources, lambda source: source.is_video):
            if are_videos:
                work = _predict_videos(group, one_video)
            else:
                group_photos = (_Photo(source, max_pixels, draw) for source in group)
                photos = see(group_photos, batch_size=batch_size, read=_Photo.read, finish=_Photo.see)
                work = last.enter_context(closing(_write_photos(photos, out, results, saved, summary)))
            for error in work:
                if error is not None:
                    summary.broken.append(error)
                    on_broken(error)
                done += 1
                progress(done, len(sources))
        results.finish()
    return summary


def _refuse_to_replace(labels: Iterable[Path]) -> None:
    for folder in labels:
        if folder.exists():
            raise ConfigError(f"{folder}: exists, perhaps with corrected labels; move it or choose another --out")


@dataclass
class _Photo:
    """An image in progress: the bytes of its file, read once for decoding and copying, and what was found in it."""

    source: Source
    max_pixels: int
    draw: Callable[[NDArray[np.uint8], Detections], NDArray[np.uint8]]
    content: bytes = b""

    def read(self) -> NDArray[np.uint8]:
        try:
            path = self.source.path
            self.content = sys.stdin.buffer.read() if path is None else path.read_bytes()
        except OSError as error:
            raise ImageError(f"{self.source}: cannot be read: {error.strerror}") from None
        return read_image(self.content, name=str(self.source), max_pixels=self.max_pixels)

    def see(self, image: NDArray[np.uint8], found: Detections) -> _Seen:
        return _Seen(image, found, _drawn(self.source, self.draw(image, found)))


@dataclass(frozen=True)
class _Seen:
    """An image, what was found in it, and both drawn as a JPEG."""

    image: NDArray[np.uint8]
    found: Detections
    drawn: bytes


def _write_photos(
    photos: Iterator[tuple[_Photo, _Seen | ImageError]],
    out: Path,
    results: Results,
    saved: dict[str, list[AnnotatedImage]],
    summary: Summary,
) -> Generator[ImageError | None]:
    """Writes the files of each image, all or none of them, and yields the errors."""
    with closing(photos):  # type: ignore[type-var]  # a generator
        for photo, seen in photos:
            try:
                if isinstance(seen, ImageError):
                    raise seen
                source = photo.source
                with files_of(source) as files:
                    labels = [
                        _save_labels(kind, out / kind, source, photo.content, seen.image, seen.found, files)
                        for kind in saved
                    ]
                    files.write(out / "drawn" / f"{source.name}.jpg", seen.drawn)
                    results.add(source, seen.image.shape[:2], seen.found)
            except ImageError as error:
                yield error
                continue
            for annotated, kind in zip(labels, saved, strict=True):
                saved[kind].append(annotated)
            summary.images += 1
            summary.found.update(seen.found.names)
            del photo, seen  # they may be large
            yield None


def _drawn(source: Source, picture: NDArray[np.uint8]) -> bytes:
    """The JPEG of an image with its detections drawn.

    Raises:
        ImageError: if it is too large for a JPEG.
    """
    height, width = picture.shape[:2]
    if max(height, width) > MAX_JPEG:
        raise ImageError(
            f"{source}: the drawn picture has {width} x {height} pixels; a JPEG has at most {MAX_JPEG} per side"
        )
    return bytes(simplejpeg.encode_jpeg(picture, quality=92, colorsubsampling="420"))


def _predict_videos(sources: Iterable[Source], predict: Callable[[Source], None]) -> Iterator[ImageError | None]:
    """Processes videos one after the other, and yields the error of each that fails."""
    for source in sources:
        try:
            predict(source)
        except ImageError as error:
            yield error
        else:
            yield None


def _predict_video(
    source: Source,
    *,
    see: See,
    out: Path,
    begin: float | None,
    stop: threading.Event | None,
    summary: Summary,
) -> None:
    """Draws one video, frame by frame, and writes the detections of each frame.

    Args:
        begin: the score from which tracks begin; None: nothing is tracked.

    Raises:
        ImageError: if it cannot be opened, holds no frame, or cannot be written.
    """
    names: Counter[str] = Counter()
    with _opened(source, stop) as video, files_of(source) as files:
        tracker = None if begin is None else Tracker(video.fps, begin)
        with FrameLines(out / "frames" / f"{source.name}.json", files) as lines:
            # A live source is not read ahead, so that the newest frame is used.
            own = partial(see, workers=0) if source.is_live else see
            drawn = _drawn_frames(own, video, tracker, lines, names)
            with closing(drawn):
                count, last = _write_video(drawn, out / "drawn" / f"{source.name}.mp4", video.fps, files)
            about = {"video": str(source), "width": video.width, "height": video.height, "fps": video.fps}
            lines.finish({**about, "dropped": last + 1 - count} if source.is_live else about)
        summary.frames += count
        summary.found.update(names)


def _opened(source: Source, stop: threading.Event | None) -> AbstractContextManager[Video]:
    if source.is_live:
        return read_live(source.address, str(source), stop or threading.Event())
    assert source.path is not None
    return read_video(source.path)


def _least(detector: Detector, score: Score | None) -> float:
    """The score from which a track may begin: the lowest threshold of all classes."""
    least = detector.least(score)
    return detector.config.roi.score_threshold if least is None else float(np.min(least))


def _drawn_frames(
    see: See,
    video: Video,
    tracker: Tracker | None,
    lines: FrameLines,
    names: Counter[str],
) -> Generator[tuple[int, NDArray[np.uint8]]]:
    """Yields the number of each frame and the drawn frame, [H, W, 3] uint8 RGB; adds to `lines` and `names`.

    Threads draw the frames, except with tracking, which needs them in order.
    """

    def finish(_: object, image: NDArray[np.uint8], found: Detections) -> tuple[NDArray[np.uint8], Detections]:
        return (draw_detections(image, found) if tracker is None else image), found

    frames = see(zip(video.frames, video.numbers, strict=False), read=lambda frame: frame[0], finish=finish)
    with closing(frames):
        for (_, number), seen in frames:
            if isinstance(seen, ImageError):
                raise seen
            drawn, found = seen
            if tracker is not None:
                found = tracker.update(number, found)
                drawn = draw_detections(drawn, found)
            lines.add(number, found)
            names.update(found.names)
            yield number, drawn


def _write_video(
    frames: Iterator[tuple[int, NDArray[np.uint8]]], path: Path, fps: float, files: PredictedFiles
) -> tuple[int, int]:
    """Writes a video completely or not at all, and returns how many frames it has and the number of the last.

    Raises:
        CheckpointError: if it cannot be written.
    """
    first = next(frames)
    count = last = 0
    with atomic_file(files.claim(path), durable=False) as file, ExitStack() as opened:
        with _naming(path):
            write = opened.enter_context(write_video(file, fps, *first[1].shape[:2]))
        for last, frame in chain([first], frames):
            with _naming(path):
                write(frame, last)
            count += 1
        with _naming(path):
            opened.close()
    return count, last


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Adds the name of the video to any error of its writer; PyAV has its own kinds of errors."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be written: {first_line(error)}") from None


def _save_labels(
    kind: str,
    root: Path,
    source: Source,
    content: bytes,
    image: NDArray[np.uint8],
    found: Detections,
    files: PredictedFiles,
) -> AnnotatedImage:
    """Adds a picture and its detections to the folder `root` of a format.

    The file is copied unchanged, so that training sees the same pixels. A picture from standard input, or of a kind
    that few tools read, such as HEIC, is written as PNG.
    """
    if source.path is not None and source.path.suffix.lower() in SUFFIXES - HEIC_SUFFIXES:
        name = f"{source.name}{source.path.suffix}"
    else:
        name, png = f"{source.name}.png", io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        content = png.getvalue()
    writer = WRITERS[kind]
    files.write(root / writer.images / name, content)
    keep = (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)  # a box without area is not a label
    height, width = image.shape[:2]
    boxes, class_ids, scores = found.boxes[keep], found.class_ids[keep].tolist(), found.scores[keep].tolist()
    annotated = AnnotatedImage(name, height, width, boxes, class_ids, scores)
    if writer.labels:  # one label file per image, without scores; the other formats are written at the end
        labels = files.claim(root / writer.labels.format(source.name))
        writer.write(labels, replace(annotated, scores=None), found.class_names)
    return annotated


def _finish_labels(kind: str, root: Path, images: Sequence[AnnotatedImage], detector: Detector) -> None:
    """Completes the folder `root` of a format with the files that are written once, such as the list of classes."""
    if images:
        WRITERS[kind].finish(root, images, detector.class_names, detector.preset or "grcn")
