"""A map from a catalogue over real HTTP: bytes, requests, speed, and requests that fail. A part of map.py.

The catalogue is that of the tests: a STAC API and COGs of the bundled Chilean pair with byte ranges on 127.0.0.1, here
in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import geopandas as gpd
import rasterio
import shapely

import geossl
from geossl.data.selection import find_scenes
from geossl.grid import read_aoi
from geossl.inference.encode import EncodeConfig, encode_block
from geossl.inference.source import images

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.servers import scenes
from tests.servers.stac import serving

FAULTS = {"503": 0.02, "truncated": 0.02, "403": 0.01}
DATES = "2024-06"


def serve():
    """Serve until the input ends; a line of JSON sets the faults and gets what was sent since the last one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = [scenes.raw(folder), scenes.radar(folder)]
        with serving(folder, items) as server:
            print(json.dumps({"url": server.url, "folder": name}), flush=True)
            for line in sys.stdin:
                answer = {"bytes": sum(server.sent.values()), "requests": sum(server.requests.values())}
                answer["files"] = sorted(server.sent)
                server.faults = json.loads(line)
                server.sent.clear()
                server.requests.clear()
                print(json.dumps(answer), flush=True)


class Remote:
    """The running catalogue."""

    def __init__(self, process):
        self.process = process
        self.url, self.folder = json.loads(process.stdout.readline()).values()

    def ask(self, faults=None):
        """What was sent since the last question; from now on these faults."""
        self.process.stdin.write(json.dumps(faults or {}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def running():
    """The catalogue in a process of its own."""
    call = [sys.executable, __file__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield Remote(process)
        process.stdin.close()


def region(scene):
    """Whole lattice cells whose windows lie inside the catalogue's scenes."""
    side, rim = scene.cell_px * 10, scene.spec.margin_px * 10
    west, south = scenes.LEFT + rim, scenes.TOP - 10 * scenes.SIZE + rim
    east, north = scenes.LEFT + 10 * scenes.SIZE - rim, scenes.TOP - rim
    box = shapely.box(-(-west // side) * side, -(-south // side) * side, east // side * side, north // side * side)
    return gpd.GeoDataFrame(geometry=[box.buffer(-1)], crs=scenes.EPSG), box.area / 1e6


def covering(path, box):
    """Stored bytes of a file's blocks under a box."""
    with rasterio.open(path) as file:
        window = rasterio.windows.from_bounds(*box, transform=file.transform)
        side = file.block_shapes[0][0]
        first_row, first_column = int(max(window.row_off, 0)) // side, int(max(window.col_off, 0)) // side
        last_row = (min(round(window.row_off + window.height), file.height) - 1) // side
        last_column = (min(round(window.col_off + window.width), file.width) - 1) // side
        return sum(
            file.block_size(1, row, column)
            for row in range(first_row, last_row + 1)
            for column in range(first_column, last_column + 1)
        )


def rows(scene, tree):
    """Name, value and target of every measurement."""
    aoi, km2 = region(scene)
    with running() as remote:
        request = {"date": DATES, "catalog": remote.url, "encoder": scene.path, "crs": scenes.EPSG, "picture": False}
        source = find_scenes(read_aoi(aoi), DATES, remote.url)
        path = geossl.embed_map(aoi, out=scene.folder / "calm.zarr", **request)
        pixels = geossl.open(path).odc.geobox.zoom_out(1 / 8).pad(scene.spec.margin_px)
        remote.ask()
        start = time.perf_counter()
        cube = source.load(pixels)
        read = time.perf_counter() - start
        sent = remote.ask()
        box = pixels.extent.boundingbox.bbox
        needed = sum(covering(Path(remote.folder) / name, box) for name in sent["files"])
        yield "bytes fetched over bytes of covering blocks", f"{sent['bytes'] / needed:.2f}", "<= 1.10"
        yield "requests for a block of 15 files", str(sent["requests"]), ""
        arrays = images(cube, scene.spec)
        start = time.perf_counter()
        encode_block(arrays, scene.encoder, EncodeConfig())
        model = time.perf_counter() - start
        start = time.perf_counter()
        geossl.embed_map(aoi, out=scene.folder / "timed.zarr", shard_cells=2, **request)
        whole = time.perf_counter() - start
        rates = f"{km2 / whole:.2f} km2/s; reading {km2 / read:.2f}, model {km2 / model:.2f}"
        text = f"{100 * max(read, model) / whole:.0f} % ({rates})"
        yield "end to end over HTTP, share of the slower of reading and model", text, ">= 80 %"
        remote.ask(FAULTS)
        stormy = geossl.embed_map(aoi, out=scene.folder / "stormy.zarr", **request)
        same = tree(path) == tree(stormy)
        yield "5 % of requests 503, cut short or 403: hash", "identical" if same else "DIFFERENT", "identical"


if __name__ == "__main__":
    serve()
