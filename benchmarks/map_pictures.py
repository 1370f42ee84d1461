"""Before and after on one real place: a 10 m class map and an embedding map, by windows and by local attention.

The same encoder and the same U-Net (learned from the bundled land-cover labels) map a Sentinel-2 scene twice:
``reach=None``, windows of which the middle is kept, as geossl 0.1 made maps; and with local attention. Ticks mark where
windows meet. Colours of both embedding maps are the same three principal components. Beside the picture, how much more
often neighbouring pixels differ across the borders of windows than elsewhere: in class, and in confidence; brackets are
the middle 95 % over draws of bands of 24 pixels along the border.

Run: python benchmarks/map_pictures.py --data DATA (or --scene S2.tif [--offset -1000]) [--encoder FILE]
"""

import argparse
import tempfile
from pathlib import Path

import geopandas as gpd
import matplotlib as mpl

mpl.use("Agg")
import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import rasterio
import rioxarray
import shapely
import torch
import xarray as xr
from matplotlib import pyplot as plt

import geossl

SAMPLE = Path(geossl.__file__).parent / "data/sample"
BAND = 24  # pixels
SPAIN = "sentinel/sen1floods11/Spain_7370579_S2Hand.tif"
WAYS = {"windows": None, "local attention, 7 patches": 7}


def class_maps(folder, region, scene, encoder, steps):
    """Class map, confidence and colours of every way."""
    bundled = geossl.Rasters(s1=SAMPLE / "s1", s2=SAMPLE / "s2")
    model = geossl.finetune(
        SAMPLE / "labels", bundled, encoder=encoder, head="unet", max_steps=steps, out=folder / "unet.safetensors"
    )
    found = {}
    for way, reach in WAYS.items():
        out = geossl.segment(region, scene, model=model, out=folder / f"{reach}.tif", reach=reach)
        with rasterio.open(out) as file:
            colours = np.array([file.colormap(1).get(i, (0, 0, 0, 0)) for i in range(256)], np.uint8)
        layers = [rioxarray.open_rasterio(p)[0].load() for p in (out, out.with_name(f"{reach}_confidence.tif"))]
        found[way] = *layers, colours
    aligned = iter(xr.align(*(layer for kind, sure, _ in found.values() for layer in (kind, sure)), join="inner"))
    parts = {way: (next(aligned), next(aligned), colours) for way, (_, _, colours) in found.items()}
    return {way: (k.values, s.values, colours, k.odc.geobox.transform) for way, (k, s, colours) in parts.items()}


def embedding_maps(folder, region, scene, encoder):
    """First three principal components of every way, in the basis of the last one, 0 to 1."""
    maps, asked = {}, {"encoder": encoder, "dtype": "float32", "picture": False}
    for way, reach in WAYS.items():
        maps[way] = geossl.open(geossl.embed_map(region, scene, out=folder / f"{reach}.zarr", reach=reach, **asked))
    maps = dict(zip(maps, xr.align(*maps.values(), join="inner"), strict=True))
    last = [*maps.values()][-1].values
    vectors = last.reshape(len(last), -1).T
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    mean = vectors.mean(axis=0)
    basis = np.linalg.svd(vectors - mean, full_matrices=False)[2][:3]
    seen = (vectors - mean) @ basis.T
    low, high = np.percentile(seen, [2, 98], axis=0)
    flat = {way: np.moveaxis(m.values, 0, -1) for way, m in maps.items()}
    return {way: np.clip(((x - mean) @ basis.T - low) / (high - low), 0, 1) for way, x in flat.items()}, maps


