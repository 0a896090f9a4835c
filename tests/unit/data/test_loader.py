"""The stream of batches and what is in them."""

import errno
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from grcn.config import AugmentConfig, InputConfig
from grcn.data.loader import (
    Batch,
    Stream,
    TrainingSet,
    objects,
    training_loader,
    worker_deaths,
)
from grcn.data.records import Dataset, ImageRecord
from grcn.errors import DataError, ImageError
from grcn.types import Target

SIZE = InputConfig(32, 64)


@pytest.fixture
def data(tmp_path) -> Dataset:
    """Seven images, 40x48; the third without objects."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(7):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
        boxes = np.array([[4, 4, 20, 30], [10, 8, 40, 36]])[: 0 if i == 2 else 2]
        records.append(ImageRecord(i, path, 40, 48, Target(boxes, np.arange(len(boxes)))))
    return Dataset(tmp_path, "voc", "train", ("a", "b"), (1, 2), tuple(records), ())


def training_set(data: Dataset, **options) -> TrainingSet:
    config = AugmentConfig(flip=0.5, scale_jitter=(0.8, 1.2), crop=0.5, color=0.3)
    return TrainingSet(data, SIZE, config, seed=5, **options)


def same(a: Batch, b: Batch) -> bool:
    return (
        a.origins == b.origins
        and all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))
        and all(torch.equal(x[k], y[k]) for x, y in zip(a.targets, b.targets, strict=True) for k in ("boxes", "labels"))
    )


@given(
    images=st.integers(1, 20),
    share=st.integers(1, 5),
    world=st.integers(1, 3),
    batches=st.integers(0, 20),
    start=st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_the_stream_is_one_sequence_whatever_the_ranks_and_the_start(images, share, world, batches, start, seed):
    size = share * world
    whole = list(Stream(images, size, batches, seed))
    assert len(whole) == batches
    places = [place for batch in whole for place in batch]
    for epoch in range(len(places) // images):  # every epoch that is complete has each image once
        assert sorted(places[epoch * images : (epoch + 1) * images]) == [(epoch, i) for i in range(images)]
    ranks = [list(Stream(images, size, batches, seed, rank=rank, world=world)) for rank in range(world)]
    for k, batch in enumerate(whole):
        assert sorted(batch) == sorted(place for rank in ranks for place in rank[k])
        assert {len(rank[k]) for rank in ranks} == {share}
    assert list(Stream(images, size, batches, seed, start=start)) == whole[start:]
    assert len(Stream(images, size, batches, seed, start=start)) == len(whole[start:])


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = (list(Stream(50, 50, 2, 0))[k] for k in (0, 1))
    assert [i for _, i in first] != [i for _, i in second]
    assert first != next(iter(Stream(50, 50, 1, 1)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
def test_batches_are_equal_over_workers_and_from_the_middle(data):
    runs = {
        workers: list(training_loader(training_set(data), Stream(7, 3, 6, seed=5), workers=workers))
        for workers in (0, 2, 4)
    }
    assert [len(batch.images) for batch in runs[0]] == [3] * 6
    for workers in (2, 4):
        assert all(same(a, b) for a, b in zip(runs[0], runs[workers], strict=True))
    late = list(training_loader(training_set(data), Stream(7, 3, 6, seed=5, start=4), workers=2))
    assert all(same(a, b) for a, b in zip(runs[0][4:], late, strict=True))


def test_a_sample_is_uint8_with_its_objects_and_its_origin(data):
    image, target, origin = TrainingSet(data, SIZE, AugmentConfig(flip=0), seed=0)[0, 1]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 32, 38)
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [0, 1]
    assert origin == (1, str(data[1].path), ())
    _, target, _ = TrainingSet(data, SIZE, AugmentConfig(), seed=0)[0, 2]
    assert target["boxes"].shape == (0, 4)  # kept, with nothing in it


def test_crowds_are_not_trained_on_and_difficult_objects_at_will(data):
    target = Target(
        np.array([[0, 0, 9, 9], [1, 1, 9, 9], [2, 2, 9, 9]]),
        np.array([0, 1, 1]),
        difficult=np.array([False, True, False]),
        crowd=np.array([False, False, True]),
    )
    record = replace(data[0], target=target)
    assert objects(record)[1].tolist() == [0, 1]
    assert objects(record, use_difficult=False)[1].tolist() == [0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line_that_names_it(data, workers, capfd):
    data[4].path.write_bytes(b"\xff\xd8\xff\xe0 not a jpeg")
    loader = training_loader(training_set(data), Stream(7, 7, 1, seed=0), workers=workers)
    with pytest.raises(ImageError, match=r"4\.png.*skip_broken") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_an_image_of_another_size_than_its_boxes_were_read_for_is_broken(data):
    Image.new("RGB", (40, 48)).save(data[1].path)  # turned, say
    message = r"1\.png: is 40 x 48, but was 48 x 40 when its boxes were read; check the boxes"
    with pytest.raises(ImageError, match=message):
        list(training_loader(training_set(data), Stream(7, 7, 1, seed=0), workers=0))


def test_skip_broken_puts_the_next_image_in_its_place_and_says_so(data):
    data[6].path.write_bytes(b"nothing")
    (batch,) = training_loader(training_set(data, skip_broken=True), Stream(7, 7, 1, seed=0), workers=0)
    numbers = [origin.number for origin in batch.origins]
    assert sorted(numbers) == [0, 0, 1, 2, 3, 4, 5]
    (broken,) = [origin.broken for origin in batch.origins if origin.broken]
    assert len(broken) == 1
    assert "6.png" in broken[0]


def test_skip_broken_with_nothing_left_is_an_error(data):
    for record in data.records:
        record.path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match="none of its images can be decoded"):
        list(training_loader(training_set(data, skip_broken=True), Stream(7, 2, 1, seed=0), workers=0))


def test_a_killed_worker_is_one_line(data):
    others = multiprocessing.active_children()  # of loaders that are not yet collected
    batches = iter(training_loader(training_set(data), Stream(7, 1, 200, seed=0), workers=1))
    next(batches)
    torchs = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else torch may raise it in the test's own lines, too
    try:
        (worker,) = set(multiprocessing.active_children()) - set(others)
        worker.kill()
        with pytest.raises(DataError, match=r"a loader process died") as caught, worker_deaths():
            list(batches)
        message = str(caught.value)
    finally:
        # Torch raises it again at the end of any other process, as long as it knows of the dead one.
        del caught, batches
        gc.collect()
        signal.signal(signal.SIGCHLD, torchs)
    assert "\n" not in message


def test_the_time_that_batches_were_waited_for_is_counted_once(data):
    loader = training_loader(training_set(data), Stream(7, 2, 3, seed=0), workers=0)
    list(loader)
    assert loader.take_waited() > 0
    assert loader.take_waited() == 0


HAND_OVER = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from grcn.config import AugmentConfig, InputConfig
from grcn.data import loader
from grcn.data.records import Dataset, ImageRecord
from grcn.types import Target

file = Path(sys.argv[1], "a.png")
Image.new("RGB", (8, 8)).save(file)
record = ImageRecord("a", file, 8, 8, Target(np.empty((0, 4)), np.empty(0)))
data = Dataset(file.parent, "voc", "val", ("a",), (1,), (record,), ())
if sys.argv[2] == "unforeseen":
    loader.Listener = lambda **_: file.open()
with loader.worker_deaths():
    samples = loader.TrainingSet(data, InputConfig(32, 32), AugmentConfig(), seed=0)
    print(len(list(loader.training_loader(samples, loader.Stream(1, 1, 1, seed=0), workers=1))))
"""


