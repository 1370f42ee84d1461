"""Labels from rasters: class numbers, or amounts, in files of any grid."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from jaxtyping import Float32, Int, UInt, UInt8
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geossl.data.labels.colours import class_colours
from geossl.data.labels.tags import class_names
from geossl.data.labels.tasks import CLASSIFY, REGRESS, check_classes, quintiles
from geossl.data.resampling import outline, reaches, sides, source_coordinates
from geossl.data.scale_tags import tagged_scale
from geossl.errors import InputError, Note
from geossl.grid import Aoi, from_frame

MOST_PIXELS = 2**32  # of a label raster, all of which are read to know the classes
FILLS = {-9999.0, -99999.0, -32768.0, -32767.0, -2147483648.0}  # of amounts, whatever a file declares
GREATEST = 1e30  # beyond it lies no amount, but the least number of a type
LIKE_FILL = (255, 32767, 65535)
LOOKED_AT = 512  # pixels a side from which the spread of amounts is known


@dataclass(frozen=True)
class Rasters:
    """Label rasters; classes are their values, other than nodata and, where none is stated, 0.

    Args:
        paths: Files.
        task: ``classify`` or ``regress``.
    """

    paths: tuple[Path, ...]
    task: str = CLASSIFY
    is_sparse = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: If they are not what the task needs.
        """
        if self.is_continuous and not self.edges:
            raise InputError(f"{self.name} holds no number, or one only; there is nothing to tell apart")
        if not self.is_continuous:
            check_classes(len(self.values), self.name)

    @property
    def is_continuous(self) -> bool:
        """See Labels."""
        return self.task == REGRESS

    @property
    def target(self) -> str:
        """See Labels."""
        return self.paths[0].stem

    @cached_property
    def unit(self) -> str:
        """See Labels."""
        with rasterio.open(self.paths[0]) as file:
            return str(file.units[0] or "")

    @cached_property
    def edges(self) -> tuple[float, ...]:
        """See Labels; from thinned-out files."""
        if not self.is_continuous:
            return ()
        found = np.concatenate([thinned(path) for path in self.paths])
        return quintiles(found) if len(found) and found.min() < found.max() else ()

    @property
    def name(self) -> str:
        """For messages."""
        return f"--labels {self.paths[0]}" + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    @cached_property
    def values(self) -> tuple[int, ...]:
        """Values that are classes, of all files."""
        found: set[int] = set()
        for path in self.paths:
            with opened(path, self.task) as file:
                for _, window in file.block_windows(1):
                    found |= {int(v) for v in np.unique(read_classes(file, window))} - {empty_value(file)}
        return tuple(sorted(found))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """From the files' tags, or the number."""
        if self.is_continuous:
            return ()
        known = class_names(self.paths)
        return tuple(known.get(value, f"class {value}") for value in self.values)

    @property
    def colours(self) -> tuple[str, ...]:
        """Of the first file with a colour table; else usual ones, or a palette."""
        for path in self.paths if self.names else ():
            with rasterio.open(path) as file:
                try:
                    table = file.colormap(1)
                except ValueError:
                    continue
                return tuple("#{:02x}{:02x}{:02x}".format(*table.get(v, (128, 128, 128))[:3]) for v in self.values)
        return class_colours(self.names)

    def area(self) -> Aoi:
        """Outlines of the files."""
        frames = []
        for path in self.paths:
            with rasterio.open(path) as file:
                frames.append(outline(GeoBox.from_rio(file), CRS(4326)))
        return from_frame(gpd.GeoDataFrame(geometry=[shapely.union_all(frames)], crs=4326), self.name)

    def describe(self) -> dict[str, Any]:
        """Files, their sizes and times of change."""
        files = [(str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns) for p in self.paths]
        return {"rasters": [list(file) for file in files]}

    def grid(self, geobox: GeoBox) -> UInt8[ndarray, "h w"] | Float32[ndarray, "h w"]:
        """Nearest neighbour; the first file with a label wins."""
        if self.is_continuous:
            amounts = np.full(geobox.shape, np.nan, np.float32)
            for path in self.paths:
                with rasterio.open(path) as file:
                    if found := nearest(file, geobox, np.isnan(amounts), read_amounts):
                        amounts[found[0]] = found[1]
            return amounts
        out = np.zeros(geobox.shape, dtype=np.uint8)
        for path in self.paths:
            with rasterio.open(path) as file:
                if found := nearest(file, geobox, out == 0):
                    where, values = found
                    is_class = np.isin(values, self.values) & (values != empty_value(file))
                    out[where] = np.where(is_class, np.searchsorted(self.values, values) + 1, 0)
        return out


def of_files(paths: tuple[Path, ...], task: str | None) -> Rasters:
    """Label rasters; of amounts if the first file holds fractions, a scale, or the user says so."""
    with opened(paths[0], REGRESS) as file:
        is_amount = not np.issubdtype(file.dtypes[0], np.integer) or scale_of(file) != (1.0, 0.0)
    found = task or (REGRESS if is_amount else CLASSIFY)
    for path in paths:
        with opened(path, found) as file:
            if found == REGRESS and (values := fills_in(file)):
                text = f"--labels {path} holds {min(values):g}, which is taken for nodata; declare it: gdal_edit.py "
                warnings.warn(f"{text}-a_nodata {min(values):g}", Note, stacklevel=3)
    rasters = Rasters(paths, found)
    if found == CLASSIFY:
        check_fill(rasters)
    return rasters


def fills_in(file: rasterio.DatasetReader) -> set[float]:
    """Usual fill values among the values of a file that count."""
    return FILLS & set(np.unique(file.read(1, out_shape=thinned_shape(file), masked=True).compressed()).tolist())


