"""Make a map: plan, one task per shard, any number of workers, resumed where it was left."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geossl import grid
from geossl.errors import GridError, InputError, RunError
from geossl.inference import raster, store
from geossl.inference.encode import EncodeConfig, encode_block
from geossl.inference.plan import BuildFolder, Plan, Shard, remove
from geossl.inference.source import Source, check_sensors, images
from geossl.models.download import sha256_of
from geossl.models.encoder import DenseEncoder
from geossl.models.files import read_encoder

Progress = Callable[[int, int, float], None]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WHOLE = 0.999  # share of a region that counts as all of it
DTYPES = ("int8", "float16", "float32")


@lru_cache(maxsize=1)
def loaded(path: str, sha256: str, device: str) -> DenseEncoder:
    """The encoder of a process, loaded once; weights travel to workers as a path."""
    return read_encoder(path).to(device)


def embed_map(
    aoi: grid.Aoi,
    source: Source,
    encoder: Path,
    out: Path,
    *,
    dtype: str | None = None,
    scheduler: str = "sync",
    batch_size: int = 8,
    shard_cells: int = 10,
    crs: int | None = None,
    precision: str = "fp32",
    valid_share: float = 0.5,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Embed a region; see ``geossl.embed_map``. Killed at any time, the same call goes on with the missing shards."""
    plan = make_plan(aoi, source, encoder, out, dtype, shard_cells, crs, precision, valid_share)
    build = BuildFolder(out)
    build.check(plan, overwrite)
    is_tif = out.suffix == ".tif"
    data = build.path / "store.zarr" if is_tif else out
    config = EncodeConfig(batch_size, precision, valid_share, DEVICE)
    if not build.begin(plan, overwrite):
        store.create(data, plan, loaded(str(Path(encoder).absolute()), plan.facts["encoder_sha256"], DEVICE).spec)
        build.write(build.plan, plan.to_json())
    with build.lock():
        if is_tif and out.exists():
            return out
        missing = [shard for shard in plan.shards if shard not in build.done()]
        report = progress or (lambda done, total, km2: None)
        try:
            compute(plan, missing, source, encoder, data, build, config, scheduler, report)
        except InputError:  # nothing is done yet: leave nothing behind
            if not build.done():
                remove(out)
                remove(build.path)
            raise
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{len(build.done())} of {len(plan.shards)} shards are done; run again to go on"
            ) from None
        if all(receipt["patches"] == 0 for receipt in build.done().values()):
            remove(out)
            raise_empty(aoi, build)
        store.finish(data)
        if is_tif:
            raster.write_cog(data, out)
            remove(data)
    return out


def raise_empty(aoi: grid.Aoi, build: BuildFolder) -> None:
    """Leave nothing behind of a map without a single embedding."""
    remove(build.path)
    raise InputError(f"{aoi.name} holds no usable pixel in the rasters (all nodata); choose another region or scene")


