"""Estimate what a map takes before work starts: memory per worker, bytes, time."""

import os
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from geossl.errors import InputError
from geossl.inference.engine.encode import EncodeConfig, rim_px
from geossl.inference.engine.plan import Plan
from geossl.models.encoder import DenseModel, DenseSpec

PROCESS_BYTES = 600e6  # Python, torch and GDAL by themselves
FLOAT = 4
SHARDS_READ = 2  # one is encoded while the next is read
STORED_COPIES = 3  # embeddings, their stored form, the codec's buffer
LAYER_COPIES = 14  # of a window's tokens alive at once: qkv, attention, feed-forward
STORED = {"int8": 1, "float16": 2, "float32": 4}


def worker_bytes(plan: Plan, encoder: DenseModel, batch_size: int) -> float:
    """Peak memory of one worker; depends on the shard, never on the map."""
    spec = encoder.spec
    weights = sum(x.numel() * x.element_size() for x in encoder.state_dict().values())
    side = min(plan.shard_cells, max(plan.extent[2:]))
    pixels = (side * plan.lattice.cell_patches * spec.patch_px + 2 * rim_px(spec, plan.phases)) ** 2 * bands(plan, spec)
    embeddings = (side * plan.cell_side) ** 2 * spec.dim
    tokens = (spec.window_px // spec.patch_px) ** 2
    heads = int(spec.arguments.get("heads", 0))
    activations = batch_size * tokens * spec.dim * LAYER_COPIES + heads * tokens**2 * 2
    return PROCESS_BYTES + weights + FLOAT * (pixels * (SHARDS_READ + 1) + embeddings * STORED_COPIES + activations)


def bands(plan: Plan, spec: DenseSpec) -> int:
    """Bands that are read."""
    return sum(len(spec.sensors[name].bands) for name in plan.metadata["sensors"])


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
    return Plan(plan.lattice, plan.area, shard_cells, plan.phases, plan.dtype, plan.metadata)


@torch.inference_mode()
def seconds_per_window(encoder: DenseModel, sensors: list[str], config: EncodeConfig) -> float:
    """Time of one window here, measured on a batch of blank ones."""
    spec = encoder.spec
    images = {
        name: torch.zeros(config.batch_size, len(spec.sensors[name].bands), spec.window_px, spec.window_px)
        for name in sensors
    }
    images = {name: x.to(config.device) for name, x in images.items()}
    with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.precision == "bf16"):
        encoder.tokens(images)
        start = time.perf_counter()
        encoder.tokens(images).cpu()
    return (time.perf_counter() - start) / config.batch_size


def count_of(inputs: list[Any]) -> int:
    """Files or scenes; one that was chosen for several parts of the region counts once."""
    return len({str(scene.get("id", scene)) if isinstance(scene, dict) else str(scene) for scene in inputs})


def estimate(plan: Plan, encoder: DenseModel, config: EncodeConfig, workers: int, out: Path) -> dict[str, Any]:
    """What ``geossl embed --dry-run`` prints.

    Time is the model's on this machine with all its cores; reading is not in it.
    """
    spec, cell = encoder.spec, plan.lattice.cell_patches * plan.lattice.patch_px
    windows = sum(int(plan.cells(shard).sum()) for shard in plan.shards)
    side = plan.shard_cells * cell
    halo = ((side + 2 * rim_px(spec, plan.phases)) / side) ** 2
    stored = spec.dim * STORED[plan.dtype] + 6
    return {
        "out": str(out),
        "crs": f"EPSG:{plan.lattice.epsg}",
        "area_km2": round(plan.area.area / 1e6, 1),
        "computed_km2": round(windows * (plan.lattice.cell_m / 1000) ** 2, 1),
        "cell_m": plan.geobox.resolution.x,
        "sensors": plan.metadata["sensors"],
        "inputs": {name: count_of(plan.metadata["source"][name]) for name in plan.metadata["sensors"]},
        "shards": len(plan.shards),
        "windows": windows * plan.phases**2,
        "read_mb": round(windows * cell**2 * halo * bands(plan, spec) * 2 / 1e6, 1),
        "write_mb": round(windows * plan.cell_side**2 * stored / 1e6, 1),
        "memory_per_worker_gb": round(worker_bytes(plan, encoder, config.batch_size) / 1e9, 2),
        "workers": workers,
        "encode_seconds": round(
            windows * plan.phases**2 * seconds_per_window(encoder, plan.metadata["sensors"], config)
        ),
        "cores": os.cpu_count(),
    }
