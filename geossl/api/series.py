"""Embedding maps of image series: many dates in, one vector per patch out."""

import json
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from odc.geo.crs import CRS

from geossl.api.settings import checked_settings
from geossl.data.resampling import outline
from geossl.data.sentinel.band_names import stated_names
from geossl.data.series.stacks import Clouds, ImageSeries, open_series
from geossl.errors import GridError, InputError, WeightsError
from geossl.grid import epsg_of, zone_of
from geossl.inference.outputs import raster
from geossl.inference.outputs.cog import Block, write_blocks
from geossl.inference.outputs.furniture import Caption, span
from geossl.inference.outputs.quicklook import MEANING, TITLE, quicklook
from geossl.inference.outputs.styles import write_vector_style
from geossl.inference.series import extent_of, series_blocks
from geossl.models.encoder import Encoder, SeriesEncoder
from geossl.models.files import load_encoder
from geossl.models.kinds import require
from geossl.models.layers.dates import date_names
from geossl.outputs import check_output
from geossl.progress import Progress
from geossl.rules import DATES
from geossl.sensors import OPTICAL
from geossl.viewer.shown import Written

CLOUD_ABOVE = 0.2  # reflectance
MOST_BANDS = 65535  # of a GeoTIFF


def embed_series(
    source: str | Path | ImageSeries,
    encoder: str | Path | Encoder,
    *,
    out: str | Path = "series.tif",
    start: str | None = None,
    end: str | None = None,
    picture: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Embed a stack of dates as one georeferenced raster, one vector per patch.

    Windows lie on the lattice of all maps: cells anchored at the origin of the CRS. A stack in a UTM zone keeps its
    zone, and its pixels if it lies on the encoder's pixel grid; any other one is brought bilinearly to that of its
    zone. Pixels outside the stack and clouds are not fed.

    Args:
        source: Folder with a Sentinel-2 GeoTIFF per date (``20200113.tif``), or a series from
            ``geossl.data.series.stacks``.
        encoder: A series encoder: weight file, or loaded.
        out: The GeoTIFF.
        start: First day, ``2020-01-01``; None = all.
        end: Last day.
        picture: Also write a PCA false-colour picture beside it.
        overwrite: Replace an output.
        progress: Called after every part (blocks); see ``geossl.progress``.
        settings: ``dates``: what becomes of the usable dates of a patch. ``season`` (the default): a mean per season
            side by side, four times the encoder's numbers; ``mean``; or ``each``: all dates side by side, so that only
            maps of the same dates compare. How a folder is read: ``cloud_band`` (a pixel is cloud where this band is
            brighter than ``cloud_above``, a reflectance, 0.2; None = only nodata is left out), ``s2_offset`` (DN added
            to files that do not say), ``s2_bands`` (bands of files that do not name theirs, in their order).

    Returns:
        The path written, which ``geossl.open`` reads.

    Raises:
        InputError: If stack, encoder or output do not fit; nothing was written.
    """
    known = ("dates", "cloud_band", "cloud_above", "s2_offset", "s2_bands")
    settings = checked_settings(settings, known, "series.embed")
    joined = settings.get("dates", DATES[0])
    out = check_output(out, (".tif",), overwrite=overwrite)
    if settings.get("cloud_band") is None and settings.get("cloud_above", CLOUD_ABOVE) != CLOUD_ABOVE:
        raise InputError("--cloud-above does nothing without --cloud-band; leave it out")
    model = series_encoder(encoder)
    spec = model.spec
    series = source
    if not isinstance(series, ImageSeries):
        band = settings.get("cloud_band")
        clouds = None if band is None else Clouds(band, settings.get("cloud_above", CLOUD_ABOVE))
        bands = spec.sensors[OPTICAL].bands
        stated = stated_names(settings.get("s2_bands"), OPTICAL, wanted=bands)
        series = open_series(series, bands, clouds, settings.get("s2_offset"), stated)
    dates = dates_between(series, start, end)
    names = date_names(joined, spec.dim, [series.files[i].date for i in dates])
    if len(names) > MOST_BANDS:
        text = f"{len(dates)} dates of {spec.dim} numbers are more than the {MOST_BANDS} bands of a GeoTIFF"
        raise InputError(f"{text}; narrow them with --start and --end, or use --dates season")
    epsg = epsg_for(series)
    extent = extent_of(spec, outline(series.geobox, CRS(epsg)), epsg)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    filled = 0

    def parts() -> Iterator[Block]:
        nonlocal filled
        read, days = partial(series.read, dates=dates), series.days[dates]
        found = series_blocks(model.to(device), read, days, extent, joined, device, progress)
        for where, values in found:
            filled += int(np.isfinite(values[0]).sum())
            yield where, values

    tags = {"GEOSSL_ENCODER": spec.name, "GEOSSL_DATES": json.dumps([series.files[i].date for i in dates])}
    tags["GEOSSL_JOINED"] = joined
    write_blocks(out, extent.geobox, parts(), count=len(names), dtype="float32", nodata=np.nan, names=names, tags=tags)
    if not filled:
        out.unlink()
        raise InputError(f"series {series.name} has no valid patch on any date; check nodata, and what counts as cloud")
    write_vector_style(out)
    if picture:
        days = (f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in (series.files[i].date for i in dates))
        words = Caption(TITLE, span(days), f"Encoder {spec.name}", MEANING)
        quicklook(raster.open_map(out), out.with_suffix(".png"), words=words)
    return Written(out)


def series_encoder(encoder: str | Path | Encoder) -> SeriesEncoder:
    """An encoder of Sentinel-2 series, in evaluation mode."""
    found = require(SeriesEncoder, encoder if isinstance(encoder, Encoder) else load_encoder(encoder))
    name = f"{found.spec.name!r} ({found.spec.architecture})"
    if found.sensor != OPTICAL or found.tubelet != 1:
        raise WeightsError(f"{name} is of {found.sensor} in tubelets of {found.tubelet}; maps need s2 and 1")
    return found.eval()


def dates_between(series: ImageSeries, start: str | None, end: str | None) -> list[int]:
    """Numbers of the dates from ``start`` to ``end``, both included.

    Raises:
        InputError: If a day is not written as one, or none is left.
    """
    limits = []
    for name, day in (("start", start), ("end", end)):
        try:
            limits.append(None if day is None else date.fromisoformat(day).strftime("%Y%m%d"))
        except ValueError:
            raise InputError(f"{name}={day!r} is not a day such as 2020-01-31") from None
    days = [file.date for file in series.files]
    found = [i for i, d in enumerate(days) if (limits[0] or d) <= d <= (limits[1] or d)]
    if not found:
        raise InputError(
            f"no date from {start or 'the first'} to {end or 'the last'}; the series has {days[0]} to {days[-1]}"
        )
    return found


def epsg_for(series: ImageSeries) -> int:
    """The UTM zone a stack is in, or else that of its middle."""
    crs = series.geobox.crs
    if crs is not None and crs.epsg is not None and crs.epsg // 100 in (326, 327) and 1 <= crs.epsg % 100 <= 60:
        return int(crs.epsg)
    middle = outline(series.geobox, CRS(4326)).centroid
    if middle.is_empty:
        raise GridError(f"series {series.name} lies beyond the reach of longitude and latitude")
    return epsg_of(zone_of(middle.x), middle.y)
