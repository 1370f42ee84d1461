"""Quicklook of a map: its three strongest principal components as red, green and blue."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float, UInt8
from matplotlib import image
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from geossl.inference.outputs.furniture import Caption, caption, furnish_all
from geossl.outputs import replacing

LONGEST_PX = 2000
PICTURE_PX = 800
FIT_PATCHES = 20_000
DPI = 100
PANELS, PANEL_IN = 4, 3.0  # of dates in a row, and the longer side of each in inches
LEAST_WIDTH = 4.0  # inches, so that the words have room
TITLE = "Embedding: three principal components as red, green and blue"
MEANING = "Alike colours are alike ground; colours differ from map to map"


def quicklook(embeddings: xr.DataArray, path: str | Path, *, seed: int = 0, words: Caption | None = None) -> Path:
    """Write a PCA false-colour quicklook; nodata is transparent.

    Colours have no meaning beyond "alike is alike" and differ between maps, as the components are the map's own. A map
    that knows its place gets a title, a scale bar and north; an array without one becomes a plain image.

    Args:
        embeddings: ``(embedding, y, x)``; thinned out beyond 2000 px.
        path: The ``.png`` to write.
        seed: Seeds the sample of patches the components are fitted on.
        words: Title and foot; by default the title alone.
    """
    step = max(1, -(-max(embeddings.shape[1:]) // LONGEST_PX))
    data = embeddings[:, ::step, ::step].values
    rgba = false_colour(data, seed)
    geobox = embeddings.odc.geobox if {"y", "x"} <= {*embeddings.coords} else None
    with replacing(path) as temporary:
        if geobox is None or geobox.crs is None:
            zoom = max(1, PICTURE_PX // max(data.shape[1:]))  # so that the patches of a small map can be seen
            image.imsave(str(temporary), np.kron(rgba, np.ones((zoom, zoom, 1), dtype=np.uint8)))
        else:
            framed(rgba, step * abs(geobox.resolution.x), words or Caption(TITLE, meaning=MEANING, notice="")).savefig(
                temporary
            )
    return Path(path)


def quicklook_of_dates(
    embeddings: xr.DataArray, path: str | Path, names: Sequence[str], *, seed: int = 0, words: Caption
) -> Path:
    """Write quicklooks of all dates of a map side by side, in the same colours; one without data says so.

    Args:
        embeddings: ``(time, embedding, y, x)``; thinned out so that all panels together have 2000 px.
        path: The ``.png`` to write.
        names: Of the dates.
        seed: Seeds the sample of patches the components are fitted on.
        words: Title and foot.
    """
    columns = min(len(names), PANELS)
    rows = -(-len(names) // columns)
    step = max(1, -(-max(embeddings.shape[-2:]) * columns // LONGEST_PX))
    data = embeddings[..., ::step, ::step].transpose("embedding", "time", "y", "x").values
    known = np.isfinite(data[0]).any(axis=0)
    if known.any():
        (top, *_, bottom), (left, *_, right) = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
        data = data[..., top : bottom + 1, left : right + 1]
    colours = FalseColour(data, seed)
    height, width = data.shape[-2:]
    side = PANEL_IN / max(height, width)
    size = max(columns * width * side, LEAST_WIDTH), rows * (height * side + 0.25) + 0.9
    figure = Figure(size, dpi=DPI, layout="constrained")
    panels = [*figure.subplots(rows, columns, squeeze=False).ravel()]
    for axes, name, image_of in zip(panels, names, np.moveaxis(data, 1, 0), strict=False):
        rgba = colours.paint(image_of)
        axes.imshow(rgba, interpolation="nearest")
        axes.set_title(name if rgba[..., 3].any() else f"{name}: no data", fontsize=9)
    furnish_all(panels, width, step * abs(embeddings.odc.geobox.resolution.x))
    caption(figure, words)
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return Path(path)


def framed(rgba: UInt8[np.ndarray, "h w 4"], pixel_m: float, words: Caption) -> Figure:
    """An image with what a picture of a map says of itself; every pixel of a large one is kept."""
    rows, columns = np.nonzero(rgba[..., 3])
    if len(rows):
        rgba = rgba[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = rgba.shape[:2]
    longest = max(PICTURE_PX, height, width) / DPI
    size = longest * width / max(height, width), longest * height / max(height, width)
    figure = Figure((max(size[0], LEAST_WIDTH), size[1] + 0.9), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(rgba, interpolation="nearest")
    furnish_all([axes], width, pixel_m)
    caption(figure, words)
    return figure


def false_colour(data: Float[np.ndarray, "d h w"], seed: int) -> UInt8[np.ndarray, "h w 4"]:
    """First three principal components, stretched between their 2nd and 98th percentile, with transparency."""
    return FalseColour(data, seed).paint(data)


class FalseColour:
    """Colours from principal components: fitted once, so that a map can be painted part by part.

    Args:
        data: Patches to fit on, NaN = nodata.
        seed: Seeds the choice of patches if there are too many.
    """

    def __init__(self, data: Float[np.ndarray, "d ..."], seed: int) -> None:
        rows = data.reshape(len(data), -1).T
        usable = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
        self.pca: PCA | None = None
        if len(usable) > 3:
            sample = np.random.default_rng(seed).permutation(len(usable))[:FIT_PATCHES]
            self.pca = PCA(min(3, usable.shape[1]), svd_solver="full").fit(usable[sample])
            self.low, self.high = np.percentile(self.pca.transform(usable), [2, 98], axis=0)

    def paint(self, data: Float[np.ndarray, "d h w"]) -> UInt8[np.ndarray, "h w 4"]:
        """Red, green, blue and opacity; nodata is transparent."""
        rows = data.reshape(len(data), -1).T
        valid = np.isfinite(rows).all(axis=1)
        rgba = np.zeros((len(rows), 4), dtype=np.uint8)
        if self.pca is not None and valid.any():
            parts = self.pca.transform(rows[valid].astype(np.float64))
            scaled = np.clip((parts - self.low) / np.maximum(self.high - self.low, 1e-12), 0, 1)
            colours = np.pad(scaled, ((0, 0), (0, 3 - scaled.shape[1])))
            rgba[valid] = np.column_stack([np.rint(255 * colours), np.full(len(colours), 255)])
        return rgba.reshape(*data.shape[1:], 4)
