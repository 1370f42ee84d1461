"""A picture of a class map: its classes with hectares, and beside them how sure the classifier was."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import UInt8
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rasterio.enums import Resampling

from geossl.inference.outputs.furniture import UNDATED, Caption, caption, furnish_all
from geossl.outputs import replacing

LONGEST_PX = 1200
HEIGHT = 6.0  # inches


def class_picture(
    classes: Path, confidence: Path, out: Path, names: Sequence[str], colours: Sequence[str], hectares: Sequence[float]
) -> Path:
    """Write a picture; large maps are thinned out, classes that are nowhere are left out of the legend.

    Args:
        classes: Raster of class numbers.
        confidence: Raster of percent.
        out: The ``.png`` to write.
        names: One per class.
        colours: One ``#rrggbb`` per class.
        hectares: Area per class.
    """
    number, known = thinned(classes)
    percent, _ = thinned(confidence)
    inside = np.ix_(*(np.arange(side.min(), side.max() + 1) for side in np.nonzero(known)))
    number, known, percent = number[inside], known[inside], percent[inside]
    paint = np.zeros((*number.shape, 4))
    for i, colour in enumerate(colours):
        paint[known & (number == i)] = (*to_rgb(colour), 1)
    rows, columns = number.shape
    width = min(12.0, max(3.0, HEIGHT * columns / rows))
    figure = Figure((2 * width + 3.5, HEIGHT + 0.5), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(paint, interpolation="nearest")
    shown = right.imshow(np.ma.masked_where(~known, percent), cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
    for axes, title in ((left, "class"), (right, "confidence, %")):
        axes.set_title(title)
    with rasterio.open(classes) as file:
        pixel_m, tags = file.res[0] * max(1, -(-max(file.shape) // LONGEST_PX)), file.tags()
    furnish_all([left, right], columns, pixel_m)
    caption(figure, words(tags, sum(hectares)))
    figure.colorbar(shown, ax=right, shrink=0.7)
    there = [i for i in np.argsort(hectares)[::-1] if hectares[i] > 0]
    patches = [Patch(color=colours[i], label=f"{names[i]}  {hectares[i]:,.1f} ha") for i in there]
    figure.legend(handles=patches, loc="outside left center", frameon=False)
    with replacing(out) as temporary:
        figure.savefig(temporary)
    return out


def words(tags: Mapping[str, str], hectares: float) -> Caption:
    """Title and foot, by what the raster's tags say of the model and the dates."""
    model, dates = (json.loads(tags.get(f"GEOSSL_{name}", "null")) for name in ("MODEL", "DATES"))
    title = f"Classes of {hectares:,.1f} ha" + (f" by {model}" if model else "")
    return Caption(title, dates or UNDATED, meaning="Confidence is the probability of the class shown")


def thinned(path: Path) -> tuple[UInt8[np.ndarray, "h w"], np.ndarray]:
    """A raster with at most 1200 px a side, and where it holds data."""
    with rasterio.open(path) as file:
        step = max(1, -(-max(file.shape) // LONGEST_PX))
        shape = tuple(-(-side // step) for side in file.shape)
        data = file.read(1, out_shape=shape, resampling=Resampling.nearest)
        return data, data != file.nodata
