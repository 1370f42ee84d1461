"""A picture of a change: the maps before and after in the same colours, and what changed between them."""

from pathlib import Path

import geopandas as gpd
import matplotlib
import numpy as np
import xarray as xr
from affine import Affine
from jaxtyping import Bool, Float, UInt8
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy import ndarray

from geossl.inference.outputs.cog import blocks
from geossl.inference.outputs.furniture import Caption, caption, furnish_all
from geossl.inference.outputs.quicklook import FalseColour
from geossl.outputs import replacing

LONGEST_PX = 800
FIT_SIDE = 150  # colours are fitted on a grid of about this many patches a side
HEIGHT = 4.6  # inches of a panel
STEPS_ABOVE = 2.0  # the colour bar ends at so many times the threshold
MARK = "#00c2ff"
NUMBERED = 5  # places whose rank is written


def change_picture(
    maps: tuple[xr.DataArray, xr.DataArray],
    titles: tuple[str, str],
    z: xr.DataArray,
    threshold: float,
    places: gpd.GeoDataFrame,
    out: Path,
    words: Caption,
) -> Path:
    """Write a picture; large maps are thinned out.

    Args:
        maps: Before and after, ``(embedding, y, x)`` on one grid, each scaled by its own date.
        titles: Of the two.
        z: ``(y, x)`` on the same grid; NaN where nothing can be compared.
        threshold: Least ``z`` of a patch that changed.
        places: Outlines, strongest first.
        out: The ``.png`` to write.
        words: Title and foot.
    """
    step = max(1, -(-max(z.shape) // LONGEST_PX))
    found = z[::step, ::step].values
    coarse = max(1, -(-max(z.shape) // FIT_SIDE))
    seen = [m[:, ::coarse, ::coarse].values.reshape(len(m), -1) for m in maps]
    colours = FalseColour(np.concatenate(seen, axis=1), seed=0)
    before, after = (painted(m[:, ::step, ::step], colours) for m in maps)
    (top, bottom), (left, right) = filled((before[..., 3] > 0) | (after[..., 3] > 0))
    before, after = (image[top:bottom, left:right] for image in (before, after))
    rows, columns = before.shape[:2]
    width = min(9.0, max(2.6, HEIGHT * columns / rows))
    figure = Figure((3 * width + 1.2, HEIGHT + 1.0), dpi=110, layout="constrained")
    panels = list(figure.subplots(1, 3))
    for axes, image, title in zip(panels, (before, after), titles, strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(title, fontsize=10)
    shown = panels[2].imshow(
        found[top:bottom, left:right], cmap=ramp(), vmin=0, vmax=STEPS_ABOVE * threshold, interpolation="nearest"
    )
    panels[2].set_title("change", fontsize=10)
    panels[2].set_facecolor("white")
    bar = figure.colorbar(shown, ax=panels[2], shrink=0.8, extend="both")
    bar.set_label("robust z of the distance")
    bar.ax.axhline(threshold, color=MARK, linewidth=2)
    outline(panels[2], places, z.odc.geobox.transform @ Affine.translation(step * left, step * top), step)
    furnish_all(panels, columns, step * abs(z.odc.geobox.resolution.x))
    caption(figure, words)
    with replacing(out) as temporary:
        figure.savefig(temporary)
    return out


def painted(embeddings: xr.DataArray, colours: FalseColour) -> UInt8[ndarray, "h w 4"]:
    """A map in colours, painted chunk by chunk."""
    out = np.zeros((*embeddings.shape[1:], 4), np.uint8)
    for where, values in blocks(embeddings):
        out[where] = colours.paint(values)
    return out


def ramp() -> Colormap:
    """Grey up to the threshold in the middle, then dark red to yellow."""
    grey = matplotlib.colormaps["Greys"](np.linspace(0.02, 0.45, 128))
    warm = matplotlib.colormaps["inferno"](np.linspace(0.35, 0.95, 128))
    return LinearSegmentedColormap.from_list("change", np.concatenate([grey, warm])).with_extremes(bad=(1, 1, 1, 0))


def filled(known: Bool[ndarray, "h w"]) -> list[tuple[int, int]]:
    """First row and column that hold data, and those behind the last."""
    return [(int(side.min()), int(side.max()) + 1) for side in np.nonzero(known)]


def outline(axes: matplotlib.axes.Axes, places: gpd.GeoDataFrame, transform: Affine, step: int) -> None:
    """Draw the borders of places in pixels of the picture, and the rank of the strongest beside it."""
    for number, polygon in enumerate(places.geometry):
        for part in getattr(polygon, "geoms", [polygon]):
            x, y = in_pixels(np.array(part.exterior.coords), transform, step)
            axes.plot(x, y, color=MARK, linewidth=0.8)
        if number < NUMBERED:
            _, south, east, north = polygon.bounds
            x, y = in_pixels(np.array([[east, (north + south) / 2]]), transform, step)
            spot = (float(x[0]), float(y[0]))
            axes.annotate(str(number + 1), spot, (3, 0), textcoords="offset points", va="center", fontsize=7)


def in_pixels(points: Float[ndarray, "n 2"], transform: Affine, step: int) -> tuple[ndarray, ndarray]:
    """Columns and rows of points of the map in an image whose first pixel's centre is 0."""
    columns, rows = (points - (transform.c, transform.f)).T / np.array([[transform.a], [transform.e]])
    return columns / step - 0.5, rows / step - 0.5
