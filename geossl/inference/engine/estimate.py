"""Estimate what a map takes before work starts: memory per worker, bytes, time."""

import os
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import shapely
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from odc.geo.geobox import GeoBox

from geossl.errors import InputError, RunError
from geossl.inference.engine import true_colour
from geossl.inference.engine.coverage import read_boxes
from geossl.inference.engine.encode import EncodeConfig, rim_px, usable_shares
from geossl.inference.engine.geometry import Geometry
from geossl.inference.engine.plan import Plan
from geossl.inference.engine.source import OnlySensors, Source, image_at, images
from geossl.inference.engine.store import at_once, hull
from geossl.models.encoder import DenseModel, DenseSpec, LocalModel
from geossl.models.layers.local_attention import TILE
from geossl.models.layers.tiles import GROUP

PROCESS_BYTES = 600e6  # Python, torch and GDAL by themselves
FLOAT = 4
TRIED = ((2, 4), (4, 4), (4, 8))  # tiles per side of blocks that are timed: whole groups, as long as it is short
TRIED_S = 0.4  # seconds after which no larger block is timed
SHARDS_READ = 2  # one is encoded while the next is read
STORED_COPIES = 3  # of a shard: embeddings, their stored form, the codec's buffer
LAYER_COPIES = 14  # of a window's tokens alive at once: qkv, attention, feed-forward
PIXEL_COPIES = 7  # of a block's pixels alive at once: read, filled, scaled, clipped, in patches
STREAM_COPIES = 12  # of a block's tokens: three streams, keys and values of two, what comes out
SERIES_PX = 16  # side of the square of series that is timed
SERIES = 7 * 256  # tokens per date of the series of pixels that run at once: seven band groups each
LOOKS = 3  # reaches around wanted patches that the layers of an encoder see on average, of which no more is known
READ_PX = 1024  # side of the square whose reading is timed
MAP_S = 1.2  # what a map takes at any size: its files are looked at, a store is made and closed; by the same
SHARD_S, CELL_S, BYTE_S = 8e-3, 1.5e-3, 4e-9  # what writing takes, by one small map on a local disk
STORED = {"int8": 1, "float16": 2, "float32": 4}


