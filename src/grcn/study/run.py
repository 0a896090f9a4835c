"""Running a study: every trial that has no result yet is trained and scored; each result is one small file.

```
OUT/results/DATA/DIGEST.json    one trial's configuration, figures and curve: what is kept
OUT/runs/DATA/CELL-SEED/        its run folder while it trains; gone when it is done
OUT/data/NAME-DIGEST/           the embedded set, where a study wants it
```
Interrupted or killed, the same command continues: within a trial from its last save.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from grcn.config import to_dict
from grcn.errors import CheckpointError, ConfigError, GrcnError, Interrupted
from grcn.files import atomic_file
from grcn.study.plan import DataSource, Study, Trial

Say = Callable[[str], None]
Engine = Literal["local", "ray"]
LOADED = ("AP", "AP50", "AP70", "AP75", "APs", "APm", "APl", "per_class")


@dataclass(frozen=True)
class Resources:
    """What a trial takes of a Ray cluster.

    Args:
        address: of the cluster; empty: one on this machine, for the time of the study.
        cpus: cores of a trial.
        gpus: devices of a trial.
    """

    address: str = ""
    cpus: float = 1
    gpus: float = 0


def result_path(out: Path, trial: Trial) -> Path:
    return out / "results" / trial.data / f"{trial.digest}.json"


def read_result(out: Path, trial: Trial) -> dict[str, Any] | None:
    """A trial's result; None where it has not been run.

    Raises:
        CheckpointError: on a file that is not a result.
    """
    path = result_path(out, trial)
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        for part, key in (("metrics", "AP"), ("gap", "loses"), ("seconds", "all")):
            result[part][key]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path}: not a trial's result ({type(error).__name__}: {error}); remove it") from None
    return dict(result)


def run_study(
    study: Study,
    out: str | Path,
    *,
    root: str | Path = ".",
    engine: Engine = "local",
    resources: Resources = Resources(),
    keep_runs: bool = False,
    progress: bool = True,
    say: Say = print,
) -> int:
    """Trains and scores what is not done yet.

    Args:
        study: what to run.
        out: the folder of results; several studies may share one, and then their equal trials.
        root: the folder below which the data sets lie.
        engine: `local`: one trial after another in this process. `ray`: in parallel, on a Ray cluster that sees `root`
            under the same path (and `out`, for a trial to continue after its worker dies).
        resources: what a trial takes of the cluster.
        keep_runs: keep the run folders, weights and all.
        progress: show each training's own progress.
        say: told a line for each trial.

    Returns:
        How many trials were run.

    Raises:
        GrcnError: after all others are done, where trials failed; Interrupted at once, the state having been saved.
        ConfigError: on data that is not there.
    """
    out, root = Path(out).resolve(), Path(root).resolve()
    distinct = list({(trial.data, trial.digest): trial for trial in study.trials}.values())
    todo = [trial for trial in distinct if read_result(out, trial) is None]
    say(f"{study.name}: {len(distinct) - len(todo)} of {len(distinct)} trials are done")
    if not todo:
        return 0
    folders = {name: _data(name, study.sources[name], out, root, say) for name in {trial.data for trial in todo}}
    jobs = [
        Job(trial, str(folders[trial.data]), study.sources[trial.data].test_split, str(_run_folder(out, trial)))
        for trial in todo
    ]
    finished = _on_ray(jobs, resources) if engine == "ray" else _one_by_one(jobs, progress)
    began, failed = time.monotonic(), []
    for done, (job, result) in enumerate(finished, start=1):
        spent = time.monotonic() - began
        left = _clock(spent / done * (len(todo) - done))
        if isinstance(result, GrcnError):
            failed.append(f"{job.trial.name}: {result}")
            say(f"[{done}/{len(todo)}] {failed[-1]}; about {left} left")
            continue
        with atomic_file(result_path(out, job.trial)) as file:
            file.write((json.dumps(result, allow_nan=False) + "\n").encode())
        if not keep_runs:
            shutil.rmtree(job.run, ignore_errors=True)
        figures = ", ".join(f"{key} {result['metrics'][key] or 0:.3f}" for key in ("AP50", "AP70", "AP"))
        say(f"[{done}/{len(todo)}] {job.trial.name}: {figures}; about {left} left")
    if failed:
        raise GrcnError(f"{len(failed)} of {len(todo)} trials failed, the first: {failed[0]}; the others are done")
    return len(todo)


@dataclass(frozen=True)
class Job:
    """A trial and its places: the data set's folder, the split to score, the run folder."""

    trial: Trial
    data: str
    test_split: str
    run: str


