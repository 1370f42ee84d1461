"""Local raster files as one aligned source: files, VRTs and folders; any CRS, resolution and extent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
import xarray as xr
from affine import Affine
from jaxtyping import Float
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import Transformer
from rasterio.windows import Window

from geossl.data.bands import BANDS, RasterFile, inspect, to_physical
from geossl.errors import InputError, MissingFileError, RunError

SUFFIXES = {".tif", ".tiff", ".vrt", ".jp2"}
ALIGNED = 1e-3  # of a pixel: grids that agree this well are copied, not resampled


def expand(paths: Sequence[str | Path] | None, sensor: str) -> list[Path]:
    """Files named by paths; a folder stands for the rasters in it, sorted by name."""
    files: list[Path] = []
    for path in map(Path, paths or []):
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise MissingFileError(f"--{sensor} folder {str(path)!r} holds no {', '.join(sorted(SUFFIXES))} file")
        files += inside
    return files


@dataclass(frozen=True)
class LocalRasters:
    """Sentinel-1 and/or Sentinel-2 files; a plain value that workers can open for themselves.

    Where files of one sensor overlap, the first valid pixel in order of name wins.

    Args:
        s1: Files or folders, VV and VH in dB; None = no radar.
        s2: Files or folders, 12 bands; None = no optical.
        s2_offset: Stated offset of Sentinel-2 numbers; by default what each file says.
    """

    s1: Sequence[str | Path] | None
    s2: Sequence[str | Path] | None
    s2_offset: int | None = None
    files: dict[str, tuple[RasterFile, ...]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Look at every file once.

        Raises:
            MissingFileError, BandError, GridError: What is wrong with which file, and what to do.
        """
        for sensor, paths in (("s1", self.s1), ("s2", self.s2)):
            found = expand(paths, sensor)
            if found:
                self.files[sensor] = tuple(inspect(path, sensor, self.s2_offset) for path in found)
        if not self.files:
            raise InputError("no rasters given; name Sentinel-1 with --s1, Sentinel-2 with --s2, or both")

    @property
    def sensors(self) -> tuple[str, ...]:
        """The sensors there are files of."""
        return tuple(self.files)

    def describe(self) -> dict[str, Any]:
        """JSON values that pin what is read: file, size, time of change, bands, offset and why."""
        return {
            sensor: [
                {
                    "path": str(Path(f.path).absolute()),
                    "bytes": Path(f.path).stat().st_size,
                    "changed_ns": Path(f.path).stat().st_mtime_ns,
                    "bands": list(f.bands),
                    "offset": f.offset,
                    "scale": f.scale,
                    "decided_by": f.reason,
                }
                for f in files
            ]
            for sensor, files in self.files.items()
        }

    def footprint(self, crs: str | int) -> shapely.Geometry:
        """Area where every sensor has a file, in ``crs``; nodata inside a file is not looked at."""
        areas = [shapely.union_all([outline(f.path, crs) for f in files]) for files in self.files.values()]
        return shapely.intersection_all(areas)

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """Read all sensors onto a grid, in dB and reflectance.

        Files on this very grid are copied; others are resampled bilinearly, pixel by pixel from the file, so that a
        value does not depend on how much is read at once.

        Returns:
            ``s1 (s1_band, y, x)`` and ``s2 (s2_band, y, x)`` float32; NaN outside files and where there is no data.

        Raises:
            RunError: If a file cannot be read; a failed read is never taken for missing data.
        """
        coords = xr_coords(geobox)
        y, x = geobox.dimensions
        arrays = {}
        for sensor, files in self.files.items():
            touched = [f for f in files if shapely.intersects(outline(f.path, wkt_of(geobox)), geobox.extent.geom)]
            data = mosaic(touched, sensor, geobox)
            dims = (f"{sensor}_band", y, x)
            arrays[sensor] = xr.DataArray(data, dims=dims, coords={f"{sensor}_band": list(BANDS[sensor]), **coords})
        return xr.Dataset(arrays)


def wkt_of(geobox: GeoBox) -> str:
    """CRS of a grid that has one."""
    assert geobox.crs is not None
    return str(geobox.crs.to_wkt())


def mosaic(files: Sequence[RasterFile], sensor: str, geobox: GeoBox) -> Float[np.ndarray, "c h w"]:
    """Files of one sensor on a grid, in physical units; the first valid pixel wins, NaN where there is none."""
    data = np.full((len(BANDS[sensor]), *geobox.shape), np.nan, dtype=np.float32)
    for file in files:
        part = to_physical(warp(file, geobox), file)
        data = np.where(np.isnan(data), part, data)
    return data


