"""What a map costs and whether it holds: speed, memory, seams, kills, workers, HTTP. One command, one table.

The scene is the bundled Chilean pair, mirrored into a large square: its values are real, the place is not. Speed,
memory, workers and seams are those of the encoder's own window; what must be equal to the bit, and what fails on the
way, is tried with the same weights and a margin of 24 px, which keeps the same pixels and is quicker. All of it is of
whole windows (``reach=None``); ``map_attention.py`` compares them with local attention.

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
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import map_catalog  # the file beside this one
import numpy as np
import rasterio
import shapely
import torch
import xarray as xr
from affine import Affine

import geossl
from geossl.grid import Lattice
from geossl.inference.engine import workers
from geossl.inference.engine.encode import EncodeConfig, encode_block
from geossl.inference.engine.geometry import geometry
from geossl.inference.engine.plan import BuildFolder, Plan
from geossl.inference.engine.source import images
from geossl.inference.outputs.quantize import quantize, quantize_bands
from geossl.inference.outputs.raster import band_scales
from geossl.models.files import save_encoder
from geossl.sensors import S2_BANDS

SAMPLE = Path(geossl.__file__).parent / "data/sample"
QUICK = 24  # px, margin of the quicker window
MARGINS = (0, 8, 24, 48, 72, 120)  # px, of the curve
SPED = (10, 20)  # cells whose speed is measured: two whole shards
LARGE = 192  # px, margin of the window they are compared with

EPSG, LEFT, TOP = 32718, 720_050, 5_680_030  # of the big scene: where it is mirrored lies inside patches, not between


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
        self.rasters = geossl.Rasters(s1=self.folder / "s1.tif", s2=self.folder / "s2.tif")

    def region(self, rows, columns):
        """A square of lattice cells inside the scene, with room for the margin."""
        side = self.cell_px * 10
        column, row = -(-(LEFT + 1000) // side), -((TOP - 1000) // side)
        box = shapely.box(column * side, -(row + rows) * side, (column + columns) * side, -row * side)
        return gpd.GeoDataFrame(geometry=[box.buffer(-1)], crs=EPSG)

    def map(self, name, rows, columns, region=None, **settings):
        """Map some cells; returns the path."""
        region = self.region(rows, columns) if region is None else region
        settings = {"crs": EPSG, "picture": False, "overwrite": True, "dtype": "float32", "reach": None, **settings}
        return geossl.embed_map(region, self.rasters, encoder=self.path, out=self.folder / name, **settings)

    def with_margin(self, margin_px):
        """The same weights and cells, seen with another margin."""
        window_px = self.cell_px + 2 * margin_px
        self.encoder.spec, own = replace(self.spec, window_px=window_px, margin_px=margin_px), self.encoder.spec
        path = self.folder / f"margin{margin_px}.safetensors"
        save_encoder(path, self.encoder, {})
        self.encoder.spec = own
        return Scene(self.folder, path)

    def km2(self, cells):
        """Square kilometres of some cells."""
        return cells * (self.cell_px / 100) ** 2


def child(kind, scene, *arguments):
    """Run this file again in a process of its own; a JSON value comes back."""
    call = [sys.executable, __file__, "--child", kind, str(scene.folder), scene.path, *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak(scene, *_):
    """Peak memory of this process, MB, once 1, 10 and 100 shards of one cell are mapped."""
    seen = {}
    report = {"progress": lambda done, *_: seen.setdefault(done, own_peak_mb())}
    scene.map("peak.zarr", 10, 10, shard_cells=1, batch_size=1, dtype="int8", **report)
    return [seen[n] for n in (1, 10, 100)]


def own(scene):
    """Peak memory of this process, MB, after two shards with everything as it is by default."""
    scene.map("own.zarr", 4, 5, shard_cells=4, dtype="int8")
    return own_peak_mb()


def own_peak_mb():
    """Peak memory of this process, MB; ``getrusage`` would count the parent's, too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def speeds(scene):
    """Seconds and processor seconds of the bare model on pixels in memory, and of whole maps; taken in turn."""
    path = scene.map("plan.zarr", *SPED)
    geobox = geossl.open(path).odc.geobox.zoom_out(1 / 8).pad(scene.spec.margin_px)
    pixels = images(scene.rasters.open().load(geobox), scene.spec)
    ways = {
        "model": lambda: encode_block(pixels, scene.encoder, EncodeConfig(), shape=geometry(scene.spec, None)),
        "map": lambda: scene.map("plan.zarr", *SPED, dtype="int8"),
    }
    found = {name: [] for name in ways}
    for name, way in [*ways.items()] * 2:
        start = time.perf_counter(), time.process_time()
        way()
        found[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: np.min(times, axis=0) for name, times in found.items()}


