"""What is shipped: the wheel and the source archive hold what they need and nothing else, and install alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import grcn
from grcn.errors import EXTRAS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and a source archive, built from the files that git knows or would add."""
    out = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]  # the wheel from the archive
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"grcn-{grcn.__version__}.dist-info/METADATA").decode())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    info = f"grcn-{grcn.__version__}.dist-info"
    own = {
        f"grcn/{path.relative_to(ROOT / 'src/grcn')}"
        for path in (ROOT / "src/grcn").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("grcn/")} == own
    assert {"grcn/py.typed", "grcn/study/shipped/context.yaml", "grcn/study/shipped/_two_cores.yaml"} <= own
    others = {name for name in names if not name.startswith("grcn/")}
    assert others == {
        f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    assert wheel.stat().st_size < 2**20
    assert wheel.name == f"grcn-{grcn.__version__}-py3-none-any.whl"


def test_the_source_archive_can_be_built_tested_and_read(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "Makefile", "mkdocs.yml"} <= names
    assert {"src/grcn/py.typed", "tests/conftest.py", "docs/index.md", "configs/bccd_r18.yaml"} <= names
    assert not [name for name in names if name.split("/")[0] in (".git", ".venv", "runs", "site", "dist", "demo")]
    assert path.stat().st_size < 5 * 2**20


def test_the_metadata_is_what_pyproject_says(metadata: Message) -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    assert metadata["Version"] == project["version"] == grcn.__version__
    assert metadata["Requires-Python"] == project["requires-python"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    described = metadata.get_payload()
    assert described.startswith("# grcn")


def test_extras_are_whole(metadata: Message) -> None:
    """What each asks for is installed here, in a version that satisfies it."""
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    for extra in metadata.get_all("Provides-Extra"):
        if extra in ("wandb", "mlflow", "track"):  # not installed here: loggers, and what brings OpenCV
            continue
        wanted = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})]
        assert len(wanted) > len([r for r in requirements if r.marker is None]), f"extra {extra} asks for nothing"
        for requirement in wanted:
            if requirement.name == "grcn":
                assert requirement.extras <= set(metadata.get_all("Provides-Extra"))
                continue
            version = distribution(requirement.name).version
            assert requirement.specifier.contains(version, prereleases=True), f"{extra}: {requirement}, here {version}"


def test_every_requirement_has_a_lowest_version(metadata: Message) -> None:
    """Without one, `make test-lowest` would take the first release ever; and OpenCV, in whichever package, is none."""
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    for requirement in requirements:
        if requirement.name != "grcn":
            assert [specifier.operator for specifier in requirement.specifier] == [">="], str(requirement)
    assert not [requirement.name for requirement in requirements if "opencv" in requirement.name]


@pytest.mark.slow
def test_the_wheel_alone_is_enough(wheel: Path, tmp_path: Path, beach: Path) -> None:
    """In a new environment, away from the repository: help, the presets, a study's name, training and a prediction.

    What grcn depends on comes from this environment, by a .pth file that puts it behind the new one's own packages;
    grcn itself does not: its editable install here works by a .pth file too, and those of other folders are not read.
    """
    environment, away = tmp_path / "environment", tmp_path / "away"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=120)
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "behind.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    away.mkdir()
    (away / "photos").symlink_to(beach)

    def run(*words: str, program: str = "grcn") -> str:
        done = subprocess.run(
            [str(environment / "bin" / program), *words],
            cwd=away,
            env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},  # no PYTHONPATH
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    home = Path(run("-c", "import grcn; print(grcn.__file__)", program="python").strip())
    assert home.is_relative_to(environment)
    assert "measure:" in run("--help")
    assert "grcn_vgg16" in run("models")
    assert run("--version") == f"grcn {grcn.__version__}\n"
    run("-c", "from grcn.study import read_study; assert read_study('context').name == 'context'", program="python")
    small = "--iterations 1 --weights random --batch_size 2 --workers 0 --loggers [csv] --model.roi.fc_channels 16"
    size = "--model.input.short_side 96 --model.input.long_side 128 --model.roi.score_threshold 0"
    run("train", "--data", "photos", "--preset", "grcn_r18", "--out", "run", *small.split(), *size.split())
    assert " in 16 images" in run("predict", "run", "photos/JPEGImages", "--out", "found", "--score", "0")
    assert len(list((away / "found" / "drawn").iterdir())) == 16


@pytest.mark.slow
def test_what_is_installed_fits_together() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, timeout=300)
    assert "grcn" not in done.stdout, done.stdout


@pytest.mark.slow
def test_the_lock_is_up_to_date() -> None:
    uv = shutil.which(os.environ.get("UV", "uv"))
    if uv is None:
        pytest.skip("no uv on PATH; UV names another place")
    done = subprocess.run([uv, "lock", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stderr}run make lock"


def test_all_extras_together_are_free_of_the_gpl() -> None:
    """The wheels of av and pillow-heif carry x264 or x265, and supervision requires av."""
    with open(ROOT / "uv.lock", "rb") as file:
        locked = tomllib.load(file)["package"]
    needs = {package["name"]: package for package in locked}
    extras = needs["grcn"]["optional-dependencies"]
    waiting = [*needs["grcn"]["dependencies"], *extras["all"]]
    found: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        for extra in wanted.get("extra", ()):
            waiting += needs[wanted["name"]].get("optional-dependencies", {}).get(extra, [])
        if wanted["name"] not in found:
            found.add(wanted["name"])
            waiting += [need for p in locked if p["name"] == wanted["name"] for need in p.get("dependencies", [])]
    assert {"torch", "onnxruntime", "gradio"} <= found
    assert not found & {"av", "pillow-heif", "opencv-python", "opencv-python-headless", "supervision"}


def test_errors_name_extras_that_there_are() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(declared) - {"all", "docs", "dev"}
