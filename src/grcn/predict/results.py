"""Detections on disk: how `grcn predict` writes them, and how they are read again for a data set.

Detections are appended to a file of JSON lines as soon as they are found, each line completely or not at all. At the
end, these lines become the one file that COCO's tools read. `grcn.predict.job` lists the files.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from grcn.data.formats.fiftyone import write_fiftyone
from grcn.data.records import AnnotatedImage
from grcn.data.results import load_results
from grcn.errors import AnnotationError, CheckpointError, ImageError
from grcn.files import atomic_file, to_json, write_json
from grcn.predict.sources import Source
from grcn.types import Detections

if TYPE_CHECKING:
    from grcn.data.records import Dataset

KEY = "images.json"
"""The file beside the results of `grcn predict` that says which images and classes their ids mean."""


class Results:
    """Writes results.jsonl image by image, updates images.json to match it, and makes results.json at the end.

    Args:
        out: the folder, created if it does not exist.
        class_names: class names of the detector.

    Raises:
        CheckpointError: if the files cannot be written.
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

    def add(self, source: Source, size: tuple[int, int], found: Detections) -> None:
        """Appends the detections of an image of (height, width): all of them, or none if an error is raised."""
        image_id = len(self._images) + 1
        _append(self._lines, b"".join(map(to_json, found.to_coco(image_id))))
        path = source.path
        where = {"file_name": path.name, "path": str(path.resolve())} if path else {"file_name": "-"}
        self._images.append({"id": image_id, **where, "width": size[1], "height": size[0]})
        if time.monotonic() >= self._next:
            with suppress(CheckpointError):  # if the disk is full; the next image tries again, and the end raises
                self._list_images(complete=False)

    def finish(self) -> None:
        """Writes results.json from the lines."""
        with atomic_file(self._out / "results.json") as file, open(self._out / "results.jsonl", "rb") as lines:
            file.write(b"[")
            for number, line in enumerate(lines):
                file.write((b",\n" if number else b"") + line.rstrip())
            file.write(b"]\n")
        self._list_images(complete=True)

    def close(self) -> None:
        """Writes the list of the images that are done, even if the run was stopped."""
        self._lines.close()
        if not self._complete:
            self._list_images(complete=False)

    def _list_images(self, *, complete: bool) -> None:
        started = time.monotonic()
        content = {"complete": complete, "images": self._images, "categories": self._categories}
        write_json(self._out / "images.json", content, durable=complete)
        self._complete = complete
        # Writing thousands of images takes a while, so it gets at most a twentieth of the time.
        self._next = started + max(1.0, 20 * (time.monotonic() - started))


class PredictedFiles:
    """The files of one source; they are removed if it fails."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def write(self, path: Path, data: bytes) -> None:
        with atomic_file(self.claim(path), durable=False) as file:
            file.write(data)

    def claim(self, path: Path) -> Path:
        """Prepares the path of a file that other code writes."""
        path.unlink(missing_ok=True)  # of an earlier run
        self._made.append(path)
        return path

    def remove(self) -> None:
        for path in self._made:
            path.unlink(missing_ok=True)


@contextmanager
def files_of(source: Source) -> Iterator[PredictedFiles]:
    """A context in which all files of a source are written, or none and an ImageError that names source and file."""
    files = PredictedFiles()
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


class FrameLines:
    """Writes the detections of each frame of a video to NAME.jsonl, which is always kept, and to NAME.json at the end.

    Args:
        path: the file NAME.json.
        files: the files of the video.
    """

    def __init__(self, path: Path, files: PredictedFiles) -> None:
        self._path, self._lines = files.claim(path), path.with_suffix(".jsonl")

    def __enter__(self) -> FrameLines:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._lines, "wb", buffering=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, number: int, found: Detections) -> None:
        """Appends the detections of a frame; frames count from 0."""
        _append(self._file, to_json(found.to_coco(number)))

    def finish(self, about: dict[str, Any]) -> None:
        """Writes NAME.json from the lines, with the facts about the video."""
        with atomic_file(self._path) as file, open(self._lines, "rb") as lines:
            file.write(to_json(about).rstrip()[:-1] + b', "frames": [')
            for number, line in enumerate(lines):
                file.write((b",\n" if number else b"\n") + line.rstrip())
            file.write(b"]}\n")


def _append(file: io.FileIO, data: bytes) -> None:
    """Appends `data` to an unbuffered file completely, or raises an error and leaves the file unchanged."""
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


@dataclass(frozen=True)
class ResultsKey:
    """The meaning of the ids in a results file of `grcn predict`.

    Args:
        class_names: [C] in the order of the categories.
        category_ids: [C] their ids.
        images: per image id, the file's name and its whole path (None for standard input).
        complete: false if `grcn predict` was stopped, or has not ended yet.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: dict[int, tuple[str, str | None]]
    complete: bool = True