def make_plan(
    aoi: grid.Aoi,
    source: Source,
    encoder: Path,
    out: Path,
    dtype: str | None,
    shard_cells: int,
    crs: int | None,
    precision: str,
    valid_share: float,
) -> Plan:
    """Check everything and decide everything; nothing is written.

    Raises:
        InputError: What does not fit, and how to mend it.
    """
    if out.suffix not in (".zarr", ".tif"):
        raise InputError(f"--out {out} must end in .zarr or .tif")
    dtype = dtype or ("float32" if out.suffix == ".tif" else "int8")
    if dtype not in DTYPES or (out.suffix == ".tif" and dtype != "float32"):
        raise InputError(
            f"--dtype {dtype} is not possible in {out.suffix}; use {', '.join(DTYPES)} (.tif: float32 only)"
        )
    sha256 = sha256_of(encoder)
    spec = loaded(str(Path(encoder).absolute()), sha256, DEVICE).spec
    check_sensors(source.sensors, spec)
    epsg = crs or grid.utm_epsg(aoi)
    lattice = grid.Lattice(epsg, spec.patch_px, spec.gsd_m, (spec.window_px - 2 * spec.margin_px) // spec.patch_px)
    area = aoi.to_crs(epsg)
    covered = source.footprint(epsg)
    if covered.is_empty or not covered.intersects(area):
        where = " has no area that all sensors cover" if covered.is_empty else f" spans {bounds_text(covered, epsg)}"
        raise GridError(
            f"{aoi.name} lies outside the rasters, whose common part{where}; the region is {bounds_text(area, epsg)}"
        )
    share = area.intersection(covered).area / area.area
    if share < WHOLE:
        warnings.warn(f"the rasters cover {100 * share:.0f} % of {aoi.name}; the rest stays empty", stacklevel=3)
    cells = lattice.touched(area.intersection(covered))
    if not cells:
        raise GridError(f"{aoi.name} only touches the edge of the rasters; nothing to embed")
    rows, columns = zip(*cells, strict=True)
    return Plan(
        lattice=lattice,
        top=min(rows),
        left=min(columns),
        rows=max(rows) - min(rows) + 1,
        columns=max(columns) - min(columns) + 1,
        cells=tuple(cells),
        shard_cells=shard_cells,
        dtype=dtype,
        facts={
            "encoder_sha256": sha256,
            "window_px": spec.window_px,
            "margin_px": spec.margin_px,
            "sensors": list(source.sensors),
            "source": source.describe(),
            "precision": precision,
            "valid_share": valid_share,
        },
    )


def bounds_text(area: Any, epsg: int) -> str:
    """Bounds in metres, for messages."""
    return "({:.0f}, {:.0f}) to ({:.0f}, {:.0f}) in EPSG:".format(*area.bounds) + str(epsg)


def run_shard(
    threads: int,
    plan: Plan,
    shard: Shard,
    source: Source,
    encoder: str,
    data: Path,
    build: BuildFolder,
    config: EncodeConfig,
) -> Shard:
    """Read, embed and write one shard, then leave a receipt; the one function behind every scheduler."""
    if threads:
        torch.set_num_threads(threads)
    model = loaded(encoder, plan.facts["encoder_sha256"], config.device)
    row, column, rows, columns = plan.block(shard)
    cube = source.load(plan.lattice.pixels(row, column, rows, columns, model.spec.margin_px))
    embeddings, valid = encode_block(images(cube, model.spec), model, config, touched(plan, shard))
    store.write_shard(data, plan, shard, embeddings, valid)
    patches = int(np.isfinite(embeddings[0]).sum())
    build.write(
        build.receipts / f"{shard[0]}_{shard[1]}.json", {"patches": patches, "valid_percent": float(valid.mean())}
    )
    return shard


def touched(plan: Plan, shard: Shard) -> np.ndarray:
    """Which cells of a shard the region touches."""
    row, column, rows, columns = plan.block(shard)
    return np.array([[(row + r, column + c) in plan.cell_set for c in range(columns)] for r in range(rows)])


def compute(
    plan: Plan,
    shards: list[Shard],
    source: Source,
    encoder: Path,
    data: Path,
    build: BuildFolder,
    config: EncodeConfig,
    scheduler: str,
    report: Progress,
) -> None:
    """Run the missing shards here, on worker processes, or on a Dask cluster."""
    cell_km2 = (plan.lattice.cell_m / 1000) ** 2
    total = len(plan.shards)
    arguments = (source, str(Path(encoder).absolute()), data.absolute(), BuildFolder(build.out.absolute()), config)
    for done, _ in enumerate(results(plan, shards, arguments, scheduler), start=total - len(shards) + 1):
        report(done, total, cell_km2 * len(plan.cells) * done / total)


def results(plan: Plan, shards: list[Shard], arguments: tuple[Any, ...], scheduler: str) -> Iterator[Shard]:
    """Finished shards as they come."""
    if scheduler == "sync":
        for shard in shards:
            yield run_shard(0, plan, shard, *arguments)
        return
    if not shards:
        return
    from distributed import as_completed  # lazy: a run without workers does not need it

    with client(scheduler) as (cluster, threads):
        workers = max(1, len(cluster.scheduler_info()["workers"]))
        queue = iter(shards)

        def submit(shard: Shard) -> Any:
            return cluster.submit(run_shard, threads, plan, shard, *arguments, retries=2, pure=False)

        running = as_completed([submit(s) for s in islice(queue, 2 * workers)])
        for future in running:
            try:
                yield future.result()
            except Exception as error:
                raise RunError(f"a worker failed: {error}; finished shards are kept, run again to go on") from error
            if (following := next(queue, None)) is not None:
                running.add(submit(following))


@contextmanager
def client(scheduler: str) -> Iterator[tuple[Any, int]]:
    """A Dask client and the torch threads of a worker (0 = leave them).

    Args:
        scheduler: ``processes``, ``processes:N`` (spawned here) or the address of a running scheduler.
    """
    from distributed import Client, LocalCluster  # lazy: see above

    kind, _, count = scheduler.partition(":")
    if kind == "processes" and (not count or (count.isdigit() and int(count))):
        cores = torch.get_num_threads()
        workers = int(count or max(1, cores // 2))
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
            Client(cluster) as connected,
        ):
            yield connected, max(1, cores // workers)
    elif kind in ("tcp", "tls", "ucx"):
        try:
            connected = Client(scheduler, timeout="10s")
        except OSError:
            raise InputError(f"--scheduler {scheduler} does not answer; start one with `dask scheduler`") from None
        with connected:
            yield connected, 0
    else:
        raise InputError(f"--scheduler {scheduler!r} is not known; use sync, processes, processes:N or tcp://host:port")
