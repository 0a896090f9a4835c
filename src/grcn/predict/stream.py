"""Runs many photos through one network. Reading, detecting and finishing overlap; results come in order.

Worker threads read and prepare photos and finish them (for instance draw). The thread that asks for results runs the
network. Only photos of one size at the network's input share a batch: other photos would be padded, which changes
scores slightly. Which photos share a batch depends only on their order, so results do not depend on timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from grcn.config import DetectorConfig
from grcn.errors import ImageError
from grcn.types import Detections

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8] | torch.Tensor

S = TypeVar("S")
T = TypeVar("T")

_AHEAD = 4
"""Number of batches of photos that are searched for photos of one size."""


@dataclass(frozen=True)
class Prepared:
    """A photo, prepared for a network.

    Args:
        input: an array or tensor; inputs of one shape can form a batch.
        size: the photo's own height and width, in pixels.
    """

    input: Any
    size: tuple[int, int]


@runtime_checkable
class Network(Protocol):
    """The interface of the network that a detector runs."""

    @property
    def num_classes(self) -> int: ...
    @property
    def config(self) -> DetectorConfig: ...
    @property
    def device(self) -> Any:
        """The device that it runs on, as torch or the runtime names it."""

    def prepare(self, image: Pixels) -> Prepared:
        """Prepares a photo, uint8 [H, W, 3] RGB or a tensor [3, H, W]. May be called from any thread.

        Raises:
            ImageError: on a photo that the network cannot take.
        """

    def detect(
        self, images: list[Prepared], class_names: tuple[str, ...], score: float | None = None
    ) -> list[Detections]:
        """Finds the objects in photos whose inputs have one shape; boxes are in pixels of the photos.

        Detections have at least `score`; None: the model's own threshold."""


def stream(
    network: Network,
    sources: Iterable[S],
    class_names: tuple[str, ...],
    *,
    read: Callable[[S], Pixels],
    finish: Callable[[S, Any, Detections], T],
    score: float | None = None,
    batch_size: int = 1,
    workers: int = 2,
) -> Iterator[tuple[S, T | ImageError]]:
    """Yields the result of `finish` for each source, in order.

    Sources are consumed as needed. At most these photos are in memory: _AHEAD batches (with a batch size of one, one
    photo), the batch in the network, and three photos per worker.

    Args:
        read: decodes a source; called in a worker.
        finish: called in a worker with source, pixels and detections.
        score: as in `Network.detect`.
        batch_size: number of photos of one size that go through the network together.
        workers: number of threads; with 0, the caller's thread does everything.

    Yields:
        Each source with the result of `finish`, or with the ImageError that `read`, `prepare` or `finish` raised. Any
        other error ends the stream.
    """
    photos = _Photos(network, sources, class_names, read, finish, score, batch_size, workers)
    try:
        yield from photos.results()
    except KeyboardInterrupt:  # results that are there already are handed out first
        yield from photos.seen()
        raise
    finally:
        photos.pool.shutdown(cancel_futures=True)


@dataclass(eq=False)  # compared by identity, because sources may be arrays
class _Photo(Generic[S, T]):
    """A source in progress; `error` is set if it failed."""

    index: int
    source: S
    ready: Future[tuple[Pixels, Prepared]]
    finished: Future[T] | None = None
    error: ImageError | None = None

    @property
    def is_done(self) -> bool:
        return self.error is not None or (self.finished is not None and self.finished.done())

    def result(self) -> T | ImageError:
        if self.error is not None:
            return self.error
        assert self.finished is not None
        try:
            return self.finished.result()
        except ImageError as error:
            return error


class _Photos(Generic[S, T]):
    """The photos of a stream that are in progress."""

    def __init__(
        self,
        network: Network,
        sources: Iterable[S],
        class_names: tuple[str, ...],
        read: Callable[[S], Pixels],
        finish: Callable[[S, Any, Detections], T],
        score: float | None,
        batch_size: int,
        workers: int,
    ) -> None:
        self.network, self.sources, self.class_names = network, iter(sources), class_names
        self.read, self.finish, self.score, self.batch_size = read, finish, score, batch_size
        self.pool = ThreadPoolExecutor(workers, "grcn-photo") if workers else _SameThread()
        self.ahead = _AHEAD * batch_size if batch_size > 1 else 1
        self.room = self.ahead + 2 * workers  # photos that may be taken in, from the oldest that waits
        self.lag = workers  # photos by which finishing may lag behind
        self.taken = 0
        self.held: deque[_Photo[S, T]] = deque()  # not handed out yet, in order
        self.waiting: deque[_Photo[S, T]] = deque()  # those among them that are not detected yet

    def results(self) -> Iterator[tuple[S, T | ImageError]]:
        self._take_in()
        while self.held:
            if self.waiting:
                self._detect(self._next_batch())
                self._take_in()
            while self.held and self._is_due(self.held[0]):
                photo = self.held.popleft()
                yield photo.source, photo.result()
                del photo  # its pixels may be large

    def _is_due(self, oldest: _Photo[S, T]) -> bool:
        """Whether to hand out the oldest photo before the network runs again: it is done, or lags too far behind."""
        return oldest.is_done or not self.waiting or self.waiting[0].index - oldest.index > self.lag

    def seen(self) -> Iterator[tuple[S, T | ImageError]]:
        """The results of the oldest photos that need no more reading and detection."""
        while self.held and (self.held[0].error is not None or self.held[0].finished is not None):
            photo = self.held.popleft()
            yield photo.source, photo.result()

    def _take_in(self) -> None:
        while not self.waiting or self.taken < self.waiting[0].index + self.room:
            try:
                source = next(self.sources)
            except StopIteration:
                return
            photo: _Photo[S, T] = _Photo(self.taken, source, self.pool.submit(self._prepared, source))
            self.taken += 1
            self.held.append(photo)
            self.waiting.append(photo)

    def _prepared(self, source: S) -> tuple[Pixels, Prepared]:
        pixels = self.read(source)
        return pixels, self.network.prepare(pixels)

    def _next_batch(self) -> list[_Photo[S, T]]:
        """The oldest photo that waits, and the next ones of its size; empty if none of the candidates can be read.

        Candidates are less than `ahead` behind the oldest, so the batch depends only on the order of the photos.
        """
        shapes, end = {}, self.waiting[0].index + self.ahead
        for photo in [photo for photo in self.waiting if photo.index < end]:
            try:
                shapes[id(photo)] = photo.ready.result()[1].input.shape
            except ImageError as error:
                photo.error = error
                self.waiting.remove(photo)
        if not shapes:
            return []
        shape = shapes[id(self.waiting[0])]
        batch = [photo for photo in self.waiting if shapes.get(id(photo)) == shape][: self.batch_size]
        for photo in batch:
            self.waiting.remove(photo)
        return batch

    def _detect(self, batch: list[_Photo[S, T]]) -> None:
        if not batch:
            return
        images = [photo.ready.result() for photo in batch]
        found = self.network.detect([prepared for _, prepared in images], self.class_names, self.score)
        for photo, (pixels, _), detections in zip(batch, images, found, strict=True):
            photo.finished = self.pool.submit(self.finish, photo.source, pixels, detections)
            del photo.ready


class _SameThread(Executor):
    """An executor that runs each task at once."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
