"""A map by local attention from files on a server: end to end against its parts, failing requests, Dask over tcp.

The scene of ``map.py`` lies on a server of 127.0.0.1 as cloud-optimised GeoTIFFs, in a process of its own, and is read
by ``--s1 http://...``. Its shards are read (``reading``), encoded from memory (``model``), and mapped (``end to end``:
both at a time), taking turns; by the clock, which is what overlapping is about, and in processor seconds of this
process. With ``--pin`` the server has a core of its own and this process another, so that the processor seconds of
reading, encoding and writing add up.

Run: python benchmarks/map_http.py [--encoder croma_tiny] [--side 2400] [--km 20] [--pin] [--compress none|deflate]
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import map as whole  # the file beside this one
import numpy as np
import rasterio.shutil
import torch
from map_cost import square

import geossl
from geossl.grid import read_aoi
from geossl.inference.engine import coverage, run
from geossl.inference.engine.encode import EncodeConfig, encode_block
from geossl.inference.engine.source import images
from geossl.models.files import encoder_path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.servers.stac import serving

FAULTS = {"503": 0.02, "truncated": 0.02, "403": 0.01}


def optimised(folder, compress):
    """Rewrite the scene as files on servers are: tiled, with overviews, compressed or not."""
    for path in (folder / "s1.tif", folder / "s2.tif"):
        plain = path.rename(path.with_name(f"plain_{path.name}"))
        settings = {"driver": "COG", "blocksize": 256, "compress": compress, "overview_resampling": "nearest"}
        rasterio.shutil.copy(plain, path, **settings)
        plain.unlink()


def serve(folder):
    """Serve a folder until the input ends; a line of JSON sets the faults and gets the number of requests."""
    with serving(folder, []) as server:
        print(json.dumps(server.url), flush=True)
        for line in sys.stdin:
            server.faults = json.loads(line)
            print(json.dumps(sum(server.requests.values())), flush=True)


class Served:
    """The server in a process of its own."""

    def __init__(self, folder, core=None):
        call = [sys.executable, __file__, "--serve", str(folder)]
        self.process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if core is not None:
            os.sched_setaffinity(self.process.pid, {core})
        self.url = json.loads(self.process.stdout.readline())

    def fail(self, faults):
        """From now on these shares of requests fail; how many there were."""
        self.process.stdin.write(json.dumps(faults) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def seconds(work):
    """By the clock, and of the processor."""
    start = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - start[0], time.process_time() - start[1]])


def pixels(path):
    """One hash over the stored arrays of a map; what it says of its files' places differs with their addresses."""
    total = hashlib.sha256()
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file() and p.name != "zarr.json"):
        total.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return total.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="croma_tiny")
    parser.add_argument("--side", type=int, default=2400)
    parser.add_argument("--km", type=float, default=20)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--pin", action="store_true", help="the server on one core, this process on another")
    parser.add_argument("--compress", default="deflate", choices=["none", "deflate"])
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(Path(args.serve))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole.big_scene(folder, args.side)
        optimised(folder, args.compress)
        cores = sorted(os.sched_getaffinity(0))
        server = Served(folder, cores[-1] if args.pin else None)
        if args.pin:
            os.sched_setaffinity(0, cores[:1])
        region = gpd.GeoDataFrame(geometry=[square(args.km)], crs=whole.EPSG)
        there = geossl.Rasters(s1=f"{server.url}/files/s1.tif", s2=f"{server.url}/files/s2.tif")
        here = geossl.Rasters(s1=folder / "s1.tif", s2=folder / "s2.tif")
        asked = {"encoder": args.encoder, "crs": whole.EPSG, "picture": False, "overwrite": True}
        source, config = there.open(), run.MapConfig(crs=whole.EPSG)
        path = encoder_path(args.encoder)
        (plan,) = run.plans(read_aoi(region), source, path, folder / "p.zarr", config).values()
        encoder, tasks = geossl.load_encoder(args.encoder), plan.tasks(plan.shards)
        cubes = [coverage.read(here.open(), plan, task, encoder) for task in tasks]
        encode, outs = EncodeConfig(), (folder / f"there{number}.zarr" for number in range(args.turns))
        ways = {
            "reading": lambda: [coverage.read(source, plan, task, encoder) for task in tasks],
            "model": lambda: [
                encode_block(
                    images(cube, encoder.spec), encoder, encode, plan.asked(task), plan.phases, plan.shape, part
                )
                for (cube, part), task in zip(cubes, tasks, strict=True)
            ],
            "end to end": lambda: geossl.embed_map(region, there, out=next(outs), **asked),
        }
        found = {way: np.min([seconds(work) for _ in range(args.turns)], axis=0) for way, work in ways.items()}
        km2 = sum(plan.km2(shard) for shard in plan.shards)
        print(f"{km2:.0f} km2 in {len(tasks)} blocks, load of the machine {os.getloadavg()[0]:.1f}\n")
        print("| | seconds | km2/s | processor seconds of this process |\n|---|---|---|---|")
        for way, (clock, processor) in found.items():
            print(f"| {way} | {clock:.1f} | {km2 / clock:.1f} | {processor:.1f} |", flush=True)
        slower = max(found["reading"][0], found["model"][0])
        print(f"\nend to end is {slower / found['end to end'][0]:.0%} of the slower of the two\n")
        hashes = {"on disk": pixels(geossl.embed_map(region, here, out=folder / "here.zarr", **asked))}
        hashes["over HTTP"] = pixels(folder / "there0.zarr")
        before = server.fail(FAULTS)
        hashes["5 % of requests fail"] = pixels(geossl.embed_map(region, there, out=folder / "f.zarr", **asked))
        requests = server.fail({}) - before
        from dask.distributed import LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            out = geossl.embed_map(region, there, out=folder / "d.zarr", scheduler=cluster.scheduler_address, **asked)
            hashes[f"two Dask workers, {cluster.scheduler_address.split(':')[0]}"] = pixels(out)
        for way, digest in hashes.items():
            print(f"{way:<28}{digest[:16]} {'same' if digest == hashes['on disk'] else 'DIFFERENT'}")
        print(f"({requests} requests in the map with faults)")
        server.process.stdin.close()
    return None


if __name__ == "__main__":
    main()
