"""A block of pixels with margin, and an encoder, to embeddings: windows on the lattice, each keeping its middle."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from geossl.models.encoder import DenseEncoder

Job = tuple[int, int, dict[str, np.ndarray]]  # row and column of a cell, and the patches that are fed by sensor


@dataclass(frozen=True)
class EncodeConfig:
    """How windows are run; none of it but ``valid_share`` and ``precision`` changes a value.

    Args:
        batch_size: Windows per forward pass.
        precision: ``fp32`` or ``bf16`` (autocast).
        valid_share: Share of usable pixels from which a patch is fed to the encoder.
        device: Where to run.
    """

    batch_size: int = 8
    precision: str = "fp32"
    valid_share: float = 0.5
    device: str = "cpu"


@torch.inference_mode()
def encode_block(
    images: Mapping[str, Float[np.ndarray, "_ h w"]],
    encoder: DenseEncoder,
    config: EncodeConfig,
    cells: Bool[np.ndarray, "rows columns"] | None = None,
) -> tuple[Float[np.ndarray, "d gh gw"], UInt8[np.ndarray, "gh gw"]]:
    """Embed a block of lattice cells.

    Windows are taken cell by cell from the block's corner. A patch comes from exactly one window, the one whose middle
    it lies in. Windows without a usable patch are not run. Wholly usable ones run in batches that are always filled up
    to ``batch_size``, the others one by one, so that a result does not depend on how many there are.

    Args:
        images: By sensor, physical units, NaN = not usable; whole cells plus the encoder's margin on every side.
        encoder: In evaluation mode.
        config: Batch size, precision, validity.
        cells: Cells to embed; the others stay empty and cost nothing. All by default.

    Returns:
        Embeddings, NaN where a patch has none, and the percentage of usable pixels per patch, over all sensors.
    """
    spec = encoder.spec
    window, margin, patch = spec.window_px, spec.margin_px, spec.patch_px
    keep = (window - 2 * margin) // patch
    h, w = next(iter(images.values())).shape[-2:]
    rows, columns = ((side - 2 * margin) // (keep * patch) for side in (h, w))
    shares = {name: usable_share(x, patch) for name, x in images.items()}
    edge = margin // patch
    out = np.full((spec.dim, rows * keep, columns * keep), np.nan, dtype=np.float32)
    cells = np.ones((rows, columns), dtype=bool) if cells is None else cells
    whole, partly = [], []
    for r, c in np.argwhere(cells).tolist():
        seen = np.s_[r * keep : r * keep + window // patch, c * keep : c * keep + window // patch]
        kept = {name: share[seen] >= config.valid_share for name, share in shares.items()}
        if all(k.all() for k in kept.values()):
            whole.append((r, c, kept))
        elif all(k.any() for k in kept.values()):
            partly.append((r, c, kept))
    for batch in [*batches(whole, config.batch_size), *batches(partly, 1)]:
        for (r, c, _), token in zip(batch, run(images, batch, encoder, config), strict=True):
            middle = token[edge : edge + keep, edge : edge + keep].transpose(2, 0, 1)
            out[:, r * keep : (r + 1) * keep, c * keep : (c + 1) * keep] = middle
    inner = np.minimum.reduce(list(shares.values()))
    inner = inner[edge : edge + rows * keep, edge : edge + columns * keep]
    inner = inner * np.kron(cells, np.ones((keep, keep), dtype=np.float32))
    return out, np.round(100 * inner).astype(np.uint8)


def batches(jobs: list[Job], size: int) -> list[list[Job]]:
    """Lists of exactly ``size`` jobs; the last one is filled up by repeating its last job."""
    cut = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    return [batch + [batch[-1]] * (size - len(batch)) for batch in cut]


def run(
    images: Mapping[str, np.ndarray],
    jobs: list[Job],
    encoder: DenseEncoder,
    config: EncodeConfig,
) -> Float[np.ndarray, "b gh gw d"]:
    """Cut windows, encode, bring back."""
    spec = encoder.spec
    step = spec.window_px - 2 * spec.margin_px

    def cut(x: np.ndarray, r: int, c: int) -> np.ndarray:
        return x[:, r * step : r * step + spec.window_px, c * step : c * step + spec.window_px]

    def batch(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).to(config.device)

    pixels = {name: batch([cut(x, r, c) for r, c, _ in jobs]) for name, x in images.items()}
    kept = {name: batch([k[name] for *_, k in jobs]) for name in images}
    with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.precision == "bf16"):
        return encoder.tokens(pixels, kept).float().cpu().numpy()


def usable_share(x: Float[np.ndarray, "c h w"], patch: int) -> Float[np.ndarray, "gh gw"]:
    """Share of pixels of every patch where all bands are finite."""
    good = np.isfinite(x).all(axis=0)
    h, w = good.shape
    return good.reshape(h // patch, patch, w // patch, patch).mean(axis=(1, 3), dtype=np.float32)
