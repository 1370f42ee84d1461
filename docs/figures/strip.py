"""One place, four ways: `python docs/figures/strip.py [FOLDER]`; a map that lies in the folder is not made again."""

import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rasterio
import xarray as xr
from drawing import SAMPLE, box_of, draw, false_colour, frame, save, true_colour
from pyproj import Transformer

import geossl

PLACE = (-72.4789, -38.8321)  # river
CLASSES = 7


def main(at: Path) -> None:
    """Map the bundled region, ask three questions of the map, and draw; a map in the folder is not made again."""
    geossl.embed_map("sample", geossl.Rasters(s1="sample", s2="sample"), out=at / "map.zarr", gsd_m=20)
    classes = geossl.segment(map=at / "map.zarr", classes=CLASSES, out=at / "classes.tif", overwrite=True)
    with rasterio.open(classes) as file:
        painted = file.read(1), tuple(file.bounds), file.nodata
    paint(geossl.open(at / "map.zarr").load(), geossl.similar(at / "map.zarr", PLACE).load(), painted)


def coloured(classes: np.ndarray, box: tuple, nodata: float, pixels: np.ndarray, where: tuple) -> np.ndarray:
    """Every class in the mean colour of its ground."""
    rows, columns = np.indices(pixels.shape[:2])
    size = (box[2] - box[0]) / classes.shape[1]
    x, y = where[0] + 10 * (columns + 0.5), where[3] - 10 * (rows + 0.5)
    at = classes[((box[3] - y) // size).astype(int), ((x - box[0]) // size).astype(int)]
    image = np.zeros((*classes.shape, 4))
    for number in np.unique(classes[classes != nodata]):
        image[classes == number] = [*pixels[at == number].mean(axis=0), 1]
    return image


def paint(vectors: xr.DataArray, similar: xr.DataArray, painted: tuple) -> None:
    """Draw the strip."""
    pixels, box = true_colour(next((SAMPLE / "s2").glob("433D*.tif")))
    classes, where, nodata = painted
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.2), gridspec_kw={"wspace": 0.04})
    draw(axes[0], pixels, box, "Sentinel-2, 2020-04-08")
    draw(axes[1], false_colour(vectors), box_of(vectors), "embedding of radar and optical")
    draw(axes[2], coloured(classes, where, nodata, pixels, box), where, f"{CLASSES} classes, found without labels")
    draw(
        axes[3],
        similar.values,
        box_of(similar),
        "similar to the marked river",
        cmap="magma",
        vmin=float(similar.quantile(0.05)),
    )
    east, north = Transformer.from_crs(4326, vectors.rio.crs, always_xy=True).transform(*PLACE)
    axes[3].plot(east, north, "o", markersize=9, markerfacecolor="none", markeredgecolor="white", markeredgewidth=2)
    for axis in axes:
        frame(axis, (box[0] + 80, box[1] + 60, box[2] - 80, box[3] - 80), 500)
    save(figure, "strip.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else folder))
