"""Local raster files as one aligned source: files, VRTs and folders; any CRS, resolution and extent."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
import xarray as xr
from jaxtyping import Float
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from geossl.data import addresses
from geossl.data.addresses import is_address
from geossl.data.resampling import onto, outline, reaches
from geossl.data.sentinel.bands import GDAL
from geossl.data.sentinel.inspection import inspect_all
from geossl.data.sentinel.raster_file import RasterFile
from geossl.errors import InputError, RunError, UnknownNameError, redact
from geossl.sensors import SENSORS

SAMPLE = Path(__file__).parents[1] / "sample"  # bundled scenes, a folder per sensor


@dataclass(frozen=True)
class LocalRasters:
    """Files of one or several sensors; a plain value that workers can open for themselves.

    Where files of one sensor overlap, the first valid pixel wins, in the order given and by name within a folder.

    Args:
        paths: Files or folders by sensor, keys of ``geossl.sensors.SENSORS``.
        s2_offset: Stated offset of Sentinel-2 numbers; by default what each file says.
        bands: By sensor, the names of the bands of files that do not name them, in the files' order.
    """

    paths: Mapping[str, Sequence[str | Path] | None]
    s2_offset: int | None = None
    bands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    files: dict[str, tuple[RasterFile, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Look at every file once, before any work starts.

        Raises:
            MissingFileError, BandError, GridError: What is wrong with which file, and what to do.
        """
        if unknown := set(self.paths) - set(SENSORS):
            raise UnknownNameError("sensor", unknown.pop(), SENSORS)
        for sensor in SENSORS:
            if found := inspect_all(self.paths.get(sensor), sensor, self.s2_offset, self.bands.get(sensor, ())):
                self.files[sensor] = tuple(found)
        if not self.files:
            options = ", ".join(f"{entry.title} with --{name}" for name, entry in SENSORS.items())
            raise InputError(f"no rasters given; name {options}, or several")

    @property
    def sensors(self) -> tuple[str, ...]:
        """The sensors there are files of."""
        return tuple(self.files)

    def bands_of(self, sensor: str, of: Callable[[Iterable[int]], bool] = all) -> tuple[str, ...]:
        """Bands that every file of a sensor has; with ``any``, that some file has."""
        has = [of(numbers) for numbers in zip(*(file.bands for file in self.files[sensor]), strict=True)]
        return tuple(band for band, is_in in zip(SENSORS[sensor].bands, has, strict=True) if is_in)

    @property
    def dated(self) -> bool:
        """False: files may hold composites."""
        return False

    def describe(self) -> dict[str, Any]:
        """JSON values that pin what is read: file, size, time of change, bands, offset and why."""
        return {
            sensor: [
                {
                    "path": redact(f.path) if is_address(f.path) else str(Path(f.path).absolute()),
                    "footprint": shapely.to_wkb(outline(f.geobox, CRS(4326)).simplify(1e-4), hex=True),
                    **as_it_is(f.path),
                    "day": f"{f.date[:4]}-{f.date[4:6]}-{f.date[6:]}" if f.date else "",
                    "bands": list(f.bands),
                    "level": f.level,
                    "offset": f.offset,
                    "scale": f.scale,
                    "decided_by": f.reason,
                    **({"id": f.scene, "parts": [Path(part).name for part in f.parts]} if f.parts else {}),
                    **({"gain": list(f.gain), "bias": list(f.bias)} if f.gain else {}),
                    **({"sidecars": list(f.sidecars)} if f.sidecars else {}),
                    **({"quality": [list(band) for band in f.quality]} if f.quality else {}),
                }
                for f in files
            ]
            for sensor, files in self.files.items()
        }

    @property
    def days(self) -> tuple[str, ...]:
        """Days of the files, ``20210315``, in time.

        Raises:
            InputError: Names a file that does not say its day.
        """
        files = [file for files in self.files.values() for file in files]
        if unknown := [file.path for file in files if not file.date]:
            raise InputError(
                f"{redact(unknown[0])} does not say its day; months need files with a date in their name, such as "
                "20210315.tif, or in their tags"
            )
        return tuple(sorted({file.date for file in files}))

    def of_day(self, day: str) -> "LocalRasters":
        """The files of one day, nothing looked at again."""
        found = copy.copy(self)
        files = {sensor: tuple(f for f in files if f.date == day) for sensor, files in self.files.items()}
        object.__setattr__(found, "files", {sensor: kept for sensor, kept in files.items() if kept})
        return found

    @property
    def optical_days(self) -> tuple[date, ...]:
        """Days of the optical files, in time; of radar where there are no others.

        Raises:
            InputError: Names a file that does not say its day.
        """
        found = {file.date for sensor in self.led_by for file in self.files[sensor]}
        return tuple(date.fromisoformat(day) for day in self.days if day in found)

    @property
    def led_by(self) -> tuple[str, ...]:
        """Sensors whose days are those of scenes: the optical ones, or all if there is none."""
        return tuple(name for name in self.files if not SENSORS[name].is_radar) or tuple(self.files)

    def around(self, day: date, most_days: int) -> "LocalRasters":
        """The scenes of a day, and of the other sensors those of the nearest day, at most some days away."""

        def apart(file: RasterFile) -> int:
            return abs((date.fromisoformat(file.date) - day).days)

        found, kept = copy.copy(self), {}
        for sensor, files in self.files.items():
            nearest = 0 if sensor in self.led_by else min(most_days, *map(apart, files))
            kept[sensor] = tuple(file for file in files if apart(file) == nearest)
        object.__setattr__(found, "files", {sensor: files for sensor, files in kept.items() if files})
        return found

    def footprints(self, crs: str | int) -> dict[str, shapely.Geometry]:
        """Area each sensor has a file of, in ``crs``; nodata inside a file is not looked at."""
        return {
            sensor: shapely.union_all([outline(f.geobox, CRS(crs)) for f in files])
            for sensor, files in self.files.items()
        }

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """Read all sensors onto a grid, in their physical units.

        Files on this very grid are copied; others are resampled bilinearly, pixel by pixel from the file, so that a
        value does not depend on how much is read at once. Radar is averaged in dB, as encoders take it.

        Returns:
            Per sensor an array such as ``s2 (s2_band, y, x)``, float32, of the bands that some file has; NaN outside
            files and where there is no data.

        Raises:
            RunError: If a file cannot be read; a failed read is never taken for missing data.
        """
        coords = xr_coords(geobox)
        y, x = geobox.dimensions
        arrays = {}
        for sensor, files in self.files.items():
            dims = (f"{sensor}_band", y, x)
            data = mosaic(files, sensor, geobox)
            bands = self.bands_of(sensor, any)
            if len(bands) < len(data):
                data = data[[SENSORS[sensor].bands.index(band) for band in bands]]
            names = {f"{sensor}_band": list(bands)}
            arrays[sensor] = xr.DataArray(data, dims=dims, coords={**names, **coords})
        return xr.Dataset(arrays)


