"""What an encoder costs here: images per second, operations, parameters, memory, energy where the machine tells."""

import contextlib
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from geossl.evaluation.features import device_of, embedder_of
from geossl.models.encoder import Encoder

LEAST_S, MOST_RUNS = 1.0, 20  # of measuring, after one batch to warm up
COUNTER = Path("/sys/class/powercap/intel-rapl:0")  # of the processor's first package, in microjoules


@dataclass(frozen=True)
class Cost:
    """What was measured, on images that lie in memory.

    Args:
        device: ``cpu`` or the GPU's name.
        batch_size: Images at a time.
        images_per_s: By the median batch.
        gflop: Floating-point operations of one image, in 1e9; a multiplication and an addition are two.
        parameters_m: In millions.
        memory_gb: Most of the GPU while measuring; on a CPU most of this process so far.
        wh_per_1000: Watt-hours of 1000 images, of the GPU or of the processor; None where the machine does not tell.
    """

    device: str
    batch_size: int
    images_per_s: float
    gflop: float
    parameters_m: float
    memory_gb: float
    wh_per_1000: float | None

    def __str__(self) -> str:
        """In one line."""
        energy = "" if self.wh_per_1000 is None else f", {self.wh_per_1000:.3g} Wh per 1000 images"
        of = "of this process" if self.device == "cpu" else "of the GPU"
        return (
            f"{self.images_per_s:.3g} images/s ({self.device}, {self.batch_size} at a time), {self.gflop:.3g} GFLOP an "
            f"image, {self.parameters_m:.3g} M parameters, {self.memory_gb:.2g} GB {of}{energy}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@torch.inference_mode()
def cost_of(encoder: Encoder, items: Sequence[Mapping[str, Tensor]]) -> Cost:
    """Measure an encoder on a batch.

    Args:
        encoder: On its device.
        items: The batch, as the encoder takes it.
    """
    embed, device = embedder_of(encoder), device_of(encoder)
    with FlopCounterMode(display=False) as counter:
        embed(encoder, items[:1])
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    embed(encoder, items)
    seconds: list[float] = []
    before, watts = joules(), 0.0
    while len(seconds) < 2 or (sum(seconds) < LEAST_S and len(seconds) < MOST_RUNS):
        started = time.perf_counter()
        embed(encoder, items)
        if is_gpu:
            torch.cuda.synchronize(device)
            watts = max(watts, gpu_watts(device))
        seconds.append(time.perf_counter() - started)
    after = joules()
    used = watts * sum(seconds) if is_gpu else after - before if before and after and after > before else 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # of the process's peak
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Cost(
        device=torch.cuda.get_device_name(device) if is_gpu else "cpu",
        batch_size=len(items),
        images_per_s=round(len(items) / median(seconds), 3),
        gflop=round(counter.get_total_flops() / 1e9, 6),
        parameters_m=round(sum(x.numel() for x in encoder.parameters()) / 1e6, 6),
        memory_gb=round((torch.cuda.max_memory_allocated(device) if is_gpu else process) / 1e9, 3),
        wh_per_1000=round(used / 3600 / len(items) / len(seconds) * 1000, 6) if used else None,
    )


def joules() -> float | None:
    """Energy the processor has used so far; None where it is not told, or not to us."""
    with contextlib.suppress(OSError, ValueError):
        return int((COUNTER / "energy_uj").read_text()) / 1e6
    return None


def gpu_watts(device: torch.device) -> float:
    """Power the GPU draws; 0 where it is not told."""
    with contextlib.suppress(Exception):  # needs NVML, which has errors of its own
        return float(torch.cuda.power_draw(device)) / 1000
    return 0.0
