"""train(): what a run does and leaves behind. Process faults are in tests/faults/test_training.py."""

import csv
import io
import json
import re
import shutil
import signal
import sys
import warnings
from dataclasses import replace

import pytest
import torch
import yaml

from grcn.cli.main import main
from grcn.config import AugmentConfig, OptimConfig, RPNConfig, TrainConfig, from_dict
from grcn.data.dataset import open_dataset
from grcn.data.loader import Stream
from grcn.errors import CheckpointError, ConfigError, DataError, ImageError
from grcn.evaluation import evaluate
from grcn.predict.checkpoint import load_detector
from grcn.predict.dataset import predict_dataset
from grcn.predict.detector import Detector
from grcn.thresholds import KEY
from grcn.training import train, validate
from grcn.training.checkpoint import load_state
from grcn.training.progress import ProgressBar, Skipped, tell
from grcn.types import Detections

FIGURES = ("iteration", "epoch", "lr", "loss", "grad_norm", "AP", "AP50")  # not the times


def log(run):
    with open(run / "metrics.csv", newline="") as file:
        return [[row[column] for column in FIGURES] for row in csv.DictReader(file)]


def assert_same_state(a, b):
    """Weights, average, optimizer, figures and validations, bit for bit."""
    first, second = (load_state(run / "checkpoints" / "last.ckpt") for run in (a, b))
    for state in (first, second):
        state.pop("grcn")
        for clock in ("seconds", "waited"):
            state["figures"].pop(clock)
    count = _assert_equal(first, second, "")
    assert count > 250  # tensors


