"""`grcn predict`: a detector over images and videos; drawn pictures, COCO results, and labels to correct and train on.

```
OUT/drawn/NAME.jpg, NAME.mp4   the pictures and videos with their detections
OUT/results.json               detections of all images in COCO's results format
OUT/images.json                what the ids in it mean: `images` (id, file_name, path, width, height) and `categories`
OUT/frames/NAME.json           per video: width, height, fps, and the detections of each frame; image_id is its number
OUT/voc, OUT/yolo              with --save: data sets of the images (not of videos) and what was found in them
OUT/labelstudio                with --save: tasks.json (pre-annotations), interface.txt and the images, for Label Studio
OUT/fiftyone                   with --save: samples.json and the images, for FiftyOne
```
Image ids count from 1 in the order of the sources, category ids from 1 in the order of the classes, frames from 0.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from grcn.app.draw import draw_detections
from grcn.app.sources import Source
from grcn.data.fiftyone import write_fiftyone
from grcn.data.image import SUFFIXES, read_image
from grcn.data.labelstudio import write_labelstudio, write_labelstudio_config
from grcn.data.records import AnnotatedImage
from grcn.data.voc import write_voc
from grcn.data.yolo import write_yolo, write_yolo_yaml
from grcn.errors import ConfigError, ImageError
from grcn.types import Detections

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from grcn.inference import Detector


@dataclass
class Summary:
    """What `predict` did: images and video frames done, objects found per class, and what could not be read."""

    images: int = 0
    frames: int = 0
    found: Counter[str] = field(default_factory=Counter)
    broken: list[ImageError] = field(default_factory=list)


def predict(
    detector: Detector,
    sources: Sequence[Source],
    out: Path,
    *,
    score: float = 0.3,
    save: Sequence[str] = (),
    on_broken: Callable[[ImageError], None] = lambda error: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Finds objects in every source and writes the files that the module's head lists, and nothing outside `out`.

    Args:
        detector: the detector.
        sources: from `find_sources`.
        out: the folder of results, made where absent; results of an earlier run are replaced.
        score: detections below it are left out.
        save: any of SAVED.
        on_broken: called for each source that cannot be read; the others are done all the same.
        progress: called with sources done and sources in all.

    Raises:
        ConfigError: where saved labels of an earlier run, perhaps corrected since, would be replaced.
    """
    for kind in save:
        if (out / kind).exists():
            raise ConfigError(f"{out / kind}: exists, perhaps with corrected labels; move it or choose another --out")
    (out / "drawn").mkdir(parents=True, exist_ok=True)
    summary = Summary()
    images: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    saved: dict[str, list[AnnotatedImage]] = {kind: [] for kind in save}
    for done, source in enumerate(sources):
        progress(done, len(sources))
        try:
            if source.is_video:
                _predict_video(detector, source, out, score, summary)
                continue
            # Read once: what was decoded is what is copied, also from standard input.
            content = _read(source)
            image = read_image(content, name=str(source))
        except ImageError as error:
            summary.broken.append(error)
            on_broken(error)
            continue
        found = detector.predict(image, score=score)
        Image.fromarray(draw_detections(image, found)).save(out / "drawn" / f"{source.name}.jpg", quality=92)
        images.append(_describe(len(images) + 1, source, image))
        results += found.to_coco(len(images))
        for kind in save:
            saved[kind].append(_save_labels(kind, out / kind, source, content, image, found))
        summary.images += 1
        summary.found.update(found.names)
    progress(len(sources), len(sources))
    for kind in save if summary.images else ():
        _finish_labels(kind, out / kind, saved[kind], detector)
    categories = [{"id": i, "name": name} for i, name in enumerate(detector.class_names, start=1)]
    _write_json(out / "results.json", results)
    _write_json(out / "images.json", {"images": images, "categories": categories})
    return summary


def _read(source: Source) -> bytes:
    try:
        return sys.stdin.buffer.read() if source.path is None else source.path.read_bytes()
    except OSError as error:
        raise ImageError(f"{source}: cannot be read: {error.strerror}") from None


