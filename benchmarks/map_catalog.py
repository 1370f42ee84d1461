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
from geossl.data.addresses import GDAL as remote_settings
from geossl.data.stac.ranking import find_scenes
from geossl.grid import read_aoi
from geossl.inference.engine import run
from geossl.inference.engine.encode import EncodeConfig, encode_block
from geossl.inference.engine.source import images

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
    return gpd.GeoDataFrame(geometry=[box.buffer(-1)], crs=scenes.EPSG)


def covering(path, box):
    """Stored bytes of a file's blocks under a box and what is needed around it: neighbours to interpolate, clouds."""
    with rasterio.open(path) as file:
        rim = 40 if path.stem == "SCL" else file.transform.a if file.transform.a > 10 else 0
        west, south, east, north = box
        box = (west - rim, south - rim, east + rim, north + rim)
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


def fetched(remote, source, pixels):
    """Bytes fetched over bytes of covering blocks: all, and without the first look at each file; requests and files.

    Nothing may have been read before: GDAL keeps what it fetched.
    """
    remote.ask()
    source.load(pixels)
    sent = remote.ask()
    needed = sum(covering(Path(remote.folder) / name, pixels.extent.boundingbox.bbox) for name in sent["files"])
    looks = int(remote_settings["GDAL_INGESTED_BYTES_AT_OPEN"]) * len(sent["files"])
    return sent["bytes"] / needed, (sent["bytes"] - looks) / needed, sent["requests"], len(sent["files"])


def seconds(work):
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plans(scene, aoi, source, shard_cells):
    """What a map of a region is made of."""
    config = run.MapConfig(crs=scenes.EPSG, shard_cells=shard_cells, reach=None)
    return run.plans(read_aoi(aoi), source, Path(scene.path), scene.folder / "planned.zarr", config).values()


def speed(scene, aoi, source, request):
    """km2/s from end to end, of reading alone and of the model alone; all but the first of several shards."""
    (plan,) = plans(scene, aoi, source, 2)
    blocks = [plan.lattice.pixels(*plan.block(shard), scene.spec.margin_px) for shard in plan.shards[1:]]
    reading = seconds(lambda: [source.load(block) for block in blocks])
    arrays = [images(source.load(block), scene.spec) for block in blocks]
    config = EncodeConfig(batch_size=4)
    model = seconds(lambda: [encode_block(a, scene.encoder, config, shape=plan.shape) for a in arrays])
    times = []
    report = {"progress": lambda *_: times.append(time.perf_counter())}
    geossl.embed_map(aoi, out=scene.folder / "timed.zarr", shard_cells=2, batch_size=4, **request, **report)
    km2 = sum(plan.km2(shard) for shard in plan.shards[1:])
    return km2 / (times[-1] - times[0]), km2 / reading, km2 / model


def rows(scene, tree):
    """Name, value and target of every measurement."""
    aoi = region(scene)
    with running() as remote:
        pixels = geossl.Catalog(DATES, remote.url)
        request = {"source": pixels, "encoder": scene.path, "crs": scenes.EPSG, "picture": False, "reach": None}
        source = find_scenes(read_aoi(aoi), DATES, remote.url)
        (plan,) = plans(scene, aoi, source, 10)
        pixels = plan.geobox.zoom_out(1 / scene.spec.patch_px).pad(scene.spec.margin_px)
        ratio, without, requests, files = fetched(remote, source, pixels)
        text = f"{without:.2f} ({ratio:.2f} with a first look of 32 kB at each file, which is much of these small ones)"
        yield "bytes fetched over bytes of covering blocks", text, "<= 1.10"
        yield f"requests for a block of {files} files", str(requests), ""
        whole, reading, model = speed(scene, aoi, source, request)
        text = f"{100 * whole / min(reading, model):.0f} % ({whole:.2f}; {reading:.2f}, {model:.2f} km2/s)"
        yield "end to end over HTTP (reading, model alone), server on the same cores", text, ">= 80 %"
        path = geossl.embed_map(aoi, out=scene.folder / "calm.zarr", **request)
        remote.ask(FAULTS)
        stormy = geossl.embed_map(aoi, out=scene.folder / "stormy.zarr", **request)
        same = tree(path) == tree(stormy)
        yield "5 % of requests 503, cut short or 403: hash", "identical" if same else "DIFFERENT", "identical"


if __name__ == "__main__":
    serve()
