"""Kills a training run again and again at random moments, continues it each time, and compares what comes out.

    python tests/kill_script.py [--kills 300] [--seed 0]

Every life of the run is a process of its own, ended by SIGKILL: while it starts, in the middle of a step, of a save or
of a validation. After each kill the saved state must load, and no more than one interval between saves may be lost; in
the end weights, moving average, optimizer, log and metrics must equal those of a run that was never killed, bit for
bit. Lives are forked from a process that has imported everything, so that a kill costs a second, not ten.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from grcn.config import TrainConfig
from grcn.scenes.generate import generate
from grcn.training import train
from grcn.training.checkpoint import load_state
from grcn.training.state import State
from training_script import assert_equal_runs, tiny_config

SAVE_EVERY = 5
PER_LIFE = 8  # iterations that a life makes on average
FORK = multiprocessing.get_context("fork")


def live(config: TrainConfig, reached: Any) -> None:
    """One life: continues the run, and tells each iteration it has made."""
    update = State.update

    def told(self: State) -> None:
        update(self)
        reached.value = self.iteration

    State.update = told
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives
    train(replace(config, resume=True), progress=False)


def kill_again_and_again(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """The figures of `kills` kills; raises AssertionError where anything was lost."""
    rng = random.Random(seed)
    data = generate(folder / "beach", images=16, size=(96, 72), objects=(1, 3))
    changes = {"iterations": kills * PER_LIFE, "val_every": 25, "save_every": SAVE_EVERY, "workers": 0}
    config = tiny_config(data, folder / "killed", **changes)
    state = Path(config.out) / "checkpoints" / "last.ckpt"
    lost, saved, done, killed_starting = [], 0, 0, 0
    while done < kills:
        reached = FORK.Value("i", saved)
        child = FORK.Process(target=live, args=(config, reached))
        child.start()
        end = saved + rng.randint(0, 2 * PER_LIFE)
        starting = rng.random() < 0.1
        while child.is_alive() and reached.value < end and not starting:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.3))
        if not child.is_alive():
            assert child.exitcode == 0, child.exitcode
            break
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        if child.exitcode == 0:  # it was done before the signal came
            break
        done += 1
        killed_starting += reached.value == saved
        now = int(load_state(state)["global_step"]) if state.exists() else 0
        assert now >= saved, f"kill {done}: the state went back from iteration {saved} to {now}"
        lost.append(reached.value - now)
        assert lost[-1] <= SAVE_EVERY, f"kill {done}: at iteration {reached.value}, saved {now}"
        saved = now
    last = FORK.Process(target=live, args=(config, FORK.Value("i", 0)))
    last.start()
    last.join()
    assert last.exitcode == 0, last.exitcode
    whole = FORK.Process(target=train, args=(replace(config, out=str(folder / "whole")),), kwargs={"progress": False})
    whole.start()
    whole.join()
    assert whole.exitcode == 0, whole.exitcode
    assert_equal_runs(folder / "killed", folder / "whole")
    return {
        "kills": done,
        "before the first step of a life": killed_starting,
        "iterations": config.iterations,
        "save_every": SAVE_EVERY,
        "iterations lost per kill, mean": round(sum(lost) / max(len(lost), 1), 2),
        "most": max(lost, default=0),
        "equal to the run that was never killed": "bit for bit",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(kill_again_and_again(Path(name), options.kills, options.seed), indent=1))
