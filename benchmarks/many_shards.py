"""What a map of a million shards costs beside its pixels: plan, resume, tasks, receipts, closing, opening.

The region is a square of so many shards of one block (10,240 m: a million are 105 million km2, three quarters of all
land) in one plane; the stand-in for reading and encoding writes a receipt, as a worker does, and no shard file. Steps
are those of ``geossl embed``, called one by one. Peak memory is that of the process, after each step. Scheduler and
workers share this process and its one event loop, so what workers do on machines of their own (watch memory and
network, sample profiles) is asked for rarely here: 200 of them would keep the loop busy by that alone.

Seconds are by the clock, and of processor for all threads of the process: the first depend on what else runs here and
on the disk, the second show how a step grows. The last table has their exponents, log of the ratio of processor
seconds by log of the ratio of shards, from each size to the next.

Run: python benchmarks/many_shards.py 10000 100000 [--done 0 0.5 0.999] [--workers 200] [--all] [--coarsen]
     python benchmarks/many_shards.py 1000 10000 --s3    (sends so many files to an S3 server on this machine, twice)
"""

import argparse
import json
import logging
import math
import os
import resource
import shutil
import socket
import subprocess
import sys
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
from geossl.inference.engine.overviews import add_overviews
from geossl.inference.engine.plan import BuildFolder, Plan
from geossl.inference.outputs import checksums, remote
from geossl.models.files import EncoderFile, load_encoder

CELLS, EPSG = 8, 6933
FILES = {name: [0, 0] for name in ("embeddings", "scales", "valid", "sensors")}  # of fill values there is no file
PASSED = 1000  # tasks that go through Dask
LEAST_S = 0.02  # of processor; less says nothing of growth
SHORT_S = 10.0  # what may be measured again
SECONDS = {}  # of processor, by step: one per size
RECEIPT = {"patches": 1, "fed": {"s2": 1}, "valid_percent": 100.0, "files": FILES, "read_seconds": 0.1}


@dataclass(frozen=True)
class Nothing:
    """A source that is never read."""

    sensors: tuple = ("s2",)
    dated: bool = False


def timed(name, work, again=False):
    """Call and print seconds by the clock, seconds of processor of all threads of this process, and memory.

    A call that is short and may be made again is, three times in all; the least counts.
    """
    best, total = (math.inf, math.inf), 0.0
    for _ in range(3 if again else 1):
        started, used = time.perf_counter(), time.process_time()
        found = work()
        taken, used = time.perf_counter() - started, time.process_time() - used
        best, total = min(best, (used, taken)), total + taken
        if total > SHORT_S:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"| {name} | {best[1]:.2f} | {best[0]:.2f} | {peak:.2f} |", flush=True)
    SECONDS.setdefault(name, []).append(best[0])
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


def drill(count, args, cluster, folder):
    """All steps for one size."""
    encoder = load_encoder("croma_tiny")
    out = folder / "map.zarr"
    print(f"\n{count:,} shards\n\n| step | seconds | processor | peak GB |\n|---|---|---|---|")
    plan = timed("region to plan", lambda: plan_of(count, encoder.spec))
    shards = timed("list shards", lambda: plan.shards)
    timed("memory check", lambda: estimate.worker_bytes(plan, encoder, 10), True)
    timed("hash of the plan", lambda: plan.sha256, True)
    build = BuildFolder(out)
    timed("begin: empty store and plan", lambda: begin(build, out, plan, encoder))
    work = run.Work(plan, Nothing(), "croma_tiny", out, build, None)
    for share in args.done:
        finished = int(share * len(shards))
        mark(build, shards[len(build.done()) : finished])
        when = f"{share:.1%} done"
        done = timed(f"{when}: read what is done", build.done, True)
        wanted = timed(f"{when}: what is left", lambda done=done: plan.tasks(s for s in shards if s not in done), True)
        timed(f"{when}: first task", lambda wanted=wanted: first(work, wanted, cluster))
        if share == args.done[0]:
            some = wanted if args.all else wanted[-PASSED:]
            timed(f"{len(some):,} tasks through Dask", lambda some=some: through(work, some, cluster))
    mark(build, [s for s in shards if not build.has(s)])
    tables = timed("close: receipts", lambda: totals_of(work), True)
    if args.coarsen:
        timed("close: coarser levels", lambda: add_overviews(out, plan, encoder.spec.dim))
    timed("close: checksums", lambda: checksums.write_sums(out, tables), True)
    timed("close: consolidated metadata", lambda: store.finish(out), True)
    timed("open", lambda: geossl.open(out), True)
    timed("open with xarray", lambda: xr.open_zarr(out), True)
    return len(shards)


