"""Batches for training.

Training reads an endless stream of images. Each epoch is a permutation of the data set. Batch `k` of a run is a pure
function of (seed, k), and each sample is one of (seed, epoch, index). So a resumed run, or a run with another number of
workers or devices, sees the same images, augmented in the same way, in the same order.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Listener
from multiprocessing.queues import Queue
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from grcn.config import AugmentConfig, InputConfig
from grcn.data.extra import Extra
from grcn.data.mixing import Objects, mosaic, paste_objects
from grcn.data.records import Dataset, ImageRecord
from grcn.data.transforms import augment
from grcn.errors import DataError, ImageError, met_open_files_limit


class Origin(NamedTuple):
    """The origin of a sample in a batch.

    number: the number of its record; file: its image file; broken: the errors of the files that it replaces because
    they could not be decoded.
    """

    number: int
    file: str
    broken: tuple[str, ...] = ()


class Batch(NamedTuple):
    """images: each uint8 [3, H, W]; targets: each with `boxes` [N, 4] float32 and `labels` [N] int64, for the model."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    origins: list[Origin]


Sample = tuple[Tensor, dict[str, Tensor], Origin]
Drawn = Sample | DataError
"""A sample, or the error if it cannot be read.

The error is returned, because an exception in a worker would reach the user as a printed traceback."""
Place = tuple[int, int]


class Stream(Sampler[list[Place]]):
    """The batches of a run, or of one rank of it, as (epoch, index) of each image.

    The images of a run are numbered from 0 through all epochs. Batch k holds numbers k * B to (k + 1) * B - 1, and rank
    r of W takes every W-th of them. A batch may span two epochs, so no batch is cut short and no image is left out.

    Args:
        images: number of images in the data set.
        batch_size: B, over all ranks; a multiple of `world`.
        batches: number of batches in the whole run.
        start: the first batch to yield.
    """

    def __init__(
        self, images: int, batch_size: int, batches: int, seed: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.images, self.batch_size, self.batches, self.seed = images, batch_size, batches, seed
        self.start, self.rank, self.world = start, rank, world
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return max(0, self.batches - self.start)

    def __iter__(self) -> Iterator[list[Place]]:
        for k in range(self.start, self.batches):
            yield self.batch(k)

    def batch(self, k: int) -> list[Place]:
        """Batch `k` of this rank."""
        first = k * self.batch_size
        return [self._place(n) for n in range(first + self.rank, first + self.batch_size, self.world)]

    def _place(self, number: int) -> Place:
        epoch, position = divmod(number, self.images)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.images)
        return epoch, int(self._order[position])


_MIXED, _EXTRA = 1, 2  # added to (seed, epoch, index) as seeds
_MIXED_UNTIL = 0.8
"""The share of a run that may have mosaics. Its end has whole photos (Ge et al. 2021, "YOLOX", section 2.3)."""


class TrainingSet(TorchDataset[Drawn]):
    """Augmented samples by (epoch, index).

    Args:
        samples: number of samples in the whole run; mosaics are off at its end.
        extra: the user's own augmentation, called last (`grcn.data.extra`).
        skip_broken: replace an image that cannot be decoded by the next image of the data set.
    """

    def __init__(
        self,
        data: Dataset,
        size: InputConfig,
        config: AugmentConfig,
        *,
        seed: int,
        samples: int = 0,
        extra: Extra | None = None,
        use_difficult: bool = True,
        skip_broken: bool = False,
    ) -> None:
        self.data, self.size, self.config, self.seed = data, size, config, seed
        self.samples, self.extra = samples, extra
        self.use_difficult, self.skip_broken = use_difficult, skip_broken

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: Place) -> Drawn:
        epoch, index = place
        broken: list[str] = []
        while True:
            try:
                objects = self._augmented(epoch, index)
                break
            except ImageError as error:
                if limit := open_files_error(error):
                    return limit
                if not self.skip_broken:
                    return ImageError(f"{error} (skip_broken trains without it)")
                broken.append(str(error))
                if len(broken) == len(self.data):
                    return ImageError(f"{self.data.root}: none of its images can be decoded, e.g. {error}")
                index = (index + 1) % len(self.data)
        image, boxes, labels = self._mixed(objects, epoch, index)
        path = str(self.data[index].path)
        if self.extra is not None:
            rng = np.random.default_rng((self.seed, epoch, index, _EXTRA))
            try:
                image, boxes, labels = self.extra(image, boxes, labels, rng)
            except DataError as error:
                return type(error)(f"{path}: {error}")
        return image, {"boxes": boxes, "labels": labels}, Origin(index, path, tuple(broken))

    def _augmented(self, epoch: int, index: int) -> Objects:
        """One photo, augmented by itself."""
        record = self.data[index]
        image = _read(record)
        boxes, labels = objects(record, use_difficult=self.use_difficult)
        return augment(image, boxes, labels, self.config, self.size, seed=self.seed, epoch=epoch, index=index)

    def _mixed(self, photo: Objects, epoch: int, index: int) -> Objects:
        """A photo mixed with others. One that cannot be read is left out here; the error is raised at its own turn."""
        rng = np.random.default_rng((self.seed, epoch, index, _MIXED))
        is_mosaic, is_pasted = rng.random(2) < (self.config.mosaic, self.config.copy_paste)
        others = rng.integers(0, len(self.data), 4).tolist()
        is_late = self.samples and epoch * len(self.data) >= _MIXED_UNTIL * self.samples
        with suppress(ImageError):
            if is_pasted:
                photo = paste_objects(photo, self._augmented(epoch, others[3]), rng)
            if is_mosaic and not is_late:
                photo = mosaic([photo, *(self._augmented(epoch, other) for other in others[:3])], rng)
        return photo


