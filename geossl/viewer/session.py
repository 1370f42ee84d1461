"""What one ``geossl view`` holds: the map, its layers, and the searches made so far."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import rasterio
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geossl.inference.best_places import features
from geossl.inference.engine.true_colour import blocks_of
from geossl.inference.outputs.cog import Block, blocks, write_blocks
from geossl.inference.outputs.description import checked_area, number_of, store_attributes
from geossl.inference.outputs.quicklook import FalseColour
from geossl.inference.similarity import open_embeddings, scan
from geossl.inference.zonal import Example
from geossl.viewer.layers import Layer, open_layer

if TYPE_CHECKING:
    from geossl.viewer.labelling import Labelling

KEPT = 16  # searches whose rasters stay on disk
BESIDE = "beside"  # the layer that is swiped over the others
STRETCH = (0.01, 0.99)  # shares of the pixels of a band that become black and white
FIT_SIDE = 150  # the false colours are fitted on a grid of about this many patches a side


class Session:
    """A map and what is shown on it; safe to use from several threads.

    Args:
        map_path: ``.zarr`` or ``.tif`` written by ``geossl embed``.
        layer_paths: Further rasters.
        folder: Holds temporary rasters; the caller removes it.
        beside: Another map, swiped over the first; in the same colours if its vectors are as long.
        labelling: Of label mode.
        times: Dates of a map of several, and of ``beside``.

    Raises:
        InputError: If the map or a layer cannot be used.
    """

    def __init__(
        self,
        map_path: Path,
        layer_paths: list[Path],
        folder: Path,
        beside: Path | None = None,
        labelling: "Labelling | None" = None,
        times: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self.name, self.folder = f"{map_path.name} {times[0] or ''}".rstrip(), folder
        self.embeddings = open_embeddings(map_path, times[0])
        self.geobox = self.embeddings.odc.geobox
        self.area = area_of(map_path)
        extra = [open_layer(path) for path in layer_paths]
        other = None if beside is None else open_embeddings(beside, times[1])
        sample = thinned(self.embeddings)
        if other is not None and len(other) == len(self.embeddings):
            sample = np.concatenate([sample, thinned(other)], axis=1)
        colours = FalseColour(sample, seed=0)
        picture = paint(self.embeddings, colours, folder / "quicklook.tif")
        seen = paint_scene(map_path, self.geobox, folder / "true_colour.tif", times[0])
        scene = [] if seen is None else [open_layer(seen, "true colour")]
        shown = [*scene, open_layer(picture, "false colour"), *extra]
        self.layers: dict[str, Layer] = {str(i): layer for i, layer in enumerate(shown)}
        if other is not None and beside is not None:
            name = f"right: {beside.name} {times[1] or ''}".rstrip()
            own = colours if len(other) == len(self.embeddings) else FalseColour(thinned(other), seed=0)
            self.layers[BESIDE] = open_layer(paint(other, own, folder / "beside.tif"), name)
        self.searches: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.lock = Lock()
        self.labelling = labelling

    def describe(self) -> dict[str, Any]:
        """The map and its layers, lowest first, as JSON values."""
        shown = [
            {"id": i, "side": "right" if i == BESIDE else "both", **layer.describe()}
            for i, layer in self.layers.items()
            if not i.startswith("similar")
        ]
        return {
            "name": self.name,
            "crs": f"EPSG:{self.geobox.crs.epsg}" if self.geobox.crs.epsg else "custom CRS",
            "patch_m": abs(self.geobox.resolution.x),
            "dimensions": self.embeddings.sizes["embedding"],
            "shape": list(self.geobox.shape),
            "bounds": shown[0]["bounds"],
            "area": self.area,
            "layers": shown,
            "label": None if self.labelling is None else self.labelling.describe(),
        }

    def layer(self, name: str) -> Layer | None:
        """A layer by name, those of label mode among them."""
        return self.layers.get(name) or (None if self.labelling is None else self.labelling.layers.get(name))

    def similar(self, lon: float, lat: float, top: int) -> dict[str, Any]:
        """Compare the whole map with the patch at a point; a repeated question is answered from memory.

        Returns:
            ``layer`` (for the tiles), ``places`` (GeoJSON) and ``patch`` (its outline, longitude and latitude).

        Raises:
            InputError: If the point lies outside the map or on nodata.
        """
        x, y = Transformer.from_crs(4326, str(self.geobox.crs), always_xy=True).transform(lon, lat)
        example = Example(np.array([[x, y]]), shapely.Polygon(), f"{lon:.5f}, {lat:.5f}")
        columns, rows = ~self.geobox.transform @ (x, y)
        if not np.isfinite([columns, rows]).all():
            columns, rows = -1.0, -1.0
        row, column = int(np.floor(rows)), int(np.floor(columns))
        key = f"similar-{row}-{column}-{top}"
        with self.lock:  # one search at a time: each may read the whole map
            if key not in self.searches:
                path = self.folder / f"{key}.tif"
                places = scan(self.embeddings, example, top, path)
                layer = open_layer(path, "similarity")
                self.layers = {**self.layers, key: layer}
                self.searches[key] = {
                    "layer": {"id": key, **layer.describe()},
                    "places": features(places),
                    "patch": self.outline(row, column),
                }
                self.forget()
            self.searches.move_to_end(key)
            return self.searches[key]

    def outline(self, row: int, column: int) -> list[list[float]]:
        """Corners of a patch as latitude, longitude."""
        ring = self.geobox[row : row + 1, column : column + 1].extent.to_crs(4326).exterior.coords
        return [[lat, lon] for lon, lat in ring]

    def forget(self) -> None:
        """Drop the oldest searches."""
        while len(self.searches) > KEPT:
            key, _ = self.searches.popitem(last=False)
            path = self.layers[key].path
            self.layers = {name: layer for name, layer in self.layers.items() if name != key}
            path.unlink(missing_ok=True)


def area_of(path: Path) -> dict[str, Any] | None:
    """Outline of the region a map was made for, GeoJSON in longitude and latitude; None if it does not say."""
    if path.suffix == ".zarr":
        return store_attributes(path).get("geossl:area")
    with rasterio.open(path) as file:
        return checked_area(str(path), file.tags().get("GEOSSL_AREA", "null"))


def thinned(embeddings: xr.DataArray) -> np.ndarray:
    """Vectors ``(d, n)`` of a grid of patches over a map, to fit colours on."""
    step = max(1, -(-max(embeddings.shape[1:]) // FIT_SIDE))
    return embeddings[:, ::step, ::step].values.reshape(len(embeddings), -1)


def paint(embeddings: xr.DataArray, colours: FalseColour, out: Path) -> Path:
    """Write the false-colour image of a map as an RGBA raster, chunk by chunk."""
    parts = ((where, np.moveaxis(colours.paint(values), -1, 0)) for where, values in blocks(embeddings))
    write_blocks(out, embeddings.odc.geobox, parts, count=4, dtype="uint8", nodata=None)
    return out


def paint_scene(path: Path, geobox: GeoBox, out: Path, time: str | None = None) -> Path | None:
    """Write the true colour that a map keeps of its scenes as an RGBA raster, stretched; None where it keeps none."""
    number = None if time is None else number_of(store_attributes(path), time, str(path))
    if path.suffix != ".zarr" or (found := blocks_of(path, geobox, number)) is None:
        return None
    grid, parts = found
    histogram = np.zeros((3, 256), np.int64)
    for _, values in parts:
        histogram += [np.bincount(band[values.any(axis=0)], minlength=256) for band in values]
    if not histogram.any():
        return None
    share = np.cumsum(histogram, axis=1) / histogram.sum(axis=1, keepdims=True)
    low, high = ((share >= edge).argmax(axis=1)[:, None, None] for edge in STRETCH)
    again = blocks_of(path, geobox, number)
    assert again is not None

    def painted() -> Iterator[Block]:
        for where, values in again[1]:
            colours = np.rint(255 * (values.astype(float) - low).clip(0) / np.maximum(high - low, 1)).clip(0, 255)
            opaque = np.asarray(values.any(axis=0))
            yield where, np.concatenate([colours * opaque, 255 * opaque[None]]).astype(np.uint8)

    write_blocks(out, grid, painted(), count=4, dtype="uint8", nodata=None)
    return out
