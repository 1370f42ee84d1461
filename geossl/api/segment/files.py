"""What ``segment`` writes: rasters, tables, figures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import xarray as xr

from geossl import grid
from geossl.api.segment.models import Classifier
from geossl.errors import InputError
from geossl.inference.change import Pair
from geossl.inference.layers import as_bytes, layers_of, sensor_layer, stored_layers, vectors
from geossl.inference.outputs import class_maps as rasters
from geossl.inference.outputs.class_maps import NODATA, trust_path
from geossl.inference.outputs.description import store_attributes
from geossl.inference.outputs.furniture import span
from geossl.inference.outputs.raster import words_of
from geossl.inference.totals import named_areas, of_polygon, write_totals
from geossl.inference.value_maps import write_values


@dataclass(frozen=True)
class Wanted:
    """What is to be written beside the raster.

    Args:
        polygons: File of outlines of classes.
        region: Cells outside become nodata.
        areas: Polygons to sum amounts over; None = the whole map.
        time: Date of a map of several, or ``ALL``.
    """

    polygons: str | Path | None
    region: grid.Aoi | None
    areas: gpd.GeoDataFrame | None
    time: str | None = None


@dataclass(frozen=True)
class Ground:
    """What is classified.

    Args:
        name: For messages.
        embeddings: ``(embedding, y, x)``.
        sensors: What every patch was made from; None where classes are stored already.
        encoder_sha256: Of the encoder.
        dates: Of the scenes, in words.
    """

    name: str
    embeddings: xr.DataArray
    sensors: xr.DataArray | None
    encoder_sha256: str
    dates: str


def ground_of(path: Path, is_stored: bool, time: str | None) -> Ground:
    """A map, or one of its dates, or all."""
    sensors, sha256 = (
        None if is_stored else sensor_layer(path, time),
        str(store_attributes(path).get("geossl:encoder_sha256")),
    )
    return Ground(f"--map {path}", vectors(path, time), sensors, sha256, words_of(path, "", time=time).dates)


def write_pair(pair: Pair, found: Classifier, out: Path, wanted: Wanted) -> Path:
    """The raster of what changed between two maps."""
    sha256, dates = pair.encoder_sha256, span(pair.days)
    write_one(Ground(" and ".join(pair.names), pair.embeddings, pair.sensors, sha256, dates), found, out, wanted)
    return out


def write(maps: Sequence[Path], found: Classifier, out: Path, wanted: Wanted) -> Path:
    """The rasters of all maps, and what goes beside them; the raster comes last, so that it stands for all."""
    targets = [out] if len(maps) == 1 else [out.with_suffix("") / f"{path.stem}.tif" for path in maps]
    for path, target in zip(maps, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        outlines = None if wanted.polygons is None else Path(wanted.polygons)
        if outlines is not None and len(maps) > 1:
            outlines = outlines.with_name(f"{outlines.stem}_{path.stem}{outlines.suffix}")
        write_one(ground_of(path, found.heads is None, wanted.time), found, target, replace(wanted, polygons=outlines))
    return out if len(maps) == 1 else targets[0].parent


def write_one(ground: Ground, found: Classifier, target: Path, wanted: Wanted) -> None:
    """The raster of one map, and what goes beside it."""
    embeddings = ground.embeddings
    if found.heads is None:
        geobox, parts = stored_layers(embeddings, len(found.layers))
    else:
        encoder = ground.encoder_sha256
        if found.metadata.get("encoder_sha256", encoder) != encoder:
            raise InputError(f"{ground.name} was made by another encoder than --model was fitted on; embed it again")
        assert ground.sensors is not None
        geobox, parts = layers_of(embeddings, ground.sensors, found.heads)
    area, metadata = (
        None if wanted.region is None else wanted.region.to_crs(str(embeddings.odc.crs)),
        {**found.metadata, "dates": ground.dates},
    )
    if found.amount is None:
        outlines = None if wanted.polygons is None else Path(wanted.polygons)
        parts = as_bytes(parts)
        rasters.write_classes(target, geobox, parts, found.legend, area, metadata, outlines, found.has_trust)
        return
    write_values(target, geobox, parts, found.amount, area, metadata, found.has_trust)
    areas = wanted.areas
    if areas is None:
        areas = gpd.GeoDataFrame({"name": ["map"]}, geometry=[geobox.geographic_extent.geom], crs=4326)
    rows = [
        {"name": name, **of_polygon(target, outline, found.amount, found.errors)}
        for name, outline in named_areas(areas)
    ]
    write_totals(totals_path(target), rows)


def summary(out: Path) -> str:
    """Where the outputs are, and hectares per class, as text."""
    lines = []
    for path in [out] if out.is_file() else sorted(out.glob("*.tif")):
        if path.stem.endswith(("_confidence", "_applicability")):
            continue
        if totals_path(path).exists() and not rasters.area_path(path).exists():
            lines += [f"values      {path}", f"totals      {totals_path(path)}"]
            table = pd.read_csv(totals_path(path)).drop(columns=["estimator"])
        else:
            table = pd.read_csv(rasters.area_path(path))
            lines += [f"classes     {path}", f"confidence  {rasters.confidence_path(path)}"]
            lines += [f"area        {rasters.area_path(path)}"]
        lines += [f"picture     {path.with_suffix('.png')}", *trust_line(path), table.to_string(index=False)]
    return "\n".join(lines)


def trust_line(path: Path) -> list[str]:
    """Where the raster of trust is, and what share of the cells must not be trusted."""
    if not trust_path(path).exists():
        return []
    with rasterio.open(trust_path(path)) as file:
        found = [file.read(1, window=window) for _, window in file.block_windows(1)]
    unlike, known = (np.sum([how(v).sum() for v in found]) for how in (lambda v: v == 1, lambda v: v != NODATA))
    return [f"trust       {trust_path(path)}: {100 * unlike / max(1, known):.1f} % is unlike all labels"]


def totals_path(out: Path) -> Path:
    """Where the table of totals goes."""
    return out.with_name(f"{out.stem}_totals.csv")