@pytest.mark.parametrize(
    ("length", "case", "code", "said"),
    [
        (10, "foreseen", 0, ""),
        (120, "foreseen", 1, "DataError: /.*: loader processes cannot open a socket .* set TMPDIR to a shorter"),
        pytest.param(
            *(120, "unforeseen", 1, "cannot hand over a batch: (.*\n)*.*DataError: a loader process died"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_batch_that_cannot_be_handed_over_is_not_waited_for(tmp_path, length, case, code, said):
    """As where the path of the folder for temporary files leaves no room for a socket's name."""
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short) / ("x" * length)
        folder.mkdir()
        words = [sys.executable, "-c", HAND_OVER, str(tmp_path), case]
        done = subprocess.run(
            words, env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True, timeout=180
        )
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stderr)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_for_which_no_file_can_be_opened_is_not_skipped_as_broken(data, workers, monkeypatch):
    def fail(self):
        try:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except OSError as error:
            raise ImageError(f"cannot be decoded: {error}") from None

    monkeypatch.setattr(ImageRecord, "pixels", fail)
    with pytest.raises(DataError, match=r"too many open files: .* \(`ulimit -n 4096`\)"):
        list(training_loader(training_set(data, skip_broken=True), Stream(7, 2, 1, seed=0), workers=workers))


def test_processes_that_cannot_be_started_are_said(data, monkeypatch):
    def fail(self):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", fail)
    with pytest.raises(DataError, match="2 loader processes cannot be started: Resource temporarily unavailable; use"):
        next(iter(training_loader(training_set(data), Stream(7, 1, 1, seed=0), workers=2)))
