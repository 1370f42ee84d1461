"""What a map costs and whether it holds: speed, memory, seams, kills, workers. One command, one table.

The scene is the bundled Chilean pair, mirrored into a large square: its values are real, the place is not.

Run: python benchmarks/map.py --encoder demo/run/encoder.safetensors [--kills 20]
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch
import xarray as xr
from affine import Affine

import geossl
from geossl.data.bands import S2_BANDS
from geossl.data.rasters import LocalRasters
from geossl.data.sentinel import SAMPLE
from geossl.inference import workers
from geossl.inference.encode import EncodeConfig, encode_block
from geossl.inference.source import images

EPSG, LEFT, TOP = 32718, 720_000, 5_680_000  # of the big scene; on no lattice corner


def big_scene(folder, side_px):
    """The bundled Chilean pair, mirrored into a large square."""
    for sensor in ("s1", "s2"):
        with rasterio.open(next((SAMPLE / sensor).glob("433D*"))) as file:
            data, tags = file.read(), file.tags()
        times = -(-side_px // 448)
        tile = np.concatenate([data, data[:, ::-1]], axis=1)
        tile = np.tile(np.concatenate([tile, tile[:, :, ::-1]], axis=2), (1, times, times))[:, :side_px, :side_px]
        profile = {"count": len(tile), "height": side_px, "width": side_px, "dtype": tile.dtype, "crs": f"EPSG:{EPSG}"}
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "transform": Affine(10, 0, LEFT, 0, -10, TOP)}
        with rasterio.open(folder / f"{sensor}.tif", "w", driver="GTiff", **profile) as file:
            file.write(tile)
            file.update_tags(BOA_ADD_OFFSET=tags.get("BOA_ADD_OFFSET", "0"))
            file.descriptions = S2_BANDS if sensor == "s2" else ("VV", "VH")


class Scene:
    """A folder with the scene, the encoder, and regions of whole lattice cells in it."""

    def __init__(self, folder, encoder):
        self.folder, self.path, self.encoder = Path(folder), str(encoder), geossl.load_encoder(encoder)
        self.spec = self.encoder.spec
        self.cell_px = self.spec.window_px - 2 * self.spec.margin_px
        self.rasters = {"s1": self.folder / "s1.tif", "s2": self.folder / "s2.tif"}

    def region(self, rows, columns):
        """A square of lattice cells inside the scene, with room for the margin."""
        side = self.cell_px * 10
        column, row = -(-(LEFT + 1000) // side), -((TOP - 1000) // side)
        box = shapely.box(column * side, -(row + rows) * side, (column + columns) * side, -row * side)
        return gpd.GeoDataFrame(geometry=[box.buffer(-1)], crs=EPSG)

    def map(self, name, rows, columns, region=None, **settings):
        """Map some cells; returns the path."""
        region = self.region(rows, columns) if region is None else region
        settings = {"crs": EPSG, "picture": False, "overwrite": True, "dtype": "float32", **settings}
        return geossl.embed_map(region, **self.rasters, encoder=self.path, out=self.folder / name, **settings)

    def km2(self, cells):
        """Square kilometres of some cells."""
        return cells * (self.cell_px / 100) ** 2


def child(kind, scene, *arguments):
    """Run this file again in a process of its own; a JSON value comes back."""
    call = [sys.executable, __file__, "--child", kind, str(scene.folder), scene.path, *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak(scene, rows, columns):
    """Peak memory of this process, MB, after mapping one cell per shard."""
    scene.map(f"peak{rows}.zarr", int(rows), int(columns), shard_cells=1, dtype="int8")
    return own_peak_mb()


def own_peak_mb():
    """Peak memory of this process, MB; ``getrusage`` would count the parent's, too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def speeds(scene, cells=20):
    """km2/s of the bare model on pixels in memory, and of whole maps; taken in turn."""
    path = scene.map("plan.zarr", cells, cells)
    geobox = geossl.open(path).odc.geobox.zoom_out(1 / 8).pad(scene.spec.margin_px)
    pixels = images(LocalRasters([scene.rasters["s1"]], [scene.rasters["s2"]]).load(geobox), scene.spec)
    bare, whole = [], []
    for _ in range(2):
        start = time.perf_counter()
        encode_block(pixels, scene.encoder, EncodeConfig())
        bare.append(time.perf_counter() - start)
        start = time.perf_counter()
        scene.map("plan.zarr", cells, cells, dtype="int8")
        whole.append(time.perf_counter() - start)
    return {"model": scene.km2(cells**2) / min(bare), "map": scene.km2(cells**2) / min(whole)}


def worker_speed(scene, count, rows=10, columns=10):
    """Shards per second of worker processes with one torch thread each, start-up left out."""
    torch.set_num_threads(int(count))  # shared out among the workers
    times = []
    scene.map(
        "workers.zarr", rows, columns, batch_size=1, shard_cells=1, scheduler=f"processes:{count}",
        progress=lambda *_: times.append(time.perf_counter()),
    )  # fmt: skip
    first = 4 * int(count)  # workers are warm by then
    return (len(times) - 1 - first) / (times[-1] - times[first])


def tree(path):
    """One hash over all files of a store."""
    total = hashlib.sha256()
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
        total.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return total.hexdigest()


