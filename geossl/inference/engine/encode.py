"""A block of pixels with a halo, and an encoder, to embeddings: squares on the lattice, each keeping its middle.

The squares are windows, seen whole, or large blocks whose tokens attend only to what lies around them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from geossl.errors import GridError
from geossl.inference.engine.geometry import Geometry, own_geometry
from geossl.models.encoder import DenseModel, DenseSpec, LocalModel
from geossl.models.layers.local_attention import TILE, within_reach
from geossl.sensors import JOINT_FLAG, SENSORS

Part = tuple[slice, slice]  # rows and columns of pixels
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


class Made(NamedTuple):
    """What is written of the blocks of a task.

    Attributes:
        found: Embeddings, validity, sensors.
        dates: Day of every patch; None if the source has no dates.
        seen: The true colour picture; None without optical pixels.
        seconds: Of a shard, for its receipt.
    """

    found: Encoded
    dates: np.ndarray | None
    seen: np.ndarray | None
    seconds: dict[str, float]


def phases_of(spec: DenseSpec, gsd_m: float | None) -> int:
    """How many times finer than a patch a map is, per axis: 1 by default; 2 and 4 cost 4 and 16 times as much.

    Raises:
        GridError: If shifted windows would not lie on whole pixels.
    """
    if gsd_m is not None and not gsd_m > 0:
        raise GridError(f"--gsd {gsd_m:g} is not a cell size; it must be positive, such as {spec.patch_m:g} m")
    phases = spec.patch_m / (gsd_m or spec.patch_m)
    if phases != 1 and (phases % 1 or phases < 1 or spec.patch_px % (2 * phases)):
        finer = [spec.patch_m / n for n in range(2, spec.patch_px) if spec.patch_px % (2 * n) == 0]
        known = ", ".join(f"{gsd:g}" for gsd in [spec.patch_m, *finer])
        raise GridError(f"a map of {spec.name} cannot have cells of {gsd_m:g} m; possible are {known} m")
    return int(phases)


def rim_px(spec: DenseSpec, shape: Geometry, phases: int) -> int:
    """Pixels needed around what is kept: the halo, and how far squares are shifted."""
    return shape.halo_px + (spec.patch_px // 2 if phases > 1 else 0)


@torch.inference_mode()
def encode_block(
    images: Mapping[str, Float[np.ndarray, "_ h w"]],
    encoder: DenseModel,
    config: EncodeConfig,
    cells: Bool[np.ndarray, "rows columns"] | None = None,
    phases: int = 1,
    shape: Geometry | None = None,
    part: Part | None = None,
) -> Encoded:
    """Embed lattice cells.

    Squares are taken one by one from the corner. A patch comes from exactly one of them, the one whose middle it lies
    in. Squares without a usable patch are not run; a sensor without one is left out. Wholly usable windows run in
    batches that are always filled up to ``batch_size``, other windows and blocks one by one, so that a result does not
    depend on how many there are.

    Args:
        images: By sensor, physical units, NaN = not usable; whole windows or blocks plus ``rim_px`` on every side. None
            at all, where ``cells`` says how many, gives no embedding.
        encoder: In evaluation mode.
        config: Batch size, precision, validity.
        cells: Cells to embed; the others stay empty, and cost nothing where the wanted ones cannot see them.
        phases: Finer cells per patch and axis, each the encoding of a patch-sized square around its own centre.
        shape: Windows or blocks; by default as the encoder's spec says.
        part: What the images hold of one block with its rim, in whole tiles; all by default.
    """
    shape = own_geometry(encoder.spec) if shape is None else shape
    if not images and cells is not None:
        return nothing(encoder.spec.dim, *(n * phases * shape.cell_px // encoder.spec.patch_px for n in cells.shape))
    if encoder.spec.dates > 1:  # a month is enough
        config = replace(config, valid_share=min(config.valid_share, 0.5 / encoder.spec.dates))
    if part is not None and cells is not None and shape.reach is not None:
        return encode_one(images, encoder, config, shape, patches_of(cells, shape, encoder.spec), part)
    encode = encode_windows if shape.reach is None else encode_blocks
    if phases == 1:
        return encode(images, encoder, config, shape, cells)
    patch = encoder.spec.patch_px
    shift = patch // 2
    finer: dict[str, np.ndarray] = {}
    for i, j in np.ndindex(phases, phases):
        top, left = (shift + (2 * k + 1 - phases) * patch // (2 * phases) for k in (i, j))
        shifted = {
            name: x[:, top : x.shape[1] - 2 * shift + top, left : x.shape[2] - 2 * shift + left]
            for name, x in images.items()
        }
        for layer, found in encode(shifted, encoder, config, shape, cells)._asdict().items():
            size = (*found.shape[:-2], *(phases * n for n in found.shape[-2:]))
            finer.setdefault(layer, np.zeros(size, found.dtype))[..., i::phases, j::phases] = found
    return Encoded(**finer)


def nothing(dim: int, rows: int, columns: int) -> Encoded:
    """Patches without an embedding."""
    flags = (np.zeros((rows, columns), np.uint8) for _ in range(2))
    return Encoded(np.full((dim, rows, columns), np.nan, np.float32), *flags)


def encode_windows(
    images: Mapping[str, Float[np.ndarray, "_ h w"]],
    encoder: DenseModel,
    config: EncodeConfig,
    shape: Geometry,
    cells: Bool[np.ndarray, "rows columns"] | None,
) -> Encoded:
    """Embed cells by windows, one per cell."""
    window, margin, patch = shape.window_px, shape.halo_px, encoder.spec.patch_px
    keep, edge = shape.cell_px // patch, margin // patch
    h, w = next(iter(images.values())).shape[-2:]
    rows, columns = ((side - 2 * margin) // (keep * patch) for side in (h, w))
    shares = usable_shares(images, encoder.spec)
    out = nothing(encoder.spec.dim, rows * keep, columns * keep)
    middle = np.s_[edge : edge + keep, edge : edge + keep]
    whole: dict[tuple[str, ...], list[Job]] = {}
    partly: list[Job] = []
    for r, c in np.argwhere(np.ones((rows, columns)) if cells is None else cells).tolist():
        seen = np.s_[r * keep : r * keep + window // patch, c * keep : c * keep + window // patch]
        share = {name: s[seen] for name, s in shares.items() if (s[seen] >= config.valid_share).any()}
        kept = {name: s >= config.valid_share for name, s in share.items()}
        cell = np.s_[r * keep : (r + 1) * keep, c * keep : (c + 1) * keep]
        here = {n: s[middle] for n, s in share.items()}
        near = others_fed(here, config.valid_share) if encoder.knows_own_sensors_only else None
        out.valid[cell], out.sensors[cell] = made_from(here, config.valid_share, near)
        if out.sensors[cell].any():
            is_whole = all(k.all() for k in kept.values())
            (whole.setdefault(tuple(kept), []) if is_whole else partly).append((r, c, kept))
    full = [batch for jobs in whole.values() for batch in batches(jobs, config.batch_size)]
    for batch in [*full, *batches(partly, 1)]:
        for (r, c, _), token in zip(batch, run(images, batch, encoder, config, shape), strict=True):
            out.embeddings[:, r * keep : (r + 1) * keep, c * keep : (c + 1) * keep] = token[middle].transpose(2, 0, 1)
    return out


def encode_blocks(
    images: Mapping[str, Float[np.ndarray, "_ h w"]],
    encoder: DenseModel,
    config: EncodeConfig,
    shape: Geometry,
    cells: Bool[np.ndarray, "rows columns"] | None,
) -> Encoded:
    """Embed cells by large blocks with local attention, one after the other."""
    keep = shape.block_px // encoder.spec.patch_px
    h, w = next(iter(images.values())).shape[-2:]
    rows, columns = ((side - 2 * shape.halo_px) // shape.block_px for side in (h, w))
    if cells is None:
        cells = np.ones((rows * shape.block_cells, columns * shape.block_cells), bool)
    wanted = patches_of(cells, shape, encoder.spec)
    out = nothing(encoder.spec.dim, rows * keep, columns * keep)
    for r, c in np.ndindex(rows, columns):
        block = np.s_[r * keep : (r + 1) * keep, c * keep : (c + 1) * keep]
        if wanted[block].any():
            y, x = (np.s_[i * shape.block_px : i * shape.block_px + shape.window_px] for i in (r, c))
            found = encode_one({name: a[:, y, x] for name, a in images.items()}, encoder, config, shape, wanted[block])
            for layer, values in zip(out, found, strict=True):
                layer[..., *block] = values
    return out


def patches_of(cells: Bool[np.ndarray, "r c"], shape: Geometry, spec: DenseSpec) -> Bool[np.ndarray, "ph pw"]:
    """The same mask with a value per patch."""
    return cells.repeat(shape.cell_px // spec.patch_px, 0).repeat(shape.cell_px // spec.patch_px, 1)


def encode_one(
    images: Mapping[str, Float[np.ndarray, "_ h w"]],
    encoder: DenseModel,
    config: EncodeConfig,
    shape: Geometry,
    wanted: Bool[np.ndarray, "ph pw"],
    part: Part | None = None,
) -> Encoded:
    """Embed the wanted patches of one block, of which the images may be a part."""
    assert isinstance(encoder, LocalModel)
    assert shape.reach is not None
    patch, edge = encoder.spec.patch_px, shape.halo_px // encoder.spec.patch_px
    middle = np.s_[edge : edge + len(wanted), edge : edge + wanted.shape[1]]
    shares, (top, left) = usable_shares(images, encoder.spec), (0, 0) if part is None else (s.start for s in part)
    if part is not None:
        around = [(s.start // patch, (shape.window_px - s.stop) // patch) for s in part]
        shares = {name: np.pad(share, around) for name, share in shares.items()}
    fed = {name: s >= config.valid_share for name, s in shares.items()}
    fed = {name: f for name, f in fed.items() if f.any()}
    out = nothing(encoder.spec.dim, *wanted.shape)
    others = [fed[name] for name in SENSORS if name in fed][1:]
    near = None
    if others:
        near = within_reach(torch.from_numpy(np.logical_or.reduce(others))[None], shape.reach)[0].numpy()[middle]
    valid, sensors = made_from({name: shares[name][middle] for name in fed}, config.valid_share, near)
    out.valid[...], out.sensors[...] = np.where(wanted, valid, 0), np.where(wanted, sensors, 0)
    if not out.sensors.any():
        return out
    asked = np.pad(out.sensors > 0, edge)
    y, x = used(np.logical_or.reduce(list(fed.values())))
    if config.device != "cpu":  # kernels are compiled for a grid; what is left out here would be another one
        y, x = (slice(0, n) for n in asked.shape)
    where = np.s_[:, *(slice(patch * s.start - off, patch * s.stop - off) for s, off in ((y, top), (x, left)))]

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array[None]).to(config.device)

    pixels = {name: tensor(images[name][where]) for name in fed}
    kept = {name: tensor(f[y, x]) for name, f in fed.items()}
    with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.precision == "bf16"):
        tokens = encoder.local_tokens(pixels, kept, shape.reach, tensor(asked[y, x]))[0].float().cpu().numpy()
    whole = np.full((*fed[next(iter(fed))].shape, encoder.spec.dim), np.nan, np.float32)
    whole[y, x] = tokens
    out.embeddings[...] = whole[middle].transpose(2, 0, 1)
    return out


def used(fed: Bool[np.ndarray, "gh gw"]) -> tuple[slice, slice]:
    """Whole tiles around all fed patches; what lies beyond has no influence."""
    spans = []
    for axis, length in zip((1, 0), fed.shape, strict=True):
        where = np.flatnonzero(fed.any(axis=axis))
        spans.append(slice(where[0] // TILE * TILE, min(length, (where[-1] // TILE + 1) * TILE)))
    return spans[0], spans[1]


def made_from(
    shares: Mapping[str, Float[np.ndarray, "gh gw"]],
    valid_share: float,
    near: Bool[np.ndarray, "gh gw"] | None = None,
) -> tuple[UInt8[np.ndarray, "gh gw"] | int, UInt8[np.ndarray, "gh gw"] | int]:
    """Percentage of usable pixels and sensor flags per patch.

    The joint encoder answers where the first sensor is, and another is ``near`` (anywhere in the window where None).
    """
    if not shares:
        return 0, 0
    fed = {name: share >= valid_share for name, share in shares.items()}
    flags = np.add.reduce([SENSORS[name].flag * f.astype(np.uint8) for name, f in fed.items()])
    if len(fed) > 1:
        first = next(name for name in SENSORS if name in fed)  # the joint encoder's tokens are this sensor's
        flags = flags + JOINT_FLAG * (fed[first] if near is None else fed[first] & near).astype(np.uint8)
    least = np.minimum.reduce([np.where(fed[name], share, 1) for name, share in shares.items()])
    return np.round(100 * np.where(flags > 0, least, 0)).astype(np.uint8), flags.astype(np.uint8)


def others_fed(
    shares: Mapping[str, Float[np.ndarray, "gh gw"]], valid_share: float
) -> Bool[np.ndarray, "gh gw"] | None:
    """Where another sensor than the first is fed in the very patch; None if there is only one."""
    fed = [shares[name] >= valid_share for name in SENSORS if name in shares][1:]
    return np.logical_or.reduce(fed) if fed else None


def batches(jobs: list[Job], size: int) -> list[list[Job]]:
    """Lists of exactly ``size`` jobs; the last one is filled up by repeating its last job."""
    cut = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    return [batch + [batch[-1]] * (size - len(batch)) for batch in cut]


def run(
    images: Mapping[str, np.ndarray],
    jobs: list[Job],
    encoder: DenseModel,
    config: EncodeConfig,
    shape: Geometry,
) -> Float[np.ndarray, "b gh gw d"]:
    """Cut windows of the sensors these jobs feed, encode, bring back."""
    step, window = shape.cell_px, shape.window_px

    def cut(x: np.ndarray, r: int, c: int) -> np.ndarray:
        return x[:, r * step : r * step + window, c * step : c * step + window]

    def batch(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).to(config.device)

    names = jobs[0][2]
    pixels = {name: batch([cut(images[name], r, c) for r, c, _ in jobs]) for name in names}
    kept = {name: batch([k[name] for *_, k in jobs]) for name in names}
    with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.precision == "bf16"):
        return encoder.tokens(pixels, kept).float().cpu().numpy()


def usable_shares(
    images: Mapping[str, Float[np.ndarray, "_ h w"]], spec: DenseSpec
) -> dict[str, Float[np.ndarray, "gh gw"]]:
    """Share of pixels of every patch, over all dates, where all bands are finite that the encoder needs, by sensor."""
    found, patch, dates = {}, spec.patch_px, spec.dates
    for name, x in images.items():
        needed, (h, w) = spec.needed(name), x.shape[1:]
        own = (x if len(needed) == len(x) else x[needed]).reshape(dates, -1, h, w)
        with np.errstate(invalid="ignore", over="ignore"):
            good = np.isfinite(np.add.reduce(own, axis=1))  # no sum of numbers in physical units comes near infinity
        good = good.reshape(dates, h // patch, patch, w // patch, patch)
        found[name] = good.mean(axis=(0, 2, 4), dtype=np.float32)
    return found
