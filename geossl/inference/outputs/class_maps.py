"""Class rasters as files people use."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from jaxtyping import Float, UInt8
from odc.geo.geobox import GeoBox
from pyproj import Proj
from rasterio.features import geometry_mask, shapes

from geossl.errors import InputError
from geossl.inference.outputs.class_picture import class_picture
from geossl.inference.outputs.cog import Block, write_blocks
from geossl.inference.outputs.styles import write_categories, write_class_style, write_value_style
from geossl.outputs import removed, replacing

NODATA = 255
MOST = NODATA - 1  # percent of dissimilarity; more is written as this
TRUST_BANDS = ("do not trust here: 1 = unlike all labels", "dissimilarity in percent of the threshold")
AREA_CELLS = 256  # side of the squares over which a projection's scale is taken as constant


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


def write_classes(
    out: Path,
    geobox: GeoBox,
    parts: Iterator[Block],
    legend: Legend,
    area: shapely.Geometry | None,
    metadata: dict[str, Any],
    outlines: Path | None = None,
    has_trust: bool = False,
) -> None:
    """Write ``out`` (classes), ``..._confidence.tif``, styles, ``..._area.csv`` and a figure, block by block.

    With a third layer also ``..._applicability.tif``, see ``write_trust``.

    Args:
        out: ``.tif``: a COG with colour table, names (``CLASS_NAMES``) and nodata 255; there last of all.
        geobox: Grid.
        parts: Class and confidence, and where ``has_trust``, dissimilarity in percent; 255 = nodata.
        legend: Names and colours.
        area: Cells whose centre lies outside become nodata; None keeps all.
        metadata: What the classes were made with, stored as tags.
        outlines: Also write polygons; these are made in memory.
        has_trust: Whether there is a third layer.

    Raises:
        InputError: If nothing is left.
    """
    areas = Areas(geobox, len(legend.names))
    spool = out.with_name(f".{out.stem}.confidence.tmp.npy")
    tags = {"CLASS_NAMES": json.dumps(list(legend.names))}
    tags |= {f"GEOSSL_{k.upper()}": json.dumps(v) for k, v in metadata.items()}
    kinds: dict[str, Any] = {"count": 1, "dtype": "uint8", "nodata": float(NODATA)}
    with replacing(out) as classes, removed(spool):
        aside = np.lib.format.open_memmap(spool, "w+", np.uint8, (1 + has_trust, *geobox.shape))
        kept = counted(parts, geobox, area, areas, aside)
        write_blocks(classes, geobox, kept, **kinds, names=["class"], tags=tags, colours=legend.table())
        if not areas.counts.any():
            raise InputError(f"--out {out}: nothing could be classified; the region has no pixel the model can use")
        names = ["confidence in percent"]
        write_blocks(confidence_path(out), geobox, strips(aside[0]), **kinds, names=names)
        if has_trust:
            write_trust(trust_path(out), geobox, aside[1])
        write_class_style(out, legend.names, legend.colours)
        write_categories(out, legend.names, legend.colours)
        write_value_style(confidence_path(out), 0.0, 100.0, "viridis")
        hectares = areas.hectares()
        write_areas(area_path(out), hectares, legend)
        picture = out.with_suffix(".png")
        class_picture(classes, confidence_path(out), picture, legend.names, legend.colours, hectares.tolist())
        if outlines is not None:
            write_polygons(classes, outlines, legend)


def counted(
    parts: Iterator[Block], geobox: GeoBox, area: shapely.Geometry | None, areas: "Areas", aside: np.ndarray
) -> Iterator[Block]:
    """Classes inside an area as they pass; they are counted, and the other layers are put aside."""
    for where, values in parts:
        if area is not None:
            values[:, geometry_mask([area], values.shape[1:], geobox[where].transform)] = NODATA
        areas.add(where, values[0])
        aside[(slice(None), *where)] = values[1:]
        yield where, values[:1]


class Areas:
    """Area of classes on the ground, summed from pieces of a raster in any order.

    Cells are counted in squares of 256 x 256, and a square's area is divided by the areal scale of the projection at
    its centre: 0.9992 in the middle of a UTM zone, 1.0020 at its edge on the equator.

    Args:
        geobox: Grid of the raster.
        classes: How many.
    """

    def __init__(self, geobox: GeoBox, classes: int) -> None:
        self.geobox = geobox
        self.counts = np.zeros((classes, *(-(-n // AREA_CELLS) for n in geobox.shape)), np.int64)

    def add(self, where: tuple[slice, slice], values: UInt8[np.ndarray, "h w"]) -> None:
        """Count a piece."""
        rows, columns = np.nonzero(values != NODATA)
        place = (rows + where[0].start) // AREA_CELLS, (columns + where[1].start) // AREA_CELLS
        np.add.at(self.counts, (values[rows, columns], *place), 1)

    def hectares(self) -> Float[np.ndarray, " k"]:
        """Hectares per class, on the ellipsoid."""
        rows, columns = np.mgrid[: self.counts.shape[1], : self.counts.shape[2]] * AREA_CELLS + AREA_CELLS / 2
        height, width = self.geobox.shape
        t = self.geobox.transform
        x, y = t.a * np.minimum(columns, width - 0.5) + t.c, t.e * np.minimum(rows, height - 0.5) + t.f
        cell_m2 = abs(self.geobox.resolution.x * self.geobox.resolution.y)
        ground = cell_m2 / areal_scale(str(self.geobox.crs), x, y)
        return (self.counts * ground).sum(axis=(1, 2)) / 10_000


def confidence_path(out: Path) -> Path:
    """Where the confidence raster goes."""
    return out.with_name(f"{out.stem}_confidence.tif")


def area_path(out: Path) -> Path:
    """Where the area table goes."""
    return out.with_name(f"{out.stem}_area.csv")


def write_areas(path: Path, hectares: Float[np.ndarray, " k"], legend: Legend) -> None:
    """Hectares and share per class."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["class", "name", "hectares", "percent"])
        for i, (name, value) in enumerate(zip(legend.names, hectares, strict=True)):
            rows.writerow([i, name, f"{value:.2f}", f"{100 * value / hectares.sum():.2f}"])