def _assert_equal(a, b, where):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        return sum(_assert_equal(a[key], b[key], f"{where}.{key}") for key in a)
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        return sum(_assert_equal(x, y, f"{where}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
        return 1
    assert a == b, where
    return 0


@pytest.fixture(scope="module")
def whole(tiny, beach, tmp_path_factory):
    """A run of eight iterations with augmentation, accumulation and a moving average, in one go."""
    return train(config_of(tiny, beach, tmp_path_factory.mktemp("runs") / "whole"), progress=False)


def config_of(tiny, beach, out, **changes) -> TrainConfig:
    base = {
        "augment": AugmentConfig(flip=0.5, vertical_flip=0.5, scale_jitter=(0.8, 1.2), crop=0.5, color=0.5),
        "optim": OptimConfig(name="sgd", ema=0.9, accumulate=2, lr=0.02),
        "batch_size": 2,
        "val_every": 4,
        "save_every": 3,
    }
    return tiny.tiny_config(beach, out, **(base | changes))


def test_a_run_folder_holds_what_it_should(whole, tiny, beach):
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml", "classes.txt", "versions.json", "metrics.csv", "metrics.json",
        "best.safetensors", "last.safetensors", "checkpoints/last.ckpt",
    }  # fmt: skip
    classes = open_dataset(beach).class_names
    assert tuple((whole / "classes.txt").read_text().split()) == classes
    config = from_dict(TrainConfig, yaml.safe_load((whole / "config.yaml").read_text()))
    assert (config.train_split, config.val_split) == ("train", "val")
    assert (config.model.norm, config.model.frozen_stages) == ("bn", 0)
    assert config.iterations == 8
    versions = json.loads((whole / "versions.json").read_text())
    assert set(versions) == {"python", "torch", "torchvision", "lightning_fabric", "grcn"}
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["last"]["iteration"] == 8
    assert metrics["best"]["iteration"] in (4, 8)
    assert metrics["best"]["AP"] >= metrics["last"]["AP"]
    assert metrics["split"] == "val"


def test_kept_weights_are_the_moving_average_and_say_where_they_come_from(whole):
    state = load_state(whole / "checkpoints" / "last.ckpt")["state_dict"]
    last = load_detector(whole / "last.safetensors")
    for name, tensor in last.model.state_dict().items():
        assert torch.equal(tensor, state[f"ema.module.{name}"]), name
    weight = "rpn.conv.weight"
    assert not torch.equal(state[f"ema.module.{weight}"], state[f"model.{weight}"])
    best = load_detector(whole / "best.safetensors")
    assert best.preset == "faster_rcnn_r18_c5"
    metrics = json.loads((whole / "metrics.json").read_text())
    assert best.extra["metrics"] == metrics["best"]
    assert best.extra["train"]["iterations"] == 8
    assert best.extra["versions"]["torch"] == torch.__version__


def test_figures_are_logged_at_validations_and_at_the_end(whole):
    rows = log(whole)
    assert [(row[0], row[3] != "", row[5] != "") for row in rows] == [
        ("4", False, True), ("8", True, False), ("8", False, True),
    ]  # fmt: skip
    assert float(rows[1][1]) == pytest.approx(8 * 2 * 2 / 10)  # epochs: iterations, batch, accumulated; ten images


def test_a_broken_image_stops_the_run_and_the_rest_equals_an_uninterrupted_one(tiny, beach, whole, tmp_path):
    """The image is met in the third iteration; it is mended, and the run resumed with other workers."""
    data = shutil.copytree(beach, tmp_path / "beach")
    config = config_of(tiny, data, tmp_path / "run", save_every=1)
    tenth = list(Stream(10, 1, 10, config.seed))[9][0][1]  # the last of the first epoch
    path = open_dataset(data).records[tenth].path
    pixels = path.read_bytes()
    path.write_bytes(pixels[: len(pixels) // 2])
    with pytest.raises(ImageError, match=re.escape(str(path))):
        train(config, progress=False)
    assert load_state(tmp_path / "run/checkpoints/last.ckpt")["global_step"] in (1, 2)
    path.write_bytes(pixels)
    assert train(replace(config, resume=True, workers=1, save_every=3), progress=False) == tmp_path / "run"
    assert_same_state(whole, tmp_path / "run")
    assert log(whole) == log(tmp_path / "run")
    assert (whole / "metrics.json").read_text() == (tmp_path / "run/metrics.json").read_text()


def test_resuming_a_finished_run_does_nothing(tiny, beach, whole, capsys):
    before = (whole / "checkpoints/last.ckpt").stat().st_mtime_ns
    assert train(config_of(tiny, beach, whole, resume=True)) == whole
    assert "8 of 8" in capsys.readouterr().out
    assert (whole / "checkpoints/last.ckpt").stat().st_mtime_ns == before


def test_a_run_stopped_in_its_last_validation_makes_up_for_it(tiny, beach, whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    state = load_state(run / "checkpoints/last.ckpt")
    state["validation"] |= {"last_iteration": 4, "since_best": state["validation"]["since_best"] - 1}
    torch.save(state, run / "checkpoints/last.ckpt")
    for told in (1, 0):
        train(config_of(tiny, beach, run, resume=True))
        assert capsys.readouterr().out.count("iteration 8: AP") == told
    assert_same_state(whole, run)


def test_the_program_that_trains_is_left_as_it_was(tiny, beach, tmp_path, monkeypatch):
    """Its generators, its handlers of signals, its filters of warnings, and its malloc."""
    tuned = []
    monkeypatch.setattr("grcn.runtime.tune_cpu", lambda: tuned.append(1))
    handler = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)], warnings.filters[:]
        train(config_of(tiny, beach, tmp_path / "run", iterations=1, val_split="none"), progress=False)
        assert torch.equal(torch.rand(3), expected)
        assert ([signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)], warnings.filters[:]) == before
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert not tuned


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_run_without_standard_streams_is_done(tiny, beach, tmp_path, monkeypatch, stream):
    for name in ("stdout", "stderr"):
        file = None
        if stream == "closed":
            file = io.StringIO()
            file.close()
        monkeypatch.setattr(sys, name, file)
    monkeypatch.setattr(ProgressBar, "LINE_EVERY", 0.0)
    run = train(config_of(tiny, beach, tmp_path / "run", iterations=1, val_every=1))
    monkeypatch.undo()
    assert json.loads((run / "metrics.json").read_text())["last"]["iteration"] == 1


def test_lines_are_told_in_letters_that_the_stream_takes(monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    tell("runs/写真: done")
    monkeypatch.undo()
    assert raw.getvalue() == b"runs/\\u5199\\u771f: done\n"


def test_a_folder_that_cannot_be_written_is_refused_before_the_photos_are_opened(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/run: nothing can be written there"):
        train(TrainConfig(data=str(tmp_path / "absent"), out=str(tmp_path / "file" / "run")), progress=False)


def test_a_run_is_never_overwritten_by_a_new_one(tiny, beach, whole):
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume true"):
        train(config_of(tiny, beach, whole), progress=False)


def test_resuming_as_another_run_is_refused_with_the_differences(tiny, beach, whole, tmp_path):
    before = (whole / "config.yaml").read_text()
    data = shutil.copytree(beach, tmp_path / "beach")
    split = data / "ImageSets/Main/train.txt"
    split.write_text("".join(split.read_text().splitlines(keepends=True)[:-1]))
    other = config_of(tiny, data, whole, resume=True, preset="grcn_r18", iterations=9, batch_size=4)
    with pytest.raises(CheckpointError) as caught:
        train(other, progress=False)
    for part in (
        "preset faster_rcnn_r18_c5 -> grcn_r18",
        "batch_size 2 -> 4",
        "iterations 8 -> 9",
        "data.images 10 -> 9",
    ):
        assert part in str(caught.value)
    assert (whole / "config.yaml").read_text() == before


def test_config_yaml_and_resume_are_enough_to_continue(whole):
    config = from_dict(TrainConfig, yaml.safe_load((whole / "config.yaml").read_text()))
    assert train(replace(config, resume=True), progress=False) == whole


def test_fine_tuning_starts_from_a_run_and_says_what_was_kept(tiny, beach, whole, tmp_path, capsys):
    config = config_of(tiny, beach, tmp_path / "run", weights=str(whole), iterations=1, val_split="none")
    config = replace(config, optim=OptimConfig(lr=1e-30), model=replace(config.model, norm="auto"))
    train(config)
    said = capsys.readouterr().out
    assert "0 tensors" not in said
    assert "classes kept: " in said
    assert "new classes" not in said
    assert "no split to validate on" not in said, "it was asked for"
    assert not (tmp_path / "run/best.safetensors").exists()
    start, end = load_detector(whole / "best.safetensors"), load_detector(tmp_path / "run/last.safetensors")
    assert end.model.config.norm == "bn"
    for (name, before), after in zip(start.model.named_parameters(), end.model.parameters(), strict=True):
        assert torch.equal(before, after), name


def test_minutes_become_iterations(tiny, beach, tmp_path, capsys):
    config = config_of(tiny, beach, tmp_path / "run", iterations=0, minutes=0.02, val_every=0, save_every=0)
    train(replace(config, optim=OptimConfig(name="adamw", lr=1e-3), precision="bf16", loggers=("csv", "tensorboard")))
    said = capsys.readouterr().out
    config = from_dict(TrainConfig, yaml.safe_load((tmp_path / "run/config.yaml").read_text()))
    assert config.minutes == 0
    assert f"0.02 minutes: {config.iterations} iterations of " in said
    assert (
        f"training will see {2 * config.iterations} images, counting each photo every time it is seen: too few" in said
    )
    state = load_state(tmp_path / "run/checkpoints/last.ckpt")
    assert state["global_step"] == config.iterations >= 1
    assert "exp_avg_sq" in state["optimizer"]["state"][0]
    assert list((tmp_path / "run/tensorboard").glob("events*"))


def test_patience_counts_validations_without_a_better_ap_and_of_equals_the_latest_is_the_best(
    tiny, beach, tmp_path, monkeypatch
):
    """And resuming leaves a run that has stopped so as it is."""
    figures = iter((0.2, 0.5, 0.5, 0.1, 0.5))
    evaluate = validate.evaluate
    monkeypatch.setattr(validate, "evaluate", lambda *words: evaluate(*words) | {"AP": next(figures)})
    config = config_of(tiny, beach, tmp_path / "run", iterations=8, val_every=1, patience=3)
    train(config, progress=False)
    for _ in range(2):
        assert load_state(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 5
        metrics = json.loads((tmp_path / "run/metrics.json").read_text())
        assert (metrics["best"]["iteration"], metrics["best"]["AP"]) == (5, 0.5)
        assert load_detector(tmp_path / "run/best.safetensors").extra["iteration"] == 5
        train(replace(config, resume=True), progress=False)


def test_best_weights_have_the_thresholds_that_validation_chooses(tiny, beach, tmp_path, monkeypatch):
    """Of detections that are the objects, each once more elsewhere and less sure; none, where nothing is right."""

    def found(record, names):
        boxes, labels, n = record.target.boxes, record.target.labels, len(record.target)
        return Detections([*boxes, *(boxes + 200)], [0.75] * n + [0.5] * n, [*labels, *labels], names)

    def detect_split(fabric, model, data, *_):
        return {i: found(record, data.class_names) for i, record in enumerate(data.records)}

    monkeypatch.setattr(validate, "detect_split", detect_split)
    train(config_of(tiny, beach, tmp_path / "run", iterations=1, val_every=1), progress=False)
    data = open_dataset(beach, split="val")
    seen = {label for record in data.records for label in record.target.labels.tolist()}
    best = tuple(0.75 if c in seen else None for c in range(len(data.class_names)))
    chosen = Detector.load(tmp_path / "run").thresholds
    assert (chosen.best, chosen.precise, chosen.overall) == (best, best, 0.75)
    assert (chosen.data, chosen.split, chosen.iou, chosen.precision) == ("beach", "val", 0.5, 0.9)
    assert Detector.load(tmp_path / "run" / "last.safetensors").thresholds is None
    report = json.loads((tmp_path / "run/metrics.json").read_text())
    assert report["best"]["AP"] == pytest.approx(1)

    monkeypatch.setattr(validate, "choose_thresholds", lambda *_, **__: None)
    train(config_of(tiny, beach, tmp_path / "none", iterations=1, val_every=1), progress=False)
    assert KEY not in load_detector(tmp_path / "none/best.safetensors").extra


def test_without_objects_to_score_the_last_weights_are_the_best_and_patience_does_not_count(
    tiny, beach, tmp_path, capsys
):
    data = shutil.copytree(beach, tmp_path / "beach")
    for record in open_dataset(data, split="val").records:
        _change(data / "Annotations" / f"{record.path.stem}.xml", r"<object>.*?</object>", "")
    config = config_of(tiny, data, tmp_path / "run", iterations=4, val_every=1, save_every=2, patience=1)
    train(config)
    said = capsys.readouterr().out
    assert (
        "warning: split 'val' holds no objects, so no AP and no early stop; the last weights count as the best\n"
        in said
    )
    assert "no AP; best.safetensors is at iteration 4 of 4\n" in said
    best, last = (load_detector(tmp_path / "run" / f"{name}.safetensors") for name in ("best", "last"))
    assert best.extra["iteration"] == last.extra["iteration"] == 4
    for name, tensor in last.model.state_dict().items():
        assert torch.equal(tensor, best.model.state_dict()[name]), name
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["best"] == metrics["last"]
    assert metrics["best"]["AP"] is None
    # The state of an earlier version, whose patience had counted: it goes on.
    validation = validate.Validation(open_dataset(data, split="val"), config, print, Skipped(print))
    validation.load_state_dict({"last_iteration": 3, "best_ap": 0.0, "since_best": 5, "report": "{}"})
    assert not validation.is_over


def test_images_that_cannot_be_decoded_are_skipped_when_told_to_and_named(tiny, beach, tmp_path, capsys, monkeypatch):
    """Also: the bar of a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    data = shutil.copytree(beach, tmp_path / "beach")
    broken = [open_dataset(data, split=split).records[0].path for split in ("train", "val")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-600])
    headless = open_dataset(data).records[1].path
    headless.write_bytes(b"no image at all")
    train(config_of(tiny, data, tmp_path / "run", iterations=3, skip_broken=True, resume=True))
    said = capsys.readouterr().out
    assert "no saved state; starting from the beginning" in said
    assert f"skipped, 1 so far: {broken[0]}" in said
    assert f"skipped, 2 so far: {broken[1]}" in said
    assert said.count("skipped") == 2
    assert re.search(rf"{headless.name}: .*left out", said)
    assert "3/3" in said
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["last"]["images"] == len(open_dataset(beach, split="val"))


def test_a_run_killed_before_its_first_save_keeps_the_length_it_had_found(tiny, beach, whole, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole / "config.yaml", run)
    train(
        config_of(tiny, beach, run, iterations=0, minutes=500.0, val_every=0, save_every=0, resume=True), progress=False
    )
    assert load_state(run / "checkpoints/last.ckpt")["global_step"] == 8


def test_sizes_can_be_fitted_to_the_data(tiny, beach, tmp_path, monkeypatch):
    """Also: the lines that take the bar's place where there is no terminal, and a length in epochs."""
    monkeypatch.setattr(ProgressBar, "LINE_EVERY", 0.0)
    config = config_of(tiny, beach, tmp_path / "run", iterations=0, epochs=0.3, val_split="none", fit="data")
    config = replace(config, optim=OptimConfig("sgd"), model=replace(config.model, rpn=RPNConfig(channels=8)))
    train(config)
    written = from_dict(TrainConfig, yaml.safe_load((tmp_path / "run/config.yaml").read_text()))
    assert written.iterations == 2
    assert written.model.rpn.anchor_sizes != config.model.rpn.anchor_sizes
    assert load_detector(tmp_path / "run/last.safetensors").model.config == written.model


def test_without_a_split_to_validate_on_a_part_is_held_out(tiny, beach, tmp_path, capsys):
    data = shutil.copytree(beach, tmp_path / "data")
    (data / "ImageSets/Main/val.txt").unlink()
    names = (data / "ImageSets/Main/train.txt").read_text().split()
    run = train(config_of(tiny, data, tmp_path / "run", iterations=1, val_every=0))
    assert "no split to validate on: " in capsys.readouterr().out
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["train_split"], written["val_split"]) == ("train", "held-out")
    assert json.loads((run / "metrics.json").read_text())["split"] == "held-out"
    assert 0 < len(open_dataset(data, split="held-out")) < len(names)
    # As the run's file has it, on and on: no photo changes sides.
    again = train(replace(from_dict(TrainConfig, written), resume=True, iterations=1))
    assert again == run


def test_too_few_photos_are_not_held_out(tiny, beach, tmp_path, capsys):
    data = shutil.copytree(beach, tmp_path / "data")
    (data / "ImageSets/Main/val.txt").unlink()
    list_of = data / "ImageSets/Main/train.txt"
    list_of.write_text("\n".join(list_of.read_text().split()[:3]) + "\n")
    run = train(config_of(tiny, data, tmp_path / "run", iterations=1, val_every=0))
    assert "too few photos to hold some out: no AP" in capsys.readouterr().out
    assert not (run / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("length", "batch", "advice"),
    [
        ({"iterations": 2}, 4, "batch_size 2 with optim.accumulate 4 makes the same steps"),
        ({"iterations": 0, "minutes": 0.1}, 4, "batch_size 2 with optim.accumulate 4 makes the same steps"),
        ({"iterations": 2}, 1, "checkpoint_activations true, a smaller model.input or a smaller preset needs less"),
    ],
)
def test_a_gpu_that_is_too_small_is_said_with_what_to_change(tiny, beach, tmp_path, monkeypatch, length, batch, advice):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    monkeypatch.setattr("grcn.model.detector.RCNN.forward", full)
    config = config_of(tiny, beach, tmp_path / "run", batch_size=batch, val_split="none", **length)
    with pytest.raises(ConfigError) as error:
        train(config, progress=False)
    said = f"out of memory at batch_size {batch} (CUDA out of memory. Tried to allocate 2.00 GiB.): {advice}"
    assert str(error.value) == f"{tmp_path / 'run'}: {said}"


def test_apples_gpus_are_refused_and_never_chosen(tiny, beach, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="accelerator mps: some computations on boxes need float64"):
        train(config_of(tiny, beach, tmp_path / "run", accelerator="mps"))
    with pytest.raises(ConfigError, match="mps: some computations on boxes need float64"):
        Detector.load("grcn_r18", class_names=["a"], device="mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    train(config_of(tiny, beach, tmp_path / "run", accelerator="auto", iterations=1, val_split="none"), progress=False)


def test_validating_on_the_training_split_is_said(tiny, beach, tmp_path, capsys):
    config = config_of(tiny, beach, tmp_path / "run", iterations=1, val_split="train", val_every=0)
    train(replace(config, skip_broken=True))
    said = capsys.readouterr().out
    assert "warning: validating on 'train', the training split" in said
    assert "iteration 1: AP " in said


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 3, "devices": 2}, ConfigError, "batch_size 3 over 2 devices: needs a multiple of 2"),
        ({"accelerator": "mps"}, ConfigError, "accelerator mps: some computations on boxes"),
        ({"train_split": "nowhere"}, DataError, "nowhere"),
        ({"val_split": "nowhere"}, DataError, "val_split none"),
        ({"weights": "nowhere.safetensors"}, CheckpointError, "nowhere.safetensors"),
        ({"weights": "nowhere.pth"}, CheckpointError, "nowhere.pth"),
    ],
)
def test_what_cannot_be_carried_out_is_one_line_and_leaves_nothing(tiny, beach, tmp_path, changes, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        train(config_of(tiny, beach, tmp_path / "run", **changes), progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_torchrun_with_another_number_of_processes_is_refused(tiny, beach, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun started 2 processes for 1 devices"):
        train(config_of(tiny, beach, tmp_path / "run"), progress=False)


def _change(path, pattern, text):
    path.write_text(re.sub(pattern, text, path.read_text(), flags=re.DOTALL))


def _without_any(data):
    for path in (data / "Annotations").iterdir():
        _change(path, "<object>.*?</object>", "")
    (data / "classes.txt").write_text("kayak\n")


def _all_difficult(data):
    for path in (data / "Annotations").iterdir():
        _change(path, "<difficult>0</difficult>", "<difficult>1</difficult>")


def _all_crowd(data):
    photos = sorted((data / "JPEGImages").iterdir())[:2]
    content = {
        "images": [{"id": n, "file_name": p.name, "width": 96, "height": 72} for n, p in enumerate(photos)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 1}
            for n, p in enumerate(photos)
        ],
        "categories": [{"id": 1, "name": "kayak"}],
    }
    for name in ("Annotations", "ImageSets"):
        shutil.rmtree(data / name)
    (data / "annotations").mkdir()
    (data / "annotations" / "instances_train.json").write_text(json.dumps(content))
    (data / "JPEGImages").rename(data / "train")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_without_any, ""),
        (_all_crowd, ": only 2 crowd"),
        (_all_difficult, r": only \d+ difficult, and use_difficult is false"),
    ],
)
def test_training_on_nothing_is_refused(tiny, beach, tmp_path, spoil, why):
    data = shutil.copytree(beach, tmp_path / "beach")
    spoil(data)
    with pytest.raises(DataError, match=f"holds no objects to learn from{why}$"):
        train(config_of(tiny, data, tmp_path / "run", use_difficult=False), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_moved_continues_where_it_lies(whole, tmp_path, capsys):
    """By the command line, whose file names the former place."""
    moved = shutil.copytree(whole, tmp_path / "moved")
    config = yaml.safe_load((moved / "config.yaml").read_text()) | {"out": str(tmp_path / "former")}
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(moved / "config.yaml"), "--resume", "true"]) == 0
    assert f"{moved}: continuing at iteration 8 of 8" in capsys.readouterr().out
    assert not (tmp_path / "former").exists()


def test_the_preset_is_trained_where_no_model_is_given(tiny, beach, tmp_path):
    """Also: the folder's name, and the length, by default."""
    from grcn.config import DetectorConfig
    from grcn.training.run import _settle

    config = _settle(TrainConfig(data=str(beach), preset="grcn_r18"))
    assert config.model.backbone == "resnet18"
    assert config.model.separation == "roi"
    assert config.out == "runs/grcn_r18-beach"
    own = DetectorConfig(backbone="resnet34")
    assert _settle(TrainConfig(data=str(beach), model=own)).model == own


def test_validation_gives_the_ap_of_evaluate_to_the_last_digit(tiny, beach, tmp_path):
    run = train(config_of(tiny, beach, tmp_path / "run", iterations=4, val_every=2))
    told = json.loads((run / "metrics.json").read_text())
    data = open_dataset(beach, split="val")
    for name, which in (("last", "last"), ("best", "best")):
        detector = Detector.load(run / f"{name}.safetensors")
        metrics = evaluate(predict_dataset(detector, data), [r.target for r in data.records], data.class_names)
        assert {key: metrics[key] for key in ("AP", "AP50", "AP70", "AP75")} == {
            key: told[which][key] for key in ("AP", "AP50", "AP70", "AP75")
        }
