"""What a map by local attention costs, against what the dry run says, and how that grows with the region.

The scene is that of ``map.py``: real values, mirrored into a large square. Every map is made in a process of its own
with one thread; seconds are of the processor, since a clock would count what other programs take. The
tables: the dry run against the map (seconds, peak memory); a polygon that covers 30 % of its box against the box; both
bundled encoders; peak memory over the size of the region.

Run: python benchmarks/map_cost.py [--encoder croma_tiny] [--side 2700] [--parts dry sparse encoders memory]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import geopandas as gpd
import map as whole  # the file beside this one
import shapely

import geossl
from geossl.inference.engine import estimate

BLOCK = 10240  # metres, of the blocks that local attention encodes at once
SHARE = 0.3  # of its box that the polygon covers


def square(km, off=0.0):
    """A square region in the scene that begins on the lattice, its side in km; ``off`` moves it by kilometres."""
    west, north = (round((v + s * 1000 * off) / 80) * 80 for v, s in ((whole.LEFT + 800, 1), (whole.TOP - 800, -1)))
    return shapely.box(west, north - 1000 * km, west + 1000 * km, north)


def triangle(box):
    """A polygon that covers 30 % of its box."""
    west, south, east, north = box.bounds
    return shapely.Polygon([(west, south), (east, south), (west, south + 2 * SHARE * (north - south))])


REGIONS = {  # name -> region, settings
    "7 km": (lambda: square(7), {}),
    "7 km, --gsd 20": (lambda: square(7), {"gsd_m": 20}),
    "10 km": (lambda: square(10), {}),
    "18 km": (lambda: square(18), {}),
    "25 km": (lambda: square(25), {}),
    "25 km, 30 % of it": (lambda: triangle(square(25)), {}),
}


def made(folder, encoder, name, reach="own"):
    """What a map cost in this process: processor seconds, MB at most; and of the dry run what it said and took."""
    shape, settings = REGIONS[name]
    region = gpd.GeoDataFrame(geometry=[shape()], crs=whole.EPSG)
    source = geossl.Rasters(s1=folder / "s1.tif", s2=folder / "s2.tif")
    asked = {"encoder": encoder, "crs": whole.EPSG, **settings}
    asked |= {} if reach == "own" else {"reach": int(reach) or None}
    estimate.time.perf_counter = time.process_time  # what the dry run times is of the processor, too
    start = time.process_time()
    said = geossl.plan_map(region, source, **asked).iloc[0]
    dry = time.process_time() - start
    before, start = peak_mb(), time.process_time()
    geossl.embed_map(region, source, out=folder / f"{name}.zarr", picture=False, overwrite=True, **asked)
    return {
        "seconds": time.process_time() - start,
        "said_seconds": float(said["seconds"]),
        "mb": peak_mb(),
        "said_mb": 1000 * float(said["memory_per_worker_gb"]),
        "dry_seconds": dry,
        "dry_mb": before,
        "km2": float(said["area_km2"]),
        "computed": float(said["computed_km2"]),
    }


def peak_mb():
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@cache
def of(folder, encoder, name, reach="own"):
    """The same in a process of its own; a reach of 0 is whole windows."""
    call = [sys.executable, __file__, "--child", str(folder), encoder, name, str(reach)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="croma_tiny")
    parser.add_argument("--side", type=int, default=2700)
    parser.add_argument("--parts", nargs="+", default=["dry", "sparse", "encoders", "memory"])
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(made(Path(args.child[0]), *args.child[1:])))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole.big_scene(folder, args.side)
        if "dry" in args.parts:
            print(
                "| map | dry run took, s | seconds, said; were | ratio | MB, said; were | ratio |\n" + "|---" * 6 + "|"
            )
            for region in ("7 km", "25 km, 30 % of it", "25 km", "7 km, --gsd 20"):
                x = of(folder, args.encoder, region)
                print(
                    f"| {region} ({x['km2']:.0f} km2) | {x['dry_seconds']:.1f} | {x['said_seconds']:.1f}; "
                    f"{x['seconds']:.1f} | {x['said_seconds'] / x['seconds']:.2f} | {x['said_mb']:.0f}; {x['mb']:.0f} "
                    f"| {x['said_mb'] / x['mb']:.2f} |",
                    flush=True,
                )
        if "sparse" in args.parts:
            print("\n| box | whole, s | 30 % of it, s | ratio |\n|---|---|---|---|")
            every, few = of(folder, args.encoder, "25 km"), of(folder, args.encoder, "25 km, 30 % of it")
            ratio = few["seconds"] / every["seconds"]
            print(f"| 25 km | {every['seconds']:.1f} | {few['seconds']:.1f} | {ratio:.2f} |", flush=True)
        if "encoders" in args.parts:
            print("\n| encoder | square | seconds | km2 per processor second |\n|---|---|---|---|")
            for encoder in ("croma_tiny", "galileo_nano"):
                for region in ("7 km", "18 km"):
                    x = of(folder, encoder, region)
                    print(f"| {encoder} | {region} | {x['seconds']:.1f} | {x['km2'] / x['seconds']:.2f} |", flush=True)
        if "memory" in args.parts:
            print("\n| square | km2 | MB at most |\n|---|---|---|")
            for region in ("7 km", "10 km", "18 km", "25 km"):
                x = of(folder, args.encoder, region)
                print(f"| {region} | {x['km2']:.0f} | {x['mb']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
