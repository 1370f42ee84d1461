"""Make a map: plan, one task per shard, any number of workers, resumed where it was left."""

import copy
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Set
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from geossl import grid
from geossl.errors import GridError, InputError, Note, RunError
from geossl.inference.engine import coverage, estimate, store, true_colour, workers
from geossl.inference.engine.coverage import covered, outside
from geossl.inference.engine.encode import EncodeConfig, Encoded, Made, encode_block, phases_of, rim_px
from geossl.inference.engine.geometry import begun_halo, check_reach, geometry
from geossl.inference.engine.overviews import add_overviews
from geossl.inference.engine.plan import BuildFolder, Plan, Shard, Task, begun, fitting_shard
from geossl.inference.engine.source import (
    Source,
    check_bands,
    check_periods,
    check_sensors,
    check_times,
    images,
    in_run,
    is_dated,
    note_levels,
    times_of,
)
from geossl.inference.outputs import checksums, raster
from geossl.models.encoder import DenseEncoder, DenseModel
from geossl.models.files import EncoderFile
from geossl.models.kinds import require
from geossl.outputs import check_output, on_disk, remove
from geossl.progress import Progress
from geossl.sensors import SENSORS

SHARD_WINDOWS = 10  # cells per side of a shard of windows; its 100 windows fill batches of 10 without a rest
DTYPES = ("int8", "float16", "float32")
ENCODING = threading.Lock()  # of a process: one shard is encoded while others are read and written


@dataclass(frozen=True)
class MapConfig:
    """How a map is made; see ``geossl.embed_map``."""

    dtype: str | None = None
    scheduler: str = "sync"
    batch_size: int = 10
    shard_cells: int | None = None
    crs: int | None = None
    gsd_m: float | None = None
    precision: str = "fp32"
    valid_share: float = 0.5
    overwrite: bool = False
    reach: int | Literal["own"] | None = "own"
    on_error: str = "stop"

    def encoding(self, plan: Plan) -> EncodeConfig:
        """The part that encoding needs."""
        return EncodeConfig(self.batch_size, plan.metadata["precision"], self.valid_share, workers.device())


@dataclass(frozen=True)
class Work:
    """What a worker needs to make any shard of a map; weights travel as a path."""

    plan: Plan
    source: Source
    encoder: str
    data: Path
    build: BuildFolder
    config: EncodeConfig

    def model(self) -> DenseModel:
        """The encoder, loaded once per process."""
        return loaded(self.encoder, self.plan.metadata["encoder_sha256"], workers.device())

    @property
    def rim(self) -> int:
        """Pixels needed around what is kept."""
        return rim_px(self.model().spec, self.plan.shape, self.plan.phases)


@lru_cache(maxsize=2)
def loaded(path: str, sha256: str, device: str) -> DenseModel:
    """The encoder of a process on a device."""
    encoder = require(DenseModel, EncoderFile.open(path).encoder)
    return encoder if device == "cpu" else copy.deepcopy(encoder).to(device)  # others keep theirs where it is


def embed_map(
    aoi: grid.Aoi, source: Source, encoder: Path, out: Path, progress: Progress | None = None, **settings: Any
) -> list[Path]:
    """Embed a region; see ``geossl.embed_map``. Killed at any time, the same call resumes with the missing shards.

    Returns:
        The map, or one per UTM zone for a region wider than a zone.
    """
    config = MapConfig(**settings)
    planned = plans(aoi, source, encoder, out, config)
    for path, plan in planned.items():
        BuildFolder(path).check(plan, config.overwrite)
        workload = loaded(str(encoder.absolute()), plan.metadata["encoder_sha256"], workers.device())
        estimate.check_memory(plan, workload, config.batch_size, workers.local_count(config.scheduler))
    shards = sum(len(plan.shards) for plan in planned.values())
    before = 0
    for path, plan in planned.items():

        def report(done: int, km2: float, before: int = before) -> None:
            if progress:
                progress(before + done, shards, f"shards, {km2:.1f} km2")

        with on_disk(path):
            make(plan, aoi.name, source, encoder, path, config, report)
        before += len(plan.shards)
    return list(planned)


