"""Fuzzed command lines and configurations: exit code 2, one line on standard error, nothing on standard output."""

import errno
import pickle
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from grcn.cli.commands import COMMANDS, Command
from grcn.cli.common import progress_bar
from grcn.cli.main import main
from grcn.cli.train import read_train_config
from grcn.config import TrainConfig, to_dict
from grcn.data.loader import open_files_error
from grcn.errors import CheckpointError, ConfigError, DataError, DivergedError, GrcnError, ImageError, Interrupted

FUZZ = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def option_names(config: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in config.items():
        names += [f"{prefix}{key}"] + (option_names(value, f"{prefix}{key}.") if isinstance(value, dict) else [])
    return names


NAMES = option_names(to_dict(TrainConfig(data="x")))
WORDS = st.one_of(
    TEXT,
    st.sampled_from(NAMES).map("--{}".format),
    st.sampled_from(NAMES).map("--{}=".format),
    st.sampled_from(
        ["-", "--", "---", "-h=1", "--=", "{", "[1,", "null", "1e999", "&a *a", "!!python/name:os.system", "\0"]
    ),
)


def assert_refused(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> None:
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("grcn: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("command", COMMANDS)
@settings(FUZZ, max_examples=25)
@given(words=st.lists(WORDS, max_size=5))
def test_unknown_options_of_every_command(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    # After -- all words are arguments; help is given whatever else stands there (hypothesis takes -h from the code).
    words = [word for word in words if word not in ("--", "--debug", "-h", "--help", "--print_config")]
    assert_refused([*command.split(), "--definitely_unknown", *words], capsys)


@FUZZ
@given(words=st.lists(TEXT, min_size=1, max_size=4))
def test_unknown_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] in (*COMMANDS, "data", "study") or words[0].startswith("-"):
        words[0] = "x" + words[0]
    assert_refused([word for word in words if word != "--debug"], capsys)


def only_config_errors(read: Callable[[], TrainConfig]) -> None:
    """Reading gives a configuration or one line of what is wrong with it; nothing else."""
    try:
        assert isinstance(read(), TrainConfig)
    except ConfigError as error:
        lines = str(error).splitlines()
    else:
        lines = ["read"]
    assert len(lines) == 1


@FUZZ
@given(words=st.lists(WORDS, max_size=6))
def test_fuzzed_training_options(words: list[str]) -> None:
    only_config_errors(lambda: read_train_config(["--data", "x", *words]))


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.text(string.digits, max_size=3))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | TEXT, inner, max_size=4),
)


@FUZZ
@example(content={"preset": None})
@example(content={"preset": [1]})
@given(content=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5))
def test_fuzzed_configurations(content: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"data": "x", **content}))
    only_config_errors(lambda: read_train_config(["--config", str(file)]))


@FUZZ
@given(content=st.binary(max_size=60) | TEXT.map(str.encode))
def test_configurations_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    only_config_errors(lambda: read_train_config(["--config", str(file)]))


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "a: " * 5000, "data: x\nmodel: " + "{rpn: " * 2000, "\t", "%", "a: *b"]
)
def test_hostile_yaml(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(content)
    assert_refused(["train", "--config", str(file)], capsys)


def test_a_folder_for_a_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["train", "--config", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--data", "x"],
        ["evaluate", "run", "--predictions", "results.json", "--data", "x"],
        ["evaluate", "run", "--data", "x", "--save", "fiftyone"],
        ["push", "run"],
        ["predict", "run", "a.jpg"],
        ["predict", "run", "--out", "x"],
        ["predict", "run", "a.jpg", "--out", "x", "--score", "1.5"],
        ["predict", "run", "a.jpg", "--out", "x", "--save", "pascal"],
        ["check"],
        ["check", "x", "--preset", "nonsense"],
        ["models", "nonsense"],
        ["data"[:3]],
        ["data", "unknown"],
        ["data", "generate"],
        ["data", "download", "voc2008", "--out", "x"],
        ["demo", "--minutes", "0"],
        ["--nonsense"],
    ],
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(words, capsys)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("x: no data"), 3, "grcn: error: x: no data"),
        (ImageError("x.jpg:\n broken"), 4, "grcn: error: x.jpg: broken"),
        (DivergedError("loss is NaN"), 7, "grcn: error: loss is NaN"),
        (Interrupted("x: stopped, saved", 15), 143, "grcn: x: stopped, saved"),
        (KeyboardInterrupt(), 130, "grcn: interrupted"),
        (ValueError("odd\nthing"), 1, "grcn: error: ValueError: odd thing (run with --debug for the traceback)"),
        (OSError(errno.ENOSPC, "No space left", "x"), 1, "grcn: error: OSError: [Errno 28] No space left: 'x' (run"),
    ],
)
def test_each_error_has_its_exit_code_and_a_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setitem(COMMANDS, "check", Command("", fail))
    assert main(["check"]) == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert len(err.splitlines()) == 1

    if isinstance(error, Exception):
        assert main(["--debug", "check"]) == code
        err = capsys.readouterr().err
        assert "Traceback" in err
        assert "in fail" in err
        assert "run with --debug" not in err


def test_every_kind_of_error_has_a_code_of_its_own() -> None:
    kinds = [kind for kind in _subclasses(GrcnError) if kind is not Interrupted]
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    assert all(1 < kind.exit_code < 128 for kind in kinds)


def test_every_kind_of_error_can_be_pickled() -> None:
    """As Ray and multiprocessing do with what a worker raises."""
    for kind in [GrcnError, *_subclasses(GrcnError)]:
        error = kind("x: stopped", 15) if kind is Interrupted else kind("x: stopped")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.exit_code) == (kind, "x: stopped", error.exit_code)


@pytest.mark.parametrize(
    "words",
    [
        "predict absent a.jpg --out {}",
        "evaluate absent --data absent --out {}",
        "gap absent --data absent --out {}",
        "export {run} --format openvino --out {}",
        "export {run} --format onnx --out {}/model.onnx",
        "export {run} --format onnx --out {folder}",
        "study run context --out {}",
        "study table context --out {}",
        "demo --out {}",
        "data generate {}",
        "data download voc2007 --out {}",
    ],
)
@pytest.mark.parametrize("out", ["file", "file/below", "x" * 300])
def test_a_place_that_cannot_be_written_is_refused_before_anything_else(
    words: str, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "last.safetensors").write_text("weights that nobody gets to")
    filled = words.format(tmp_path / out, run=tmp_path, folder=tmp_path)
    assert_refused(filled.split(), capsys, CheckpointError.exit_code)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "last.safetensors"]


def _subclasses(kind: type[GrcnError]) -> list[type[GrcnError]]:
    return [sub for direct in kind.__subclasses__() for sub in (direct, *_subclasses(direct))]


def test_commands_leave_no_progress_bar_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("working") as tell:
        tell(1, 2)
        tell(2, 2, "still working")
    assert capsys.readouterr() == ("", "")


def test_the_limit_of_open_files_is_named_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def photo(_: object) -> int:
        try:
            raise OSError(errno.EMFILE, "Too many open files", "a.jpg")
        except OSError as error:
            raise ImageError(f"a.jpg: cannot be opened: {error.strerror}") from None

    def loader(_: object) -> int:
        try:
            return photo(None)
        except ImageError as error:
            raise open_files_error(error) or error from None

    for run, code in ((photo, 4), (loader, 3)):
        monkeypatch.setitem(COMMANDS, "models", Command("", run))
        assert main(["models"]) == code
        assert capsys.readouterr().err.count("ulimit -n") == 1
