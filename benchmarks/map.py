"""Seams and memory of a map.

Seam step ratio: mean 1 - cosine between neighbouring patches across window borders, over the same inside windows; 1
means that borders cannot be told from anything else. Memory: peak of a process that maps a region, and one of four
times its area.

Run: python benchmarks/map.py --encoder demo/run/encoder.safetensors
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine

import geossl
from geossl.data.bands import S2_BANDS
from geossl.data.sentinel import SAMPLE


def seam_ratio(found, cell):
    """Mean step across cell borders over mean step within cells, both directions."""
    x = found.values / np.linalg.norm(found.values, axis=0)
    across, within = [], []
    for axis, origin in ((1, found.odc.geobox.transform.f), (2, found.odc.geobox.transform.c)):
        step = 1 - (x.take(range(1, x.shape[axis]), axis) * x.take(range(x.shape[axis] - 1), axis)).sum(0)
        first = round(abs(origin) / 80) if axis == 2 else round(-origin / 80)
        is_border = (first + 1 + np.arange(step.shape[axis - 1])) % cell == 0
        across.append(step.compress(is_border, axis - 1).ravel())
        within.append(step.compress(~is_border, axis - 1).ravel())
    return np.nanmean(np.concatenate(across)) / np.nanmean(np.concatenate(within))


def big_scene(folder, side_px):
    """The bundled Chilean pair, mirrored into a large square: the values are real, the place is not."""
    for sensor in ("s1", "s2"):
        with rasterio.open(next((SAMPLE / sensor).glob("433D*"))) as file:
            data, tags = file.read(), file.tags()
        times = -(-side_px // 448)
        tile = np.concatenate([data, data[:, ::-1]], axis=1)
        tile = np.tile(np.concatenate([tile, tile[:, :, ::-1]], axis=2), (1, times, times))[:, :side_px, :side_px]
        profile = {"count": len(tile), "height": side_px, "width": side_px, "dtype": tile.dtype, "crs": "EPSG:32718"}
        profile |= {
            "tiled": True,
            "blockxsize": 256,
            "blockysize": 256,
            "transform": Affine(10, 0, 720_000, 0, -10, 5_680_000),
        }
        with rasterio.open(folder / f"{sensor}.tif", "w", driver="GTiff", **profile) as file:
            file.write(tile)
            file.update_tags(BOA_ADD_OFFSET=tags.get("BOA_ADD_OFFSET", "0"))
            file.descriptions = S2_BANDS if sensor == "s2" else ("VV", "VH")


def peak_mb(folder, encoder, side_m):
    """Peak memory of a process that maps a square."""
    area = shapely.box(720_000 + 960, 5_680_000 - 960 - side_m, 720_000 + 960 + side_m, 5_680_000 - 960)
    gpd.GeoDataFrame(geometry=[area], crs=32718).to_file(folder / "aoi.gpkg")
    out = folder / f"{side_m}.zarr"
    arguments = ["--child", str(folder), str(encoder), str(out)]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder, encoder, out = map(Path, args.child)
        rasters = {"s1": folder / "s1.tif", "s2": folder / "s2.tif"}
        geossl.embed_map(
            folder / "aoi.gpkg", **rasters, encoder=encoder, out=out, shard_cells=4, crs=32718, picture=False
        )
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    spec = geossl.load_encoder(args.encoder).spec
    cell = (spec.window_px - 2 * spec.margin_px) // spec.patch_px
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        big_scene(folder, 1100)
        small, large = (peak_mb(folder, args.encoder, side_m) for side_m in (4800, 9600))
        print(f"peak memory, 4.8 km square   {small:.0f} MB")
        print(f"peak memory, 9.6 km square   {large:.0f} MB   ratio {large / small:.3f}")
        found = geossl.open(folder / "9600.zarr")
        print(
            f"seam step ratio, window {spec.window_px} px, margin {spec.margin_px} px   {seam_ratio(found, cell):.3f}"
        )


if __name__ == "__main__":
    main()
