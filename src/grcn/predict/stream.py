"""Many photos through one network: read, detected and finished at the same time, and handed out in order.

Worker threads read and prepare photos, and finish them (such as draw). The thread that asks for results runs the
network. Photos pass it together only where they have one size as it sees them: others would be padded, which moves
scores a little. Which photos share a batch depends on their order alone, so that results do not depend on time.
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
"""Batches of photos among which those of one size are looked for."""


@dataclass(frozen=True)
class Prepared:
    """A photo as a network takes it.

    Args:
        input: an array or tensor; those of one shape can be detected together.
        size: the photo's own height and width, in pixels.
    """

    input: Any
    size: tuple[int, int]


@runtime_checkable
class Network(Protocol):
    """What a detector needs of what computes it."""

    @property
    def num_classes(self) -> int: ...
    @property
    def config(self) -> DetectorConfig: ...
    @property
    def device(self) -> Any:
        """What it runs on, as torch or the runtime calls it."""

    def prepare(self, image: Pixels) -> Prepared:
        """A photo, uint8 [H, W, 3] RGB or a tensor [3, H, W], made ready; called from any thread.

        Raises:
            ImageError: on a photo that it cannot take.
        """

    def detect(
        self, images: list[Prepared], class_names: tuple[str, ...], score: float | None = None
    ) -> list[Detections]:
        """The objects in photos whose inputs have one shape, in the photos' own pixels, above `score`; None: above the
        model's own threshold."""


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
    """What `finish` makes of each source, in order.

    Sources are taken as they are needed. In memory are at most _AHEAD batches (at a batch of one: one photo), the batch
    that is looked at, and three photos for each worker.

    Args:
        read: decodes a source; called in a worker.
        finish: called in a worker with source, pixels and detections.
        score: as `Network.detect`.
        batch_size: photos that pass through the network together, where they have one size.
        workers: threads; 0: all is done by the caller's.

    Yields:
        Each source with the value of `finish`, or with the ImageError that `read`, `prepare` or `finish` raised. What
        else they raise ends the stream.
    """
    photos = _Photos(network, sources, class_names, read, finish, score, batch_size, workers)
    try:
        yield from photos.results()
    except KeyboardInterrupt:  # what has been seen is handed out first
        yield from photos.seen()
        raise
    finally:
        photos.pool.shutdown(cancel_futures=True)


@dataclass(eq=False)  # each is itself: sources may be arrays
class _Photo(Generic[S, T]):
    """A source on its way; `error` where it has come to an end."""

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
    """The photos of a stream that are under way."""

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
        self.room = self.ahead + 2 * workers  # photos taken in, from the oldest that waits
        self.lag = workers  # photos that may be behind with finishing
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
        """Whether the oldest photo is handed out before the network looks at more: done, or to be waited for."""
        return oldest.is_done or not self.waiting or self.waiting[0].index - oldest.index > self.lag

    def seen(self) -> Iterator[tuple[S, T | ImageError]]:
        """What there is of the oldest photos without reading or detecting anything more."""
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
        """The oldest photo that waits, and the next of its size; empty where none of those looked at can be read.

        Those looked at lie less than `ahead` behind the oldest: that depends on nothing but the order of the photos.
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
    """Does what it is given at once."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
