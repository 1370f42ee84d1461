"""Label mode: marks of a user, what heads make of them, and the layers that show it."""

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import rasterio
import shapely
import xarray as xr
from jaxtyping import Bool
from matplotlib.colors import to_rgba
from numpy import ndarray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import rasterize
from rasterio.warp import transform_bounds

from geossl.inference.outputs.cog import write_blocks
from geossl.viewer.curve import label_curve
from geossl.viewer.guesses import Guess, Vectors
from geossl.viewer.layers import COLOUR_BAR, Layer, colours
from geossl.viewer.marks import Corner, Marks

CLASSES, DOUBT = "label-classes", "label-doubt"  # layers, a number behind for every time they are painted


class Labelling:
    """Labels on a map and the head that learns from them; safe to use from several threads.

    Args:
        map_path: ``.zarr`` written by ``geossl embed``.
        embeddings: The map, open.
        file: ``.gpkg`` of labels.
        folder: Holds temporary rasters; the caller removes it.
        area: Region of the map, GeoJSON in longitude and latitude; next places lie in it.
        time: Date of a map of several.

    Raises:
        InputError: If map or file cannot be used.
    """

    def __init__(
        self,
        map_path: Path,
        embeddings: xr.DataArray,
        file: Path,
        folder: Path,
        area: dict[str, Any] | None = None,
        time: str | None = None,
    ) -> None:
        self.marks = Marks(file, embeddings.odc.geobox)
        self.vectors = Vectors(map_path, embeddings, time)
        self.geobox, self.folder = embeddings.odc.geobox, folder
        self.outside = outside(area, self.geobox)
        self.shown: Bool[ndarray, "h w"] = np.zeros(self.geobox.shape, bool)  # proposed before
        self.guessed: tuple[int, Guess | None] = (-1, None)  # for which version of the labels
        self.layers: dict[str, Layer] = {}
        self.marking, self.fitting, self.foretelling = Lock(), Lock(), Lock()  # a label is saved while a head is fitted

    def describe(self) -> dict[str, Any]:
        """Classes, labels and file as JSON values."""
        with self.marking:
            return self.marks.describe()

    def add(self, name: str, first: Corner, second: Corner) -> dict[str, Any]:
        """Label the patches between two corners."""
        with self.marking:
            self.marks.add(name, first, second)
            return self.marks.describe()

    def erase(self, first: Corner, second: Corner) -> dict[str, Any]:
        """Take labels away."""
        with self.marking:
            self.marks.erase(first, second)
            return self.marks.describe()

    def undo(self) -> dict[str, Any]:
        """Take the last change back."""
        with self.marking:
            self.marks.undo()
            return self.marks.describe()

    def name(self, name: str) -> dict[str, Any]:
        """Add a class."""
        with self.marking:
            self.marks.name(name)
            return self.marks.describe()

    def rename(self, old: str, new: str) -> dict[str, Any]:
        """Give a class another name."""
        with self.marking:
            self.marks.rename(old, new)
            return self.marks.describe()

    def guess(self) -> tuple[int, Guess | None]:
        """What heads say that know all labels, and the version of these; fitted once for each."""
        with self.marking:
            version, numbers, codes = self.marks.version, self.marks.numbers(), self.marks.codes()
            classes = len(self.marks.state.classes)
        if self.guessed[0] != version:
            labelled, rows = self.vectors.labelled(numbers, codes)
            self.guessed = version, self.vectors.guess(labelled, rows, classes)
        return self.guessed

    def fit(self) -> dict[str, Any]:
        """Fit heads to the labels and paint what they say: layers of classes and of uncertainty, empty without any."""
        with self.fitting:
            version, guess = self.guess()
            names = {kind: f"{kind}-{version}" for kind in (CLASSES, DOUBT)}
            if guess is None:
                self.forget({})
                return {"version": version, "layers": {}}
            if names[CLASSES] not in self.layers:
                made = {
                    names[CLASSES]: self.class_layer(guess, version),
                    names[DOUBT]: self.doubt_layer(guess, version),
                }
                self.forget(made)
            layers = {kind: {"id": name, **self.layers[name].describe()} for kind, name in names.items()}
            return {"version": version, "layers": layers}

    def forget(self, layers: dict[str, Layer]) -> None:
        """Show other layers; files of those before the present ones go."""
        before, self.layers = self.layers, {**self.layers, **layers} if layers else {}
        for name in list(before)[: max(0, len(before) - 2) if layers else len(before)]:
            before[name].path.unlink(missing_ok=True)
            self.layers = {key: layer for key, layer in self.layers.items() if key != name}

    def class_layer(self, guess: Guess, version: int) -> Layer:
        """Classes in their colours."""
        with self.marking:
            names, wanted = self.marks.state.classes, self.marks.colours()
        table = np.zeros((256, 4), np.uint8)
        table[: len(wanted)] = [np.rint(255 * np.array(to_rgba(colour))) for colour in wanted]
        path = self.paint(f"{CLASSES}-{version}", guess.classes, 255.0)
        return Layer("classes", path, "classes", self.bounds(path), table, names=dict(enumerate(names)))

    def doubt_layer(self, guess: Guess, version: int) -> Layer:
        """Uncertainty, 0 to 1."""
        path, note = self.paint(f"{DOUBT}-{version}", guess.uncertainty, np.nan), "1 = two classes as likely"
        return Layer("uncertainty", path, "values", self.bounds(path), colours(COLOUR_BAR, 256), 0.0, 1.0, note=note)

    def paint(self, name: str, values: ndarray, nodata: float) -> Path:
        """A raster of some values on the grid of the map."""
        path = self.folder / f"{name}.tif"
        where = slice(0, values.shape[0]), slice(0, values.shape[1])
        kind: dict[str, Any] = {"count": 1, "dtype": str(values.dtype), "nodata": nodata}
        write_blocks(path, self.geobox, [(where, values[None])], **kind)
        return path

    def bounds(self, path: Path) -> tuple[float, float, float, float]:
        """West, south, east, north of a raster in degrees."""
        with rasterio.open(path) as file:
            return transform_bounds(file.crs, "EPSG:4326", *file.bounds)

    def next(self) -> dict[str, Any]:
        """The place whose label would tell most, other than those proposed before: longitude, latitude, outline."""
        with self.fitting:
            _, guess = self.guess()
            with self.marking:
                numbers = self.marks.numbers()
            row, column = self.vectors.next_place(guess, (numbers > 0) | self.shown, self.outside)
            self.shown[row, column] = True
        ring = self.geobox[row : row + 1, column : column + 1].extent.to_crs(4326).exterior.coords
        x, y = self.geobox.transform @ (column + 0.5, row + 0.5)
        lon, lat = Transformer.from_crs(str(self.geobox.crs), 4326, always_xy=True).transform(x, y)
        doubt = None if guess is None else float(guess.uncertainty[row, column])
        doubt = None if doubt is None or not np.isfinite(doubt) else round(doubt, 2)
        return {"lon": lon, "lat": lat, "patch": [[b, a] for a, b in ring], "uncertainty": doubt}

    def curve(self) -> dict[str, Any]:
        """What more labels would bring; see ``geossl.viewer.curve``."""
        with self.foretelling:  # one at a time: it takes seconds
            with self.marking:
                numbers, codes, names = self.marks.numbers(), self.marks.codes(), self.marks.state.classes
            labelled, _ = self.vectors.labelled(numbers, codes)
            return label_curve(labelled, names)


def outside(area: dict[str, Any] | None, geobox: GeoBox) -> Bool[ndarray, "h w"]:
    """Patches whose centre lies outside the region of a map; none where nobody knows it, or no centre lies in it."""
    out = np.zeros(geobox.shape, np.uint8)
    if area is not None:
        to_map = Transformer.from_crs(4326, str(geobox.crs), always_xy=True).transform
        region = shapely.transform(shapely.geometry.shape(area), to_map, interleaved=False)
        rasterize([(region, 1)], out=out, transform=geobox.transform)
    return (out == 0) if out.any() else out.astype(bool)
