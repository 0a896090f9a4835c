"""What a run chooses where its configuration leaves it open, and how it says so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from grcn.config import DetectorConfig, OptimConfig, ScheduleConfig, TrainConfig, from_dict
from grcn.errors import CheckpointError
from grcn.model.detector import build_detector
from grcn.predict.checkpoint import save_detector
from grcn.presets import PRESETS, preset
from grcn.training import recipe, train
from grcn.training.recipe import average_decay, choose, choose_preset, continued

OPEN = TrainConfig(data="x")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Sets whether there is a GPU, and whether it, or else the processor, multiplies bfloat16."""

    def settle(gpu: bool, bf16: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: bf16)
        monkeypatch.setattr(recipe, "multiplies_bf16", lambda: bf16)

    return settle


def looking_twice(name: str) -> DetectorConfig:
    model = preset(name)
    return replace(model, roi=replace(model.roi, refine=1))


@pytest.mark.parametrize(
    ("gpu", "accelerator", "expected"),
    [
        (False, "auto", ("grcn_lite0_fpn", "imagenet", "adamw", 0.002, 0.05)),
        (True, "cpu", ("grcn_lite0_fpn", "imagenet", "adamw", 0.002, 0.05)),
        (True, "auto", ("grcn_r50_fpn", "coco", "sgd", None, 1e-4)),
        (True, "cuda", ("grcn_r50_fpn", "coco", "sgd", None, 1e-4)),
    ],
)
def test_detector_start_and_optimizer(machine, gpu: bool, accelerator: str, expected: tuple) -> None:
    machine(gpu, bf16=False)
    chosen = choose(replace(OPEN, accelerator=accelerator))
    optim = chosen.optim
    assert (chosen.preset, chosen.weights, optim.name, optim.lr, optim.weight_decay) == expected
    assert (chosen.fit, chosen.schedule.kind) == ("data", "cosine")
    assert chosen.model == looking_twice(chosen.preset)
    assert choose_preset(accelerator) == chosen.preset


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_precision_goes_by_the_device(machine, gpu: bool, bf16: bool) -> None:
    machine(gpu, bf16)
    assert choose(OPEN).precision == ("bf16" if bf16 else "fp32")


def test_what_is_given_stays() -> None:
    given = TrainConfig(
        data="x",
        preset="grcn_r18",
        weights="random",
        precision="fp32",
        model=PRESETS["grcn_r18"],
        optim=OptimConfig(name="adamw", lr=0.01, weight_decay=0.0, ema=0.0),
        schedule=ScheduleConfig(kind="step"),
    )
    assert choose(given) == replace(given, fit="none")
    assert choose(replace(given, fit="data")).fit == "data"
    assert choose(replace(given, optim=OptimConfig(lr=0.5))).optim == OptimConfig("sgd", lr=0.5, weight_decay=1e-4)
    assert choose(replace(given, optim=OptimConfig("adamw"))).optim == OptimConfig("adamw", weight_decay=0.05)


@pytest.mark.parametrize(
    ("name", "weights"), [("grcn_r50_fpn", "coco"), ("faster_rcnn_r50_fpn_v2", "coco"), ("grcn_r50", "imagenet")]
)
def test_cocos_weights_where_there_are_some(name: str, weights: str) -> None:
    assert choose(replace(OPEN, preset=name)).weights == weights


@pytest.mark.parametrize(("iterations", "steps"), [(1, 10), (200, 10), (400, 20), (10_000, 500), (10**6, 5000)])
def test_the_average_reaches_over_a_twentieth(iterations: int, steps: int) -> None:
    assert 1 / (1 - average_decay(iterations)) == pytest.approx(steps)


def test_a_run_goes_on_with_what_it_chose(machine) -> None:
    machine(gpu=False, bf16=True)
    former = choose(OPEN)
    former = replace(former, optim=replace(former.optim, ema=0.97))
    machine(gpu=True, bf16=False)
    again = choose(continued(replace(OPEN, resume=True), former))
    assert again == replace(former, resume=True, model=again.model)


def test_it_is_said_kept_and_read_again(beach: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(
        TrainConfig(
            data=str(beach),
            out=str(tmp_path / "run"),
            weights="random",
            iterations=1,
            batch_size=2,
            accelerator="cpu",
            workers=0,
        )
    )
    said = capsys.readouterr().out.splitlines()
    text = (run / "config.yaml").read_text()
    comments = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    assert len(comments) == 3
    assert [line.split(":")[0] for line in comments] == ["detector", "sizes", "training"]
    assert [line for line in said if line in comments] == comments
    written = from_dict(TrainConfig, yaml.safe_load(text))
    assert (written.preset, written.fit, written.optim.name) == ("grcn_lite0_fpn", "data", "adamw")
    assert written.optim.ema == average_decay(1)
    assert written.model is not None
    assert written.model.input.short_side < PRESETS["grcn_lite0_fpn"].input.short_side
    # Continued from Python with all left open, it stays what it was; and so do its comments.
    assert train(TrainConfig(data=str(beach), out=str(run), batch_size=2, workers=0, resume=True)) == run
    assert (run / "config.yaml").read_text() == text


def test_weights_of_a_detector_bring_the_detector(tiny, tmp_path: Path) -> None:
    model = build_detector(tiny.tiny_model(), 2, None)
    save_detector(tmp_path / "last.safetensors", model, class_names=("a", "b"), preset="faster_rcnn_r18_c5", extra={})
    chosen = choose(replace(OPEN, weights=str(tmp_path)))
    assert (chosen.preset, chosen.fit, chosen.model) == ("faster_rcnn_r18_c5", "none", model.config)
    other = choose(replace(OPEN, weights=str(tmp_path), preset="grcn_r18"))
    assert (other.preset, other.fit, other.model) == ("grcn_r18", "data", looking_twice("grcn_r18"))
    with pytest.raises(CheckpointError, match="no such"):
        choose(replace(OPEN, weights=str(tmp_path / "absent")))