def run_trial(job: Job, progress: bool) -> dict[str, Any]:
    """Trains and scores one trial; continues where an earlier attempt was cut off.

    Returns:
        Its result, as JSON has it: the configuration, `metrics` (of the last weights on the test split), `gap`
        (`grcn.evaluation.gap.to_json`), `curve` (rows of metrics.csv with an AP, and each tenth of the losses),
        `seconds` of an iteration (the median) and of the whole, `versions`.
    """
    from grcn.data.dataset import open_dataset
    from grcn.evaluation import evaluate, evaluate_detector
    from grcn.evaluation.gap import measure_gap, to_json
    from grcn.inference import Detector
    from grcn.training import train

    began = time.monotonic()
    run = Path(job.run)
    train(replace(job.trial.config, data=job.data, out=job.run), progress=progress)
    detector = Detector.load(run / "last.safetensors")
    test = open_dataset(job.data, split=job.test_split, class_names=detector.class_names)
    found = evaluate_detector(detector, test)
    targets = [record.target for record in test.records]
    metrics = evaluate(found, targets, test.class_names)
    gap = to_json(measure_gap(targets, found, test.class_names))
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    speeds = sorted(float(row["images_per_second"]) for row in rows if row["images_per_second"])
    batch = job.trial.config.batch_size * job.trial.config.optim.accumulate
    return {
        "data": job.trial.data,
        "seed": job.trial.seed,
        "config": {k: v for k, v in to_dict(job.trial.config).items() if k not in ("data", "out", "resume")},
        "metrics": {key: metrics[key] for key in LOADED},
        "gap": {key: gap[key] for key in ("AP", "AP50", "AP70", "AP75", "loses", "errors", "true_positives")},
        "curve": [
            [int(row["iteration"]), *(float(row[key]) for key in ("AP50", "AP70", "AP"))] for row in rows if row["AP"]
        ],
        "loss": [[int(row["iteration"]), float(row["loss"])] for row in rows if row["loss"]][
            :: max(1, len(rows) // 20)
        ],
        "seconds": {
            "iteration": round(batch / speeds[len(speeds) // 2], 3) if speeds else None,
            "all": round(time.monotonic() - began, 1),
        },
        "versions": json.loads((run / "versions.json").read_text()),
    }


def _one_by_one(jobs: list[Job], progress: bool) -> Iterator[tuple[Job, dict[str, Any] | GrcnError]]:
    for job in jobs:
        try:
            result: dict[str, Any] | GrcnError = run_trial(job, progress)
        except Interrupted:
            raise
        except GrcnError as error:
            result = error
        yield job, result


def _on_ray(jobs: list[Job], resources: Resources) -> Iterator[tuple[Job, dict[str, Any] | GrcnError]]:
    """Results as they come. A trial whose worker dies is started again, up to three times, and continues."""
    try:
        import ray
    except ImportError:
        raise ConfigError("engine ray: Ray is not installed; pip install 'grcn[study]'") from None

    if resources.address:
        ray.init(address=resources.address, log_to_driver=False)
    else:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=3)(run_trial)
        waiting = {task.remote(job, False): job for job in jobs}
        while waiting:
            (reference,), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(reference)
            try:
                yield job, ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, GrcnError):
                    raise
                yield job, error.cause
            except ray.exceptions.RayError as error:
                yield job, GrcnError(f"lost with its worker: {' '.join(str(error).split())[:200]}")
    finally:
        ray.shutdown()


def _data(name: str, source: DataSource, out: Path, root: Path, say: Say) -> Path:
    if source.generate is not None:
        from grcn.data.generate import generate

        folder = out / "data" / f"{name}-{source.digest}"
        say(f"{name}: rendering")
        try:
            return generate(folder, **source.generate)
        except TypeError as error:
            raise ConfigError(f"data.{name}.generate: {error}") from None
    folder = (root / source.path).resolve()
    if not folder.is_relative_to(root):
        raise ConfigError(f"data set '{name}': path {source.path} leads out of the root {root}")
    if not folder.is_dir():
        raise ConfigError(f"data set '{name}': no folder {folder}; say with --root where the data sets are")
    return folder


def _run_folder(out: Path, trial: Trial) -> Path:
    return out / "runs" / trial.data / f"{trial.cell}-{trial.seed}-{trial.digest}"


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
