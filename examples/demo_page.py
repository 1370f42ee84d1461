"""A page that shows a map of the bundled region: `python examples/demo_page.py demo`; `make demo` does all of it.

Takes ``embedding.zarr`` and, if it is there, ``run/metrics.csv`` in the folder; leaves ``index.html``, ``strip.png`` and ``more.png``.
"""

import sys
from html import escape
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
import xarray as xr
from matplotlib.axes import Axes
from pyproj import Transformer
from sklearn.decomposition import PCA

import geossl

SCENE = Path(geossl.__file__).parent / "data/sample/s2/433D_629L_3_1_20200408.tif"
RIVER = (-72.4789, -38.8321)
CLASSES = 7
CREDIT = "The valley of the Cautin, Chile. Contains modified Copernicus Sentinel data 2020; TerraMesh, CC-BY-SA-4.0."
Box = tuple[float, float, float, float]  # left, bottom, right, top, m


def main(folder: Path) -> None:
    """Ask the map its questions, and write the page."""
    vectors = geossl.open(folder / "embedding.zarr").load()
    similar = geossl.similar(folder / "embedding.zarr", RIVER).load()
    classes = geossl.segment(map=folder / "embedding.zarr", classes=CLASSES, out=folder / "classes.tif", overwrite=True)
    strip(vectors, similar, classes).savefig(folder / "strip.png", dpi=110, bbox_inches="tight", pad_inches=0.08)
    metrics = folder / "run/metrics.csv"
    more(classes.with_name("classes_confidence.tif"), metrics if metrics.exists() else None).savefig(
        folder / "more.png", dpi=110, bbox_inches="tight", pad_inches=0.08
    )
    (folder / "index.html").write_text(page(vectors, metrics.exists()))
    print(f"page       {folder / 'index.html'}")


def strip(vectors: xr.DataArray, similar: xr.DataArray, classes: Path) -> plt.Figure:
    """True colour, embedding, classes without labels, similarity."""
    pixels, box = true_colour()
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.2), gridspec_kw={"wspace": 0.04})
    draw(axes[0], pixels, box, "Sentinel-2, 2020-04-08")
    draw(axes[1], false_colour(vectors), box_of(vectors), "embedding of radar and optical")
    draw(axes[2], *in_colours_of_the_ground(classes, pixels, box), f"{CLASSES} classes, found without labels")
    low = float(similar.quantile(0.05))
    draw(axes[3], similar.values, box_of(similar), "similar to the marked river", cmap="magma", vmin=low)
    east, north = Transformer.from_crs(4326, vectors.rio.crs, always_xy=True).transform(*RIVER)
    axes[3].plot(east, north, "o", ms=9, mfc="none", mec="white", mew=2)
    for axis in axes:
        scale_bar(axis, (box[0] + 80, box[1] + 60, box[2] - 80, box[3] - 80))
    return figure


