"""What a map of a million shards costs beside its pixels: plan, resume, tasks, receipts, closing, opening.

The region is a square of so many shards of one block (10,240 m: a million are 105 million km2, three quarters of all
land) in one plane; the stand-in for reading and encoding writes a receipt, as a worker does, and no shard file. Steps
are those of ``geossl embed``, called one by one. Peak memory is that of the process, after each step. Scheduler and
workers share this process and its one event loop, so what workers do on machines of their own (watch memory and
network, sample profiles) is asked for rarely here: 200 of them would keep the loop busy by that alone.

Run: python benchmarks/many_shards.py 10000 [--done 0 0.5 0.999] [--workers 200] [--folder /tmp]
"""

import argparse
import json
import logging
import resource
import shutil
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import dask
import shapely
import xarray as xr

import geossl
from geossl.grid import Lattice
from geossl.inference.engine import estimate, run, store, workers
from geossl.inference.engine.plan import BuildFolder, Plan
from geossl.inference.outputs import checksums
from geossl.models.files import EncoderFile, load_encoder

CELLS, EPSG = 8, 6933
FILES = {name: [0, 0] for name in ("embeddings", "scales", "valid", "sensors")}  # of fill values there is no file
RECEIPT = {"patches": 1, "fed": {"s2": 1}, "valid_percent": 100.0, "files": FILES, "read_seconds": 0.1}


@dataclass(frozen=True)
class Nothing:
    """A source that is never read."""

    sensors: tuple = ("s2",)
    dated: bool = False


def timed(name, work, limit=None):
    """Call and print seconds and memory."""
    started = time.perf_counter()
    found = work()
    taken = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"| {name} | {taken:.2f} | {peak:.2f} |", flush=True)
    return found


def plan_of(count, spec):
    """A square of shards."""
    side = round(count**0.5)
    metre = CELLS * 16 * spec.patch_m
    low, high = -(side // 2) * metre, (side - side // 2) * metre  # around 0, 0: the plane ends at 7,300 km north
    area = shapely.box(low, low, high, high)
    metadata = {
        "encoder_sha256": EncoderFile.open("croma_tiny").sha256,
        "window_px": 1280,
        "margin_px": 128,
        "reach": 7,
    }
    metadata |= {"sensors": ["s2"], "dated": False, "source": {"s2": []}, "precision": "fp32", "valid_share": 0.5}
    return Plan(Lattice(EPSG, spec.patch_px, spec.gsd_m, 16), area, CELLS, 1, "int8", metadata, CELLS)


def stand_in(work, task):
    """What a worker does, but for pixels."""
    for shard in task:
        work.build.write(work.build.marker(shard), RECEIPT)
    return task


def mark(build, shards):
    """Receipts of shards that are done."""
    text = json.dumps(RECEIPT)
    for shard in shards:
        build.marker(shard).write_text(text)


def drill(count, shares, cluster, folder):
    """All steps for one size."""
    number = len(cluster.workers)
    encoder = load_encoder("croma_tiny")
    out = folder / "map.zarr"
    print(f"\n{count:,} shards\n\n| step | seconds | peak GB |\n|---|---|---|")
    plan = timed("region to plan", lambda: plan_of(count, encoder.spec))
    shards = timed("list shards", lambda: plan.shards)
    timed("memory check", lambda: estimate.worker_bytes(plan, encoder, 10))
    timed("hash of the plan", lambda: plan.sha256)
    build = BuildFolder(out)
    timed("begin: empty store and plan", lambda: begin(build, out, plan, encoder))
    work = run.Work(plan, Nothing(), "croma_tiny", out, build, None)
    for share in shares:
        finished = int(share * len(shards))
        mark(build, shards[len(build.done()) : finished])
        print(f"| **{share:.1%} done** | | |")
        done = timed("read what is done", build.done)
        wanted = timed("tasks that are left", lambda done=done: plan.tasks(s for s in shards if s not in done))
        timed(f"first of {len(wanted):,} tasks ({number} workers)", lambda wanted=wanted: first(work, wanted, cluster))
    done = build.done()
    left = plan.tasks(s for s in shards if s not in done)
    timed(f"{len(left):,} tasks through Dask, {number} workers", lambda: through(work, left, cluster))
    mark(build, [s for s in shards if not build.has(s)])
    timed("close: totals of receipts", lambda: build.totals(["s2"]))
    timed("close: checksums", lambda: checksums.write_sums(out, sums_of(work)))
    timed("close: consolidated metadata", lambda: store.finish(out))
    timed("open", lambda: geossl.open(out))
    timed("open with xarray", lambda: xr.open_zarr(out))


def begin(build, out, plan, encoder):
    """What is written before the first shard."""
    build.begin(plan, False)
    store.create(out, plan, encoder.spec)
    build.write(build.plan, plan.to_json())


def sums_of(work):
    """Sizes and checksums of all shard files, from their receipts."""
    return checksums.of_shards(work.data, work.plan.shards, work.build.files, set())[0]


def first(work, tasks, cluster):
    """Until a first task is done."""
    for _ in workers.results(cluster.scheduler_address, stand_in, work, tasks):
        return


def through(work, tasks, cluster):
    """Until all are."""
    for _ in workers.results(cluster.scheduler_address, stand_in, work, tasks):
        pass


RARELY = {
    "distributed.admin.system-monitor.interval": "1 hour",
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1 hour",
    "distributed.worker.memory.terminate": False,
    "distributed.scheduler.worker-ttl": None,
}


def main():
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="+")
    parser.add_argument("--done", type=float, nargs="*", default=[0.0, 0.5, 0.999])
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it says of workers that are sent away
    from distributed import LocalCluster

    settings = {"threads_per_worker": 1, "processes": False, "dashboard_address": None, "memory_limit": 0}
    with dask.config.set(RARELY), LocalCluster(n_workers=args.workers, **settings) as cluster:
        for count in args.counts:
            folder = Path(tempfile.mkdtemp(dir=args.folder))
            try:
                drill(count, args.done, cluster, folder)
            finally:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