def as_it_is(path: str) -> dict[str, Any]:
    """Size of a file, and what changes when it is written again."""
    if is_address(path):
        size, changed = addresses.state(path)
        return {"bytes": size, "changed": changed}
    state = Path(path).stat()
    return {"bytes": state.st_size, "changed_ns": state.st_mtime_ns}


def mosaic(files: Sequence[RasterFile], sensor: str, geobox: GeoBox) -> Float[ndarray, "c h w"]:
    """Files of one sensor on a grid, in physical units; the first valid pixel wins, NaN where there is none."""
    data: Float[ndarray, "c h w"] | None = None
    missing = np.ones(geobox.shape, dtype=bool)
    for file in files:
        if reaches(file.geobox, geobox):
            values = file.physical(warp(file, geobox))
            if data is None:
                data = values
            else:
                np.copyto(data, values, where=missing)
            own = next(i for i, number in enumerate(file.bands) if number)  # an unusable pixel is NaN in all it has
            missing &= np.isnan(values[own])
    return np.full((len(SENSORS[sensor].bands), *geobox.shape), np.nan, np.float32) if data is None else data


def warp(file: RasterFile, geobox: GeoBox) -> Float[ndarray, "c h w"]:
    """Numbers of a file on a grid; NaN where there is none. The file is open no longer than this takes."""
    if is_address(file.path):
        return addresses.read(file.path, partial(onto, geobox, file))
    try:
        with rasterio.Env(**GDAL):
            if file.grids:
                return layered(file, geobox)
            with rasterio.open(file.path) as source:
                return onto(geobox, file, source)
    except rasterio.errors.RasterioError as error:
        raise RunError(f"{file.path} cannot be read ({' '.join(str(error).split())})") from None


def layered(file: RasterFile, geobox: GeoBox) -> Float[ndarray, "c h w"]:
    """Numbers of files that differ in pixel size on a grid, each from its own."""
    if 0 in file.bands:
        return file.in_place(layered(file.there, geobox))
    numbers = np.empty((len(file.bands), *geobox.shape), dtype=np.float32)
    for layer, part in zip(numbers, file.layered, strict=True):
        with rasterio.open(part.path) as source:
            layer[:] = onto(geobox, part, source)[0]
    numbers = file.scaled(numbers)
    numbers[:, file.unusable(numbers)] = np.nan
    return numbers