def more(confidence: Path, metrics: Path | None) -> plt.Figure:
    """How sure the classes are, and how pretraining went."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), gridspec_kw={"wspace": 0.25})
    with rasterio.open(confidence) as file:
        percent = file.read(1, masked=True)
        shown = draw(
            axes[0], percent, tuple(file.bounds), "confidence of the classes, %", cmap="viridis", vmin=0, vmax=100
        )
    _, box = true_colour()
    scale_bar(axes[0], (box[0] + 80, box[1] + 60, box[2] - 80, box[3] - 80))
    figure.colorbar(shown, ax=axes[0], shrink=0.8)
    if metrics is None:
        axes[1].set_axis_off()
        return figure
    table = pd.read_csv(metrics)
    for name in [name for name in table if name == "loss" or name.endswith("/loss")]:
        rows = table[["step", name]].dropna()
        axes[1].plot(rows["step"], rows[name], label=name)
    axes[1].set(xlabel="update", ylabel="loss", title="pretraining on the bundled scenes")
    axes[1].legend()
    return figure


def true_colour() -> tuple[np.ndarray, Box]:
    """The scene as the eye sees it, stretched between its 2nd and 98th percentile, and its bounds."""
    with rasterio.open(SCENE) as file:
        bands = [file.descriptions.index(band) + 1 for band in ("B04", "B03", "B02")]
        pixels, box = file.read(bands).astype(float), tuple(file.bounds)
    low, high = np.percentile(pixels, [2, 98], axis=(1, 2), keepdims=True)
    return np.clip((pixels - low) / (high - low), 0, 1).transpose(1, 2, 0) ** 0.9, box


def false_colour(vectors: xr.DataArray) -> np.ndarray:
    """Three strongest components as red, green and blue; transparent where there is no data."""
    rows = vectors.values.reshape(len(vectors), -1).T
    valid = np.isfinite(rows).all(axis=1)
    parts = PCA(3, random_state=0).fit_transform(rows[valid])
    low, high = np.percentile(parts, [2, 98], axis=0)
    colours = np.zeros((len(rows), 4))
    colours[valid] = np.column_stack([np.clip((parts - low) / (high - low), 0, 1), np.ones(len(parts))])
    return colours.reshape(*vectors.shape[1:], 4)


def in_colours_of_the_ground(classes: Path, pixels: np.ndarray, box: Box) -> tuple[np.ndarray, Box]:
    """Every class in the mean colour of its ground."""
    with rasterio.open(classes) as file:
        numbers, where, nodata, step = file.read(1), tuple(file.bounds), file.nodata, file.res[0]
    rows, columns = np.indices(pixels.shape[:2])
    x, y = box[0] + 10 * (columns + 0.5), box[3] - 10 * (rows + 0.5)
    at = numbers[((where[3] - y) // step).astype(int), ((x - where[0]) // step).astype(int)]
    image = np.zeros((*numbers.shape, 4))
    for number in np.unique(at[at != nodata]):
        image[numbers == number] = [*pixels[at == number].mean(axis=0), 1]
    return image, where


def box_of(raster: xr.DataArray) -> Box:
    """Bounds of a raster."""
    bounds = raster.odc.geobox.boundingbox
    return bounds.left, bounds.bottom, bounds.right, bounds.top


def draw(axes: Axes, image: np.ndarray, box: Box, title: str, **more: object) -> matplotlib.image.AxesImage:
    """Draw an image where it lies, north up."""
    axes.set(title=title, xticks=[], yticks=[])
    return axes.imshow(image, extent=(box[0], box[2], box[1], box[3]), **more)


def scale_bar(axes: Axes, box: Box, metres: float = 500) -> None:
    """Show the box alone, with a scale bar below left."""
    axes.set(xlim=(box[0], box[2]), ylim=(box[1], box[3]))
    x, y = box[0] + 0.05 * (box[2] - box[0]), box[1] + 0.06 * (box[3] - box[1])
    outline = [matplotlib.patheffects.withStroke(linewidth=2.5, foreground="black")]
    axes.plot([x, x + metres], [y, y], color="white", linewidth=3, solid_capstyle="butt", path_effects=outline)
    axes.annotate(
        f"{metres:g} m", (x + metres / 2, y), (0, 4), textcoords="offset points", ha="center", color="white",
        fontsize=9, path_effects=outline,
    )  # fmt: skip


def page(vectors: xr.DataArray, has_run: bool) -> str:
    """The page, in plain HTML."""
    size = abs(float(vectors.x[1] - vectors.x[0]))
    valid = int(np.isfinite(vectors.values[0]).sum())
    run = (
        "The encoder went on from croma_tiny for a moment on the bundled scenes; its loss is on the right, and "
        'what it reconstructs is on the <a href="run/run.html">page of that run</a>.'
        if has_run
        else ""
    )
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description" content="A map of learned vectors of one place, by geossl"><link rel="icon" href="data:,">
<title>geossl demo</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}}
img{{width:100%;height:auto}}pre{{background:#f4f4f4;padding:1rem;white-space:pre-wrap;overflow-wrap:anywhere}}small{{color:#555}}
.half{{display:none}}@media(max-width:700px){{.whole,.half{{display:block;object-fit:cover;object-position:left;aspect-ratio:1.82}}
.half{{object-position:right}}}}</style></head><body><main>
<h1>One place, four ways</h1>
<p>{valid:,} vectors of {len(vectors)} numbers, one for every {size:g} m of {valid * size * size / 1e6:.1f} km<sup>2</sup>, from one radar and one
optical image. Nobody told the encoder what a river, woods or a field are.</p>
<img class="whole" src="strip.png" alt="True colour, embedding, classes found without labels, similarity to the river">
<img class="half" src="strip.png" alt="Its right half, below the left one on a narrow screen">
<p>Classes are k-means of the vectors, painted in the mean colour of their ground. Confidence is how much nearer a vector is to its class than
to the next. {run}</p>
<img src="more.png" alt="Confidence of the classes, and the loss of pretraining">
<h2>Next</h2>
<pre>.venv/bin/geossl view demo/embedding.zarr                # click: where else does it look like this?
.venv/bin/geossl export demo/embedding.zarr demo/map.tif # for QGIS
.venv/bin/geossl doctor --s2 my/scenes                   # what is in my files
.venv/bin/geossl embed --aoi region.geojson --s1 my/s1 --s2 my/s2 --out map.zarr</pre>
<p><small>{escape(CREDIT)} geossl {geossl.__version__}.</small></p></main></body></html>
"""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
