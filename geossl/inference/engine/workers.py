"""Where shards are computed: worker processes of this machine, or any Dask cluster; and what becomes of lost ones."""

import ctypes
import json
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import shapely
import torch
from odc.geo.geobox import GeoBox

from geossl.errors import GeosslError, InputError, Note, RunError, redact
from geossl.outputs import write_text

KNOWN = "sync, processes, processes:N, tcp://host:port or file:scheduler.json"
ANSWER_S = 10.0  # seconds a cluster may take to answer
Places = Mapping[tuple[int, ...], tuple[GeoBox, str]]  # by shard: its pixels, and why it is missing
TOGETHER, ROUNDS = 16, 64  # most shards in a task of Dask; fewer, so that every worker has as many tasks
AGAIN = 2  # tries more of a shard, or of a task whose worker died
AHEAD = 2  # shards per worker: one is encoded while the next is read


def device() -> str:
    """Where this process computes: its GPU, one per worker, or the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    name = "0"
    if "distributed" in sys.modules:
        from distributed import get_worker  # lazy: a run without workers does not need it

        try:
            name = str(get_worker().name)
        except ValueError:  # not in a worker
            name = "0"
    return f"cuda:{int(name) % torch.cuda.device_count() if name.isdigit() else 0}"


def precision(asked: str, before: str | None = None) -> str:
    """What ``auto`` stands for: that of the map that was begun, else what this machine is made for.

    Args:
        asked: ``auto``, ``fp32`` or ``bf16``.
        before: Precision in the plan of a map that was begun.

    Returns:
        ``bf16`` on processors with AMX and on GPUs, ``fp32`` elsewhere; bfloat16 without AMX gains little.
    """
    if asked != "auto":
        return asked
    return before or ("bf16" if torch.cuda.is_available() or torch.cpu._is_amx_tile_supported() else "fp32")


def local_count(scheduler: str) -> int:
    """Worker processes a scheduler setting starts on this machine; 1 for those elsewhere.

    Raises:
        InputError: If the setting is not known.
    """
    kind, _, rest = scheduler.partition(":")
    if scheduler == "sync" or (kind in ("tcp", "tls", "ucx", "file") and rest):
        return 1
    if scheduler == "processes":
        return torch.cuda.device_count() or max(1, torch.get_num_threads() // 2)
    if kind == "processes" and rest.isdigit() and int(rest):
        return int(rest)
    raise InputError(f"--scheduler {scheduler!r} is not known; use {KNOWN}")


def results(
    scheduler: str, task: Callable[[Any, Any], Any], work: Any, shards: list[Any]
) -> Generator[tuple[Any, BaseException | None], None, None]:
    """Yield shards as they finish, with their exception; at most two per worker in flight.

    A worker that dies is replaced, and its shards are computed again. A shard that fails for a reason geossl does not
    know (a full disk, a driver, the memory) is sent again by itself, ``AGAIN`` times, maybe to another worker; what
    hosts refuse was tried again before it came here. Where there are many more shards than workers, some are sent
    together, as a scheduler takes about a millisecond for each task, however small.
    """
    if not shards:
        return
    from distributed import as_completed  # lazy: see above

    with client(scheduler) as (cluster, threads):
        count = max(1, len(cluster.scheduler_info(n_workers=-1)["workers"]))
        sent = cluster.scatter(work, broadcast=True, hash=False)
        size = max(1, min(TOGETHER, len(shards) // (ROUNDS * count)))
        queue = deque((shards[start : start + size], AGAIN) for start in range(0, len(shards), size))
        sent_as = dict[str, tuple[list[Any], int]]()

        def submit(group: list[Any], tries: int) -> Any:
            future = cluster.submit(on_worker, threads, task, sent, group, retries=AGAIN, pure=False)
            sent_as[future.key] = group, tries
            return future

        running = as_completed([submit(*queue.popleft()) for _ in range(min(AHEAD * count, len(queue)))])
        for future in running:
            (group, tries), error = sent_as.pop(future.key), future.exception()
            for one, failed in zip(group, [error] * len(group) if error else future.result(), strict=True):
                if not error and tries and failed and not isinstance(failed, GeosslError):
                    queue.appendleft(([one], tries - 1))
                else:
                    yield one, failed
            if queue:
                running.add(submit(*queue.popleft()))


def on_worker(threads: int, task: Callable[[Any, Any], Any], work: Any, group: list[Any]) -> list[Exception | None]:
    """Run tasks with their share of cores (Dask's own setting would be one), and give the error of each that failed."""
    if threads:
        torch.set_num_threads(threads)
    errors: list[Exception | None] = []
    for one in group:
        try:
            task(work, one)
            errors.append(None)
        except Exception as error:
            errors.append(error)
    return errors


@contextmanager
def client(scheduler: str) -> Iterator[tuple[Any, int]]:
    """A Dask client and the torch threads of a worker (0 = leave them).

    Args:
        scheduler: ``processes``, ``processes:N`` (spawned here), the address of a running scheduler, or ``file:`` and
            the scheduler file that ``dask scheduler``, SLURM or Kubernetes set-ups write.
    """
    from distributed import Client, LocalCluster  # lazy: see above

    if scheduler.startswith("processes"):
        cores, count = torch.get_num_threads(), local_count(scheduler)
        with (
            LocalCluster(
                n_workers=count, threads_per_worker=AHEAD, processes=True, dashboard_address=None, memory_limit=0
            ) as cluster,
            Client(cluster) as connected,
        ):
            connected.run(end_with, os.getpid())
            yield connected, max(1, cores // count)
        return
    file = scheduler.removeprefix("file:")
    where: dict[str, Any] = {"scheduler_file": file} if file != scheduler else {"address": scheduler}
    if file != scheduler and not Path(file).is_file():
        raise InputError(f"--scheduler file {file!r} does not exist; `dask scheduler --scheduler-file {file}` makes it")
    try:
        connected = Client(**where, timeout=ANSWER_S)
    except (OSError, ValueError):
        raise InputError(f"--scheduler {scheduler} does not answer; start one with `dask scheduler`") from None
    with connected:
        connected.wait_for_workers(1, timeout=60)
        yield connected, 0


def end_with(parent: int) -> None:
    """Let this worker process be killed when its parent is (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def here(
    work: Any,
    tasks: list[Any],
    read: Callable[[Any, Any], Any],
    encode: Callable[[Any, Any, Any], Any],
    finish: Callable[[Any, Any, Any], None],
) -> Generator[tuple[Any, BaseException | None], None, None]:
    """Tasks in this process, with the error of those that failed: one is encoded, the next read, the last written."""
    reader, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    reading = [reader.submit(read, work, task) for task in tasks[:1]]
    writing: list[tuple[Any, Future[None]]] = []
    try:
        for task, following in zip_longest(tasks, tasks[1:]):
            cube = reading.pop()
            error = cube.exception()
            if following:
                reading.append(reader.submit(read, work, following))
            made = None
            if error is None:
                try:
                    made = encode(work, task, cube.result())
                except Exception as failure:
                    error = failure
            del cube
            if writing:
                yield writing[0][0], writing.pop()[1].exception()
            if error is None:
                writing.append((task, writer.submit(finish, work, task, made)))
            else:
                yield task, error
        for task, written in writing:
            yield task, written.exception()
    finally:
        reader.shutdown(wait=False, cancel_futures=True)
        writer.shutdown(wait=True)  # whoever stops this may remove what is being written


def list_path(out: Path) -> Path:
    """Where the list of what is missing lies: beside the map, ``map.missing.geojson``."""
    return out.with_suffix(".missing.geojson")


def settle(out: Path, places: Places, shards: int, on_error: str) -> None:
    """Raise what failed, or list it; a list of before goes where nothing is missing any more.

    Args:
        out: The map.
        places: What failed.
        shards: Shards of the whole map.
        on_error: ``stop``: what failed is an error. ``skip``: it is nodata, listed beside the map with its outline and
            reason, and made by the next run.

    Raises:
        RunError: If something failed and it is not to be skipped, or all of it failed.
    """
    path = list_path(out)
    if not places:
        path.unlink(missing_ok=True)
        return
    shard, (_, why) = next(iter(places.items()))
    first = f"{len(places)} of {shards} shards failed (first: shard {', '.join(map(str, shard))}: {why})"
    if on_error == "stop" or len(places) == shards:
        raise RunError(f"{first}; the others are kept, run again to try these once more")
    features = [
        {
            "type": "Feature",
            "properties": {"shard": list(shard), "reason": redact(why)[:300]},
            "geometry": json.loads(shapely.to_geojson(box.geographic_extent.geom)),
        }
        for shard, (box, why) in sorted(places.items())
    ]
    write_text(path, json.dumps({"type": "FeatureCollection", "features": features}))
    warnings.warn(f"{first}; they are nodata and listed in {path}: the same command makes them", Note, stacklevel=2)
