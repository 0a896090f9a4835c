"""The Hugging Face Hub, as real processes see it at a local stand-in: pushed, found, fetched, refused."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors
import yaml

from grcn import Detector, build_detector
from grcn.cli.main import main
from grcn.data.dataset import open_dataset
from grcn.errors import CheckpointError, ConfigError
from grcn.predict.checkpoint import load_detector, save_detector
from grcn.predict.hub import download_weights, model_card, push
from grcn.training import train
from hub_server import TOKEN, Hub, Repository


@pytest.fixture(scope="module")
def run(tiny: ModuleType, beach: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "of-someone" / "tiny"
    return train(tiny.tiny_config(beach, out, iterations=2, val_every=2), progress=False)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def execute(hub: Hub, home: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "hf"), "HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, env={**kept, **own, **environment}
    )


def grcn(hub: Hub, home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return execute(hub, home, "-m", "grcn", *words, **environment)


@pytest.fixture(scope="module")
def pushed(hub: Hub, home: Path, run: Path) -> str:
    """The commit of a push by the command line."""
    words = ("push", str(run), "someone/tiny", "--license", "apache-2.0", "--message", "First")
    done = grcn(hub, home, *words, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert f"{hub.endpoint}/someone/tiny: done; next: grcn predict hf://someone/tiny" in done.stdout
    (commit,) = hub.repositories["someone/tiny"].commits
    return commit


def test_what_is_pushed(hub: Hub, pushed: str, run: Path, tmp_path: Path) -> None:
    repository = hub.repositories["someone/tiny"]
    files = repository.commits[pushed]
    assert set(files) == {"model.safetensors", "README.md", "config.yaml"}
    assert (repository.private, repository.messages) == (False, ["First"])
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(hub.large[files["model.safetensors"]])
    there, here = load_detector(weights), load_detector(run / "best.safetensors")
    assert (there.class_names, there.preset) == (here.class_names, here.preset)
    for name, tensor in here.model.state_dict().items():
        assert tensor.equal(there.model.state_dict()[name]), name

    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert {key: front[key] for key in ("library_name", "license", "pipeline_tag")} == {
        "library_name": "grcn",
        "license": "apache-2.0",
        "pipeline_tag": "object-detection",
    }
    assert {"object-detection", "faster_rcnn_r18_c5"} <= set(front["tags"])
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert (model["name"], result["dataset"]["name"], result["dataset"]["split"]) == ("tiny", "beach", "val")
    best = here.extra["metrics"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"map": round(best["AP"], 4), "map_50": round(best["AP50"], 4), "map_70": round(best["AP70"], 4)}
    assert 'Detector.from_pretrained("someone/tiny")' in card
    for name in here.class_names:
        assert f"| {name} | {best['per_class'][name]['objects']} |" in card
    assert f"torch {here.extra['versions']['torch']}" in card

    config = yaml.safe_load(files["config.yaml"])
    assert (config["data"], config["out"], config["iterations"]) == ("beach", "tiny", 2)
    for content in (card.encode(), files["config.yaml"], weights.read_bytes()):
        assert b"of-someone" not in content, "the folders of the machine that trained stay there"
        assert str(run.parent).encode() not in content


FETCH = """
import sys, numpy as np
from grcn import Detector
first = Detector.from_pretrained("someone/tiny")
second = Detector.load(f"hf://someone/tiny@{sys.argv[1]}")
offline = Detector.from_pretrained("someone/tiny", local_files_only=True)
found = [d.predict(sys.argv[2], score=0.0) for d in (first, second, offline)]
assert all(np.array_equal(found[0].boxes, other.boxes) for other in found)
assert "pickle" not in str(first.source)
sys.path.append(sys.argv[4])
from training_script import tiny_config
from grcn.training import train
train(tiny_config(sys.argv[5], sys.argv[3] + ".run", weights="hf://someone/tiny", iterations=1, val_split="none"))
np.savez(sys.argv[3], boxes=found[0].boxes, scores=found[0].scores, names=found[0].names)
"""


def test_what_is_fetched_finds_the_same(
    hub: Hub, home: Path, pushed: str, run: Path, beach: Path, tmp_path: Path
) -> None:
    picture = open_dataset(beach, split="test")[0].path
    hub.requests.clear()
    tests = str(Path(__file__).parents[1])
    done = execute(hub, home, "-c", FETCH, pushed, str(picture), str(tmp_path / "found.npz"), tests, str(beach))
    assert done.returncode == 0, done.stderr
    assert re.search(r"model\.safetensors: [1-9]\d+ tensors kept", done.stdout), "training told what it took over"
    files = {request.split("/")[-1] for request in hub.requests if "/resolve/" in request}
    assert files == {"model.safetensors"}, "nothing else is fetched"
    assert len([request for request in hub.requests if request.startswith("GET /large/")]) == 1, "and once"
    there, here = np.load(tmp_path / "found.npz"), Detector.load(run).predict(picture, score=0.0)
    np.testing.assert_array_equal(there["boxes"], here.boxes)
    np.testing.assert_array_equal(there["scores"], here.scores)
    assert there["names"].tolist() == here.names


TRY = """
from grcn import Detector, GrcnError
for name in ("none", "tiny@v9", "other", "no/such name", "secret", "pickled", "huge"):
    try:
        Detector.load(f"hf://someone/{name}")
    except GrcnError as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("loaded", name)
