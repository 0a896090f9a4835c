"""`grcn push`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grcn.errors import DataError


def push(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "push",
        "RUN REPO [options]",
        "Uploads a detector to the Hugging Face Hub: the weights, a model card filled from the run, and the "
        "configuration without local paths. Afterwards hf://REPO works wherever a command takes a run. Log in first "
        "with `hf auth login`.",
        "grcn push runs/photos user/photos --private --license apache-2.0",
    )
    what = parser.add_argument_group("what to upload")
    what.add_argument("run", type=str, metavar="RUN", help="run folder or .safetensors file")
    what.add_argument(
        "--half", action="store_true", help="store the weights in float16: half the size, boxes differ slightly"
    )
    what.add_argument(
        "--metrics",
        type=str,
        metavar="FILE",
        help="metrics.json of `grcn evaluate`, for the model card; default: no metrics",
    )
    hub = parser.add_argument_group("repository")
    hub.add_argument("repo", type=str, metavar="REPO", help="user/name; created if it does not exist")
    hub.add_argument("--private", action="store_true", help="make a new repository private")
    hub.add_argument("--license", type=str, help="license on the model card, such as apache-2.0; default: none")
    hub.add_argument("--message", type=str, default="Detector of grcn", help="commit message")
    options = parser.read(argv)
    metrics = _read_metrics(Path(options.metrics)) if options.metrics else None

    from grcn.predict.hub import check_hub

    check_hub(options.repo)
    from grcn.predict.detector import Detector

    detector = Detector.load(options.run, device="cpu", optimize="none")
    address = detector.push_to_hub(
        options.repo,
        private=options.private,
        license=options.license,
        half=options.half,
        metrics=metrics,
        message=options.message,
    )
    print(f"{address}: done; next: grcn predict hf://{options.repo} photos --out found")
    return 0


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(metrics, dict) or not {"data", "split", "AP"} <= metrics.keys():
        raise DataError(f"{path}: not the metrics.json that `grcn evaluate --out` writes")
    return metrics