def sending(count, folder):
    """Files of a map to an S3 server, and again, when only its list is asked for."""
    system, bucket = remote.file_system("s3://maps")
    if not system.exists(bucket):
        system.mkdir(bucket)
    side = round(count**0.5)
    for row in range(side):
        (folder / "embeddings" / "c" / str(row)).mkdir(parents=True)
        for column in range(side):
            (folder / "embeddings" / "c" / str(row) / str(column)).write_bytes(bytes(100))
    print(f"\n{side**2:,} files\n\n| step | seconds | processor | peak GB |\n|---|---|---|---|")
    address = f"s3://maps/{count}.zarr"
    assert timed("send to S3", lambda: remote.send(folder, address)) == side**2
    assert timed("send again, all there", lambda: remote.send(folder, address)) == 0
    return side**2


def exponents(counts):
    """How processor seconds of every step grow from size to size."""
    print("\n| step | " + " | ".join(f"{n:,}" for n in counts) + " | exponents |")
    print("|---" * (len(counts) + 2) + "|")
    for name, seconds in SECONDS.items():
        pairs = zip(counts, counts[1:], seconds, seconds[1:], strict=False)
        grown = [math.log(b / a) / math.log(m / n) if min(a, b) >= LEAST_S else math.nan for n, m, a, b in pairs]
        found = ", ".join("-" if math.isnan(x) else f"{x:.2f}" for x in grown)
        print(f"| {name} | " + " | ".join(f"{s:.2f}" for s in seconds) + f" | {found} |")


def begin(build, out, plan, encoder):
    """What is written before the first shard."""
    build.begin(plan, False)
    store.create(out, plan, encoder.spec)
    build.write(build.plan, plan.to_json())


def totals_of(work):
    """Totals of all receipts, and tables of the sizes and checksums in them."""
    totals = {"patches": 0, "s2": 0}
    tables, lost = checksums.of_shards(work.data, work.plan.shards, lambda s: work.build.read(s, totals), set())
    assert totals["patches"] == len(work.plan.shards)
    assert not lost
    return tables


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


def s3_server(folder):
    """An S3 server in a process of its own, which fsspec then takes for Amazon's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.2)
    return server


def main():
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="+")
    parser.add_argument("--done", type=float, nargs="*", default=[0.0, 0.5, 0.999])
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument(
        "--all", action="store_true", help=f"all tasks that are left through Dask, not {PASSED} of them"
    )
    parser.add_argument("--coarsen", action="store_true", help="also make the coarser levels")
    parser.add_argument("--s3", action="store_true", help="only send files to an S3 server")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    made = []
    if args.s3:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            server = s3_server(folder)
            try:
                made = [sending(count, Path(folder) / str(count)) for count in args.counts]
            finally:
                server.kill()
        exponents(made)
        return
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it says of workers that are sent away
    from distributed import LocalCluster

    settings = {"threads_per_worker": 1, "processes": False, "dashboard_address": None, "memory_limit": 0}
    with dask.config.set(RARELY), LocalCluster(n_workers=args.workers, **settings) as cluster:
        for count in args.counts:
            folder = Path(tempfile.mkdtemp(dir=args.folder))
            try:
                made.append(drill(count, args, cluster, folder))
            finally:
                shutil.rmtree(folder)
    exponents(made)


if __name__ == "__main__":
    main()
