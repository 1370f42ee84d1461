"""Several sources of one place, one per period, as one: for encoders of series, and for maps of several dates."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import xarray as xr
from jaxtyping import Float
from numpy import ndarray
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from geossl.data.sentinel.rasters import LocalRasters
from geossl.data.stac.composite import CatalogScenes
from geossl.data.stac.ranking import PAIR_DAYS, by_days, find_scenes, resumed, search_metadata
from geossl.errors import InputError, Note
from geossl.grid import Aoi
from geossl.rules import parse_dates, periods_of
from geossl.sensors import PAIR, SENSORS

Images = LocalRasters | CatalogScenes  # sources of one image


@dataclass(frozen=True)
class Periods:
    """Composites of a place, one per period, missing where there is nothing.

    Args:
        every: One of ``EVERY``; of ``scene`` a period is a day that has one.
        periods: Their names, in time, such as ``2021-03``.
        parts: Sources of each; several are dates, of which a pixel gets the median, band by band.
    """

    every: str
    periods: tuple[str, ...]
    parts: tuple[tuple[Images, ...], ...]

    @property
    def sensors(self) -> tuple[str, ...]:
        """The sensors that some period has."""
        known = {name for sources in self.parts for source in sources for name in source.sensors}
        return tuple(name for name in SENSORS if name in known)

    @property
    def dated(self) -> bool:
        """False: a pixel is of several days."""
        return False

    @property
    def each_dated(self) -> bool:
        """Whether every pixel of every period by itself is of one day that its source knows."""
        return all(len(sources) == 1 and sources[0].dated for sources in self.parts if sources)

    def image(self, number: int, geobox: GeoBox) -> xr.Dataset:
        """Pixels of one period by itself, as its source gives them; of several sources their median; empty of none."""
        sources = self.parts[number]
        if len(sources) == 1:
            return sources[0].load(geobox)
        if not sources:
            return xr.Dataset()
        alone = replace(self, periods=(self.periods[number],), parts=(sources,))
        return alone.load(geobox).isel(time=0, drop=True)

    def describe(self) -> dict[str, Any]:
        """What the sources say, scenes and files with their period."""
        metadata: dict[str, Any] = {"every": self.every, "periods": list(self.periods), "parts": []}
        for name, sources in zip(self.periods, self.parts, strict=True):
            for described in (source.describe() for source in sources):
                for sensor in [key for key in described if key in SENSORS]:
                    inputs = [one | {"period": name} for one in described[sensor]]
                    metadata.setdefault(sensor, []).extend(inputs)
                rest = {key: value for key, value in described.items() if key not in SENSORS}
                metadata["parts"].append({"period": name, **rest})
                metadata |= {key: rest[key] for key in ("catalog", "asks_again") if key in rest}
        return metadata

    def footprints(self, crs: str | int) -> dict[str, shapely.Geometry]:
        """Area each sensor has pixels of in some period."""
        found: dict[str, list[shapely.Geometry]] = {}
        for source in (source for sources in self.parts for source in sources):
            for sensor, area in source.footprints(crs).items():
                found.setdefault(sensor, []).append(area)
        return {sensor: shapely.union_all(areas) for sensor, areas in found.items()}

    def in_run(self, folder: Path) -> "Periods":
        """The same for the workers of a run, which share one budget for the scenes of all periods."""
        parts = (
            tuple(source.in_run(folder) if isinstance(source, CatalogScenes) else source for source in sources)
            for sources in self.parts
        )
        return replace(self, parts=tuple(parts))

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """Per sensor an array such as ``s2 (time, s2_band, y, x)``; NaN where a period has no usable pixel."""
        coords, (y, x) = xr_coords(geobox), geobox.dimensions
        arrays = {
            name: np.full((len(self.periods), len(SENSORS[name].bands), *geobox.shape), np.nan, np.float32)
            for name in self.sensors
        }
        for i, sources in enumerate(self.parts):
            cubes = [source.load(geobox) for source in sources]
            for name, array in arrays.items():
                if parts := [all_bands(cube[name], name) for cube in cubes if name in cube]:
                    array[i] = parts[0] if len(parts) == 1 else median(np.stack(parts))
        time = np.array([np.datetime64(name, "D") for name in self.periods]).astype("datetime64[ns]")
        return xr.Dataset(
            {
                name: xr.DataArray(
                    data,
                    dims=("time", f"{name}_band", y, x),
                    coords={"time": time, f"{name}_band": list(SENSORS[name].bands), **coords},
                )
                for name, data in arrays.items()
            }
        )


def all_bands(array: xr.DataArray, sensor: str) -> Float[ndarray, "c h w"]:
    """An array with all bands of a sensor, NaN for those that it lacks; a pixel of zeros has no data."""
    bands = list(SENSORS[sensor].bands)
    data = array.values.astype(np.float32)
    if SENSORS[sensor].zero_is_fill:
        data = np.where((data == 0).all(axis=0), np.float32(np.nan), data)
    found = np.full((len(bands), *data.shape[1:]), np.nan, np.float32)
    found[[bands.index(str(band)) for band in array[f"{sensor}_band"].values]] = data
    return found


def median(stack: Float[ndarray, "n c h w"]) -> Float[ndarray, "c h w"]:
    """Median of every band over dates that are usable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pixels without any usable date stay NaN
        return np.nanmedian(stack, axis=0).astype(np.float32)


