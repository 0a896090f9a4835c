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
        "Uploads a detector to the Hugging Face Hub: weights, a model card filled from the run, and its configuration "
        "without paths. `hf://REPO` then stands for it wherever a run is asked for. Log in with `hf auth login`.",
        "grcn push runs/photos user/photos --private --license apache-2.0 --metrics report/metrics.json\n"
        "grcn predict hf://user/photos holiday --out found",
    )
    parser.add_argument("run", type=str, metavar="RUN", help="run folder or .safetensors file")
    parser.add_argument("repo", type=str, metavar="REPO", help="user/name, made where absent")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--license", type=str, help="for the model card, such as apache-2.0; default: none is named")
    parser.add_argument("--half", action="store_true", help="weights in float16: half the size, slightly other boxes")
    parser.add_argument(
        "--metrics", type=str, metavar="FILE", help="metrics.json of `grcn evaluate`, for the model card"
    )
    parser.add_argument("--message", type=str, default="Detector of grcn", help="of the commit")
    options = parser.read(argv)
    metrics = _read_metrics(Path(options.metrics)) if options.metrics else None

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
