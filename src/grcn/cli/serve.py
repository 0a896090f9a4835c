"""`grcn serve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from grcn.cli.common import add_calibration_option, add_device_options, load_detector, say


def serve(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser
    from grcn.config import ServeLimits

    parser = Parser(
        "serve",
        "RUN [options]",
        "Answers over HTTP: POST a photo to /predict and get its objects as JSON; GET /healthz tells what answers, "
        "/openapi.json describes it all. SIGTERM or Ctrl-C: takes no more, answers what it has taken, ends.",
        "grcn serve runs/photos --port 8000\ncurl -F image=@holiday.jpg -F score=0.5 http://127.0.0.1:8000/predict",
    )
    parser.add_argument("run", type=str, metavar="RUN", help="run folder or file of a detector, as for predict")
    parser.add_argument(
        "--host", type=str, default="127.0.0.1", help="address to listen on; default: this machine only"
    )
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    parser.add_class_arguments(ServeLimits)
    add_calibration_option(parser)
    add_device_options(parser, batches=False)
    options = parser.read(argv)
    limits = ServeLimits(**{field.name: options[field.name] for field in fields(ServeLimits)})
    from grcn.serve import serve

    serve(load_detector(options.run, options), options.host, options.port, limits, say)
    return 0
