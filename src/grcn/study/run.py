"""Runs a study: trains and scores every trial that has no result yet. Each result is one small file.

```
OUT/results/DATA/DIGEST.json         one trial's configuration, figures and curve; this is kept
OUT/runs/DATA/CELL-SEED-DIGEST/      its run folder while it trains; removed when it is done
OUT/starts/DATA/DIGEST.safetensors   last weights of a trial that others start from
OUT/data/NAME-DIGEST/                the embedded set, if the study uses it
```
After an interruption or a kill, the same command continues, within a trial from its last save. Several processes may
run one study at once; each takes trials that no other process is running. A result or a run does not count if its files
(photos, labels, weights to start from) are not those that are there now. It is put aside, under its name and a digest.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from grcn.config import DetectorConfig, NotNegative, Text, TrainConfig, check_fields, differences, to_dict
from grcn.errors import CheckpointError, ConfigError, GrcnError, Interrupted
from grcn.files import atomic_file, write_json
from grcn.locks import locked
from grcn.runtime import tune_cpu
from grcn.study.plan import NOT_OF_THE_RESULT, DataSource, Study, Trial, digest
from grcn.study.provenance import commit, fingerprint

Say = Callable[[str], None]
Engine = Literal["local", "ray"]
LOADED = ("AP", "AP50", "AP70", "AP75", "APs", "APm", "APl", "per_class")


@dataclass(frozen=True)
class Resources:
    """The resources of a Ray cluster that each trial uses.

    Args:
        address: address of the cluster; empty: start one on this machine while the study runs.
        cpus: cores per trial.
        gpus: GPUs per trial.
    """

    address: Text = ""
    cpus: NotNegative = 1
    gpus: NotNegative = 0

    def __post_init__(self) -> None:
        check_fields(self)


def result_path(out: Path, trial: Trial) -> Path:
    return out / "results" / trial.data / f"{trial.digest}.json"


def read_result(out: Path, trial: Trial) -> dict[str, Any] | None:
    """The result of a trial; None if it has not been run.

    Raises:
        CheckpointError: if the file is not a result, or is the result of other settings. This can happen because the
            digest of a trial leaves out fields at their default, and a default may have changed since.
    """
    path = result_path(out, trial)
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        for part, key in (("metrics", "AP"), ("gap", "loses"), ("seconds", "all")):
            result[part][key]
        told = differences(_learned(dict(result["config"])), _learned(to_dict(trial.config)))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path}: not a trial's result ({type(error).__name__}: {error}); remove it") from None
    if told:
        raise CheckpointError(
            f"{path}: not of {trial.name} as it is now: {'; '.join(told)} (a default has changed since); move it away "
            "to train again"
        )
    return dict(result)


def _learned(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_OF_THE_RESULT}


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
    """Trains and scores the trials that are not done yet.

    A result does not count, and its trial runs again, if it was made with other photos, labels or start weights than
    those that are there now. It counts if the files are missing, or if it does not say which files it was made with.

    Args:
        study: the study to run.
        out: the folder of results. Studies that use the same folder share the results of equal trials.
        root: the folder that holds the data sets.
        engine: `local`: one trial after another in this process. `ray`: in parallel, on a Ray cluster that sees `root`
            under the same path (and `out`, so that a trial can continue after its worker dies).
        resources: the resources of the cluster that each trial uses.
        keep_runs: keep the run folders with their weights.
        progress: show the progress of each training run.
        say: called with a line about each trial.

    Returns:
        The number of trials that were run.

    Raises:
        GrcnError: if trials failed, after all others are done.
        Interrupted: at once; the state has been saved.
        ConfigError: if data is missing.
        CheckpointError: if a file is not a result, or is the result of other settings.
    """
    out, root = Path(out).resolve(), Path(root).resolve()
    distinct = list({(trial.data, trial.digest): trial for trial in study.trials}.values())
    results = {trial: read_result(out, trial) for trial in distinct}
    folders = {name: data_folder(name, study.sources[name], out, root) for name in study.sources}
    for name in {trial.data for trial, result in results.items() if result is None}:
        _provide(name, study.sources[name], folders[name], say)
    of = fingerprints_of(distinct, folders)
    todo = _undone(study, results, of, out, say)
    jobs = [_job(study, trial, out, folders[trial.data], of[trial]) for trial in todo]
    if engine == "local":
        finished = _one_by_one(jobs, progress)
    else:  # in parallel, but trials that others start from come first
        waves = [[job for job in jobs if not job.start], [job for job in jobs if job.start]]
        finished = (done for wave in waves if wave for done in _on_ray(wave, resources))
    return _collect(finished, len(jobs), keep_runs, say)


def _job(study: Study, trial: Trial, out: Path, data: Path, fingerprints: dict[str, str]) -> Job:
    is_begun = (trial.data, trial.digest) in study.begins
    return Job(
        trial,
        study.sources[trial.data],
        str(data),
        str(_run_folder(out, trial)),
        fingerprints,
        {"name": study.name, "digest": study.digest},
        start=str(_start_path(out, trial.start, fingerprints)) if trial.start else "",
        keep=str(_start_path(out, trial, fingerprints)) if is_begun else "",
        result=str(result_path(out, trial)),
    )


def _undone(
    study: Study,
    results: dict[Trial, dict[str, Any] | None],
    of: dict[Trial, dict[str, str]],
    out: Path,
    say: Say,
) -> list[Trial]:
    """The trials to run, in the order of the study. Says how many are done, and why others run again.

    Args:
        results: the result of each trial; None: it has none yet.
        of: fingerprints of the files that are there now.
    """
    former = {t: r["fingerprints"] for t, r in results.items() if r is not None and "fingerprints" in r}
    other = [trial for trial, fingerprints in former.items() if differences(fingerprints, of[trial])]
    todo = [trial for trial, result in results.items() if result is None or trial in other]
    # The weights that a trial starts from may be gone although the trial that made them has a result.
    starts = {(t.data, t.start.digest): _start_path(out, t.start, of[t]) for t in todo if t.start}
    lost = [key for key, path in starts.items() if not path.is_file()]
    todo = [trial for trial in results if trial in todo or (trial.data, trial.digest) in lost]
    say(f"{study.name}: {len(results) - len(todo)} of {len(results)} trials are done")
    if unknown := [trial for trial, result in results.items() if result is not None and trial not in former]:
        say(f"{len(unknown)} of these results do not say which photos and labels they are of")
    if other:
        say(
            f"{len(other)} trials were done with other photos, labels or weights; they run again, and the former "
            "results are put aside"
        )
    return todo


def _collect(finished: Iterator[Finished], count: int, keep_runs: bool, say: Say) -> int:
    """Keeps the results as they come, and returns the number of trials that were run.

    Raises:
        GrcnError: if trials failed, after the last one.
    """
    began, run, failed = time.monotonic(), 0, list[str]()
    for done, (job, result) in enumerate(finished, start=1):
        if isinstance(result, GrcnError):
            told = f"{job.trial.name}: {result}"
            failed.append(told)
        elif result is None:
            told = f"{job.trial.name}: done by another process"
        else:
            run += 1
            _keep(Path(job.result), result)
            if not keep_runs:
                shutil.rmtree(job.run, ignore_errors=True)
            figures = ", ".join(f"{key} {result['metrics'][key] or 0:.3f}" for key in ("AP50", "AP70", "AP"))
            told = f"{job.trial.name}: {figures}"
        say(f"[{done}/{count}] {told}; about {_clock((time.monotonic() - began) / done * (count - done))} left")
    if failed:
        raise GrcnError(f"{len(failed)} of {count} trials failed, the first: {failed[0]}; the others are done")
    return run


def _keep(path: Path, result: dict[str, Any]) -> None:
    """Writes a result. If a result of other files is in its place, that is put aside."""
    if path.is_file():
        former = json.loads(path.read_text(encoding="utf-8")).get("fingerprints", result["fingerprints"])
        if differences(former, result["fingerprints"]):
            path.rename(path.with_stem(f"{path.stem}-{digest(former)}"))
    write_json(path, result)


@dataclass(frozen=True)
class Job:
    """A trial with all that a process needs to run it.

    Args:
        trial, source: the trial and its data set.
        data, run: the folders of the data set and of the run.
        fingerprints: fingerprints of the files that the trial uses.
        study: name and digest of the study that runs it.
        start: the file of weights that it starts from; empty: none.
        keep: the file in which it leaves its weights for other trials; empty: none.
        result: the file of its result.
    """

    trial: Trial
    source: DataSource
    data: str
    run: str
    fingerprints: dict[str, str]
    study: dict[str, str]
    start: str = ""
    keep: str = ""
    result: str = ""

    def locked(self, patience: float = math.inf) -> AbstractContextManager[bool]:
        """The lock that lets only one process run this trial. It lies beside the run folder, which may be moved."""
        run = Path(self.run)
        return locked(run.with_name(f".{run.name}.lock"), f"{run} ({self.trial.name})", patience=patience)

    def is_done(self) -> bool:
        """Whether another process has done it meanwhile, with the same files."""
        path = Path(self.result)
        if not path.is_file() or (self.keep and not Path(self.keep).is_file()):
            return False
        return bool(json.loads(path.read_text(encoding="utf-8")).get("fingerprints") == self.fingerprints)


Finished = tuple[Job, dict[str, Any] | GrcnError | None]
"""A job and its result, an error, or None if another process has done it."""


def run_trial(job: Job, progress: bool) -> dict[str, Any] | None:
    """Trains and scores one trial, or continues an earlier attempt that was cut off.

    If another process is running the same trial, this one waits.

    Returns:
        The result, as plain values for JSON; None if another process has done it. It has the configuration, `metrics`
        (of the last weights on the test split), `gap` (`grcn.evaluation.gap.to_json`), `resampled_AP` (on bootstrap
        samples of the photos), `curve` (the rows of metrics.csv with an AP), `loss` (about 20 of the losses), `seconds`
        of an iteration (the median) and of the whole, `versions`, the `commit` of the package, `fingerprints` of the
        files that it used, the `study` that ran it (name and digest), `source` (the data set's entry in the study), and
        `objects` of the training split (`_objects`).
    """
    with job.locked():
        return None if job.is_done() else _trained_and_scored(job, progress)


def _trained_and_scored(job: Job, progress: bool) -> dict[str, Any]:
    from grcn.data.dataset import open_dataset
    from grcn.evaluation import evaluate
    from grcn.evaluation.gap import measure_gap, resampled_ap, to_json
    from grcn.predict.dataset import predict_dataset
    from grcn.predict.detector import Detector

    began, made_by = time.monotonic(), commit()
    run = _train(job, progress)
    detector = Detector.load(run / "last.safetensors")
    test = open_dataset(job.data, split=job.source.test_split, class_names=detector.class_names)
    found = predict_dataset(detector, test)
    targets = [record.target for record in test.records]
    metrics = evaluate(found, targets, test.class_names)
    measured = measure_gap(targets, found, test.class_names)
    gap = to_json(measured)
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        "data": job.trial.data,
        "seed": job.trial.seed,
        "config": {k: v for k, v in to_dict(job.trial.config).items() if k not in ("data", "out", "resume")},
        "metrics": {key: metrics[key] for key in LOADED},
        "gap": {key: gap[key] for key in ("AP", "AP50", "AP70", "AP75", "loses", "errors", "true_positives")},
        "resampled_AP": [None if math.isnan(ap) else round(ap, 4) for ap in resampled_ap(measured)],
        **_curves(rows),
        "seconds": {"iteration": _seconds(rows, job.trial.config), "all": round(time.monotonic() - began, 1)},
        "versions": json.loads((run / "versions.json").read_text()),
        "commit": made_by,
        "fingerprints": job.fingerprints,
        "study": job.study,
        "source": to_dict(job.source),
        "objects": _objects(job, detector.config),
    }


def _train(job: Job, progress: bool) -> Path:
    """Trains, keeps the weights if other trials start from them, and returns the run folder."""
    from grcn.training import train

    run = Path(job.run)
    _claim(run, job.fingerprints)
    config = replace(job.trial.config, data=job.data, out=job.run)
    if job.trial.start:
        if not Path(job.start).is_file():
            raise CheckpointError(f"the weights of {job.trial.start.name}, from which it starts, do not exist")
        config = replace(config, weights=job.start)
    train(config, progress=progress)
    if job.keep:
        with atomic_file(Path(job.keep)) as kept:
            kept.write((run / "last.safetensors").read_bytes())
    return run


def _curves(rows: list[dict[str, str]]) -> dict[str, Any]:
    aps = [[int(row["iteration"]), *(float(row[key]) for key in ("AP50", "AP70", "AP"))] for row in rows if row["AP"]]
    losses = [[int(row["iteration"]), float(row["loss"])] for row in rows if row["loss"]]
    return {"curve": aps, "loss": losses[:: max(1, len(rows) // 20)]}


def _seconds(rows: list[dict[str, str]], config: TrainConfig) -> float | None:
    """The median seconds of an iteration."""
    speeds = sorted(float(row["images_per_second"]) for row in rows if row["images_per_second"])
    images = config.batch_size * config.optim.accumulate
    return round(images / speeds[len(speeds) // 2], 3) if speeds else None


def _objects(job: Job, detector: DetectorConfig) -> dict[str, Any]:
    """The number of objects that a trial learns from, and the median of their sizes.

    Sizes are square roots of the areas, in input pixels. For a pyramid, it also has the share of the objects that each
    task would read from each map, finest first.
    """
    import torch

    from grcn.data.dataset import open_dataset, resolve_split
    from grcn.data.sizing import objects_at
    from grcn.geometry.levels import roi_levels

    config, size = job.trial.config, detector.input
    split = resolve_split(job.data, config.train_split, "train", config.format)
    on_error: Literal["raise", "collect"] = "collect" if config.skip_broken else "raise"
    photos = open_dataset(job.data, split=split, format=config.format, on_error=on_error)
    found = objects_at([photos], size.short_side, size.long_side)
    told: dict[str, Any] = {
        "count": len(found.sizes),
        "median": round(float(np.median(found.sizes)), 1) if len(found.sizes) else None,
    }
    if strides := detector.level_strides:
        boxes = torch.from_numpy(found.boxes)
        levels = {
            task: torch.bincount(roi_levels(boxes, cells, strides[0], len(strides)), minlength=len(strides))
            for task, cells in (("cls", detector.cls_cells), ("loc", detector.loc_cells))
        }
        told["levels"] = {
            task: [round(n / max(1, len(boxes)), 3) for n in count.tolist()] for task, count in levels.items()
        }
    return told


def fingerprints_of(trials: list[Trial], folders: dict[str, Path]) -> dict[Trial, dict[str, str]]:
    """For each trial, fingerprints of its `data` and, if it starts from a file, `weights`, as far as they exist."""
    from grcn.predict.locate import locate

    known = {name: {"data": fingerprint(folder)} for name, folder in folders.items() if folder.is_dir()}
    files = {trial.config.weights: Path(trial.config.weights) for trial in trials}
    weights = {
        name: {"weights": fingerprint(locate(path).path)}
        for name, path in files.items()
        if name not in ("imagenet", "coco", "random") and path.exists()
    }
    return {trial: known.get(trial.data, {}) | weights.get(trial.config.weights, {}) for trial in trials}


def _claim(run: Path, fingerprints: dict[str, str]) -> None:
    """Notes in a run folder which files it uses. A run folder of other files is put aside."""
    path = run / "fingerprints.json"
    if path.is_file():
        former = json.loads(path.read_text(encoding="utf-8"))
        if differences(former, fingerprints):
            aside = run.with_name(f"{run.name}-{digest(former)}")
            shutil.rmtree(aside, ignore_errors=True)
            run.rename(aside)
    write_json(path, fingerprints)


def _one_by_one(jobs: list[Job], progress: bool) -> Iterator[Finished]:
    """Results as they come. Trials that another process is running come last, with those that start from them."""
    later: list[Job] = []
    for job in jobs:
        with ExitStack() as held:  # until the result is kept
            try:
                if any(job.start == other.keep for other in later if other.keep):
                    raise ConfigError("the weights that it starts from do not exist yet")
                held.enter_context(job.locked(patience=0))
            except ConfigError:
                later.append(job)
                continue
            yield job, _attempt(job, progress)
    for job in later:
        with job.locked():
            yield job, _attempt(job, progress)


def _attempt(job: Job, progress: bool) -> dict[str, Any] | GrcnError | None:
    """The outcome of a job whose lock is held."""
    try:
        return None if job.is_done() else _trained_and_scored(job, progress)
    except Interrupted:
        raise
    except GrcnError as error:
        return error


def _on_ray(jobs: list[Job], resources: Resources) -> Iterator[Finished]:
    """Results as they come. If the worker of a trial dies, the trial continues in another one, up to three times."""
    try:
        import ray
    except ImportError:
        raise ConfigError("engine ray: Ray is not installed; pip install 'grcn[study]'") from None

    if resources.address:
        ray.init(address=resources.address, log_to_driver=False)
    else:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=3)(_in_worker)
        waiting = {task.remote(job): job for job in jobs}
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


def _in_worker(job: Job) -> dict[str, Any] | None:
    tune_cpu()
    return run_trial(job, False)


def data_folder(name: str, source: DataSource, out: Path, root: Path) -> Path:
    """The folder of a data set, which may not exist yet."""
    if source.generate is not None:
        return out / "data" / f"{name}-{source.digest}"
    folder = (root / source.path).resolve()
    if not folder.is_relative_to(root):
        raise ConfigError(f"data set '{name}': path {source.path} leads out of the root {root}")
    return folder


def _provide(name: str, source: DataSource, folder: Path, say: Say) -> None:
    """Renders the embedded set if it does not exist yet. Any other data set has to exist."""
    if source.generate is not None:
        from grcn.scenes.generate import generate

        if not folder.is_dir():
            say(f"{name}: rendering")
        try:
            generate(folder, **source.generate)
        except TypeError as error:
            raise ConfigError(f"data.{name}.generate: {error}") from None
    elif not folder.is_dir():
        raise ConfigError(f"data set '{name}': no folder {folder}; give the folder of the data sets with --root")


def _start_path(out: Path, trial: Trial, fingerprints: dict[str, str]) -> Path:
    """The file in which a trial leaves its weights for others. Its name depends on the photos."""
    return out / "starts" / trial.data / f"{trial.digest}-{fingerprints.get('data', '')}.safetensors"


def _run_folder(out: Path, trial: Trial) -> Path:
    return out / "runs" / trial.data / f"{trial.cell}-{trial.seed}-{trial.digest}"


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