def write_polygons(raster: Path, out: Path, legend: Legend) -> None:
    """Outlines of all areas of one class, as ``.gpkg`` or ``.parquet``, with ``class``, ``name`` and ``hectares``."""
    with rasterio.open(raster) as file:
        band = rasterio.band(file, 1)
        found = [(shapely.geometry.shape(g), int(v)) for g, v in shapes(band, mask=file.read_masks(1))]
        frame = gpd.GeoDataFrame({"class": [v for _, v in found]}, geometry=[g for g, _ in found], crs=file.crs)
        crs = file.crs.to_wkt()
    frame["name"] = [legend.names[v] for v in frame["class"]]
    middle = frame.representative_point()
    scale = areal_scale(crs, middle.x.to_numpy(), middle.y.to_numpy())
    frame["hectares"] = (frame.area / scale / 10_000).round(2)
    with replacing(out) as temporary:
        if out.suffix == ".parquet":
            frame.to_parquet(temporary, write_covering_bbox=True, schema_version="1.1.0")
        else:
            frame.to_file(temporary, driver="GPKG", layer=out.stem)


def strips(array: np.ndarray) -> Iterator[Block]:
    """An array on disk in pieces."""
    for top in range(0, array.shape[0], 1024):
        where = (slice(top, min(top + 1024, array.shape[0])), slice(0, array.shape[1]))
        yield where, np.asarray(array[where])[None]


def trust_path(out: Path) -> Path:
    """Where the raster goes that says where a model must not be trusted."""
    return out.with_name(f"{out.stem}_applicability.tif")


def write_trust(out: Path, geobox: GeoBox, percent: UInt8[np.ndarray, "h w"]) -> None:
    """Write where a model must not be trusted: 1 where the ground is unlike all labels, and how unlike.

    Args:
        out: ``.tif`` of two bands, nodata 255.
        geobox: Grid.
        percent: Dissimilarity in percent of the threshold, 255 = nodata; see ``geossl.models.heads.reference``.
    """

    def both() -> Iterator[Block]:
        for where, values in strips(percent):
            unlike = np.where(values == NODATA, NODATA, values > 100).astype(np.uint8)
            yield where, np.concatenate([unlike, values])

    write_blocks(out, geobox, both(), count=2, dtype="uint8", nodata=float(NODATA), names=TRUST_BANDS)
    write_class_style(out, ("like the labels", "unlike all labels: do not trust"), ("#ffffff", "#cc3333"))


def areal_scale(crs: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Area in a projection over area on the ellipsoid, at places given in it."""
    projection = Proj(crs)
    return np.asarray(projection.get_factors(*projection(x, y, inverse=True)).areal_scale)