def worker_bytes(plan: Plan, encoder: DenseModel, batch_size: int) -> float:
    """Peak memory of one worker; depends on the shard, never on the map."""
    spec, shape = encoder.spec, plan.shape
    weights = sum(x.numel() * x.element_size() for x in encoder.state_dict().values())
    read = max(max(plan.blocks(shard)[2:]) for shard in plan.shards) * shape.cell_px
    reads = 1 + tasks_up_to(plan, SHARDS_READ)
    pixels = (read + 2 * rim_px(spec, shape, plan.phases)) ** 2 * bands(plan, spec)
    found = (read // shape.cell_px * plan.cell_side) ** 2 * (1 + (plan.phases > 1) / plan.phases**2)  # and a finer part
    tasks = [group for task in plan.tasks(plan.shards) for group in at_once(task)]
    kept = max(np.prod(hull(plan, shards)[2:]) for shards in tasks) * plan.cell_side**2
    embeddings = (found + kept * (STORED_COPIES - 1)) * spec.dim
    heads = int(spec.arguments.get("heads", 0))
    if spec.dates > 1:
        activations: float = SERIES * spec.dates * spec.dim * LAYER_COPIES + batch_size * shape.window_px**2 * (
            bands(plan, spec) + spec.dim
        )
    elif shape.reach is None:
        tokens = (shape.window_px // spec.patch_px) ** 2
        activations = batch_size * tokens * spec.dim * LAYER_COPIES + heads * tokens**2 * 2
    else:
        keys, rows = (TILE + 2 * shape.reach) ** 2, GROUP * TILE**2
        group = rows * (LAYER_COPIES * spec.dim + heads * keys) + GROUP * keys * 2 * spec.dim
        activations = shape.window_px**2 * (
            bands(plan, spec) * PIXEL_COPIES + spec.dim * STREAM_COPIES / spec.patch_px**2
        )
        activations += group
    return PROCESS_BYTES + weights + FLOAT * (pixels * reads + embeddings + activations)


def tasks_up_to(plan: Plan, most: int) -> int:
    """Number of a map's tasks, or ``most``; of a million only so many are looked at."""
    found = set()
    for shard in plan.shards:
        found.add((*shard[:-2], *plan.blocks(shard)))
        if len(found) == most:
            break
    return len(found)


def bands(plan: Plan, spec: DenseSpec) -> int:
    """Bands that are read, over all dates."""
    return sum(spec.channels(name) for name in plan.metadata["sensors"])


def check_memory(plan: Plan, encoder: DenseModel, batch_size: int, workers: int) -> None:
    """Refuse what cannot fit on this machine: an out-of-memory kill would leave no message.

    Raises:
        InputError: Gives the need, what there is, and the largest shard that fits.
    """
    free = psutil.virtual_memory().available / workers
    need = worker_bytes(plan, encoder, batch_size)
    if need <= free:
        return
    fitting = next((n for n in range(plan.shard_cells, 0, -1) if worker_bytes(smaller(plan, n), encoder, 1) <= free), 0)
    hint = f"--shard-cells {fitting} --batch-size 1 would fit" if fitting else "use fewer workers or a smaller encoder"
    raise InputError(
        f"{workers} worker(s) would need {need / 1e9:.1f} GB each, and {free / 1e9:.1f} GB each are available; {hint}"
    )


def smaller(plan: Plan, shard_cells: int) -> Plan:
    """The plan with other shards."""
    return replace(plan, shard_cells=shard_cells)


@torch.inference_mode()
def encode_seconds(plan: Plan, encoder: DenseModel, config: EncodeConfig) -> float:
    """Time the model takes for a map here, measured on blank pixels: a batch of windows, or a small block."""
    spec, shape = encoder.spec, plan.shape
    if shape.reach is not None:
        return plan.phases**2 * local_seconds(plan, encoder, config)
    counts, side = (1, config.batch_size), shape.window_px
    if spec.dates > 1:  # a pixel takes as long as a patch elsewhere
        counts, side = (1, 1), min(side, SERIES_PX)
    per_window = 0.0
    for count in counts:  # the first call is also the warm-up of the second
        per_window = timed(plan, encoder, config, (count, side, side)) / count
        if per_window > TRIED_S:
            break
    windows = plan.phases**2 * sum(int(plan.cells(shard).sum()) for shard in plan.shards)
    return windows * per_window * (shape.window_px / side) ** 2


def timed(plan: Plan, encoder: DenseModel, config: EncodeConfig, size: tuple[int, int, int]) -> float:
    """Seconds of one call on blank images, so many of such a height and width."""
    count, height, width = size
    images = {name: torch.zeros(count, encoder.spec.channels(name), height, width) for name in plan.metadata["sensors"]}
    images = {name: x.to(config.device) for name, x in images.items()}
    reach = plan.shape.reach
    with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.precision == "bf16"):
        start = time.perf_counter()
        if reach is None:
            encoder.tokens(images).cpu()
        else:
            assert isinstance(encoder, LocalModel)
            encoder.local_tokens(images, None, reach).cpu()
        return time.perf_counter() - start


def local_seconds(plan: Plan, encoder: DenseModel, config: EncodeConfig) -> float:
    """Time of all blocks: layers are computed by groups of tiles, which all take about as long."""
    layers, side = layers_of(encoder, plan.metadata["sensors"]), TILE * encoder.spec.patch_px
    per_group = 0.0
    for rows, columns in TRIED:
        seconds = timed(plan, encoder, config, (1, rows * side, columns * side))
        per_group = seconds / (rows * columns / GROUP) / sum(cost for _, cost in layers)
        if seconds > TRIED_S:
            break
    return per_group * sum(cost * count for (_, cost), count in zip(layers, groups_of(plan, layers), strict=True))


def layers_of(encoder: DenseModel, sensors: Collection[str]) -> list[tuple[int, float]]:
    """Layers of local attention: reaches around wanted patches that each is computed for, and its cost."""
    inner: Any = encoder
    while not hasattr(inner, "local_layers"):  # what is built around an encoder holds it
        inner = getattr(inner, "encoder", None)
        if inner is None:
            return [(LOOKS, 1.0)]
    found: list[tuple[int, float]] = inner.local_layers(sensors)
    return found


def groups_of(plan: Plan, layers: Collection[tuple[int, float]]) -> list[int]:
    """Groups of tiles that are computed for a map, layer by layer."""
    shape, n = plan.shape, plan.shape.block_cells
    assert shape.reach is not None
    around = [-(-looks * shape.reach // TILE) for looks, _ in layers]  # tiles on every side
    blocks: Counter[bytes] = Counter()
    for task in plan.tasks(plan.shards):
        wanted = plan.asked(task)
        for r, c in np.ndindex(wanted.shape[0] // n, wanted.shape[1] // n):
            blocks[wanted[r * n : (r + 1) * n, c * n : (c + 1) * n].tobytes()] += 1
    total = np.zeros(len(around), int)
    for cells, count in blocks.items():  # most are alike: all of a block is wanted
        tiles = tiles_of(np.frombuffer(cells, bool).reshape(n, n), shape, plan.lattice.patch_px)
        seen = [int(F.max_pool2d(tiles, 2 * k + 1, stride=1, padding=k).sum()) for k in around]
        total += count * -(-np.array(seen) // GROUP)
    return total.tolist()


def tiles_of(cells: Bool[np.ndarray, "n n"], shape: Geometry, patch_px: int) -> Float[torch.Tensor, "1 ty tx"]:
    """Which tiles of a block and its halo hold a wanted patch."""
    side, halo = shape.cell_px // patch_px, shape.halo_px // patch_px
    patches = np.pad(cells.repeat(side, 0).repeat(side, 1), halo)
    rest = -len(patches) % TILE
    tiles = np.pad(patches, (0, rest)).reshape(-(-len(patches) // TILE), TILE, -1, TILE).any(axis=(1, 3))
    return torch.from_numpy(np.asarray(tiles, np.float32)[None])


def count_of(inputs: list[Any]) -> int:
    """Files or scenes; one that was chosen for several parts of the region counts once."""
    return len({str(scene.get("id", scene)) if isinstance(scene, dict) else str(scene) for scene in inputs})


def read_seconds(plan: Plan, encoder: DenseModel, source: Source) -> float | None:
    """Time that reading takes here, and all else that is done pixel by pixel; None for scenes of a catalogue.

    It is measured on a square in the middle of the region.

    A catalogue's scenes are composed of several dates, which would take longer than a dry run may.
    """
    inner = source.source if isinstance(source, OnlySensors) else source
    if callable(getattr(inner, "in_run", None)):
        return None
    boxes, spec = read_boxes(plan, encoder), encoder.spec
    most = max(boxes, key=lambda box: min(box.shape))
    side = min(READ_PX, *most.shape)
    middle = most[tuple(slice((n - side) // 2, (n + side) // 2) for n in most.shape)]
    try:
        start = time.perf_counter()
        cube = image_at(source, middle, plan.time(plan.shards[0]))
        usable_shares(images(cube, spec), spec)
        true_colour.bytes_of(cube, plan, 0)
        taken = time.perf_counter() - start
    except RunError:  # what a host does not give now may be there later
        return None
    known = shapely.union_all(list(source.footprints(plan.lattice.epsg).values()))
    return taken / side**2 * sum(px_within(box, known) for box in boxes)


def px_within(box: GeoBox, area: shapely.Geometry) -> float:
    """Pixels of a grid that lie in an area; the others are not read."""
    return box.extent.geom.intersection(area).area / abs(box.resolution.x * box.resolution.y)


def write_seconds(plan: Plan, stored_bytes: int) -> float:
    """Time that writing takes: what a map, a shard, a cell and a byte cost, on a disk that is not the bottleneck."""
    cells = sum(int(plan.cells(shard).sum()) for shard in plan.shards)
    return MAP_S + len(plan.shards) * SHARD_S + cells * CELL_S + stored_bytes * BYTE_S


def shown(seconds: float) -> int | float:
    """Seconds as precise as they are known."""
    return round(seconds) if seconds >= 10 else round(seconds, 1)


def estimate(
    plan: Plan, encoder: DenseModel, config: EncodeConfig, workers: int, out: Path, source: Source
) -> dict[str, Any]:
    """What ``geossl embed --dry-run`` prints.

    Times are of this machine with all its cores. ``seconds`` is all of it but the start of the program: reading and
    writing go on beside the model, on other cores where there are some.
    """
    spec, cell = encoder.spec, plan.lattice.cell_patches * plan.lattice.patch_px
    windows = sum(int(plan.cells(shard).sum()) for shard in plan.shards)
    side = plan.shard_cells * cell
    shape = plan.shape
    halo = ((side + 2 * rim_px(spec, shape, plan.phases)) / side) ** 2
    stored = spec.dim * STORED[plan.dtype] + 6
    computed, seconds = windows * (plan.lattice.cell_m / 1000) ** 2, encode_seconds(plan, encoder, config)
    write_bytes = windows * plan.cell_side**2 * stored
    reading = read_seconds(plan, encoder, source)
    beside = ((reading or 0.0) + write_seconds(plan, write_bytes)) / torch.get_num_threads()
    return {
        "out": str(out),
        "crs": f"EPSG:{plan.lattice.epsg}",
        "area_km2": round(plan.area.area / 1e6, 1),
        "computed_km2": round(computed, 1),
        "cell_m": plan.geobox.resolution.x,
        "sensors": plan.metadata["sensors"],
        "inputs": {name: count_of(plan.metadata["source"][name]) for name in plan.metadata["sensors"]},
        "shards": len(plan.shards),
        "attention": "whole windows" if shape.reach is None else f"{shape.reach} patches around each patch",
        "windows": windows * plan.phases**2,
        "read_mb": round(windows * cell**2 * halo * bands(plan, spec) * 2 / 1e6, 1),
        "write_mb": round(write_bytes / 1e6, 1),
        "memory_per_worker_gb": round(worker_bytes(plan, encoder, config.batch_size) / 1e9, 2),
        "workers": workers,
        "precision": config.precision,
        "encode_seconds": shown(seconds),
        "read_seconds": "not measured: scenes of a catalogue" if reading is None else shown(reading),
        "seconds": shown(seconds + beside),
        "seconds_per_km2": float(f"{seconds / computed:.3g}") if computed else 0.0,
        "cores": os.cpu_count(),
    }