def files_every(every: str, files: LocalRasters, period: str | None) -> Periods:
    """Files by month, season or year and day, or by scene.

    Args:
        every: One of ``EVERY``.
        files: Those there are.
        period: Whose are taken; None = the year of all of them.

    Raises:
        InputError: If a file does not say its day, or the period is not clear or holds none.
    """
    days = files.days
    years = sorted({day[:4] for day in days})
    if period is None and len(years) > 1 and every == "month":
        raise InputError(f"the files are of {years[0]} to {years[-1]}; name the months to use with --date {years[-1]}")
    start, end = parse_dates(period or f"{years[0]}/{years[-1]}")
    parts: dict[str, tuple[LocalRasters, ...]]
    if every == "scene":
        within = [day for day in files.optical_days if start <= day <= end]
        parts = {day.isoformat(): (files.around(day, PAIR_DAYS),) for day in within}
    else:
        parts = {
            name: tuple(files.of_day(day) for day in days if f"{first:%Y%m%d}" <= day <= f"{last:%Y%m%d}")
            for name, (first, last) in periods_of(start, end, every).items()
        }
    if not any(parts.values()):
        raise InputError(f"no file is of {period}; they are of {days[0]} to {days[-1]}")
    note_missing(every, parts, files.sensors)
    return Periods(every, tuple(parts), tuple(parts.values()))


def recorded_periods(known: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the scenes of every period said of themselves, from what ``Periods.describe`` made of it."""
    found = {}
    for part in known.get("parts", ()):
        own = {key: [one for one in known.get(key, ()) if one["period"] == part["period"]] for key in PAIR}
        plain = {key: [{k: one[k] for k in one if k != "period"} for one in scenes] for key, scenes in own.items()}
        found[part["period"]] = {key: part[key] for key in part if key != "period"} | plain
    return found


def recorded_scenes(known: Mapping[str, Any]) -> Periods:
    """The source of a plan, nothing searched."""
    parts = {name: (CatalogScenes.from_json(part),) for name, part in recorded_periods(known).items()}
    return Periods(known["every"], tuple(known["periods"]), tuple(parts.get(name, ()) for name in known["periods"]))


def scenes_every(every: str, region: Aoi, dates: str, request: Mapping[str, Any], known: Mapping[str, Any]) -> Periods:
    """Scenes by period; those of a plan that asked for the same are taken from there.

    Args:
        every: One of ``EVERY``.
        region: Where to search.
        dates: Period.
        request: Further arguments of ``find_scenes``.
        known: Source of the plan of a map that was begun; empty if there is none.

    Raises:
        InputError: If no period has a scene.
    """
    recorded, found = recorded_periods(known), dict[str, tuple[Images, ...]]()

    def asked_before(name: str, asked: dict[str, Any]) -> bool:
        return bool(recorded.get(name, {}).get("search") == search_metadata(region, asked))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if every == "scene":
            asked = {"date": dates, **request}
            if recorded and asked_before(next(iter(recorded)), asked):
                found = {name: (resumed(region, part, asked),) for name, part in recorded.items()}
            else:
                of_days = by_days(find_scenes(region, dates, **request), region)
                found = {day: (scenes,) for day, scenes in of_days.items()}
        for name, (first, last) in ({} if every == "scene" else periods_of(*parse_dates(dates), every)).items():
            asked = {"date": f"{first}/{last}", **request}
            if asked_before(name, asked):
                found[name] = (resumed(region, recorded[name], asked),)
                continue
            try:
                found[name] = (find_scenes(region, asked["date"], **request),)
            except InputError as error:
                if "no valid scene" not in str(error):
                    raise
                found[name] = ()
    for text in sorted({str(one.message) for one in said if not str(one.message).startswith("no valid ")}):
        warnings.warn(text, Note, stacklevel=3)
    if not any(found.values()):
        raise InputError(f"--catalog {request['catalog']} has no valid scene over {region.name} in {dates}")
    note_missing(every, found, request["sensors"])
    return Periods(every, tuple(found), tuple(found.values()))


def note_missing(every: str, found: Mapping[str, tuple[Images, ...]], sensors: Sequence[str]) -> None:
    """Say which periods lack a sensor."""
    for sensor in sensors:
        empty = [name for name, parts in found.items() if not any(sensor in part.sensors for part in parts)]
        if empty:
            text = f"no {sensor} scene in {', '.join(empty)}; these {every if every != 'scene' else 'day'}s are missing"
            warnings.warn(text, Note, stacklevel=3)
