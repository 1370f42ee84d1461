"""Cut the bundled scenes and their land cover into chips as terratorch's generic data module reads them.

Run: python examples/terratorch/chips.py runs/terratorch/chips
"""

import sys
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401
import rioxarray

import geossl
from geossl.data.sentinel.aligned import SAMPLE

SIDE = 56  # px: 7 patches; 4 x 4 chips of each scene, the first two columns to learn from
PARTS = ("train", "train", "val", "test")

out = Path(sys.argv[1])
source = geossl.Rasters(s2=[SAMPLE / "s2"])
for number, path in enumerate(sorted((SAMPLE / "labels").glob("*.tif"))):
    labels = rioxarray.open_rasterio(path).squeeze("band", drop=True)
    pixels = geossl.cube(labels.odc.geobox, source)["s2"].astype("float32")
    known = labels.where(np.isfinite(pixels).all("s2_band"), 0).astype("uint8")
    for row in range(4):
        for column, part in enumerate(PARTS):
            here = {"y": slice(row * SIDE, (row + 1) * SIDE), "x": slice(column * SIDE, (column + 1) * SIDE)}
            stem = out / part / f"{number}{row}{column}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            pixels.isel(here).fillna(0.0).rio.to_raster(f"{stem}_image.tif")
            known.isel(here).rio.to_raster(f"{stem}_mask.tif")
print(f"{len(list(out.rglob('*_image.tif')))} chips in {out}")