def worker_speed(scene, count):
    """Shards per second of worker processes with one torch thread each, start-up left out; 20 shards a worker."""
    count = int(count)
    torch.set_num_threads(count)  # shared out among the workers
    times, quiet = [], {"batch_size": 1, "shard_cells": 1}
    scene.map(
        f"workers{count}.zarr", 4 * count, 5, scheduler=f"processes:{count}",
        progress=lambda *_: times.append(time.perf_counter()), **quiet,
    )  # fmt: skip
    first = 4 * count  # workers are warm by then
    return (len(times) - 1 - first) / (times[-1] - times[first])


def driver(scene):
    """Megabytes that the plan and the receipts of 10^5 shards take; seconds to find out what 10^4 receipts leave."""
    start = resident_mb()
    metadata = {"sensors": ["s1", "s2"], "source": {}}
    plan = Plan(Lattice(EPSG, 8, 10.0, 12), shapely.box(0, 0, 320 * 960, 320 * 960), 1, 1, "int8", metadata)
    build = BuildFolder(scene.folder / "driver.zarr")
    build.receipts.mkdir(parents=True)
    for row, column in plan.shards[:10_000]:
        (build.receipts / f"{row}_{column}.json").write_text("{}")
    begun = time.perf_counter()
    done = build.done()
    seconds = time.perf_counter() - begun
    left = [shard for shard in plan.shards if shard not in done]
    assert len(left) == len(plan.shards) - 10_000
    return {"mb": resident_mb() - start, "seconds": seconds}