"""


def test_what_cannot_be_fetched_is_told_in_a_line(hub: Hub, home: Path, pushed: str, tmp_path: Path) -> None:
    commits = hub.repositories["someone/tiny"].commits
    evil = b"cos\nsystem\n(S'touch executed'\ntR."
    hub.repositories |= {
        "someone/other": Repository(commits={"a" * 40: {"pytorch_model.bin": b""}}),
        "someone/secret": Repository(private=True, commits=commits),
        "someone/pickled": Repository(commits={"b" * 40: {"model.safetensors": evil}}),
        "someone/huge": Repository(commits=commits, claimed_size=5 * 2**30),
    }
    hub.requests.clear()
    done = execute(hub, tmp_path, "-c", TRY)
    assert done.returncode == 0, done.stderr
    none, revision, other, name, secret, pickled, huge = done.stdout.splitlines()
    assert none.startswith(
        "CheckpointError: someone/none: does not exist, or this user may not use it; log in with `hf auth login`"
    )
    assert revision == "CheckpointError: someone/tiny: no revision 'v9'"
    assert other == "CheckpointError: someone/other: has no model.safetensors, so it is not a detector of grcn"
    assert name == "ConfigError: 'someone/no/such name' is not the name of a repository, such as user/name"
    assert secret.startswith("CheckpointError: someone/secret: does not exist, or this user may not use it")
    assert pickled.startswith("CheckpointError: ")
    assert "cannot be read as safetensors" in pickled
    assert huge.startswith(
        "CheckpointError: someone/huge: model.safetensors has 5368709120 bytes, more than the limit of"
    )
    assert not any(request.startswith("GET /large/") for request in hub.requests)


def test_a_hub_that_is_not_reached_is_told_at_once_and_the_cache_is_used(
    hub: Hub, home: Path, pushed: str, beach: Path, tmp_path: Path
) -> None:
    """It is asked once: the Hub's own client would try for 20 seconds, with a line for each try."""
    photo = str(open_dataset(beach, split="test")[0].path)
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    words = ("predict", "hf://someone/tiny", photo, "--out", str(tmp_path / "found"))
    done = grcn(hub, tmp_path, *words, **nowhere)
    assert done.returncode == 6
    said = "someone/tiny: not in the cache of this machine, and http://127.0.0.1:9 cannot be reached"
    assert done.stderr == f"grcn: error: {said}\n"
    assert grcn(hub, home, *words).returncode == 0  # now it is in the cache of this home
    done = grcn(hub, home, *words[:-1], str(tmp_path / "again"), **nowhere)
    assert done.returncode == 0, done.stderr
    assert "Retry" not in done.stderr