def _describe(image_id: int, source: Source, image: NDArray[np.uint8]) -> dict[str, Any]:
    where = {"file_name": source.path.name, "path": str(source.path.resolve())} if source.path else {"file_name": "-"}
    return {"id": image_id, **where, "width": image.shape[1], "height": image.shape[0]}


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def _predict_video(detector: Detector, source: Source, out: Path, score: float, summary: Summary) -> None:
    """Draws one video, frame by frame, and writes the detections of each frame.

    Raises:
        ImageError: where it cannot be opened or holds no frame.
    """
    import supervision as sv

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its remarks on broken files; ours names the file
    frames: list[list[dict[str, Any]]] = []
    names: Counter[str] = Counter()
    try:
        info = sv.VideoInfo.from_video_path(str(source.path))
    except Exception as error:  # supervision raises Exception itself
        raise ImageError(f"{source}: cannot be opened as a video") from error
    fps = info.fps if 0 < info.fps < 1000 else 25.0  # some containers do not say
    drawn = _draw_frames(detector, source, score, frames, names)
    first = next(drawn, None)
    if first is None:
        raise ImageError(f"{source}: no frame of this video can be decoded")
    size = sv.VideoInfo(width=first.shape[1], height=first.shape[0], fps=fps)
    with sv.VideoSink(str(out / "drawn" / f"{source.name}.mp4"), size) as sink:
        sink.write_frame(first)
        for frame in drawn:
            sink.write_frame(frame)
    about = {"video": str(source), "width": info.width, "height": info.height, "fps": fps}
    _write_json(out / "frames" / f"{source.name}.json", {**about, "frames": frames})
    summary.frames += len(frames)
    summary.found.update(names)


def _draw_frames(
    detector: Detector, source: Source, score: float, frames: list[list[dict[str, Any]]], names: Counter[str]
) -> Iterator[NDArray[np.uint8]]:
    """The drawn frames, BGR as OpenCV writes them; fills `frames` with results and `names` with what was found."""
    import supervision as sv

    for number, frame in enumerate(sv.get_video_frames_generator(str(source.path))):
        image = frame[:, :, ::-1]
        found = detector.predict(image, score=score)
        frames.append(found.to_coco(number))
        names.update(found.names)
        yield draw_detections(image, found)[:, :, ::-1]


# Where each format wants the images; in the data sets the one split is `train`.
_IMAGES = {"voc": "JPEGImages", "yolo": "images/train", "labelstudio": "images", "fiftyone": "data"}
SAVED = tuple(_IMAGES)
"""The formats in which labels can be saved."""


def _save_labels(
    kind: str, root: Path, source: Source, content: bytes, image: NDArray[np.uint8], found: Detections
) -> AnnotatedImage:
    """Puts a picture and what was found in it into the folder `root` of a format.

    The file is copied as it is, so that training sees the same pixels; one of a kind that data sets cannot hold, as
    from standard input, becomes a PNG.
    """
    images = root / _IMAGES[kind]
    images.mkdir(parents=True, exist_ok=True)
    if source.path is not None and source.path.suffix.lower() in SUFFIXES:
        file = images / f"{source.name}{source.path.suffix}"
        file.write_bytes(content)
    else:
        file = images / f"{source.name}.png"
        Image.fromarray(image).save(file)
    keep = (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)  # a box without area is no label
    height, width = image.shape[:2]
    boxes, class_ids, scores = found.boxes[keep], found.class_ids[keep].tolist(), found.scores[keep].tolist()
    annotated = AnnotatedImage(file.name, height, width, boxes, class_ids, scores)
    if kind in ("voc", "yolo"):  # a file of labels an image; those of the other formats are written at the end
        labels = root / {"voc": "Annotations", "yolo": "labels/train"}[kind]
        labels.mkdir(parents=True, exist_ok=True)
        unscored = replace(annotated, scores=None)
        if kind == "voc":
            write_voc(labels / f"{source.name}.xml", unscored, found.class_names)
        else:
            write_yolo(labels / f"{source.name}.txt", unscored)
    return annotated


def _finish_labels(kind: str, root: Path, images: Sequence[AnnotatedImage], detector: Detector) -> None:
    """Completes the folder `root` of a format by what is written once: lists of images and of classes, all tasks."""
    names = detector.class_names
    if kind == "yolo":
        write_yolo_yaml(root / "data.yaml", names, {"train": "images/train"})
        return
    if kind == "fiftyone":
        samples = [(f"{_IMAGES[kind]}/{image.file_name}", {"predictions": image}) for image in images]
        write_fiftyone(root / "samples.json", samples, names)
        return
    if kind == "voc":
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        stems = [Path(image.file_name).stem for image in images]
        (lists / "train.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    else:
        folder = f"{root.name}/{_IMAGES[kind]}"
        version = detector.preset or "grcn"
        write_labelstudio(root / "tasks.json", images, names, folder=folder, model_version=version)
        # Not `.xml`, which would make the folder look like VOC.
        write_labelstudio_config(root / "interface.txt", names)
    # The two formats name only the classes that occur; this keeps the ids of all.
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
