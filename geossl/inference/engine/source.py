"""Where pixels come from: the seam between the map engine and files, catalogues or memory."""

import math
import warnings
from calendar import month_name
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import dask.array as da
import numpy as np
import shapely
import xarray as xr
from jaxtyping import Float
from numpy import ndarray
from odc.geo.geobox import GeoBox

from geossl.errors import BandError, InputError, Note
from geossl.limits import fill_in
from geossl.models.encoder import DenseSpec
from geossl.sensors import SENSORS
from geossl.speckle import note_speckle
from geossl.units import CHECKED, check_block, check_cube

LOOK_PX = 512  # side of the thinned look at a cube
LEVELS = ("L1C", "L2A", "sigma0", "gamma0")


@runtime_checkable
class Source(Protocol):
    """Gives aligned pixels of any place; a plain value that can be sent to a worker."""

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors it has, keys of ``geossl.sensors.SENSORS``."""

    @property
    def dated(self) -> bool:
        """Whether ``load`` gives ``date``, too."""

    def describe(self) -> dict[str, Any]:
        """JSON values that change when the pixels do."""

    def footprints(self, crs: str | int) -> dict[str, shapely.Geometry]:
        """Area each sensor may have pixels in."""

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """Per sensor an array such as ``s2 (s2_band, y, x)``, float32 in its unit, NaN = not usable.

        A composite of several dates adds ``date (y, x)`` uint16: days since 2000-01-01, 0 = none.
        """


def in_run(source: Source, folder: Path) -> Source:
    """A source as the workers of a run read it: those that ask hosts share what these answered, in a folder of it."""
    if isinstance(source, OnlySensors):
        return OnlySensors(in_run(source.source, folder), source.names)
    begin = getattr(source, "in_run", None)
    return begin(folder) if callable(begin) else source


def check_sensors(sensors: tuple[str, ...], spec: DenseSpec) -> None:
    """Refuse sensors an encoder does not know."""
    unknown = [name for name in sensors if name not in spec.sensors]
    if unknown or not sensors:
        raise BandError(f"encoder {spec.name} takes {', '.join(spec.sensors)}, not {', '.join(unknown) or 'nothing'}")


def check_periods(source: Source, spec: DenseSpec) -> None:
    """Refuse pixels of other months than an encoder of series is set to, and one image for such an encoder.

    Raises:
        BandError: Says what it takes.
    """
    names = getattr(source, "periods", ())
    if spec.dates == 1:  # a map of several dates
        return
    count, first = len(names) or 1, int(spec.arguments.get("month", 0)) if spec.dates > 1 else 0
    if count != spec.dates or (names and spec.dates > 1 and int(names[0][5:7]) != first):
        given = said(count, int(names[0][5:7]) if names else 0)
        raise BandError(f"{spec.name} takes {said(spec.dates, first)}, not {given}")


def times_of(source: Source, spec: DenseSpec) -> tuple[str, ...]:
    """Dates of the map an encoder of images makes of a source; none of one image, or for an encoder of series."""
    return tuple(getattr(source, "periods", ())) if spec.dates == 1 else ()


def check_times(times: Sequence[str], out: Path) -> None:
    """Refuse an output that cannot hold several dates.

    Raises:
        InputError: Says what can.
    """
    if times and out.suffix != ".zarr":
        raise InputError(f"--every makes a map of several dates, which {out.suffix} cannot hold; use --out map.zarr")


def is_dated(source: Source, times: Sequence[str]) -> bool:
    """Whether every pixel is of one day, of a source whose periods are images of their own (``times``) in each."""
    return bool(getattr(source, "each_dated", False)) if times else source.dated


def image_at(source: Source, geobox: GeoBox, time: int | None) -> xr.Dataset:
    """Pixels of a place, of one of several dates where ``time`` is its number; empty where that date has none."""
    if time is None:
        return source.load(geobox)
    found: xr.Dataset = source.image(time, geobox)  # type: ignore[attr-defined]  # of those that have periods
    return found


def said(count: int, first: int) -> str:
    """Dates of an image in words."""
    return "images of one date" if count == 1 else f"{count} months from {month_name[first]} on"


def check_bands(described: Mapping[str, Any], spec: DenseSpec) -> None:
    """Refuse files that lack a band of the encoder, before any work, and say which lack bands that it can do without.

    Args:
        described: What a source says of itself; of a file, ``bands`` holds 0 for those that it lacks.
        spec: Of the encoder.

    Raises:
        BandError: Names the file and what it has.
    """
    for name, sensor in spec.sensors.items():
        lacks: list[set[str]] = []
        for file, has in bands_of_files(described, name):
            missing = [band for band in sensor.bands if band not in has]
            if refused := [band for band in missing if band not in sensor.optional]:
                kind, other = (
                    ("model", "fit one on such files")
                    if spec.architecture == "segmenter"
                    else ("encoder", "an encoder that does without")
                )
                raise BandError(
                    f"{file.get('path', name)} lacks {', '.join(refused)} for {kind} {spec.name}; it has "
                    f"{', '.join(has)}: give a file with all of them, or {other}"
                )
            lacks += [set(missing)] if missing else []
        if lacks:
            every, bands = len(described[name]), [band for band in sensor.bands if band in set.union(*lacks)]
            apart = "; vectors are not comparable with those of files that have it" if SENSORS[name].is_radar else ""
            warnings.warn(
                f"{len(lacks)} of {every} {name} files lack {', '.join(bands)}, which {spec.name} learned to do "
                f"without{apart}",
                Note,
                stacklevel=3,
            )


def bands_of_files(described: Mapping[str, Any], sensor: str) -> Iterator[tuple[Mapping[str, Any], list[str]]]:
    """Files of a source that lack bands of a sensor, and those that they have."""
    files = described.get(sensor)
    for file in files if isinstance(files, list) else ():
        if isinstance(file, dict) and 0 in file.get("bands", ()):
            yield file, [band for band, number in zip(SENSORS[sensor].bands, file["bands"], strict=True) if number]


def lacked(described: Mapping[str, Any], spec: DenseSpec) -> dict[str, tuple[str, ...]]:
    """Bands of an encoder that some file of a source lacks, by sensor."""
    found = {}
    for name, sensor in spec.sensors.items():
        lacks = [set(sensor.bands) - set(has) for _, has in bands_of_files(described, name)]
        found[name] = tuple(band for band in sensor.bands if lacks and band in set.union(*lacks))
    return found


def images(cube: xr.Dataset, spec: DenseSpec) -> dict[str, Any]:
    """Arrays (NumPy or Dask) by sensor in the encoder's band order, which is found by name, never by position.

    Optional bands that are missing are NaN. Dates of a cube with ``time`` stand one after the other, each with all its
    bands.

    Raises:
        BandError: If another band is missing.
    """
    found = {}
    for name in [n for n in spec.sensors if n in cube]:
        array, bands = cube[name], list(spec.sensors[name].bands)
        axis = f"{name}_band"
        have = [str(b) for b in array[axis].values] if axis in array.coords else []
        if missing := [b for b in bands if b not in (*have, *spec.sensors[name].optional)]:
            raise BandError(
                f"{name} lacks {', '.join(missing)} for encoder {spec.name}; coordinate {axis} has {', '.join(have)}"
            )
        dates = ["time"] if "time" in array.dims else []
        if dates and array.sizes["time"] != spec.dates:
            raise BandError(f"{name} has {array.sizes['time']} dates; encoder {spec.name} takes {spec.dates}")
        known = [b for b in bands if b in have]
        array = array if known == have else array.sel({axis: known})
        data: Any = array.transpose(axis, *dates, ...).data
        is_lazy = isinstance(data, da.Array)
        data = data.astype(np.float32) if is_lazy else np.require(data, np.float32, ["C", "W"])
        if name in SENSORS and SENSORS[name].zero_is_fill:
            data = data.rechunk({0: -1}).map_blocks(without_zeros, dtype=np.float32) if is_lazy else without_zeros(data)
        data = in_place(data, [b in have for b in bands])
        found[name] = data.swapaxes(0, 1).reshape(-1, *data.shape[-2:]) if dates else data
    return found


def in_place(data: Any, has: Sequence[bool]) -> Any:
    """Bands (NumPy or Dask) in their places among all; NaN in the places of those that are not there."""
    if all(has):
        return data
    kind = da if isinstance(data, da.Array) else np
    empty, own = kind.full_like(data[:1], np.nan), iter(range(len(data)))
    return kind.concatenate([data[(i := next(own)) : i + 1] if there else empty for there in has])


def check_units(cube: xr.Dataset, arrays: dict[str, Any], spec: DenseSpec) -> dict[str, Any]:
    """Arrays of a cube that a user made, whose numbers are in the sensors' units; see ``geossl.units``.

    A cube in memory is looked at now, a lazy one block by block when it is computed.

    Raises:
        BandError: If they are not; says what they look like.
    """
    found = dict(arrays)
    for name in [name for name, sensor in SENSORS.items() if name in arrays and sensor.unit in CHECKED]:
        data, places = arrays[name], spec.needed(name)
        needed = places[: len(places) // spec.dates]  # of the first date
        bands = [spec.sensors[name].bands[i] for i in needed]
        if isinstance(data, da.Array):
            check_cube(name, np.zeros((len(bands), 0, 0), np.float32), bands, cube[name].dtype)
            checked = data.rechunk({0: -1}).map_blocks(partial(check_block, name), dtype=np.float32)
            found[name] = checked.map_blocks(partial(without_fill, name, bands, places), dtype=np.float32)
        else:
            step = max(1, math.ceil(max(data.shape[1:]) / LOOK_PX))
            check_cube(name, data[needed, ::step, ::step], bands, cube[name].dtype)
            if SENSORS[name].is_radar:
                note_speckle(f"the cube's {name}", data[needed], bands)
            found[name] = without_fill(name, bands, places, data)
    return found


def without_fill(
    name: str, bands: Sequence[str], places: Sequence[int], values: Float[ndarray, "c h w"]
) -> Float[ndarray, "c h w"]:
    """NaN where a date of a cube holds fill that nothing declares.

    Args:
        name: The sensor.
        bands: Names of the bands of a date.
        places: Their places in the cube, date by date.
        values: Pixels, not changed.
    """
    out, count = values, len(bands)
    dates = [list(places[first : first + count]) for first in range(0, len(places), count)]
    for own in [*dates, *([place] for place in range(len(values)) if place not in places)]:  # optional bands alone
        if (fill := fill_in(values[own], bands[: len(own)], SENSORS[name].unit)).any():
            out = out.copy() if out is values else out
            for place in own:
                out[place][fill] = np.nan
    return out


def note_levels(described: dict[str, Any], spec: DenseSpec) -> None:
    """Say that files are of another processing level than the encoder's, such as L1C for L2A.

    Args:
        described: What a source says of itself.
        spec: The encoder's spec.
    """
    for name in [name for name in spec.sensors if isinstance(described.get(name), list)]:
        wanted = [word for word in LEVELS if word in spec.sensors[name].level]
        levels = [str(file.get("level", "")) for file in described[name] if isinstance(file, dict)]
        found = {word for level in levels for word in LEVELS if word in level}
        if len(wanted) == 1 and (other := sorted(found - set(wanted))):
            text = f"{name} files are {', '.join(other)}; encoder {spec.name} learned from {wanted[0]}"
            warnings.warn(f"{text}, and what this shift costs was not measured", Note, stacklevel=3)


def without_zeros(values: Float[ndarray, "c *t h w"]) -> Float[ndarray, "c *t h w"]:
    """NaN where all bands are 0, which is how missing pixels are often filled."""
    empty = np.minimum.reduce(values) == 0
    if empty.any():
        empty &= np.maximum.reduce(values) == 0
    return np.where(empty, np.float32(np.nan), values) if empty.any() else values


@dataclass(frozen=True)
class OnlySensors:
    """Some sensors of another source.

    Args:
        source: Where pixels come from.
        names: Sensors that are left.
    """

    source: Source
    names: tuple[str, ...]

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors kept."""
        return self.names

    @property
    def dated(self) -> bool:
        """As the source."""
        return self.source.dated

    @property
    def periods(self) -> tuple[str, ...]:
        """As the source; none of one image."""
        return tuple(getattr(self.source, "periods", ()))

    @property
    def each_dated(self) -> bool:
        """As the source."""
        return bool(getattr(self.source, "each_dated", False))

    def describe(self) -> dict[str, Any]:
        """As the source."""
        return {**self.source.describe(), "only": list(self.names)}

    def footprints(self, crs: str | int) -> dict[str, shapely.Geometry]:
        """Footprints of the kept sensors."""
        return {name: area for name, area in self.source.footprints(crs).items() if name in self.names}

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """Load the kept sensors only."""
        return self.kept(self.source.load(geobox))

    def image(self, number: int, geobox: GeoBox) -> xr.Dataset:
        """The kept sensors of one of several dates."""
        return self.kept(image_at(self.source, geobox, number))

    def kept(self, cube: xr.Dataset) -> xr.Dataset:
        """A cube without the other sensors."""
        return cube.drop_vars([name for name in self.source.sensors if name in cube and name not in self.names])
