"""Detectors on the Hugging Face Hub.

A repository holds three files:

- `model.safetensors`: the weights, class names and configuration (`grcn.predict.checkpoint`), the only file that is
  fetched;
- `README.md`: the model card, filled from the header of the weights;
- `config.yaml`: the training configuration, which `grcn train --config` takes.

Paths of the machine that trained are left out of all three. Nothing is unpickled, and no code is fetched.
"""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from grcn.errors import CheckpointError, ConfigError, first_line

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from grcn.predict.checkpoint import LoadedDetector

PREFIX = "hf://"
WEIGHTS, CARD, CONFIG = "model.safetensors", "README.md", "config.yaml"
MAX_WEIGHTS = 4 * 2**30  # bytes; the weights of grcn_vgg16, the largest preset, have a quarter of that

_METRICS = {"AP": "AP, mean over IoU 0.50:0.95", "AP50": "AP at IoU 0.50", "AP70": "AP at IoU 0.70"}


def parse_address(address: str) -> tuple[str, str | None]:
    """Repository and revision (None: the main branch) of an address.

    >>> parse_address("hf://user/cells"), parse_address("hf://user/cells@v2")
    (('user/cells', None), ('user/cells', 'v2'))
    """
    repo_id, _, revision = address.removeprefix(PREFIX).partition("@")
    return repo_id, revision or None


