"""`grcn demo`: the main job from start to end on the embedded data set, in at most eight minutes on two slow cores.

```
OUT/data          the embedded data set, a VOC folder
OUT/run           the run folder of the detector
OUT/report        its metrics and curves on the test split
OUT/found         test pictures with the objects that it finds
```
If it is interrupted, the same command continues.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from grcn.config import AugmentConfig, InputConfig, OptimConfig, RoIConfig, ScheduleConfig, TrainConfig
from grcn.data.dataset import open_dataset
from grcn.evaluation import evaluate
from grcn.predict.dataset import predict_dataset
from grcn.predict.detector import Detector
from grcn.predict.job import predict_sources
from grcn.predict.sources import find_sources
from grcn.presets import preset
from grcn.reports.metrics import write_report
from grcn.scenes.generate import generate
from grcn.training import train

PRESET = "grcn_r18"
IMAGES, SIZE, OBJECT_SIZE, OBJECTS = 400, (320, 256), (64.0, 160.0), (2, 5)
"""The data: large objects in a small input, so that training takes only minutes."""
PICTURES = 12
"""Number of test pictures that are drawn."""
SHOWN = ("AP50", "AP70", "AP")

Progress = Callable[[str], AbstractContextManager[Callable[..., None]]]


def demo_config(data: Path, out: Path, iterations: int) -> TrainConfig:
    """The configuration of the training run.

    It has small pictures and random weights (nothing is downloaded), and takes minutes instead of hours. Each task has
    its own conv5, so that the page can show what each task looks at.
    """
    shared = preset(PRESET)
    model = replace(shared, separation="conv4", rpn=replace(shared.rpn, source="trunk"))
    return TrainConfig(
        data=str(data),
        preset=PRESET,
        out=str(out),
        weights="random",
        iterations=iterations,
        batch_size=8,
        precision="fp32",
        workers=1,
        val_split="none",  # the time is for training; the test split is measured once, at the end
        resume=(out / "config.yaml").exists(),
        loggers=("csv",),
        model=replace(
            model,
            input=InputConfig(short_side=128, long_side=160),
            rpn=replace(
                model.rpn,
                anchor_sizes=(24.0, 48.0, 96.0),
                batch_per_image=64,
                pre_nms_train=1000,
                post_nms_train=300,
                post_nms_test=100,
            ),
            roi=RoIConfig(batch_per_image=48, sampling_ratio=1, fc_channels=256),
        ),
        augment=AugmentConfig(flip=0.5, vertical_flip=0.5),
        optim=OptimConfig(name="adamw", lr=0.002, weight_decay=0.05, ema=0.98),
        schedule=ScheduleConfig(kind="cosine", warmup=50),
    )


def demo(out: Path, *, iterations: int, progress: Progress, console: Console | None = None) -> dict[str, Any]:
    """Renders the data, trains a detector, measures it on the test split, draws its detections, and prints a summary.

    Args:
        out: the folder for all results.
        iterations: number of training iterations. Training runs in float32, so that every machine learns the same
            except for rounding. Only the time differs.
        progress: makes a progress bar with the given name.
        console: where to print. Default: standard output.

    Returns:
        The metrics on the test split.
    """
    console = console or Console()
    with progress(f"rendering {IMAGES} pictures") as tell:
        data = generate(out / "data", images=IMAGES, size=SIZE, object_size=OBJECT_SIZE, objects=OBJECTS, progress=tell)
    console.print(f"training {PRESET} for {iterations} iterations from random weights")
    run = train(demo_config(data, out / "run", iterations))
    detector = Detector.load(run)
    test = open_dataset(data, split="test", class_names=detector.class_names)
    with progress(f"testing on {len(test)} pictures") as tell:
        found = predict_dataset(detector, test, batch_size=4, progress=tell)
    targets = [record.target for record in test]
    metrics = evaluate(found, targets, test.class_names)
    write_report(out / "report", metrics, found, targets, test.class_names)
    sources, _ = find_sources([str(record.path) for record in test.records[:PICTURES]], out / "found")
    predict_sources(detector, sources, out / "found", score=0.5)

    table = Table("preset", title=f"{len(test)} test pictures")
    for key in SHOWN:
        table.add_column(key, justify="right")
    table.add_row(PRESET, *(f"{metrics[key]:.3f}" for key in SHOWN))
    console.print(table)
    console.print(
        f"""pictures of what it finds: {out / "found" / "drawn"}
curves and confusion matrix: {out / "report"}

Try it in a browser, on your own photos or the webcam:
  grcn demo {out / "run"}
Next, with a folder of your own (VOC, COCO or YOLO):
  grcn check photos
  grcn train --data photos --minutes 30 --out runs/photos
  grcn evaluate runs/photos --data photos
  grcn predict runs/photos holiday/*.jpg --out found""",
        highlight=False,
        soft_wrap=True,
    )
    return metrics
