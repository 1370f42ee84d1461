"""What the page shows: rasters as web-mercator tiles, with the legend that explains their colours."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import rasterio
from jaxtyping import UInt8
from matplotlib import image
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import from_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from geossl.data.labels.tags import names_in
from geossl.errors import InputError, MissingFileError
from geossl.inference.outputs.change_picture import STEPS_ABOVE, ramp

TILE_PX = 256
MERCATOR_M = 20037508.342789244  # half the side of the web-mercator square
OVERVIEW_PX = 512  # ranges and legends are taken from a thinned read of this size
MOST_BANDS = 8  # of values; more are a map of embeddings
COLOUR_BAR = "viridis"
PALETTE = "tab20"


@dataclass(frozen=True)
class Layer:
    """One raster and how it is coloured.

    Args:
        name: For the page.
        path: Any georeferenced raster GDAL reads.
        kind: ``picture`` (colours as they are), ``classes`` (one colour per number) or ``values`` (a colour bar).
        bounds: West, south, east, north in degrees.
        table: Red, green, blue and opacity by class, or along the colour bar.
        low: Value of the lower end of the colour bar.
        high: Value of the upper end.
        names: Class names by number.
        note: What the legend says below the colour bar, such as a unit.
    """

    name: str
    path: Path
    kind: str
    bounds: tuple[float, float, float, float]
    table: UInt8[np.ndarray, "256 4"] = field(repr=False)
    low: float = 0.0
    high: float = 1.0
    names: dict[int, str] = field(default_factory=dict)
    note: str = ""

    def describe(self) -> dict[str, Any]:
        """What the page needs to know, as JSON values."""
        west, south, east, north = self.bounds
        found: dict[str, Any] = {"name": self.name, "kind": self.kind, "bounds": [[south, west], [north, east]]}
        if self.kind == "classes":
            found["classes"] = [{"name": name, "colour": colour(self.table[i])} for i, name in self.names.items()]
        if self.kind == "values":
            stops = [colour(self.table[i]) for i in np.linspace(0, 255, 9).astype(int)]
            found |= {"low": self.low, "high": self.high, "stops": stops, "note": self.note}
        return found

    def tile(self, zoom: int, x: int, y: int) -> bytes:
        """A 256 px web-mercator tile as PNG; reprojected by GDAL from the fitting overview, transparent outside."""
        side = 2 * MERCATOR_M / 2**zoom
        west, north = x * side - MERCATOR_M, MERCATOR_M - y * side
        grid = from_bounds(west, north - side, west + side, north, TILE_PX, TILE_PX)
        with (
            rasterio.open(self.path) as file,
            WarpedVRT(
                file,
                crs="EPSG:3857",
                transform=grid,
                width=TILE_PX,
                height=TILE_PX,
                resampling=Resampling.nearest,
                add_alpha=rasterio.enums.ColorInterp.alpha not in file.colorinterp,
            ) as warped,
        ):
            return png(self.paint(warped.read()))

    def paint(self, bands: np.ndarray) -> UInt8[np.ndarray, "h w 4"]:
        """Colours of a block whose last band is opacity."""
        data, opaque = bands[:-1], bands[-1] > 0
        if self.kind == "picture":
            picture = np.moveaxis(np.concatenate([data[:3], bands[-1:]]), 0, -1).astype(np.uint8)
        elif self.kind == "classes":
            picture = self.table[data[0].astype(np.uint8)]
        else:
            opaque &= np.isfinite(data[0])
            share = (np.where(opaque, data[0], self.low) - self.low) / max(self.high - self.low, 1e-12)
            picture = self.table[np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)]
        return np.where(opaque[..., None], picture, np.uint8(0))


def open_layer(path: Path, name: str | None = None) -> Layer:
    """Decide how a raster is shown.

    Three or four 8-bit bands are a picture; one 8-bit band with a colour table or a ``CLASS_NAMES`` tag (JSON, names
    by number) holds classes; any other holds values, of whose named bands the first is shown. That of ``geossl change``
    has the colours of its picture, which part at the threshold.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is not a georeferenced raster of these kinds.
    """
    if not path.is_file():
        raise MissingFileError(f"--layer {str(path)!r} does not exist")
    try:
        with rasterio.open(path) as file:
            return described(file, path, name or path.stem)
    except RasterioError as error:
        raise InputError(f"--layer {path} cannot be read as a raster ({' '.join(str(error).split())[:120]})") from None


def described(file: Any, path: Path, name: str) -> Layer:
    """The layer of an open raster."""
    if file.crs is None:
        raise InputError(f"--layer {path} has no CRS; expected a georeferenced raster")
    bounds = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    if file.count in (3, 4) and file.dtypes[0] == "uint8":
        return Layer(name, path, "picture", bounds, np.zeros((256, 4), np.uint8))
    if file.count > MOST_BANDS or (file.count > 1 and not file.descriptions[0]):
        raise InputError(
            f"--layer {path} has {file.count} bands of {file.dtypes[0]}; expected one, RGB in 8 bits, or named bands "
            "of values, of which the first is shown"
        )
    if (edge := file.tags().get("GEOSSL_Z_THRESHOLD")) is not None:
        return of_change(file, path, name, bounds, edge)
    names = class_names(file, path)
    table = colour_table(file)
    small = max(1, *(n // OVERVIEW_PX for n in file.shape))
    sample = file.read(1, masked=True, out_shape=tuple(-(-n // small) for n in file.shape))
    present = sample.compressed()
    if file.dtypes[0] == "uint8" and (names or table is not None):
        known = names or {int(i): f"class {i}" for i in np.unique(present)}
        return Layer(name, path, "classes", bounds, palette() if table is None else table, names=known)
    present = present[np.isfinite(present)]
    low, high = np.percentile(present, [2, 100]).tolist() if len(present) else (0.0, 1.0)
    title = f"{name}: {file.descriptions[0]}" if file.count > 1 and file.descriptions[0] else name
    unit = file.units[0] or ""
    return Layer(title, path, "values", bounds, colours(COLOUR_BAR, 256), float(low), float(high), note=unit)


def of_change(file: Any, path: Path, name: str, bounds: tuple[float, float, float, float], edge: str) -> Layer:
    """A raster of ``geossl change``: grey below the threshold, warm above.

    Raises:
        InputError: If its tags are not numbers.
    """
    try:
        high, rate = STEPS_ABOVE * float(edge), float(file.tags().get("GEOSSL_FALSE_ALARMS", "nan"))
    except ValueError:
        raise InputError(f"--layer {path} has a broken GEOSSL_Z_THRESHOLD tag; expected a number") from None
    note = f"changed from {float(edge):.3g} on, at a false-alarm rate of {100 * rate:g} %"
    table = ramp()(np.linspace(0, 1, 256), bytes=True)
    return Layer(f"{name}: robust z", path, "values", bounds, table, 0.0, high, note=note)


def class_names(file: Any, path: Path) -> dict[int, str]:
    """Names by class number from the ``CLASS_NAMES`` tag of the band or the file; empty if there is none."""
    text = file.tags(1).get("CLASS_NAMES") or file.tags().get("CLASS_NAMES") or "{}"
    names = names_in(text)
    if names is None or any(i > 255 for i in names):
        raise InputError(f'--layer {path} has a broken CLASS_NAMES tag; expected JSON such as {{"0": "water"}}')
    return names


def colour_table(file: Any) -> UInt8[np.ndarray, "256 4"] | None:
    """The colour table of a raster, if it has one."""
    try:
        found = file.colormap(1)
    except ValueError:
        return None
    return np.array([found.get(i, (0, 0, 0, 0)) for i in range(256)], np.uint8)


def palette() -> UInt8[np.ndarray, "256 4"]:
    """Colours for classes that have none."""
    return np.resize(colours(PALETTE, 20), (256, 4))


def colours(name: str, count: int) -> UInt8[np.ndarray, "n 4"]:
    """Evenly spaced colours of a Matplotlib colour map."""
    return matplotlib.colormaps[name](np.linspace(0, 1, count), bytes=True)


def colour(rgba: UInt8[np.ndarray, "4"]) -> str:
    """As the web writes it."""
    return "#{:02x}{:02x}{:02x}".format(*rgba[:3])


def png(picture: UInt8[np.ndarray, "h w 4"]) -> bytes:
    """Bytes of a PNG file of an image."""
    buffer = io.BytesIO()
    image.imsave(buffer, picture, format="png")
    return buffer.getvalue()