def outline(path: str, crs: str | int) -> shapely.Geometry:
    """Footprint of a file in another CRS, its edges followed in 21 points each.

    Raises:
        RunError: If the file cannot be read.
    """
    try:
        with rasterio.open(path) as file:
            t, width, height, own = file.transform, file.width, file.height, file.crs.to_wkt()
    except rasterio.errors.RasterioError as error:
        raise RunError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
    steps = np.linspace(0, 1, 21)
    u = np.concatenate([steps, np.ones(21), steps[::-1], np.zeros(21)]) * width
    v = np.concatenate([np.zeros(21), steps, np.ones(21), steps[::-1]]) * height
    transformer = Transformer.from_crs(own, crs, always_xy=True)
    edge = transformer.transform(t.a * u + t.b * v + t.c, t.d * u + t.e * v + t.f)
    return shapely.Polygon(np.column_stack(edge))


def warp(file: RasterFile, geobox: GeoBox) -> np.ndarray:
    """Numbers of a file on a grid, float32, NaN where there is none."""
    try:
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), rasterio.open(file.path) as source:
            shift = ~source.transform @ geobox.transform
            same_crs = source.crs == rasterio.crs.CRS.from_wkt(wkt_of(geobox))
            if same_crs and is_whole_shift(shift):
                numbers = copy(source, file.bands, round(shift.c), round(shift.f), (geobox.height, geobox.width))
            else:
                numbers = resample(source, file.bands, geobox)
            is_integer = not source.dtypes[0].startswith("float")
    except rasterio.errors.RasterioError as error:
        raise RunError(f"{file.path} cannot be read ({' '.join(str(error).split())})") from None
    numbers[:, np.isnan(numbers).any(axis=0)] = np.nan
    if file.sensor == "s2" and is_integer:
        numbers[:, (numbers == 0).all(axis=0)] = np.nan
    return numbers


def is_whole_shift(shift: Affine) -> bool:
    """Whether one grid is the other one moved by whole pixels."""
    square = np.allclose([shift.a, shift.b, shift.d, shift.e], [1, 0, 0, 1], atol=1e-6)
    return square and max(abs(shift.c - round(shift.c)), abs(shift.f - round(shift.f))) < ALIGNED


def copy(
    source: rasterio.DatasetReader, bands: Sequence[int], column: int, row: int, shape: tuple[int, int]
) -> np.ndarray:
    """Pixels as they are; NaN outside the file."""
    height, width = shape
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + height, source.height), min(column + width, source.width)
    out = np.full((len(bands), height, width), np.nan, dtype=np.float32)
    if top < bottom and left < right:
        window = Window(left, top, right - left, bottom - top)
        data = source.read(list(bands), window=window, masked=True).astype(np.float32).filled(np.nan)
        out[:, top - row : bottom - row, left - column : right - column] = data
    return out


def resample(source: rasterio.DatasetReader, bands: Sequence[int], geobox: GeoBox) -> np.ndarray:
    """Bilinear between pixel centres; NaN outside the file and beside pixels without data.

    GDAL's warper is not used: its weights depend, in the last bits, on the block that is asked for.
    """
    column, row = source_coordinates(source, geobox)
    inside = (column >= -0.5) & (column <= source.width - 0.5) & (row >= -0.5) & (row <= source.height - 0.5)
    out = np.full((len(bands), *geobox.shape), np.nan, dtype=np.float32)
    if not inside.any():
        return out
    x, y = np.clip(column[inside], 0, source.width - 1), np.clip(row[inside], 0, source.height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, source.width - 1), np.minimum(top + 1, source.height - 1)
    wx, wy = (x - left), (y - top)
    window = Window(left.min(), top.min(), right.max() - left.min() + 1, bottom.max() - top.min() + 1)
    left, right, top, bottom = (
        left - window.col_off,
        right - window.col_off,
        top - window.row_off,
        bottom - window.row_off,
    )
    for i, band in enumerate(bands):
        data = source.read(band, window=window, masked=True).astype(np.float64).filled(np.nan)
        upper = between(data[top, left], data[top, right], wx)
        lower = between(data[bottom, left], data[bottom, right], wx)
        out[i, inside] = between(upper, lower, wy)
    return out


def between(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Linear interpolation; a neighbour of weight 0 is not looked at, so its NaN does not spread."""
    return np.where(weight == 0, a, a + weight * (b - a))


def source_coordinates(source: rasterio.DatasetReader, geobox: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Column and row in the file, 0 = centre of the first pixel, of every pixel centre of the grid."""
    rows, columns = np.mgrid[: geobox.height, : geobox.width] + 0.5
    t = geobox.transform
    xs, ys = t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f
    wkt = wkt_of(geobox)
    if source.crs != rasterio.crs.CRS.from_wkt(wkt):
        transformer = Transformer.from_crs(wkt, source.crs.to_wkt(), always_xy=True)
        xs, ys = transformer.transform(xs, ys)
    t = ~source.transform
    return t.a * xs + t.b * ys + t.c - 0.5, t.d * xs + t.e * ys + t.f - 0.5
