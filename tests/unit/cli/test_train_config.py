"""`grcn train`'s command line and YAML: defaults from the preset, then the file, then the command line."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from grcn.cli.main import main
from grcn.cli.train import read_train_config
from grcn.config import DetectorConfig, TrainConfig, from_dict, to_dict
from grcn.errors import ConfigError
from grcn.model.detector import build_detector
from grcn.predict.checkpoint import save_detector
from grcn.presets import PRESETS, detector_of


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


@pytest.mark.parametrize("name", PRESETS)
def test_the_model_is_the_presets_unless_told_otherwise(name: str) -> None:
    config = read_train_config(["--data", "x", "--preset", name])
    assert config == TrainConfig(data="x", preset=name)
    assert detector_of(config) == PRESETS[name]
    changed = read_train_config(["--data=x", f"--preset={name}", "--model.roi.nms=0.3", "--model.rpn.channels", "64"])
    model = PRESETS[name]
    assert changed.model == replace(model, roi=replace(model.roi, nms=0.3), rpn=replace(model.rpn, channels=64))


def test_the_preset_may_come_from_the_file_and_the_command_line_wins(yaml_file: Path) -> None:
    yaml_file.write_text("data: x\npreset: grcn_vgg16\niterations: 10\nmodel: {rpn: {nms: 0.6}}\noptim: {lr: 0.5}\n")
    config = read_train_config(["--config", str(yaml_file)])
    vgg = PRESETS["grcn_vgg16"]
    assert config.model == replace(vgg, rpn=replace(vgg.rpn, nms=0.6))
    assert (config.iterations, config.optim.lr) == (10, 0.5)

    config = read_train_config(
        ["--config", str(yaml_file), "--preset", "grcn_r18", "--optim.lr", "1e-3", "--iterations=7"]
    )
    r18 = PRESETS["grcn_r18"]
    assert config.model == replace(r18, rpn=replace(r18.rpn, nms=0.6))
    assert (config.iterations, config.optim.lr) == (7, 1e-3)


@pytest.mark.parametrize("content", ["model: null", "model: {}", ""])
def test_a_model_that_a_file_leaves_open_is_the_presets(yaml_file: Path, content: str) -> None:
    yaml_file.write_text(f"data: x\npreset: grcn_r18\n{content}\n")
    r18 = PRESETS["grcn_r18"]
    config = read_train_config(["--config", str(yaml_file)])
    assert (config.model, detector_of(config)) == (None, r18)  # so that it is fitted to the data
    config = read_train_config(["--config", str(yaml_file), "--model.rpn.nms", "0.3"])
    assert config.model == replace(r18, rpn=replace(r18.rpn, nms=0.3))


def test_what_is_given_wins_over_the_preset_where_it_equals_the_default() -> None:
    words = "--model.separation none --model.rpn.source trunk --model.rpn.channels null"
    config = read_train_config(["--data", "x", "--preset", "grcn_r50", *words.split()])
    assert config.model == DetectorConfig()
    assert detector_of(config) == DetectorConfig()


def test_a_part_of_a_model_needs_a_preset_which_the_machine_chooses_where_none_is_given(yaml_file: Path) -> None:
    assert read_train_config(["--data", "x"]) == TrainConfig(data="x")
    config = read_train_config(["--data", "x", "--accelerator", "cpu", "--model.roi.nms", "0.4"])
    lite0 = PRESETS["grcn_lite0_fpn"]
    assert config.preset == "grcn_lite0_fpn"
    assert config.model == replace(lite0, roi=replace(lite0.roi, nms=0.4))


def test_a_part_of_a_model_beside_a_detectors_weights_is_that_detectors(tmp_path: Path, tiny) -> None:
    model = build_detector(tiny.tiny_model(), 2, None)
    save_detector(tmp_path / "last.safetensors", model, class_names=("a", "b"), preset="faster_rcnn_r18_c5", extra={})
    config = read_train_config(["--data", "x", "--weights", str(tmp_path), "--model.roi.nms", "0.4"])
    assert config.preset == "faster_rcnn_r18_c5"
    assert config.model == replace(model.config, roi=replace(model.config.roi, nms=0.4))


def test_what_is_printed_for_an_open_run_is_whole_and_fits_as_it_would(
    yaml_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", "x", "--accelerator", "cpu", "--print_config"]) == 0
    yaml_file.write_text(capsys.readouterr().out)
    config = read_train_config(["--config", str(yaml_file)])
    assert (config.preset, config.fit, config.model) == ("grcn_lite0_fpn", "data", PRESETS["grcn_lite0_fpn"])


def test_a_run_is_resumed_where_its_configuration_lies_unless_told_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "b" / "config.yaml"
    file.parent.mkdir()
    file.write_text("data: x\nout: runs/a\n")
    resume = ["--config", str(file), "--resume", "true"]
    assert read_train_config(resume).out == "runs/a"  # not a run folder
    (file.parent / "classes.txt").touch()
    assert read_train_config(resume).out == str(tmp_path / "b")
    assert read_train_config([f"--config={file}", "--resume=true"]).out == str(tmp_path / "b")
    assert read_train_config([*resume, "--out", "runs/c"]).out == "runs/c"
    assert read_train_config([*resume, "--out=runs/c"]).out == "runs/c"
    assert read_train_config(["--config", str(file)]).out == "runs/a"  # a run like it
    other = file.rename(file.with_name("other.yaml"))
    assert read_train_config(["--config", str(other), "--resume", "true"]).out == "runs/a"


def test_values_keep_their_types() -> None:
    words = "--data 2007 --precision bf16 --seed 3 --resume true --loggers [csv] --model.rpn.anchor_sizes [8,16.5]"
    config = read_train_config(
        [*words.split(), "--preset=grcn_r18", "--augment.scale_jitter", "[0.5, 2]", "--model.frozen_stages", "null"]
    )
    assert (config.data, config.precision, config.seed, config.resume, config.loggers) == (
        "2007",
        "bf16",
        3,
        True,
        ("csv",),
    )
    assert config.model.rpn.anchor_sizes == (8.0, 16.5)
    assert config.augment.scale_jitter == (0.5, 2.0)
    assert config.model.frozen_stages is None


def test_what_is_printed_can_be_read_again(yaml_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "x", "--preset", "grcn_vgg16", "--model.input.short_side=480", "--precision=fp32"]
    assert main(["train", *words, "--print_config"]) == 0
    printed = capsys.readouterr().out
    yaml_file.write_text(printed)
    assert read_train_config(["--config", str(yaml_file)]) == read_train_config(words)
    assert from_dict(TrainConfig, yaml.safe_load(printed)) == read_train_config(words)


def test_a_run_folders_configuration_can_be_read_again(yaml_file: Path) -> None:
    config = read_train_config(["--data", "x", "--preset", "grcn_r101", "--minutes", "1.5", "--model.roi.nms", "0.4"])
    yaml_file.write_text(yaml.safe_dump(to_dict(config)))
    assert read_train_config(["--config", str(yaml_file)]) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data x --preset grcn_r19", "unknown preset 'grcn_r19'; did you mean 'grcn_r18'?"),
        ("--data x --optim.lrr 3", "unknown option '--optim.lrr'; did you mean '--optim.lr'?"),
        ("--data x --iter=3", "unknown option '--iter'; did you mean '--iterations'?"),
        ("--data x --model.cls_strid 8", "unknown option '--model.cls_strid'; did you mean '--model.cls_stride'?"),
        ("--data x --zzzzzzzzzzz 8", "unknown option '--zzzzzzzzzzz'; `grcn train --help` lists the options"),
        ("--data x stray", "unexpected argument 'stray'; `grcn train --help` lists the options"),
        ("--data x --optim.lr fast", "optim.lr: expected float or null, found fast"),
        ("--data x --model.cls_stride 17", "model.cls_stride: expected Literal[8, 16, 32], found 17"),
        ("--data x --iterations 1.5", "iterations: expected int, found 1.5"),
        ("--preset grcn_r18", "the following arguments are required: data"),
        ("--data", "argument --data: expected one argument"),
        (
            "--data x --iterations 5 --minutes 2",
            "iterations and minutes: give only one of them as the length of the run",
        ),
        ("--data x --lr 3", "unknown option '--lr'; did you mean '--optim.lr'?"),
        ("--data x --config absent.yaml", "absent.yaml"),
        ("--data x --preset grcn_r18 --model.separation conv4 --model.head conv5", "head 'conv5'"),
        ("--data x --precision fp8", "precision: expected Literal['auto', 'fp32', 'bf16', 'fp16'], found fp8"),
        ("--data x --devices 0", "devices 0: needs 1 to 10,000"),
        ("--data x --augment.flip 7", "augment.flip 7.0: needs 0 to 1"),
        ("--data x --model.rpn.nms .nan", "model.rpn.nms nan: needs 0 to 1"),
    ],
)
def test_mistakes_are_said_in_a_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("grcn: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: x\noptim: {lrr: 3}", "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        ("data: x\nmodel: {rpn: {nmss: 3}}", "unknown key 'model.rpn.nmss'; did you mean 'model.rpn.nms'?"),
        ("data: x\nmodell: {rpn: {nms: 0.3}}", "unknown key 'modell.rpn.nms'; did you mean 'model.rpn.nms'?"),
        ("data: x\niteration: 3", "unknown key 'iteration'; did you mean 'iterations'?"),
        ("data: [x", "Problems parsing config"),
        ("- data", "Unexpected config"),
        ("", "Unexpected config"),
        ("data: x\noptim: {lr: fast}", "optim.lr: expected float or null, found fast"),
        ("data: x\n1: 2", "Key must be a string"),
        ("data: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_mistakes_in_a_file_are_said_in_a_line(yaml_file: Path, content: str, message: str) -> None:
    yaml_file.write_text(content)
    with pytest.raises(ConfigError) as error:
        read_train_config(["--config", str(yaml_file)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
