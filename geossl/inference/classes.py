"""Class rasters: what a segmenter stored, or heads make of an embedding map, as files people use."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch
import xarray as xr
from jaxtyping import Float, UInt8
from odc.geo.geobox import GeoBox
from rasterio.features import geometry_mask, shapes

from geossl.errors import InputError
from geossl.inference.blocks import Block, blocks, write_blocks
from geossl.models.heads import Head
from geossl.models.segmenter import Heads

NODATA = 255
Layers = tuple[tuple[slice, slice], UInt8[np.ndarray, "2 h w"]]  # where, and class and confidence


@dataclass(frozen=True)
class Legend:
    """Names and colours of classes 0, 1, ...

    Args:
        names: One per class.
        colours: One ``#rrggbb`` per class.
    """

    names: Sequence[str]
    colours: Sequence[str]

    def table(self) -> dict[int, tuple[int, int, int]]:
        """Red, green and blue by class."""
        return {i: (int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16)) for i, c in enumerate(self.colours)}


def stored_classes(numbers: xr.DataArray) -> tuple[GeoBox, Iterator[Block]]:
    """Grid and blocks of what a segmenter stored per patch: class numbers of its cells, then their confidence."""
    n = round((numbers.sizes["embedding"] / 2) ** 0.5)

    def parts() -> Iterator[Block]:
        for (rows, columns), values in blocks(numbers):
            cells = values.reshape(2, n, n, *values.shape[1:]).transpose(0, 3, 1, 4, 2)
            pixels = cells.reshape(2, values.shape[1] * n, values.shape[2] * n)
            where = (slice(rows.start * n, rows.stop * n), slice(columns.start * n, columns.stop * n))
            yield where, np.where(np.isfinite(pixels), pixels, NODATA).astype(np.uint8)

    geobox: GeoBox = numbers.odc.geobox
    return geobox if n == 1 else geobox.zoom_out(1 / n), parts()


@torch.inference_mode()
def classified(embeddings: xr.DataArray, sensors: xr.DataArray, heads: Heads) -> tuple[GeoBox, Iterator[Block]]:
    """Grid and blocks of the classes that heads give an embedding map.

    Args:
        embeddings: The map.
        sensors: Its layer of the same name, which says what a patch's embedding was made from.
        heads: By sensors.
    """
    flags = {"s1": (1,), "s2": (2, 3), "s1+s2": (5, 7)}

    def parts() -> Iterator[Block]:
        for where, values in blocks(embeddings):
            made = np.asarray(sensors[where])
            out = np.full((2, *values.shape[1:]), NODATA, np.uint8)
            for name, head in heads.items():
                here = np.isin(made, flags[name]) & np.isfinite(values).all(axis=0)
                if here.any():
                    out[:, here] = best_class(head, values[:, here].T)
            yield where, out

    return embeddings.odc.geobox, parts()


def best_class(head: Head, x: Float[np.ndarray, "n d"]) -> UInt8[np.ndarray, "2 n"]:
    """Class and confidence in percent."""
    best, number = head(torch.from_numpy(np.ascontiguousarray(x))).max(dim=1)
    return torch.stack([number.to(best), (100 * best).round()]).numpy().astype(np.uint8)


def write_classes(
    out: Path,
    geobox: GeoBox,
    parts: Iterator[Block],
    legend: Legend,
    area: shapely.Geometry | None,
    facts: dict[str, Any],
) -> Path:
    """Write ``out`` (classes), ``..._confidence.tif`` and ``..._area.csv``; one block in memory at a time.

    Args:
        out: ``.tif``: a COG with colour table, names (``CLASS_NAMES``) and nodata 255.
        geobox: Grid.
        parts: Class and confidence.
        legend: Names and colours.
        area: Cells whose centre lies outside become nodata; None keeps all.
        facts: What the classes were made with, stored as tags.

    Raises:
        InputError: If nothing is left.
    """
    counts = np.zeros(256, np.int64)
    confidence = confidence_path(out)
    spool = out.with_suffix(".confidence.tmp.npy")
    percent = np.lib.format.open_memmap(spool, "w+", np.uint8, tuple(geobox.shape))

    def kept() -> Iterator[Block]:
        for where, values in parts:
            if area is not None:
                away = geometry_mask([area], values.shape[1:], geobox[where].transform)
                values[:, away] = NODATA
            counts[:] += np.bincount(values[0].ravel(), minlength=256)
            percent[where] = values[1]
            yield where, values[:1]

    def spooled() -> Iterator[Block]:
        for top in range(0, geobox.shape[0], 1024):
            where = (slice(top, min(top + 1024, geobox.shape[0])), slice(0, geobox.shape[1]))
            yield where, np.asarray(percent[where])[None]

    tags = {
        "CLASS_NAMES": json.dumps(list(legend.names)),
        **{f"GEOSSL_{k.upper()}": json.dumps(v) for k, v in facts.items()},
    }
    try:
        write_blocks(
            out,
            geobox,
            kept(),
            count=1,
            dtype="uint8",
            nodata=NODATA,
            names=["class"],
            tags=tags,
            colours=legend.table(),
        )
        if not counts[:NODATA].any():
            out.unlink()
            raise InputError(f"--out {out}: nothing could be classified; the region has no usable pixel")
        write_blocks(
            confidence, geobox, spooled(), count=1, dtype="uint8", nodata=NODATA, names=["confidence in percent"]
        )
    finally:
        spool.unlink(missing_ok=True)
    write_areas(area_path(out), counts, abs(geobox.resolution.x * geobox.resolution.y), legend)
    return out


def confidence_path(out: Path) -> Path:
    """Where the confidence raster goes."""
    return out.with_name(f"{out.stem}_confidence.tif")


def area_path(out: Path) -> Path:
    """Where the area table goes."""
    return out.with_name(f"{out.stem}_area.csv")


def write_areas(path: Path, counts: np.ndarray, cell_m2: float, legend: Legend) -> None:
    """Hectares and share per class, in the map's projection."""
    hectares = counts[: len(legend.names)] * cell_m2 / 10_000
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["class", "name", "hectares", "percent"])
        for i, (name, value) in enumerate(zip(legend.names, hectares, strict=True)):
            rows.writerow([i, name, f"{value:.2f}", f"{100 * value / hectares.sum():.2f}"])
    os.replace(temporary, path)


def write_polygons(raster: Path, out: Path, legend: Legend) -> Path:
    """Outlines of all areas of one class, as ``.gpkg`` or ``.parquet``, with ``class``, ``name`` and ``hectares``."""
    with rasterio.open(raster) as file:
        found = [(shapely.geometry.shape(g), int(v)) for g, v in shapes(rasterio.band(file, 1)) if int(v) != NODATA]
        frame = gpd.GeoDataFrame({"class": [v for _, v in found]}, geometry=[g for g, _ in found], crs=file.crs)
    frame["name"] = [legend.names[v] for v in frame["class"]]
    frame["hectares"] = (frame.area / 10_000).round(2)
    temporary = out.with_name(f"{out.stem}.tmp{out.suffix}")
    if out.suffix == ".parquet":
        frame.to_parquet(temporary, write_covering_bbox=True, schema_version="1.1.0")
    else:
        frame.to_file(temporary, driver="GPKG", layer=out.stem)
    os.replace(temporary, out)
    return out