def read_key(path: Path) -> ResultsKey:
    """Reads an `images.json` that `grcn predict` wrote.

    Raises:
        AnnotationError: if it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ResultsKey(
            tuple(str(category["name"]) for category in content["categories"]),
            tuple(int(category["id"]) for category in content["categories"]),
            {int(image["id"]): (str(image["file_name"]), image.get("path")) for image in content["images"]},
            bool(content.get("complete", True)),
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise AnnotationError(
            f"{path}: not the list of images that `grcn predict` writes ({type(error).__name__}: {error}); "
            "move it away if the results are someone else's"
        ) from None


def load_own_results(path: Path, key: ResultsKey, dataset: Dataset) -> tuple[list[Detections], int]:
    """Reads the results of `grcn predict`. Images are matched by path, or by file name if the path does not match.

    Args:
        path: the results file.
        key: the key of these results.
        dataset: the data set, opened with the class names of the key.

    Returns:
        Detections aligned with the records, and the number of predicted images that are not among the records. Their
        detections are left out.

    Raises:
        AnnotationError: if none of the predicted images is among the records, or if the file is broken.
    """
    by_path = {str(record.path.resolve()): i for i, record in enumerate(dataset.records)}
    by_name = {record.path.name: i for i, record in enumerate(dataset.records)}
    shared = Counter(record.path.name for record in dataset.records) + Counter(name for name, _ in key.images.values())
    # If a run was killed, its last results may be of images that are not listed yet.
    image_of: dict[Any, int | None] = {} if key.complete else defaultdict(lambda: None)
    for image_id, (name, whole) in key.images.items():
        image_of[image_id] = by_path.get(str(whole))
        if image_of[image_id] is None and shared[name] == 2:  # one image here and one there, so it is the same
            image_of[image_id] = by_name.get(name)
    missing = sum(image is None for image in image_of.values())
    if missing == len(image_of):
        raise AnnotationError(
            f"{path}: none of its {missing} images is in {dataset.root} ({dataset.split}); predict on that split"
        )
    class_of: dict[Any, int] = {category_id: i for i, category_id in enumerate(key.category_ids)}
    return load_results(path, dataset, image_of=image_of, class_of=class_of), missing


def coco_results(detections: list[Detections], dataset: Dataset) -> list[dict[str, Any]]:
    """The detections of a data set's images as COCO results with the data set's own ids."""
    return [
        result
        for found, record in zip(detections, dataset.records, strict=True)
        for result in found.to_coco(record.image_id, dataset.category_ids)
    ]


def save_fiftyone(folder: Path, detections: Sequence[Detections], dataset: Dataset) -> None:
    """Writes samples.json, which FiftyOne imports (`grcn.data.formats.fiftyone`). Images stay in their place.

    Args:
        folder: the folder, created if it does not exist.
        detections: the detections in each image, which become the field `predictions`.
        dataset: the data set, whose objects become the field `ground_truth`.
    """
    samples = []
    for record, found in zip(dataset.records, detections, strict=True):
        name, height, width = record.path.name, record.height, record.width
        truth = AnnotatedImage(name, height, width, record.target.boxes, record.target.labels.tolist())
        guess = AnnotatedImage(name, height, width, found.boxes, found.class_ids.tolist(), found.scores.tolist())
        samples.append((record.path.resolve(), {"ground_truth": truth, "predictions": guess}))
    folder.mkdir(parents=True, exist_ok=True)
    write_fiftyone(folder / "samples.json", samples, dataset.class_names)
