"""The tiny training run of the tests, in this process or in one of its own:

python training_script.py DATA OUT [field=python expression ...]
"""

import csv
import signal
import sys
from dataclasses import replace
from pathlib import Path

from grcn.config import DetectorConfig, InputConfig, OptimConfig, RoIConfig, RPNConfig, ScheduleConfig, TrainConfig
from grcn.errors import GrcnError


def tiny_model() -> DetectorConfig:
    return DetectorConfig(
        backbone="timm:test_resnet",
        norm="bn",
        input=InputConfig(48, 64),
        rpn=RPNConfig(
            channels=8,
            anchor_sizes=(12.0, 24.0),
            pre_nms_train=50,
            post_nms_train=20,
            post_nms_test=20,
            batch_per_image=32,
        ),
        roi=RoIConfig(batch_per_image=16, fc_channels=16, reduce_channels=8),
    )


def tiny_config(data: Path, out: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(
        data=str(data),
        out=str(out),
        preset="faster_rcnn_r18_c5",
        weights="random",
        iterations=8,
        batch_size=2,
        workers=0,
        val_every=4,
        save_every=2,
        accelerator="cpu",
        loggers=("csv",),
        model=tiny_model(),
        optim=OptimConfig(ema=0.9, lr=0.02),
        schedule=ScheduleConfig(warmup=2),
    )
    return replace(config, **changes)


def assert_equal_runs(a: Path, b: Path) -> None:
    """Weights, moving average, optimizer and log, bit for bit."""
    import torch

    from grcn.training.checkpoint import load_state

    first, second = load_state(a / "checkpoints" / "last.ckpt"), load_state(b / "checkpoints" / "last.ckpt")
    assert first["global_step"] == second["global_step"]
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name]), name
    for key, slots in first["optimizer"]["state"].items():
        assert torch.equal(slots["momentum_buffer"], second["optimizer"]["state"][key]["momentum_buffer"])
    logs = []
    for run in (a, b):
        with open(run / "metrics.csv", newline="") as file:
            logs.append([(r["iteration"], r["lr"], r["loss"], r["grad_norm"], r["AP"]) for r in csv.DictReader(file)])
    assert logs[0] == logs[1]
    assert (a / "metrics.json").read_text() == (b / "metrics.json").read_text()


if __name__ == "__main__":
    data, out, *changes = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background processes with it ignored
    values = {name: eval(value) for name, value in (change.split("=", 1) for change in changes)}
    from grcn.training import train

    print("ready", flush=True)
    try:
        train(tiny_config(Path(data), Path(out), **values))
    except GrcnError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
