"""What the figures of the documentation share: true colour, false colour, a scale bar, a common frame."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
import rasterio
import xarray as xr
from matplotlib.axes import Axes
from sklearn.decomposition import PCA

import geossl

IMAGES = Path(__file__).parents[1] / "images"
SAMPLE = Path(geossl.__file__).parent / "data/sample"
CREDIT = "Contains modified Copernicus Sentinel data"
Box = tuple[float, float, float, float]  # left, bottom, right, top, m


def true_colour(path: Path) -> tuple[np.ndarray, Box]:
    """Red, green and blue of a Sentinel-2 file, stretched between their 2nd and 98th percentile, and its bounds."""
    with rasterio.open(path) as file:
        bands = [file.descriptions.index(band) + 1 for band in ("B04", "B03", "B02")]
        pixels, box = file.read(bands).astype(float), tuple(file.bounds)
    low, high = np.percentile(pixels, [2, 98], axis=(1, 2), keepdims=True)
    return np.clip((pixels - low) / (high - low), 0, 1).transpose(1, 2, 0) ** 0.9, box


def false_colour(vectors: xr.DataArray) -> np.ndarray:
    """Three strongest components as colours, transparent where there is no data."""
    rows = vectors.values.reshape(len(vectors), -1).T
    valid = np.isfinite(rows).all(axis=1)
    parts = PCA(3, random_state=0).fit_transform(rows[valid])
    low, high = np.percentile(parts, [2, 98], axis=0)
    colours = np.zeros((len(rows), 4))
    colours[valid] = np.column_stack([np.clip((parts - low) / (high - low), 0, 1), np.ones(len(parts))])
    return colours.reshape(*vectors.shape[1:], 4)


def box_of(raster: xr.DataArray) -> Box:
    """Bounds of a raster."""
    bounds = raster.odc.geobox.boundingbox
    return bounds.left, bounds.bottom, bounds.right, bounds.top


def draw(axes: Axes, image: np.ndarray, box: Box, title: str, **more: object) -> object:
    """Draw an image where it lies."""
    shown = axes.imshow(image, extent=(box[0], box[2], box[1], box[3]), **more)
    axes.set_title(title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("white")
    return shown


def frame(axes: Axes, box: Box, bar_m: float) -> None:
    """Show the box alone, with a scale bar below left; north is up."""
    axes.set_xlim(box[0], box[2])
    axes.set_ylim(box[1], box[3])
    x, y = box[0] + 0.05 * (box[2] - box[0]), box[1] + 0.06 * (box[3] - box[1])
    text = f"{bar_m / 1000:g} km" if bar_m >= 1000 else f"{bar_m:g} m"
    axes.plot([x, x + bar_m], [y, y], color="black", linewidth=5, solid_capstyle="butt")
    axes.plot([x, x + bar_m], [y, y], color="white", linewidth=3, solid_capstyle="butt")
    axes.annotate(
        text, (x + bar_m / 2, y), (0, 4), textcoords="offset points", ha="center", color="white", fontsize=9
    ).set_path_effects([matplotlib.patheffects.withStroke(linewidth=2, foreground="black")])


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure as a small PNG."""
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / name, dpi=110, bbox_inches="tight", pad_inches=0.08)
    print(IMAGES / name)
