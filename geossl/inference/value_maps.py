"""Rasters of amounts: value, lower and upper end of its interval, as files people use."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.features import geometry_mask

from geossl.errors import InputError
from geossl.inference.outputs.class_maps import MOST, NODATA, trust_path, write_trust
from geossl.inference.outputs.cog import Block, write_blocks
from geossl.inference.outputs.furniture import UNDATED, Caption, caption, furnish_all
from geossl.inference.outputs.styles import write_value_style
from geossl.models.heads.answers import AMOUNT_LAYERS, Amount
from geossl.outputs import removed, replacing

LONGEST_PX = 1200
HEIGHT = 6.0  # inches
WIDE = 1.5  # width over height
COLOURS = ("viridis", "magma")  # of the value and of half its interval


def write_values(
    out: Path,
    geobox: GeoBox,
    parts: Iterator[Block],
    amount: Amount,
    area: shapely.Geometry | None,
    metadata: dict[str, Any],
    has_trust: bool,
) -> None:
    """Write ``out`` (value, lower, upper), ``..._applicability.tif`` and a picture; one block in memory at a time.

    Args:
        out: ``.tif``: a COG of float32, nodata NaN, with unit and names of its bands; there last of all.
        geobox: Grid.
        parts: Value, lower, upper, and where ``has_trust``, dissimilarity in percent.
        amount: What the numbers are.
        area: Cells whose centre lies outside become nodata; None keeps all.
        metadata: What it was made with, stored as tags.
        has_trust: Whether there is a fourth layer.

    Raises:
        InputError: If nothing is left.
    """
    spool, found = out.with_name(f".{out.stem}.trust.tmp.npy"), [0]
    tags = {f"GEOSSL_{name.upper()}": json.dumps(value) for name, value in metadata.items()}
    tags |= {"GEOSSL_TARGET": amount.name, "UNIT": amount.unit, "GEOSSL_LEVEL": f"{amount.level:g}"}
    with replacing(out) as values, removed(spool):
        aside = np.lib.format.open_memmap(spool, "w+", np.uint8, tuple(geobox.shape))
        kept = split(parts, geobox, area, aside, found)
        layers: dict[str, Any] = {"count": len(AMOUNT_LAYERS), "dtype": "float32", "nodata": np.nan}
        write_blocks(values, geobox, kept, **layers, names=dict.fromkeys(descriptions(amount), amount.unit), tags=tags)
        if not found[0]:
            raise InputError(f"--out {out}: no value could be given; the region has no pixel the model can use")
        if has_trust:
            write_trust(trust_path(out), geobox, aside)
        write_value_style(out, *shown_range(values), COLOURS[0])
        value_picture(values, out.with_suffix(".png"), amount, trust_path(out) if has_trust else None)


def descriptions(amount: Amount) -> list[str]:
    """Names of the bands."""
    ends = f"end of the {100 * amount.level:g} % prediction interval"
    return [amount.name, f"{amount.name}, lower {ends}", f"{amount.name}, upper {ends}"]


def split(
    parts: Iterator[Block], geobox: GeoBox, area: shapely.Geometry | None, aside: np.ndarray, found: list[int]
) -> Iterator[Block]:
    """Values inside an area as they pass; dissimilarity is put aside, and cells with a value are counted."""
    for where, values in parts:
        layers = np.array(values, np.float32)
        if area is not None:
            layers[:, geometry_mask([area], layers.shape[1:], geobox[where].transform)] = np.nan
        count = len(AMOUNT_LAYERS)
        found[0] += int(np.isfinite(layers[0]).sum())
        unlike = layers[count] if len(layers) > count else np.full(layers.shape[1:], np.nan, np.float32)
        known = np.isfinite(unlike)
        aside[where] = np.where(known, np.where(known, unlike, 0).clip(0, MOST).round(), NODATA).astype(np.uint8)
        yield where, layers[:count]


def value_picture(values: Path, out: Path, amount: Amount, trust: Path | None) -> Path:
    """Write a picture: the value, and half the width of its interval, each with a colour bar; large maps thinned out.

    Cells that must not be trusted are hatched.

    Args:
        values: Value map.
        out: The ``.png`` to write.
        amount: What the numbers are.
        trust: Raster of ``write_trust``.
    """
    value, lower, upper = thinned(values, 3)
    unlike = thinned(trust, 1)[0] == 1 if trust is not None else np.zeros(value.shape, bool)
    known = np.isfinite(value)
    inside = np.ix_(*(np.arange(side.min(), side.max() + 1) for side in np.nonzero(known)))
    value, half, unlike = value[inside], ((upper - lower) / 2)[inside], unlike[inside]
    rows, columns = value.shape
    is_wide = columns > WIDE * rows  # then one above the other
    across, down = (1, 2) if is_wide else (2, 1)
    width = min(12.0, max(3.0, HEIGHT * columns / rows))
    size = (width + 2, 2 * (max(1.5, width * rows / columns) + 0.5) + 0.4) if is_wide else (2 * width + 3, HEIGHT + 0.8)
    figure = Figure(size, dpi=100, layout="constrained")
    names = (amount.title, f"half the {100 * amount.level:g} % interval{', ' + amount.unit if amount.unit else ''}")
    panels = figure.subplots(down, across)
    for axes, data, name, colours in zip(panels, (value, half), names, COLOURS, strict=True):
        low, high = np.nanpercentile(data, [2, 98])
        shown = axes.imshow(data, cmap=colours, vmin=low, vmax=max(high, low + 1e-9), interpolation="nearest")
        axes.set_title(name)
        figure.colorbar(shown, ax=axes, shrink=0.7, extend="both")
        if unlike.any() and min(unlike.shape) > 1:
            axes.contourf(unlike, levels=[0.5, 1.5], colors="none", hatches=["////"])
            axes.contour(unlike, levels=[0.5], colors="black", linewidths=0.6)
    with rasterio.open(values) as file:
        pixel_m, tags = file.res[0] * max(1, -(-max(file.shape) // LONGEST_PX)), file.tags()
    furnish_all(list(panels), columns, pixel_m)
    share = 100 * unlike.sum() / max(1, np.isfinite(value).sum())
    meaning = f"Hatched: unlike all labels, do not trust ({share:.1f} % of the cells)" if trust is not None else ""
    model, dates = (json.loads(tags.get(f"GEOSSL_{name}", "null")) for name in ("MODEL", "DATES"))
    title = amount.title + (f", by {model}" if model else "")
    caption(figure, Caption(title, dates or UNDATED, meaning=meaning))
    with replacing(out) as temporary:
        figure.savefig(temporary)
    return out


def shown_range(values: Path) -> tuple[float, float]:
    """Amounts at the ends of the colour bar: the middle 96 % of a thinned-out map."""
    low, high = np.nanpercentile(thinned(values, 1), [2, 98])
    return float(low), float(max(high, low + 1e-9))


def thinned(path: Path, bands: int) -> np.ndarray:
    """A raster with at most 1200 px a side."""
    with rasterio.open(path) as file:
        step = max(1, -(-max(file.shape) // LONGEST_PX))
        shape = tuple(-(-side // step) for side in file.shape)
        return file.read(list(range(1, bands + 1)), out_shape=(bands, *shape), resampling=Resampling.nearest)