def objects(record: ImageRecord, *, use_difficult: bool = True) -> tuple[Tensor, Tensor]:
    """The training targets of an image: boxes [N, 4] float32 and labels [N] int64, without crowds."""
    target = record.target
    keep = ~target.crowd if use_difficult else ~target.crowd & ~target.difficult
    return torch.from_numpy(target.boxes[keep]), torch.from_numpy(target.labels[keep])


def collate(samples: list[Drawn]) -> Batch | DataError:
    """Collates samples to a batch; returns the first error if there is one among them."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        good.append(sample)
    return Batch(*(list(column) for column in zip(*good, strict=True)))


class Loader(DataLoader[Any]):
    """A DataLoader that raises errors of samples in the main process, and measures the time spent waiting for it.

    Raises:
        ImageError: if an image cannot be decoded, naming it.
        DataError: if its processes cannot be started or cannot pass on what they read. It names the limit if too many
            files are open.
    """

    def __init__(self, dataset: TorchDataset[Any], *, workers: int, pin_memory: bool, **how: Any) -> None:
        super().__init__(
            dataset,
            num_workers=workers,
            pin_memory=pin_memory,
            collate_fn=collate,
            worker_init_fn=_begin_worker if workers else None,
            **how,
        )
        self._waited = 0.0

    def take_waited(self) -> float:
        """Seconds spent waiting for batches since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def __iter__(self) -> Any:
        batches = self._start()
        while True:
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (OSError, EOFError, RuntimeError) as error:
                if _met_the_limit(error, getattr(batches, "_workers", ())):
                    raise DataError(OPEN_FILES) from None
                if isinstance(
                    error, (EOFError, ConnectionError, FileNotFoundError)
                ):  # the worker of these tensors has died
                    raise _worker_death(error) from None
                raise
            self._waited += time.perf_counter() - started
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def _start(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        if torch.multiprocessing.get_sharing_strategy() == "file_descriptor":  # type: ignore[no-untyped-call]
            try:  # each process does this to hand over its first batch, and an error there would go unnoticed
                Listener(family="AF_UNIX").close()
            except OSError as error:
                raise open_files_error(error) or DataError(
                    f"{tempfile.gettempdir()}: loader processes cannot open a socket in this folder for temporary "
                    f"files: {error}; set TMPDIR to a shorter path (a socket's path has about 100 bytes at most), "
                    "or use workers 0"
                ) from None
        try:
            return super().__iter__()
        except OSError as error:
            what = error.strerror or error
            raise open_files_error(error) or DataError(
                f"{self.num_workers} loader processes cannot be started: {what}; use fewer"
            ) from None


OPEN_FILES = (
    "too many open files: their limit is too low for the loader; raise it (`ulimit -n 4096`), or use fewer workers or "
    "smaller batches"
)


def open_files_error(error: BaseException | None) -> DataError | None:
    """The error to show if the limit of open files has caused `error`; None if it has not."""
    return DataError(OPEN_FILES) if met_open_files_limit(error) else None


def _met_the_limit(error: BaseException, workers: Sequence[multiprocessing.Process]) -> bool:
    """Whether an error, or the death of the worker behind it, comes from too many open files."""
    deadline = time.monotonic() + (1.0 if workers else 0.0)  # a worker takes a moment to end
    while not met_open_files_limit(error) and time.monotonic() < deadline:
        if any(worker.exitcode == errno.EMFILE for worker in workers):
            return True
        time.sleep(0.01)
    return met_open_files_limit(error)


@contextmanager
def worker_deaths() -> Iterator[None]:
    """Explains the error after a loader process was killed, for instance by the system when memory ran out.

    torch raises this error from SIGCHLD, so it can appear anywhere in the main process.

    Raises:
        DataError: in place of that error, and of any error that comes from too many open files.
    """
    try:
        yield
    except Exception as error:
        if limit := open_files_error(error):
            raise limit from None
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            raise _worker_death(error) from None
        raise


def _worker_death(error: Exception) -> DataError:
    message = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"a loader process died ({message}); if memory ran out, use fewer workers")


def training_loader(dataset: TrainingSet, stream: Stream, *, workers: int, pin_memory: bool = False) -> Loader:
    """The training batches of one rank, in the stream's order."""
    return Loader(dataset, workers=workers, pin_memory=pin_memory, batch_sampler=stream)


def _read(record: ImageRecord) -> Tensor:
    """The record's image, uint8 [3, H, W], laid out in memory as H x W x 3, on which resizing is fastest."""
    return torch.from_numpy(np.require(record.pixels(), requirements="W")).permute(2, 0, 1)


def _begin_worker(worker: int) -> None:
    # A batch that cannot be handed over would be lost, and the main process would wait for it forever.
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    sys.excepthook = lambda kind, error, at: _end_worker(error)  # for the thread that hands over files
    # Ctrl-C reaches the whole process group, and so does the SIGTERM of batch systems; the main process finishes its
    # step and saves, and needs its workers. A second SIGTERM, which may be its own, ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def _end_worker(error: BaseException, batch: object = None) -> NoReturn:
    """Ends this worker process, with a line or an exit code that tells the reason. The main process notices."""
    if met_open_files_limit(error):
        os._exit(errno.EMFILE)  # the main process reports it
    if isinstance(error, (ConnectionError, EOFError)):
        os._exit(1)  # the main process has ended, and has said why
    with suppress(OSError, ValueError):  # standard error is closed
        print(f"grcn: a loader process cannot hand over a batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)
