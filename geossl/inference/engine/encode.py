"""A block of pixels with a rim, and an encoder, to embeddings: windows on the lattice, each keeping its middle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from geossl.errors import GridError
from geossl.models.encoder import DenseModel, DenseSpec
from geossl.sensors import JOINT_FLAG, SENSORS

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

    batch_size: int = 10
    precision: str = "fp32"
    valid_share: float = 0.5
    device: str = "cpu"


class Encoded(NamedTuple):
    """What is known of a block, per patch.

    Attributes:
        embeddings: NaN where a patch has none.
        valid: Percentage of usable pixels, of the sensor with fewer if both were fed; 0 = no embedding.
        sensors: What the embedding was made from: sum of the flags of ``SENSORS`` and ``JOINT_FLAG``; 0 = no embedding.
    """

    embeddings: Float[np.ndarray, "d gh gw"]
    valid: UInt8[np.ndarray, "gh gw"]
    sensors: UInt8[np.ndarray, "gh gw"]


def phases_of(spec: DenseSpec, gsd_m: float | None) -> int:
    """How many times finer than a patch a map is, per axis: 1 by default; 2 and 4 cost 4 and 16 times as much.

    Raises:
        GridError: If shifted windows would not lie on whole pixels.
    """
    if gsd_m is not None and not gsd_m > 0:
        raise GridError(f"--gsd {gsd_m:g} is no cell size; it must be positive, such as {spec.patch_m:g} m")
    phases = spec.patch_m / (gsd_m or spec.patch_m)
    if phases != 1 and (phases % 1 or phases < 1 or spec.patch_px % (2 * phases)):
        finer = [spec.patch_m / n for n in range(2, spec.patch_px) if spec.patch_px % (2 * n) == 0]
        known = ", ".join(f"{gsd:g}" for gsd in [spec.patch_m, *finer])
        raise GridError(f"a map of {spec.name} cannot have cells of {gsd_m:g} m; possible are {known} m")
    return int(phases)


def rim_px(spec: DenseSpec, phases: int) -> int:
    """Pixels a block needs around its cells: the windows' margin, and how far windows are shifted."""
    return spec.margin_px + (spec.patch_px // 2 if phases > 1 else 0)


@torch.inference_mode()
def encode_block(
    images: Mapping[str, Float[np.ndarray, "_ h w"]],
    encoder: DenseModel,
    config: EncodeConfig,
    cells: Bool[np.ndarray, "rows columns"] | None = None,
    phases: int = 1,
) -> Encoded:
    """Embed a block of lattice cells.

    Windows are taken cell by cell from the block's corner. A patch comes from exactly one window, the one whose middle
    it lies in. Windows without a usable patch are not run; a sensor without one is left out of its window. Wholly
    usable windows run in batches that are always filled up to ``batch_size``, the others one by one, so that a result
    does not depend on how many there are.

    Args:
        images: By sensor, physical units, NaN = not usable; whole cells plus ``rim_px`` on every side.
        encoder: In evaluation mode.
        config: Batch size, precision, validity.
        cells: Cells to embed; the others stay empty and cost nothing. All by default.
        phases: Finer cells per patch and axis, each the encoding of a patch-sized square around its own centre.
    """
    if phases == 1:
        return encode_phase(images, encoder, config, cells)
    patch = encoder.spec.patch_px
    reach = patch // 2
    finer: dict[str, np.ndarray] = {}
    for i, j in np.ndindex(phases, phases):
        top, left = (reach + (2 * k + 1 - phases) * patch // (2 * phases) for k in (i, j))
        shifted = {
            name: x[:, top : x.shape[1] - 2 * reach + top, left : x.shape[2] - 2 * reach + left]
            for name, x in images.items()
        }
        for layer, found in encode_phase(shifted, encoder, config, cells)._asdict().items():
            shape = (*found.shape[:-2], *(phases * n for n in found.shape[-2:]))
            finer.setdefault(layer, np.zeros(shape, found.dtype))[..., i::phases, j::phases] = found
    return Encoded(**finer)


def encode_phase(
    images: Mapping[str, Float[np.ndarray, "_ h w"]],
    encoder: DenseModel,
    config: EncodeConfig,
    cells: Bool[np.ndarray, "rows columns"] | None,
) -> Encoded:
    """The same for unshifted windows."""
    spec = encoder.spec
    window, margin, patch = spec.window_px, spec.margin_px, spec.patch_px
    keep, edge = (window - 2 * margin) // patch, margin // patch
    h, w = next(iter(images.values())).shape[-2:]
    rows, columns = ((side - 2 * margin) // (keep * patch) for side in (h, w))
    shares = {name: usable_share(x, patch) for name, x in images.items()}
    shape = (rows * keep, columns * keep)
    out = Encoded(np.full((spec.dim, *shape), np.nan, np.float32), np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
    middle = np.s_[edge : edge + keep, edge : edge + keep]
    whole: dict[tuple[str, ...], list[Job]] = {}
    partly: list[Job] = []
    for r, c in np.argwhere(np.ones((rows, columns)) if cells is None else cells).tolist():
        seen = np.s_[r * keep : r * keep + window // patch, c * keep : c * keep + window // patch]
        share = {name: s[seen] for name, s in shares.items() if (s[seen] >= config.valid_share).any()}
        kept = {name: s >= config.valid_share for name, s in share.items()}
        cell = np.s_[r * keep : (r + 1) * keep, c * keep : (c + 1) * keep]
        out.valid[cell], out.sensors[cell] = made_from({n: s[middle] for n, s in share.items()}, config.valid_share)
        if out.sensors[cell].any():
            is_whole = all(k.all() for k in kept.values())
            (whole.setdefault(tuple(kept), []) if is_whole else partly).append((r, c, kept))
    full = [batch for jobs in whole.values() for batch in batches(jobs, config.batch_size)]
    for batch in [*full, *batches(partly, 1)]:
        for (r, c, _), token in zip(batch, run(images, batch, encoder, config), strict=True):
            out.embeddings[:, r * keep : (r + 1) * keep, c * keep : (c + 1) * keep] = token[middle].transpose(2, 0, 1)
    return out


def made_from(
    shares: Mapping[str, Float[np.ndarray, "gh gw"]], valid_share: float
) -> tuple[UInt8[np.ndarray, "gh gw"] | int, UInt8[np.ndarray, "gh gw"] | int]:
    """Percentage of usable pixels and sensor flags per patch; the joint encoder answers where the first sensor is."""
    if not shares:
        return 0, 0
    fed = {name: share >= valid_share for name, share in shares.items()}
    flags = np.add.reduce([SENSORS[name].flag * f.astype(np.uint8) for name, f in fed.items()])
    if len(fed) > 1:
        first = next(name for name in SENSORS if name in fed)  # the joint encoder's tokens are this sensor's
        flags = flags + JOINT_FLAG * fed[first].astype(np.uint8)
    least = np.minimum.reduce([np.where(fed[name], share, 1) for name, share in shares.items()])
    return np.round(100 * np.where(flags > 0, least, 0)).astype(np.uint8), flags.astype(np.uint8)


def batches(jobs: list[Job], size: int) -> list[list[Job]]:
    """Lists of exactly ``size`` jobs; the last one is filled up by repeating its last job."""
    cut = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    return [batch + [batch[-1]] * (size - len(batch)) for batch in cut]


def run(
    images: Mapping[str, np.ndarray],
    jobs: list[Job],
    encoder: DenseModel,
    config: EncodeConfig,
) -> Float[np.ndarray, "b gh gw d"]:
    """Cut windows of the sensors these jobs feed, encode, bring back."""
    spec = encoder.spec
    step = spec.window_px - 2 * spec.margin_px

    def cut(x: np.ndarray, r: int, c: int) -> np.ndarray:
        return x[:, r * step : r * step + spec.window_px, c * step : c * step + spec.window_px]

    def batch(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).to(config.device)

    names = jobs[0][2]
    pixels = {name: batch([cut(images[name], r, c) for r, c, _ in jobs]) for name in names}
    kept = {name: batch([k[name] for *_, k in jobs]) for name in names}
    with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.precision == "bf16"):
        return encoder.tokens(pixels, kept).float().cpu().numpy()


def usable_share(x: Float[np.ndarray, "c h w"], patch: int) -> Float[np.ndarray, "gh gw"]:
    """Share of pixels of every patch where all bands are finite."""
    good = np.isfinite(x).all(axis=0)
    h, w = good.shape
    return good.reshape(h // patch, patch, w // patch, patch).mean(axis=(1, 3), dtype=np.float32)
