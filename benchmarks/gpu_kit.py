"""What a machine without a network lacks to run gpu.py: wheels and data, in pieces small enough to send.

    python benchmarks/gpu_kit.py [--data FOLDER ...] [--weights FILE ...] [--earlier gpu.tar.gz] [--out gpu-kit]
    python benchmarks/gpu_kit.py --unpack gpu-kit --out gpu-out/cuda       there

The first command writes gpu-kit/1.tar, 2.tar and so on, each of at most --megabytes. Wheels come first, one version of
each package that training requires and gpu-machine.txt does not name; then the data sets, weights, and the archive of
an earlier session, whose records need not be made again. The second command unpacks whatever pieces are there and
installs the wheels; pieces may come one by one.
"""

from __future__ import annotations

import argparse
import email
import json
import math
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the machine that unpacks may lack it
    from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYTHON = "3.12"
MACHINE = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "implementation_name": "cpython",
    "implementation_version": f"{PYTHON}.0",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
}
"""The machine, as the conditions of requirements ask for it."""
GLIBC = (17, 24, 26, 27, 28, 31, 34, 35)
"""Of the manylinux tags: pip takes a wheel only of a tag that it is told."""


def required() -> list[str]:
    """The requirements of a detector that trains."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["train"]]


def missing(
    lines: Iterable[str], machine: Set[str], fetch: Callable[[Requirement], Sequence[str]]
) -> dict[str, Requirement]:
    """What is required, directly or by what is required, and is not on the machine, by name.

    Args:
        lines: requirements of the project.
        machine: names of packages that are there, with all that they require.
        fetch: gets one version that meets a requirement, in the place of one that it got before, and returns what that
            requires in turn.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, Requirement] = {}
    waiting = [Requirement(line) for line in lines]
    while waiting:
        wanted = waiting.pop(0)
        name = canonicalize_name(wanted.name)
        if name in machine:
            continue
        known = found.get(name)
        if known is not None:
            wanted.specifier &= known.specifier
            wanted.extras |= known.extras
            if (wanted.specifier, wanted.extras) == (known.specifier, known.extras):
                continue
        wanted.marker = None
        found[name] = wanted
        waiting += [further for line in fetch(wanted) if _holds(further := Requirement(line), wanted.extras)]
    return found