def survive(scene, kills, cells=10):
    """Kill a map at random moments and run it again, until it is done; how often, and the final hash."""
    rng, done, out = random.Random(0), 0, scene.folder / "killed.zarr"
    call = [sys.executable, __file__, "--child", "resume", str(scene.folder), scene.path, str(cells)]
    while done < kills:
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL)
        receipts = out.with_name("killed.zarr.build") / "receipts"
        begun = len(list(receipts.glob("*.json"))) if receipts.exists() else 0
        while process.poll() is None and len(list(receipts.glob("*.json"))) <= begun:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done += 1
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return done, tree(out)


def invariance(scene):
    """Greatest difference between maps cut, batched and bounded otherwise, on the patches both hold."""
    reference, found = geossl.open(scene.map("ref.zarr", 5, 5)), []
    ways = [{"shard_cells": 1}, {"shard_cells": 3}, {"batch_size": 1}, {"batch_size": 4}, {"batch_size": 7}]
    for number, way in enumerate(ways):
        found.append(geossl.open(scene.map(f"way{number}.zarr", 5, 5, **way)))
    shifted = scene.region(5, 5).translate(1500, -900).to_frame("geometry")
    found.append(geossl.open(scene.map("shifted.zarr", 0, 0, region=shifted)))
    pairs = [xr.align(reference, other, join="inner") for other in found]
    return max(float(np.nanmax(np.abs(a.values - b.values))) for a, b in pairs)


def seam_ratio(found, cell):
    """Mean 1 - cosine of neighbouring patches across window borders, over the same inside windows."""
    x = found.values / np.linalg.norm(found.values, axis=0)
    across, within = [], []
    for axis, first in ((1, round(-found.odc.geobox.transform.f / 80)), (2, round(found.odc.geobox.transform.c / 80))):
        step = 1 - (x.take(range(1, x.shape[axis]), axis) * x.take(range(x.shape[axis] - 1), axis)).sum(0)
        is_border = (first + 1 + np.arange(step.shape[axis - 1])) % cell == 0
        across.append(step.compress(is_border, axis - 1).ravel())
        within.append(step.compress(~is_border, axis - 1).ravel())
    return np.nanmean(np.concatenate(across)) / np.nanmean(np.concatenate(within))


def nothing(work, shard):
    """A shard that takes no time."""
    return shard


def overhead(shards=500):
    """Milliseconds per shard of a Dask worker process that has nothing to do."""
    start = None
    for number, _ in enumerate(workers.results("processes:1", nothing, None, list(range(shards)))):
        start = time.perf_counter() if number == 50 else start
    return 1000 * (time.perf_counter() - start) / (shards - 51)


def sparse(scene):
    """Windows of a polygon that covers 30 % of its box, over those of the box."""
    box = scene.region(20, 20)
    (west, south, east, north), share = box.total_bounds, 0.3
    triangle = shapely.Polygon([(west, south), (east, south), (west, south + 2 * share * (north - south))])
    frames = [gpd.GeoDataFrame(geometry=[g], crs=EPSG) for g in (triangle, box.geometry[0])]
    arguments = {"encoder": scene.path, "crs": EPSG, **scene.rasters}
    few, all_of_it = (int(geossl.plan_map(f, **arguments)["windows"].sum()) for f in frames)
    return few / all_of_it


def rows(scene, kills):
    """Name, value and target of every measurement."""
    speed = speeds(scene)
    yield "bare model", f"{speed['model']:.2f} km2/s", ""
    yield "map, local files, sync", f"{speed['map']:.2f} km2/s", ""
    yield "model share", f"{100 * speed['map'] / speed['model']:.0f} %", ">= 90 %"
    memory = [child("peak", scene, *shape) for shape in ((1, 1), (2, 5), (10, 10))]
    yield "peak memory at 1, 10, 100 shards", ", ".join(f"{m:.0f}" for m in memory) + " MB", "<= 2000, flat"
    yield "chunk, batch and region invariance", f"{invariance(scene):g}", "0"
    found = geossl.open(scene.map("seams.zarr", 10, 10))
    yield "seam step ratio", f"{seam_ratio(found, scene.cell_px // scene.spec.patch_px):.3f}", "<= 1.02"
    done, after = survive(scene, kills)
    same = after == tree(scene.map("unharmed.zarr", 10, 10, shard_cells=1, batch_size=1))
    yield f"{done} x SIGKILL, then finished", "identical" if same else "DIFFERENT", "identical"
    one, two = (child("workers", scene, count) for count in (1, 2))
    yield "2 workers over 1, one thread each", f"{two / one:.2f}", ">= 1.8"
    yield "Dask overhead per shard", f"{overhead():.1f} ms", "<= 10 ms"
    yield "windows of a polygon covering 30 % of its box", f"{sparse(scene):.2f}", "<= 0.45"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, folder, encoder, *numbers = args.child
        scene = Scene(folder, encoder)
        if kind == "resume":
            cells = int(numbers[0])
            scene.map("killed.zarr", cells, cells, shard_cells=1, batch_size=1, overwrite=False)
        else:
            print(json.dumps({"peak": peak, "workers": worker_speed}[kind](scene, *numbers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        big_scene(Path(folder), 2400)
        scene = Scene(folder, args.encoder.absolute())
        print(f"{scene.spec.name}, window {scene.spec.window_px} px, margin {scene.spec.margin_px} px, ", end="")
        print(f"{torch.get_num_threads()} threads\n\n| measured | value | target |\n|---|---|---|")
        for name, value, target in rows(scene, args.kills):
            print(f"| {name} | {value} | {target} |", flush=True)


if __name__ == "__main__":
    main()