def resident_mb():
    """Memory of this process, MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def tree(path):
    """One hash over all files of a store."""
    total = hashlib.sha256()
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
        total.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return total.hexdigest()


def survive(scene, kills, cells=6):
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
    reference, found = geossl.open(scene.map("ref.zarr", 4, 4)), []
    ways = [{"shard_cells": 1, "batch_size": 1}, {"shard_cells": 3}, {"batch_size": 4}, {"batch_size": 7}]
    for number, way in enumerate(ways):
        found.append(geossl.open(scene.map(f"way{number}.zarr", 4, 4, **way)))
    shifted = scene.region(4, 4).translate(1500, -900).to_frame("geometry")
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
    box = scene.region(14, 14)
    (west, south, east, north), share = box.total_bounds, 0.3
    triangle = shapely.Polygon([(west, south), (east, south), (west, south + 2 * share * (north - south))])
    frames = [gpd.GeoDataFrame(geometry=[g], crs=EPSG) for g in (triangle, box.geometry[0])]
    arguments = {"encoder": scene.path, "crs": EPSG, "reach": None, "source": scene.rasters}
    few, all_of_it = (int(geossl.plan_map(f, **arguments)["windows"].sum()) for f in frames)
    return few / all_of_it


def curve(scene, cells=5):
    """Per margin: seam step ratio, the same over that of the widest, and mean 1 - cosine to a window that sees far.

    The second shares what there is to see at the borders with the widest margin's map; the first does not.
    """
    side = 10 * scene.cell_px * (cells // 2)
    middle = scene.region(1, 1).translate(side, -side).to_frame("geometry")
    whole, found = geossl.open(scene.with_margin(LARGE).map("large.zarr", 0, 0, region=middle)), []
    for margin in MARGINS:
        path = scene.with_margin(margin).map(f"margin{margin}.zarr", cells, cells)
        a, b = (x.values for x in xr.align(geossl.open(path), whole, join="inner"))
        cosine = (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
        seam = seam_ratio(geossl.open(path), scene.cell_px // scene.spec.patch_px)
        found.append((margin, seam, float(1 - cosine.mean())))
    return [(margin, seam, seam / found[-1][1], far) for margin, seam, far in found]


def int8_loss(scene):
    """Mean 1 - cosine that int8 costs: with a scale per patch (.zarr) and with one per band (.tif)."""
    embeddings = geossl.open(scene.folder / "plan32.zarr")
    x, scales = embeddings.values, band_scales(embeddings)
    numbers, steps = quantize(x)
    stored = (numbers * steps, quantize_bands(x, scales) * scales[:, None, None])
    return [float(np.mean(1 - (x * y).sum(0) / np.linalg.norm(x, axis=0) / np.linalg.norm(y, axis=0))) for y in stored]


def engine(scene):
    """Rows of speed, memory and workers."""
    speed, km2 = speeds(scene), scene.km2(SPED[0] * SPED[1])
    for name, label in (("model", "bare model"), ("map", "map, local files, sync")):
        wall, processor = speed[name]
        yield label, f"{km2 / wall:.2f} km2/s, {km2 / processor:.2f} km2 per processor second", ""
    wall, processor = speed["model"] / speed["map"]
    yield "model share, by processor time (by the clock)", f"{100 * processor:.0f} % ({100 * wall:.0f} %)", ">= 90 %"
    yield "peak memory at the encoder's own window, batches of 10", f"{child('own', scene):.0f} MB", "<= 2000 MB"
    one, ten, hundred = child("peak", scene.with_margin(QUICK))
    text = f"{one:.0f}, {ten:.0f}, {hundred:.0f} MB; 10 to 100: {100 * (hundred / ten - 1):+.1f} %"
    yield "peak memory at 1, 10, 100 shards", text, "<= 2 % per decade"
    plan = driver(scene)
    yield "driver, memory for 10^5 shards", f"{plan['mb']:.0f} MB", "<= 300"
    yield "resume, looking through 10^4 receipts", f"{plan['seconds']:.3f} s", "<= 1 s"
    one, two = (child("workers", scene, count) for count in (1, 2))
    yield "2 workers over 1, one thread each", f"{two / one:.2f}", ">= 1.8"
    yield "weak scaling, 1 worker n shards over 2 workers 2n", f"{two / one / 2:.2f}", ">= 0.90 (at 8)"
    yield "Dask overhead per shard", f"{overhead():.1f} ms", "<= 10 ms"


def rows(scene, kills):
    """Name, value and target of every measurement."""
    quick = scene.with_margin(QUICK)
    yield "greatest difference over shards, batches and regions", f"{invariance(quick):g}", "0"
    done, after = survive(quick, kills)
    same = after == tree(quick.map("unharmed.zarr", 6, 6, shard_cells=1, batch_size=1))
    yield f"{done} x SIGKILL, then finished: hash", "identical" if same else "DIFFERENT", "identical"
    yield "windows of a polygon covering 30 % of its box", f"{sparse(quick):.2f}", "<= 0.45"
    yield from map_catalog.rows(quick, tree)
    yield from engine(scene)
    scene.map("plan32.zarr", 4, 4)
    patch, band = int8_loss(scene)
    yield "int8 against float32, 1 - cosine: per patch (.zarr), per band (.tif)", f"{patch:.1e}, {band:.1e}", "<= 1e-4"


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
            print(json.dumps({"peak": peak, "own": own, "workers": worker_speed}[kind](scene, *numbers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        big_scene(Path(folder), 2400)
        scene = Scene(folder, args.encoder.absolute())
        print(f"{scene.spec.name}, window {scene.spec.window_px} px, margin {scene.spec.margin_px} px, ", end="")
        print(f"{torch.get_num_threads()} thread(s), load of the machine {os.getloadavg()[0]:.1f}\n")
        print("| measured | value | target |\n|---|---|---|")
        for name, value, target in rows(scene, args.kills):
            print(f"| {name} | {value} | {target} |", flush=True)
        print("\n| margin, px | seam step ratio | over the widest's | 1 - cosine to a margin of 192 px |")
        print("|---|---|---|---|")
        for margin, seam, over, far in curve(scene):
            print(f"| {margin} | {seam:.3f} | {over:.2f} | {far:.4f} |", flush=True)


if __name__ == "__main__":
    main()