def _holds(requirement: Requirement, extras: Set[str]) -> bool:
    """Whether a package asked for with `extras` has this requirement on the machine."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**MACHINE, "extra": extra}) for extra in extras or {""})


def download(requirement: Requirement, wheels: Path) -> list[str]:
    """The newest wheel for the machine that meets the requirement, in `wheels`; returns what it requires in turn."""
    from packaging.utils import canonicalize_name, parse_wheel_filename

    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    name = canonicalize_name(requirement.name)
    with TemporaryDirectory() as folder:
        target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, "--dest", folder]
        target += [word for platform in platforms for word in ("--platform", platform)]
        _pip("download", *target, f"{name}{requirement.specifier}")
        (wheel,) = Path(folder).iterdir()
        for former in wheels.glob("*.whl"):
            if parse_wheel_filename(former.name)[0] == name:
                former.unlink()
        wheel = Path(shutil.move(wheel, wheels))
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (entry for entry in file.namelist() if entry.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(file.read(metadata)).get_all("Requires-Dist", [])


def _pip(verb: str, *words: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([sys.executable, "-m", "pip", verb, *quiet, *words], check=True)


def packages(text: str) -> set[str]:
    """The names in a list of one package a line."""
    from packaging.utils import canonicalize_name

    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {canonicalize_name(line) for line in lines if line}


def pieces(files: Sequence[tuple[Path, str]], limit: int) -> list[list[tuple[Path, str]]]:
    """`files`, each with its name in the kit, in order and in pieces whose tar has at most `limit` bytes.

    Raises:
        SystemExit: on a file that is larger.
    """
    parted: list[list[tuple[Path, str]]] = [[]]
    left = limit - tarfile.RECORDSIZE
    for path, name in files:
        size = 3 * 512 + math.ceil(len(name) / 512) * 512 + math.ceil(path.stat().st_size / 512) * 512  # at most
        if size > limit - tarfile.RECORDSIZE:
            raise SystemExit(f"{path}: larger than a piece of {limit / 1e6:g} MB; weights take half in float16")
        if size > left:
            parted.append([])
            left = limit - tarfile.RECORDSIZE
        parted[-1].append((path, name))
        left -= size
    return parted


def gather(options: argparse.Namespace) -> None:
    """Fills the folder `options.out` with pieces."""
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    wheels = out / "wheels"
    wheels.mkdir(parents=True)
    missing(required(), packages(options.machine.read_text()), lambda wanted: download(wanted, wheels))
    files = [(path, f"kit/wheels/{path.name}") for path in sorted(wheels.iterdir())]
    counts = {}
    for folder in options.data:
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        if not found:
            raise SystemExit(f"{folder}: no folder with files; --data names data sets' folders")
        counts[folder.resolve().name] = len(found)
        files += [(path, f"kit/data/{folder.resolve().name}/{path.relative_to(folder)}") for path in found]
    files += [(path, f"kit/weights/{path.name}") for path in options.weights]
    files += [(path, f"earlier/{path.name}") for path in options.earlier]
    commit = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(commit, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    note = out / "kit.json"
    note.write_text(json.dumps({"commit": commit, "files": counts}) + "\n")
    room = int(options.megabytes * 1e6) - 2 * tarfile.RECORDSIZE  # for the note
    for number, piece in enumerate(pieces(files, room), start=1):
        target = out / f"{number}.tar"
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
            for path, name in [(note, "kit/kit.json"), *piece]:
                tar.add(path, name)
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {piece[0][1]} to {piece[-1][1]}")
    shutil.rmtree(wheels)
    note.unlink()


def complete(kit: Path, name: str) -> bool:
    """Whether all files of a data set have come: one that lies in two pieces may be here by half."""
    note = kit / "kit.json"
    count = json.loads(note.read_text())["files"].get(name) if note.is_file() else None
    return count is None or count == sum(path.is_file() for path in (kit / "data" / name).rglob("*"))


def unpack(kit: Path, out: Path) -> None:
    """Unpacks the pieces in `kit` into `out` and installs their wheels into `out`/kit/site, without a network."""
    for piece in sorted(kit.glob("*.tar")):
        with tarfile.open(piece) as tar:
            tar.extractall(out, filter="data")
    for archive in sorted((out / "earlier").glob("*.tar.gz")):
        with tarfile.open(archive) as tar:
            tar.extractall(out, filter="data")
        archive.unlink()
    wheels = sorted((out / "kit/wheels").glob("*.whl"))
    done = out / "kit/installed.txt"
    names = "".join(f"{wheel.name}\n" for wheel in wheels)
    if wheels and not (done.is_file() and done.read_text() == names):
        target = ["--no-compile", "--upgrade", "--target", str(out / "kit/site")]
        _pip("install", "--no-index", *target, *map(str, wheels))
        done.write_text(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", type=Path, default=ROOT / "benchmarks/gpu-machine.txt", help="what is there")
    parser.add_argument("--data", type=Path, nargs="*", default=[], metavar="FOLDER", help="data sets to take along")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], metavar="FILE", help="weights to take along")
    parser.add_argument("--earlier", type=Path, nargs="*", default=[], metavar="FILE", help="archives that came back")
    parser.add_argument("--megabytes", type=float, default=60, help="of a piece, at most")
    parser.add_argument("--unpack", type=Path, metavar="KIT", help="unpack this kit into --out")
    parser.add_argument("--out", type=Path, default=Path("gpu-kit"))
    options = parser.parse_args()
    if options.unpack:
        unpack(options.unpack, options.out)
    else:
        gather(options)


if __name__ == "__main__":
    main()