def test_a_push_asks_for_the_hub_before_it_loads_anything(hub: Hub, home: Path, tmp_path: Path) -> None:
    words = ("push", str(tmp_path / "no run"), "someone/tiny")
    done = grcn(hub, home, *words, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 6
    assert done.stderr.startswith("grcn: error: someone/tiny: http://127.0.0.1:9 cannot be reached: ")
    assert len(done.stderr.splitlines()) == 1
    done = grcn(hub, home, *words)
    assert "no run" in done.stderr, "the Hub answers, so the run is looked for"


def changed(run: Path, **extra: Any) -> Any:
    loaded = load_detector(run / "best.safetensors")
    loaded.extra.clear()
    loaded.extra.update(extra)
    return loaded


def test_cards_of_weights_that_say_little(run: Path) -> None:
    loaded = changed(run)
    card = model_card("someone/x", loaded)
    front = yaml.safe_load(card.split("---\n")[1])
    assert "license" not in front
    assert "model-index" not in front
    assert "## Metrics" not in card
    assert "## Training" not in card
    odd = {"data": "/x/a|b <c>\n`d`", "val_split": "val", "train_split": "train"}
    metrics = {"AP": None, "AP50": 0.5, "per_class": {}, "images": 3, "objects": 4}
    loaded = changed(run, train=odd, metrics=metrics, versions={"torch": "2|0"})
    card = model_card("someone/x", loaded)
    assert "the best AP on this split" in card
    assert "a\\|b &lt;c> 'd'" in card
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"][0]["metrics"][0]["type"] == "map_50"
    tested = {**metrics, "data": "beach", "split": "test", "AP50": 0.25}
    card = model_card("someone/x", loaded, metrics=tested)
    assert "On the split 'test' of 'beach', 3 images with 4 objects.\n" in card
    result = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"][0]
    assert (result["dataset"]["split"], result["metrics"][0]["value"]) == ("test", 0.25)
    assert "\nOn 3 images with ? objects.\n" in model_card("someone/x", loaded, metrics={"AP": 0.5, "images": 3})


PUSH = """
import sys
from grcn import Detector, GrcnError
detector = Detector.load(sys.argv[1])
for token in (None, "hf_wrong"):
    try:
        detector.push_to_hub("someone/refused", token=token)
    except GrcnError as error:
        print(f"{type(error).__name__}: {error}")
print(detector.push_to_hub("half", half=True, private=True, token=sys.argv[2]))
"""


def test_refused_then_pushed_at_half_the_size(hub: Hub, run: Path, beach: Path, tmp_path: Path) -> None:
    done = execute(hub, tmp_path, "-c", PUSH, str(run), TOKEN)
    assert done.returncode == 0, done.stderr
    nobody, somebody, address = done.stdout.splitlines()
    for said in (nobody, somebody):
        assert said.startswith(
            "CheckpointError: someone/refused: does not exist, or this user may not use it; log in with `hf "
        )
    assert "someone/refused" not in hub.repositories
    assert address == f"{hub.endpoint}/someone/half"

    repository = hub.repositories["someone/half"]
    (files,) = repository.commits.values()
    assert repository.private
    assert b"stored in float16" in files["README.md"]
    file = tmp_path / "half.safetensors"
    file.write_bytes(hub.large[files["model.safetensors"]])
    assert file.stat().st_size < 0.55 * (run / "best.safetensors").stat().st_size
    with safetensors.safe_open(file, framework="pt") as tensors:
        kinds = {str(tensors.get_tensor(name).dtype) for name in tensors.keys()}  # noqa: SIM118
    assert kinds == {"torch.float16", "torch.float32", "torch.int64"}, "norm's statistics stay as they are"
    pictures = [record.path for record in open_dataset(beach, split="test")]
    halves, wholes = (Detector.load(weights).predict(pictures, score=0.0) for weights in (file, run))
    for there, here in zip(halves, wholes, strict=True):
        np.testing.assert_allclose(there.scores[:5], here.scores[:5], atol=0.01)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'grcn\[hub\]'"):
        download_weights("someone/tiny")


def test_what_cannot_be_pushed(tiny: ModuleType, run: Path, tmp_path: Path) -> None:
    """Refused before anything is sent: there is no server here."""
    model = build_detector(tiny.tiny_model(), 2, weights=None)
    with pytest.raises(CheckpointError, match="not loaded from a file"):
        Detector(model, ("a", "b")).push_to_hub("someone/x")
    model.roi.scores.weight.data[0, 0] = 1e6
    save_detector(tmp_path / "large.safetensors", model, class_names=("a", "b"), preset="", extra={})
    with pytest.raises(CheckpointError, match=r"large\.safetensors: roi\.scores\.weight holds values beyond float16"):
        push(tmp_path / "large.safetensors", "someone/x", half=True)
    (tmp_path / "torn.safetensors").write_bytes((run / "last.safetensors").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"torn\.safetensors: cannot be read"):
        push(tmp_path / "torn.safetensors", "someone/x")


@pytest.mark.parametrize("content", ["{", "[]", '{"AP": 0.5}', "[" * 10**5])
def test_metrics_that_are_none(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.json").write_text(content)
    assert main(["push", "run", "someone/x", "--metrics", str(tmp_path / "metrics.json")]) == 3
    assert "metrics.json: " in capsys.readouterr().err