def download_weights(
    repo_id: str,
    revision: str | None = None,
    *,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns the weights file of a repository. It is downloaded into the Hub's cache unless it is there already.

    Args:
        repo_id: `user/name`.
        revision: branch, tag or commit; None: the main branch.
        token: token for the Hub; None: that of `hf auth login` or HF_TOKEN, if any.
        cache_dir: folder of the cache; None: the Hub's own (HF_HOME).
        local_files_only: use only the cache and do not ask the Hub.

    Raises:
        CheckpointError: if the file cannot be downloaded, or is larger than MAX_WEIGHTS.
        ConfigError: without the extra `hub`, or on an invalid name of a repository.
    """
    hub = _import_hub()
    try:
        if not local_files_only:
            size = _size_on_hub(hub, repo_id, revision, token)
            local_files_only = size is None
            if size is not None and size > MAX_WEIGHTS:
                raise CheckpointError(f"{repo_id}: {WEIGHTS} has {size} bytes, more than the limit of {MAX_WEIGHTS}")
        path = hub.hf_hub_download(
            repo_id,
            WEIGHTS,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            library_name="grcn",
        )
        return Path(path)
    except Exception as error:
        raise _explained(error, repo_id, revision) from None


def _size_on_hub(hub: Any, repo_id: str, revision: str | None, token: str | None) -> int | None:
    """The size of the weights in bytes; None if the Hub does not answer. It asks once; the download would ask for 20 s.

    Raises:
        CheckpointError: if the Hub does not tell the size.
    """
    from huggingface_hub import errors

    url = hub.hf_hub_url(repo_id, WEIGHTS, revision=revision)
    try:
        size: int | None = hub.get_hf_file_metadata(url, token=token, library_name="grcn").size
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # its HTTP library's
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
            raise
        return None
    if size is None:
        raise CheckpointError(f"{repo_id}: the Hub does not tell the size of {WEIGHTS}")
    return size


def check_hub(repo_id: str) -> None:
    """Checks that the Hub can be reached. This takes a second, while loading torch and a detector takes many.

    Raises:
        CheckpointError: if the Hub does not answer within 10 seconds.
        ConfigError: without the extra `hub`.
    """
    hub = _import_hub()
    try:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=10)
    except Exception as error:
        raise _explained(error, repo_id, None) from None


def push(
    source: Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool = False,
    license: str | None = None,
    half: bool = False,
    metrics: dict[str, Any] | None = None,
    message: str = "Detector of grcn",
) -> str:
    """Uploads a detector to a repository in one commit. Files of the same names are replaced.

    Args:
        source: the weights file.
        repo_id: `user/name`, or `name` for the user of the token; created if it does not exist.
        token: a token that may write; None: that of `hf auth login` or HF_TOKEN.
        private: make a new repository private.
        license: license on the model card, by the Hub's short name such as `apache-2.0`; None: no license.
        half: store the weights in float16: half the size, slightly different detections. They load as float32.
        metrics: metrics for the model card, as `grcn evaluate` writes them to metrics.json. None: those of the
            validation that chose the weights, from their header.
        message: commit message.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: if the source is not a detector, or the Hub refuses.
        ConfigError: without the extra `hub`, or on an invalid name of a repository.
    """
    from grcn.predict.checkpoint import load_detector, save_detector

    hub = _import_hub()
    loaded = load_detector(source)
    train = _without_paths(loaded.extra.get("train"))
    extra = {**loaded.extra, **({"train": train} if train else {})}
    if half:
        _halve(loaded, source)
    try:
        api = hub.HfApi(token=token, library_name="grcn")
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        card = model_card(url.repo_id, loaded, license=license, half=half, metrics=metrics)
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / WEIGHTS
            save_detector(weights, loaded.model, class_names=loaded.class_names, preset=loaded.preset, extra=extra)
            files: dict[str, Path | bytes] = {WEIGHTS: weights, CARD: card.encode()}
            if train:
                files[CONFIG] = yaml.safe_dump(train, sort_keys=False, allow_unicode=True).encode()
            operations = [hub.CommitOperationAdd(name, content) for name, content in files.items()]
            api.create_commit(url.repo_id, operations, commit_message=message)
        return str(url)
    except Exception as error:
        raise _explained(error, repo_id, None) from None


def model_card(
    repo_id: str,
    loaded: LoadedDetector,
    *,
    license: str | None = None,
    half: bool = False,
    metrics: dict[str, Any] | None = None,
) -> str:
    """The README.md of a repository: YAML for the Hub, then text for people.

    Everything except the arguments comes from the header of the weights. The card leaves out what the header lacks.
    """
    hub = _import_hub()
    extra = loaded.extra
    train = _without_paths(extra.get("train"))
    chosen_by = metrics is None
    if metrics is None and isinstance(extra.get("metrics"), dict):
        metrics = {"data": train.get("data"), "split": train.get("val_split"), **extra["metrics"]}
    name = repo_id.rpartition("/")[2]
    results = _eval_results(metrics) if metrics else None
    front = hub.ModelCardData(
        library_name="grcn",
        license=license,
        pipeline_tag="object-detection",
        tags=["object-detection", "faster-rcnn", "pytorch", *([loaded.preset] if loaded.preset else [])],
        model_name=name if results else None,
        eval_results=results,
    )
    card = hub.ModelCard.from_template(
        front,
        template_str=resources.files("grcn.predict").joinpath("card.md").read_text(encoding="utf-8"),
        name=name,
        repo_id=repo_id,
        preset=loaded.preset,
        backbone=loaded.model.config.backbone,
        class_names=loaded.class_names,
        half=half,
        metrics=metrics,
        per_class=(metrics or {}).get("per_class"),
        chosen_by=chosen_by,
        train=train,
        iteration=extra.get("iteration", "?"),
        versions=extra.get("versions"),
        figures=_METRICS,
        plain=_plain,
        points=_points,
    )
    return str(card)


def _eval_results(metrics: dict[str, Any]) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    data, split = str(metrics.get("data") or "own data"), metrics.get("split")
    return [
        EvalResult(
            task_type="object-detection",
            dataset_type=data,
            dataset_name=data,
            dataset_split=str(split) if split else None,
            metric_type={"AP": "map"}.get(key, f"map_{key[2:]}"),
            metric_name=text,
            metric_value=round(metrics[key], 4),
        )
        for key, text in _METRICS.items()
        if isinstance(metrics.get(key), float)
    ]


def _points(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"


def _plain(text: Any) -> str:
    """A name that is safe in a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _without_paths(train: Any) -> dict[str, Any]:
    """A training configuration with only the last part of each path: folders of the machine are not published."""
    if not isinstance(train, dict):
        return {}
    paths = {key: PurePath(train[key]).name for key in ("data", "out", "weights") if isinstance(train.get(key), str)}
    return {**train, **paths}


def _halve(loaded: LoadedDetector, source: Path) -> None:
    """Converts weights to float16 in place. Buffers, such as the statistics of norms, keep their precision."""
    for name, parameter in loaded.model.named_parameters():
        parameter.data = parameter.data.half()
        if not parameter.isfinite().all():
            raise CheckpointError(f"{source}: {name} holds values beyond float16; push without half")


def _import_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ConfigError("the Hugging Face Hub needs its package: pip install 'grcn[hub]'") from None
    return huggingface_hub


def _explained(error: Exception, repo_id: str, revision: str | None) -> Exception:
    """Converts an error of the Hub to one of grcn with a message of one line; returns other errors unchanged."""
    from huggingface_hub import constants, errors

    login = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.HFValidationError):
        return ConfigError(f"'{repo_id}' is not the name of a repository, such as user/name")
    if isinstance(error, errors.LocalTokenNotFoundError):
        return CheckpointError(f"{repo_id}: no token for the Hugging Face Hub; {login}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return CheckpointError(
            f"{repo_id}: not in the cache of this machine, and {constants.ENDPOINT} cannot be reached"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{repo_id}: no revision '{revision}'")
    if isinstance(error, errors.EntryNotFoundError):
        return CheckpointError(f"{repo_id}: has no {WEIGHTS}, so it is not a detector of grcn")
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return CheckpointError(f"{repo_id}: does not exist, or this user may not use it; {login}")
    if status is not None:
        return CheckpointError(f"{repo_id}: {constants.ENDPOINT} answered: {first_line(error)}")
    if isinstance(error, errors.HTTPError):  # type: ignore[attr-defined]  # of its HTTP library
        return CheckpointError(
            f"{repo_id}: {constants.ENDPOINT} cannot be reached: {first_line(error)}; check the network, or HF_ENDPOINT"
        )
    return CheckpointError(f"{repo_id}: {first_line(error)}") if isinstance(error, OSError) else error
