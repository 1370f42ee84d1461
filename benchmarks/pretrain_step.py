"""The demo recipe's training step, today's tree beside an older one: images per second, and the losses.

Both trees train in processes of their own and take turns, so that whatever else the machine does meets both alike.
Seconds are of the processor and, which is what several cores are about, of the clock.
Reading chips, forward and backward pass, the update and the log are counted; imports and the end of a run are not.

    git worktree add ../before 1b808dd
    python benchmarks/pretrain_step.py --before ../before [--steps 200] [--seeds 0 1 2] [--threads 2]
        [--also "fp32" train.precision=32-true] ...
"""

import argparse
import csv
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

HERE = Path(__file__).parents[1]
TURN = 10  # steps until the other tree has its turn
WARM = 2  # turns that are not counted


def work(steps: int, seed: int, threads: int, out: str, settings: list[str]) -> None:
    """Train; before every turn report the seconds of the last one, and wait to be asked."""
    import torch

    import geossl
    from geossl.methods.base import SSLMethod

    torch.set_num_threads(threads)
    spent = [time.process_time(), time.perf_counter()]

    def tick(self: SSLMethod, batch: object, index: int) -> None:
        if self.global_step % TURN == 0:
            print(json.dumps([time.process_time() - spent[0], time.perf_counter() - spent[1]]), flush=True)
            sys.stdin.readline()
            spent[:] = time.process_time(), time.perf_counter()

    SSLMethod.on_train_batch_start = tick
    overrides = {"train__max_steps": steps, "train__seed": seed, "train__log_every": 1, "probe__every_steps": 0}
    overrides |= {
        key.replace(".", "__"): yaml.safe_load(value) for key, _, value in (s.partition("=") for s in settings)
    }
    geossl.pretrain("croma", out=out, **overrides)


def started(tree: Path, steps: int, seed: int, threads: int, out: Path, settings: list[str]) -> subprocess.Popen[str]:
    """A process that trains with the code of a tree."""
    numbers = ["--steps", str(steps), "--seeds", str(seed), "--threads", str(threads)]
    command = [sys.executable, __file__, *numbers, "--work", str(out), *settings]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, **pipes)


def taking_turns(
    ways: dict[str, tuple[Path, list[str]]], steps: int, seed: int, threads: int, folder: Path
) -> dict[str, list[list[float]]]:
    """Seconds of the processor and of the clock per turn of every way."""
    runs = {name: started(tree, steps, seed, threads, folder / name, more) for name, (tree, more) in ways.items()}
    seconds = {name: [] for name in runs}
    for turn in range(steps // TURN):
        for name, run in runs.items():
            told = run.stdout.readline()
            if not told:
                sys.exit(f"{name} ended early; run it alone to see why")
            if turn > WARM:
                seconds[name].append(json.loads(told))
            run.stdin.write("\n")
            run.stdin.flush()
            if turn < steps // TURN - 1:  # wait for the end of this turn before the other begins
                select.select([run.stdout], [], [])
    for run in runs.values():
        run.communicate()
    return seconds


def losses(run: Path) -> list[float]:
    """Sum of the three terms, step by step."""
    with (run / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="another tree of this repository")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--also", nargs="+", action="append", default=[], help="a name and settings, key=value")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.steps, args.seeds[0], args.threads, args.work[0], args.work[1:])
    ways = {"before": (args.before.resolve(), []), "now": (HERE, [])}
    ways |= {name: (HERE, settings) for name, *settings in args.also}
    print("| seed | way | images per processor second | over before | images per second | over before | mean loss |")
    print("|---|---|---|---|---|---|---|")
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            seconds = taking_turns(ways, args.steps, seed, args.threads, Path(folder))
            speed = {
                name: [64 * TURN / statistics.median(kind) for kind in zip(*values, strict=True)]
                for name, values in seconds.items()
            }
            for name in ways:
                cells = [f"{a:.0f} | {a / b:.2f}" for a, b in zip(speed[name], speed["before"], strict=True)]
                end = statistics.mean(losses(Path(folder) / name)[-50:])
                print(f"| {seed} | {name} | {' | '.join(cells)} | {end:.4f} |", flush=True)
    return None


if __name__ == "__main__":
    main()
