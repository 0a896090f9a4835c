import gc
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from grcn import Detector, preset
from grcn.errors import ConfigError, ImageError
from grcn.predict.stream import Prepared
from grcn.types import Detections

NAMES = ("a",)


class Counting:
    """A network that finds each photo's first pixel as a score, and remembers what it was given together."""

    num_classes, device, config = 1, "none", preset("faster_rcnn_r18_c5")

    def __init__(self, delay=0.0):
        self.batches, self.threads, self.delay = [], set(), delay

    def prepare(self, image):
        if image.shape[0] == 13:
            raise ImageError("photo of 13 rows")
        return Prepared(image, image.shape[:2])

    def detect(self, images, class_names, score=None):
        time.sleep(self.delay)
        self.batches.append([int(image.input[0, 0, 0]) for image in images])
        self.threads.add(threading.current_thread())
        assert len({image.input.shape for image in images}) == 1
        return [Detections([[0, 0, 9, 9]], [image.input[0, 0, 0] / 255], [0], class_names) for image in images]


def photo(number, height=10):
    return np.full((height, 10, 3), number, np.uint8)


def numbers(results):
    return [round(float(found.scores[0]) * 255) for _, found in results]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_results_come_in_order_with_their_sources(workers, batch_size):
    photos = [photo(i, 10 + i % 3) for i in range(23)]
    for delay in (0.0, 0.002):  # neither results nor batches must depend on which is ready first
        network = Counting()

        def read(i, delay=delay):
            time.sleep(delay * (i % 4))
            return photos[i]

        def finish(_, pixels, found, delay=delay):
            time.sleep(5 * delay)
            return found

        detector = Detector(network, NAMES)
        work = detector.stream(range(23), batch_size=batch_size, workers=workers, read=read, finish=finish)
        results = list(work)
        assert [source for source, _ in results] == list(range(23)) == numbers(results)
        assert network.threads == {threading.current_thread()}
        if delay == 0.0:
            batches = network.batches
    assert network.batches == batches


def test_photos_of_one_size_share_a_batch_though_others_lie_between():
    network = Counting()
    detector = Detector(network, NAMES)
    results = list(detector.stream([photo(i, 10 + i % 2) for i in range(9)], batch_size=3))
    assert numbers(results) == list(range(9))
    assert network.batches == [[0, 2, 4], [1, 3, 5], [6, 8], [7]]


def test_a_photo_that_cannot_be_read_prepared_or_finished_costs_itself_alone():
    network = Counting()

    def read(i):
        if i in (0, 5):
            raise ImageError(f"photo {i}")
        return photo(i, 13 if i == 3 else 10)

    def finish(i, pixels, found):
        if i == 6:
            raise ImageError("disk full")
        return f"{i}: {pixels[0, 0, 0]}, {len(found)}"

    for workers in (0, 2):
        work = Detector(network, NAMES).stream(range(8), workers=workers, batch_size=2, read=read, finish=finish)
        results = [str(result) for _, result in work]
        assert results == [
            "photo 0",
            *("1: 1, 1", "2: 2, 1"),
            "photo of 13 rows",
            "4: 4, 1",
            "photo 5",
            "disk full",
            "7: 7, 1",
        ]
    every = [i for i, _ in Detector(network, NAMES).stream([0, 5, 0], batch_size=2, read=read)]
    assert every == [0, 5, 0]
    assert list(Detector(network, NAMES).stream([])) == []


@pytest.mark.parametrize(("batch_size", "workers", "most"), [(1, 0, 1), (1, 2, 8), (2, 2, 16), (4, 1, 23)])
def test_memory_is_bounded_and_sources_are_taken_as_needed(batch_size, workers, most):
    taken, held, peak = [0], [0], [0]
    lock = threading.Lock()

    def sources():
        while True:
            taken[0] += 1
            yield taken[0]

    def read(i):
        with lock:
            held[0] += 1
            peak[0] = max(peak[0], held[0])
        return photo(i % 250)

    work = Detector(Counting(), NAMES).stream(sources(), batch_size=batch_size, workers=workers, read=read)
    with closing(work):
        for _ in range(50):
            next(work)
            with lock:
                held[0] -= 1
            assert taken[0] - 50 <= most
    assert peak[0] <= most + 1  # the one that the caller holds is not counted down yet


def test_what_else_goes_wrong_ends_the_stream_and_its_threads():
    def read(i):
        if i == 4:
            raise ZeroDivisionError("a defect")
        return photo(i)

    before = threading.active_count()
    done = []
    with pytest.raises(ZeroDivisionError):
        done.extend(Detector(Counting(), NAMES).stream(range(100), workers=3, read=read))
    gc.collect()
    assert threading.active_count() == before


def test_a_stream_that_is_left_ends_its_threads():
    before = threading.active_count()
    work = Detector(Counting(), NAMES).stream((photo(i % 250) for i in range(10**9)), workers=3)
    assert len([next(work) for _ in range(3)]) == 3
    assert threading.active_count() > before
    work.close()
    assert threading.active_count() == before


def test_photos_are_read_and_finished_while_the_network_runs():
    """Each stage sleeps; one after the other they would take three times as long."""
    seen = []

    def read(i):
        time.sleep(0.01)
        seen.append(("read", i, threading.current_thread().name))
        return photo(i)

    def finish(i, _, found):
        time.sleep(0.01)
        seen.append(("finish", i, threading.current_thread().name))
        return found

    list(Detector(Counting(delay=0.01), NAMES).stream(range(20), read=read, finish=finish))
    assert all(name.startswith("grcn-photo") for *_, name in seen)
    order = [(kind, i) for kind, i, _ in seen]
    assert all(order.index(("read", i + 2)) < order.index(("finish", i)) for i in range(18))


def test_wrong_numbers_are_refused_before_anything_is_read():
    detector = Detector(Counting(), NAMES)
    for wrong in ({"batch_size": 0}, {"workers": -1}):
        with pytest.raises(ConfigError, match="batch_size"):
            detector.stream(iter([photo(1)]), **wrong)
