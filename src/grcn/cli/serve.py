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
        "Serves a detector over HTTP. POST a photo to /predict to get its objects as JSON. GET /healthz tells which "
        "detector answers, and /openapi.json describes all addresses. After Ctrl-C or SIGTERM it answers the requests "
        "that have arrived and ends.",
        "grcn serve runs/photos --port 8000\ncurl -F image=@holiday.jpg http://127.0.0.1:8000/predict",
    )
    detector = parser.add_argument_group("detector")
    detector.add_argument(
        "run", type=str, metavar="RUN", help="run folder, .safetensors file, exported file, hf://user/name or a preset"
    )
    add_calibration_option(detector)
    address = parser.add_argument_group("address")
    address.add_argument(
        "--host",
        type=str,
        default="127.0.0.1",
        help="address to listen on; 127.0.0.1 can be reached only from this machine",
    )
    address.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
    parser.add_argument_group("limits").add_class_arguments(ServeLimits, as_group=False)
    add_device_options(parser, batches=False)
    options = parser.read(argv)
    limits = ServeLimits(**{field.name: options[field.name] for field in fields(ServeLimits)})
    from grcn.serve import serve

    serve(load_detector(options.run, options), options.host, options.port, limits, say)
    return 0