def scale_of(file: rasterio.DatasetReader) -> tuple[float, float]:
    """Scale and offset of a file's values: GDAL's, else those of its tags."""
    own = (float(file.scales[0]), float(file.offsets[0]))
    return tagged_scale(file.tags()) if own == (1.0, 0.0) else own


def check_fill(rasters: Rasters) -> None:
    """Refuse negative classes, which are fill that is not declared, and say where 255 counts as a class.

    Raises:
        InputError: Which value, and how to declare it.
    """
    values, named = rasters.values, class_names(rasters.paths)
    if values[0] < 0:
        raise InputError(
            f"{rasters.name} holds {values[0]}, which is no class; if it is nodata, declare it: gdal_edit.py -a_nodata "
            f"{values[0]}"
        )
    if values[-1] in LIKE_FILL and len(values) > 2 and values[-1] not in named:
        text = f"{rasters.name}: {values[-1]} counts as a class; if it is nodata, declare it: gdal_edit.py -a_nodata"
        warnings.warn(f"{text} {values[-1]}", Note, stacklevel=3)


def thinned(path: Path) -> Float32[ndarray, " n"]:
    """Some of the amounts of a file."""
    with opened(path, REGRESS) as file:
        values = read_amounts(file, Window(0, 0, file.width, file.height), thinned_shape(file))
    return values[np.isfinite(values)]


def thinned_shape(file: rasterio.DatasetReader) -> tuple[int, int]:
    """Rows and columns of a look at a file."""
    step = max(1, max(file.shape) // LOOKED_AT)
    return max(1, file.height // step), max(1, file.width // step)


def opened(path: Path, task: str) -> rasterio.DatasetReader:
    """A label raster, open.

    Raises:
        InputError: If it cannot be read, or does not fit the task.
    """
    try:
        file = rasterio.open(path)
    except RasterioError as error:
        raise InputError(f"--labels {path} cannot be read ({' '.join(str(error).split())[:120]})") from None
    problem = None
    if file.crs is None:
        problem = "has no CRS; set it: gdal_edit.py -a_srs EPSG:..."
    elif file.transform == Affine.identity():
        problem = "has a CRS, but no transform, so its place is unknown; set its corners: gdal_edit.py -a_ullr"
    elif "complex" in file.dtypes[0]:
        problem = "holds complex numbers; expected classes or amounts"
    elif task == CLASSIFY and scale_of(file) != (1.0, 0.0):
        gain, bias = scale_of(file)
        problem = f"has the scale {gain:g} and offset {bias:g}, so it holds amounts, not classes"
    elif file.width * file.height > MOST_PIXELS:
        problem = f"is {file.width} x {file.height} px, too many to look through; cut out the region: gdal_translate"
    elif file.count != 1 and not (file.count == 2 and file.colorinterp[1] == ColorInterp.alpha):
        problem = f"has {file.count} bands; expected one, of labels"
    elif task == CLASSIFY and not np.issubdtype(file.dtypes[0], np.integer):
        problem = f"holds {file.dtypes[0]}; expected whole numbers, one per class"
    if problem:
        file.close()
        raise InputError(f"--labels {path} {problem}")
    return file


def nearest(
    file: rasterio.DatasetReader, geobox: GeoBox, wanted: ndarray, read: Callable[..., ndarray] | None = None
) -> tuple[ndarray, ndarray] | None:
    """Pixels of a grid that lie in a file and are wanted, and the file's values there; None if there are none."""
    grid = GeoBox.from_rio(file)
    if not reaches(grid, geobox):
        return None
    x, y = (np.round(v).astype(int) for v in source_coordinates(grid, geobox))
    inside = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height) & wanted
    if not inside.any():
        return None
    out = np.zeros(geobox.shape, dtype=file.dtypes[0] if read is None else np.float32)
    for part in sides(inside, x, grid.width, grid.crs):
        x0, y0 = int(x[part].min()), int(y[part].min())
        window = Window(x0, y0, int(x[part].max()) - x0 + 1, int(y[part].max()) - y0 + 1)
        out[part] = (read or read_classes)(file, window)[y[part] - y0, x[part] - x0]
    return inside, out[inside]


def read_classes(file: rasterio.DatasetReader, window: Window) -> Int[ndarray, "h w"] | UInt[ndarray, "h w"]:
    """Class numbers of a window as the file's scale and offset make them; what is masked is the empty value."""
    values = file.read(1, window=window)
    covered = file.read_masks(1, window=window) > 0
    for number, kind in enumerate(file.colorinterp, start=1):
        if kind == ColorInterp.alpha:
            covered &= file.read(number, window=window) > 0
    return np.where(covered, values, np.array(empty_value(file), dtype=values.dtype))


def read_amounts(
    file: rasterio.DatasetReader, window: Window, shape: tuple[int, int] | None = None
) -> Float32[ndarray, "h w"]:
    """Amounts of a window as the file's scale and offset make them; NaN where nothing is known."""
    values = file.read(1, window=window, out_shape=shape).astype(np.float64)
    covered = file.read_masks(1, window=window, out_shape=shape) > 0
    gain, bias = scale_of(file)
    found = values * gain + bias
    known = covered & np.isfinite(found) & (np.abs(values) < GREATEST) & ~np.isin(values, list(FILLS))
    return np.where(known, found, np.nan).astype(np.float32)


def empty_value(file: rasterio.DatasetReader) -> int:
    """The value that means: not labelled."""
    return 0 if file.nodata is None else int(file.nodata)