def seams(values, transform, cell_m, of_classes=False):
    """Steps (changes of class) between neighbours across borders over those elsewhere, with draws, for x and y."""
    found = []
    for axis, lines in enumerate(borders(transform, values.shape[::-1], cell_m)):
        turned = values if axis == 0 else values.T
        steps = np.diff(turned, axis=1)
        steps = np.where(np.isnan(steps), np.nan, steps != 0) if of_classes else np.abs(steps)
        at = np.zeros(steps.shape[1], bool)
        at[(lines - 0.5).astype(int)[lines < steps.shape[1]]] = True
        bands = np.array_split(np.arange(len(steps)), max(1, len(steps) // BAND))
        bands = [band for band in bands if np.isfinite(steps[band][:, at]).any()]
        sums = np.array([[np.nanmean(steps[band][:, kind]) for band in bands] for kind in (at, ~at)])
        draws = sums[:, np.random.default_rng(0).integers(len(bands), size=(400, len(bands)))].mean(axis=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio, (low, high) = sums[0].mean() / sums[1].mean(), np.nanpercentile(draws[0] / draws[1], [2.5, 97.5])
        found.append(f"{ratio:.2f} [{low:.2f}, {high:.2f}]")
    return ", ".join(found)


def borders(transform, size, cell_m):
    """Pixels of a map at which windows meet, along x and y."""
    step = abs(transform.a)
    first = -(transform.c % cell_m) / step, (transform.f % cell_m) / step
    return [np.arange(start, n, cell_m / step)[1:] - 0.5 for start, n in zip(first, size, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with sentinel/sen1floods11; its scene in Spain is mapped")
    parser.add_argument("--scene", type=Path, help="another Sentinel-2 file, any CRS")
    parser.add_argument("--encoder", default="croma_tiny")
    parser.add_argument("--offset", type=int, choices=(0, -1000))
    parser.add_argument("--steps", type=int, default=150, help="updates of the U-Net")
    parser.add_argument("--out", type=Path, default=Path("before_after.png"))
    args = parser.parse_args()
    if (args.data is None) == (args.scene is None):
        parser.error("give --data or --scene")
    torch.set_num_threads(1)
    path, offset = args.scene or args.data / SPAIN, args.offset if args.scene else 0
    scene = geossl.Rasters(s2=path, s2_offset=offset)
    with rasterio.open(path) as file:
        box = gpd.GeoSeries([shapely.box(*file.bounds)], crs=file.crs)
    region = box.to_crs(box.estimate_utm_crs()).buffer(-200, join_style="mitre").to_frame("geometry")
    spec = geossl.load_encoder(args.encoder).spec
    cell_m = (spec.window_px - 2 * spec.margin_px) * spec.gsd_m
    with tempfile.TemporaryDirectory() as name:
        kinds = class_maps(Path(name), region, scene, args.encoder, args.steps)
        colours, maps = embedding_maps(Path(name), region, scene, args.encoder)
        figure, axes = plt.subplots(3, 2, figsize=(11, 16.5), constrained_layout=True)
        for column, way in enumerate(WAYS):
            kind, sure, palette, transform = kinds[way]
            pictures = [palette[kind], sure, colours[way]]
            titles = ["land cover, 10 m", "its confidence", "embedding, 80 m"]
            grids = [transform, transform, maps[way].odc.geobox.transform]
            for row, (picture, title, grid) in enumerate(zip(pictures, titles, grids, strict=True)):
                axis = axes[row, column]
                shown = np.where(picture > 100, np.nan, picture.astype(float)) if picture.ndim == 2 else picture
                axis.imshow(shown, interpolation="nearest", cmap="viridis")
                x, y = borders(grid, picture.shape[1::-1], cell_m)
                axis.set_xticks(x, [""] * len(x))
                axis.set_yticks(y, [""] * len(y))
                axis.tick_params(length=8, color="red", top=True, right=True)
                axis.set_title(f"{title}: {way}")
        figure.savefig(args.out, dpi=80)
    (one, *_), (two, *_) = kinds.values()
    print(f"{(one != two).mean():.1%} of the pixels have another class\npicture {args.out}\n")
    print("| | class, x and y | confidence, x and y |\n|---|---|---|")
    for way, (kind, sure, _, transform) in kinds.items():
        known = np.where(sure <= 100, sure, np.nan).astype(float)
        pair = np.where(np.isnan(known), np.nan, kind)
        changes = seams(pair, transform, cell_m, of_classes=True)
        print(f"| {way} | {changes} | {seams(known, transform, cell_m)} |")


if __name__ == "__main__":
    main()