def dry_run(aoi: grid.Aoi, source: Source, encoder: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    """What ``embed_map`` would do, per UTM zone; nothing is written."""
    config = MapConfig(**settings)
    found = []
    for path, plan in plans(aoi, source, encoder, out, config).items():
        model = loaded(str(encoder.absolute()), plan.metadata["encoder_sha256"], workers.device())
        count = workers.local_count(config.scheduler)
        found.append(estimate.estimate(plan, model, config.encoding(plan), count, path, source))
    return found


def plans(aoi: grid.Aoi, source: Source, encoder: Path, out: Path, config: MapConfig) -> dict[Path, Plan]:
    """Check everything and decide everything; nothing is written.

    Raises:
        InputError: What does not fit, and how to mend it.
    """
    if not BuildFolder(out).finished.exists():
        check_output(out, (".zarr", ".tif"), makes_folder=True)
    dtype = config.dtype or ("float32" if out.suffix == ".tif" else "int8")
    if dtype not in DTYPES or (out.suffix == ".tif" and dtype != "float32"):
        raise InputError(
            f"--dtype {dtype} is not possible in {out.suffix}; use {', '.join(DTYPES)} (.tif: float32 only)"
        )
    sha256 = EncoderFile.open(encoder).sha256
    model = loaded(str(encoder.absolute()), sha256, workers.device())
    before = {} if config.overwrite else begun(out)
    spec, own = model.spec, before.get("reach") if before else model.spec.reach
    reach = own if config.reach == "own" else config.reach
    check_sensors(source.sensors, spec)
    check_periods(source, spec)
    check_times(times := times_of(source, spec), out)
    check_reach(model, reach)
    shape = geometry(spec, reach, begun_halo(spec, before))
    metadata = {
        "encoder_sha256": sha256,
        **shape.describe(),
        "sensors": list(source.sensors),
        "dated": is_dated(source, times),
        "source": source.describe(),
        "precision": workers.precision(config.precision, before.get("precision")),
        "valid_share": config.valid_share,
    }
    check_bands(metadata["source"], spec)
    note_levels(metadata["source"], spec)
    if config.crs is not None:
        grid.check_crs(config.crs, aoi)
    zones = {config.crs: aoi} if config.crs else grid.by_zone(aoi)
    found = {}
    for epsg, part in zones.items():
        lattice = grid.Lattice(epsg, spec.patch_px, spec.gsd_m, shape.cell_px // spec.patch_px)
        area = covered(part, source, epsg)
        path = (
            out if len(zones) == 1 else out.with_suffix("") / f"utm{epsg % 100:02d}{'ns'[epsg // 100 % 2]}{out.suffix}"
        )
        if area.is_empty or area.area == 0:
            continue
        phases = phases_of(spec, config.gsd_m)
        usual = SHARD_WINDOWS if reach is None else fitting_shard(lattice, area, shape.block_cells)
        cells, blocks = config.shard_cells or usual, shape.block_cells
        found[path] = Plan(lattice, area, cells, phases, dtype, metadata, blocks, times)
    if not found:
        raise GridError(outside(aoi, source, next(iter(zones))))
    return found


def make(
    plan: Plan,
    name: str,
    source: Source,
    encoder: Path,
    out: Path,
    config: MapConfig,
    report: Callable[[int, float], None],
) -> None:
    """Carry out a plan, or what is missing of it."""
    build = BuildFolder(out.absolute())
    is_tif = out.suffix == ".tif"
    data = build.path / "store.zarr" if is_tif else out.absolute()
    work = Work(plan, source, str(encoder.absolute()), data, build, config.encoding(plan))
    if not build.begin(plan, config.overwrite):
        store.create(data, plan, work.model().spec)
        build.write(build.plan, plan.to_json())
    is_finished = build.finished.exists() and out.exists()
    lost = checksums.lost_shards(out) if is_finished and not is_tif else {}
    if is_finished and not lost:  # before the lock, which a read-only disk would not take
        return
    with build.lock():
        work = replace(work, source=in_run(source, build.path / "hosts"))
        if lost:
            build.reopen({shard for name, shards in lost.items() if "/" not in name for shard in shards})
        try:
            failed = compute(work, config.scheduler, report)
        except InputError:  # nothing is done yet: leave nothing behind
            if not build.done():
                remove(out)
                remove(build.path)
            raise
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{len(build.done())} of {len(plan.shards)} shards are done; run again to resume"
            ) from None
        places = {shard: (plan.lattice.pixels(*plan.block(shard), 0), why) for shard, why in failed.items()}
        workers.settle(out, places, len(plan.shards), config.on_error)
        complete(work, name, out, set(failed))


def complete(work: Work, name: str, out: Path, failed: Set[Shard]) -> None:
    """Close a map whose shards are all there but those that failed; it stays unfinished if some did.

    Raises:
        InputError: If it holds nothing; nothing is left behind.
    """
    made = dict.fromkeys(("patches", *work.plan.metadata["sensors"]), 0)
    read = partial(work.build.read, totals=made)
    tables, lost = checksums.of_shards(work.data, work.plan.shards, read, failed)
    if lost:
        work.build.reopen(lost)
        raise RunError(f"{len(lost)} finished shards of {work.data} have lost a file; run again to make them anew")
    if not made["patches"] and not failed:
        remove(out)
        remove(work.build.path)
        raise InputError(f"{name} holds no valid pixel in the rasters (all nodata); choose another place or scene")
    for sensor in work.plan.metadata["sensors"]:
        if not made[sensor]:
            text = f"{sensor} has no valid pixel in {name}; the other sensor answers alone"
            warnings.warn(text, Note, stacklevel=4)
    is_store = work.data == out.absolute()
    if is_store and isinstance(work.model(), DenseEncoder):  # classes have no mean
        add_overviews(work.data, work.plan, work.model().spec.dim)
    if is_store:
        checksums.write_sums(work.data, tables)
    store.finish(work.data)
    if not is_store:
        raster.write_cog(work.data, out)
    if not failed:
        if not is_store:
            remove(work.data)
        work.build.write(work.build.finished, {"shards": len(work.plan.shards)})


def compute(work: Work, scheduler: str, report: Callable[[int, float], None]) -> dict[Shard, str]:
    """Run the missing shards and keep those that are made.

    Returns:
        Shards that failed, and why.
    """
    finished = work.build.done()
    wanted = work.plan.tasks(shard for shard in work.plan.shards if shard not in finished)
    done, km2 = len(finished), 0.0
    failed: dict[Shard, str] = {}
    here, steps = scheduler == "sync", (read, encode, finish)
    made = workers.here(work, wanted, *steps) if here else workers.results(scheduler, run_task, work, wanted)
    with closing(made):  # what is being written is written before anything else happens to the map
        for task, error in made:
            if isinstance(error, InputError):
                raise error
            new = [shard for shard in task if not error or work.build.has(shard)]
            failed |= {shard: str(error) for shard in task if shard not in new}
            done, km2 = done + len(new), km2 + sum(map(work.plan.km2, new))
            if new:
                report(done, km2)
    return failed


def run_task(work: Work, task: Task) -> Task:
    """Read, embed and write the shards of a task, unless a worker that was lost had done so."""
    if all(map(work.build.has, task)):
        return task
    finish(work, task, encode(work, task, read(work, task)))
    return task


def read(work: Work, task: Task) -> xr.Dataset:
    """Pixels of a task's blocks and what its windows see around them."""
    started = time.monotonic()
    cube, part = coverage.read(work.source, work.plan, task, work.model())
    return cube.assign_attrs(part=part, read_seconds=round(time.monotonic() - started, 3))


def encode(work: Work, task: Task, cube: xr.Dataset) -> Made:
    """Embed the blocks of a task."""
    model, plan, started, part = work.model(), work.plan, time.monotonic(), cube.attrs["part"]
    config = replace(work.config, device=workers.device())
    with ENCODING:
        found = encode_block(images(cube, model.spec), model, config, plan.asked(task), plan.phases, plan.shape, part)
    looked_at = cube if part is None else coverage.placed(true_colour.needed(cube), part, plan.shape.window_px)
    dates = true_colour.patch_dates(looked_at, found.sensors, work.rim, model.spec.patch_px // plan.phases)
    seen = true_colour.bytes_of(looked_at, plan, work.rim)
    seconds = {"read_seconds": cube.attrs["read_seconds"], "encode_seconds": time.monotonic() - started}
    return Made(found, dates, seen, {name: round(value / len(task), 3) for name, value in seconds.items()})


def finish(work: Work, task: Task, made: Made) -> None:
    """Write the shards of a task, and a receipt of each."""
    plan, layers = work.plan, store.opened(work.data)
    for shards in store.at_once(task):
        first, last = (plan.inside(shard) for shard in (min(shards), max(shards)))
        y, x = (slice(a.start * plan.cell_side, b.stop * plan.cell_side) for a, b in zip(first, last, strict=True))
        dates, seen = None if made.dates is None else made.dates[y, x], true_colour.part(made.seen, plan, y, x)
        started = time.monotonic()
        embeddings, valid, sensors = (layer[..., y, x] for layer in made.found)
        store.write_shards(layers, plan, shards, embeddings, valid, sensors, dates, seen)
        seconds = {**made.seconds, "write_seconds": round((time.monotonic() - started) / len(shards), 3)}
        for shard in shards:
            note(work, layers, shard, made.found, seconds)


def note(work: Work, layers: store.Layers, shard: Shard, found: Encoded, seconds: Mapping[str, float]) -> None:
    """Leave the receipt of a shard that was written, among those of its task that were found."""
    y, x = (slice(s.start * work.plan.cell_side, s.stop * work.plan.cell_side) for s in work.plan.inside(shard))
    sensors, valid = found.sensors[y, x], found.valid[y, x]
    receipt = {
        "patches": int((sensors > 0).sum()),
        "fed": {name: int((sensors & SENSORS[name].flag > 0).sum()) for name in work.plan.metadata["sensors"]},
        "valid_percent": round(float(valid.mean()), 2),
        "files": checksums.sums_of(work.data, shard, store.with_sums(layers)),
        **seconds,
    }
    work.build.write(work.build.marker(shard), receipt)
