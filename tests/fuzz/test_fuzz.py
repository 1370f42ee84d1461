"""Whatever a file holds, geossl reads it or says in one line why not: no other exception, no hang.

Some hundred cases run with the suite; ``make fuzz`` runs thousands (``GEOSSL_FUZZ`` is the number per kind of file).
"""

import functools
import inspect
import json
import os
import shutil
import signal
import warnings
from contextlib import contextmanager

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
import yaml
from odc.geo.geobox import GeoBox

import geossl
from geossl import recipe
from geossl.data.datasets.find import read_set
from geossl.data.graphs.files import read_graph
from geossl.data.points.las import find_files, read_scan, survey
from geossl.data.points.objects import read_objects
from geossl.data.sentinel.rasters import LocalRasters
from geossl.data.stac.scenes import scene_of
from geossl.data.stac.search import without_nulls
from geossl.errors import GeosslError
from geossl.grid import read_aoi
from geossl.inference.outputs.stac import attributes_of
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import read_encoder, save_encoder
from geossl.sensors import S1_BANDS, S2_BANDS
from geossl.viewer.session import area_of
from tests.data.conftest import optical, radar, write_raster
from tests.fuzz.mutations import broken_bytes, broken_text, broken_values, rng_of
from tests.scans import scene, write_scan

ROUNDS = int(os.environ.get("GEOSSL_FUZZ", "25"))
HANG_S = 60
SQUARE = [[[3.0, 41.0], [3.1, 41.0], [3.1, 41.1], [3.0, 41.1], [3.0, 41.0]]]
REGION = {
    "type": "FeatureCollection",
    "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}},
    "features": [
        {"type": "Feature", "properties": {"class": "a"}, "geometry": {"type": "Polygon", "coordinates": SQUARE}}
    ],
}


@contextmanager
def answered(target, number):
    """Only errors of ours, each of one line that is not empty, and none that takes a minute."""

    def hung(*_):
        raise TimeoutError(f"{target} {number} took more than {HANG_S} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANG_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except GeosslError as error:
        assert 0 < len(str(error).strip()) < 2000  # noqa: PT017  (most cases raise nothing, which is right as well)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good file of every kind, as bytes."""
    folder = tmp_path_factory.mktemp("good")
    write_raster(folder / "s2.tif", optical((40, 48)), names=S2_BANDS, BOA_ADD_OFFSET="-1000")
    write_raster(folder / "s1.tif", radar((40, 48)), names=S1_BANDS)
    write_scan(folder / "scan.las", *scene(n=300))
    torch.manual_seed(0)
    spec = croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=1, heads=4)
    save_encoder(folder / "e.safetensors", CROMAEncoder(spec), {})
    x = np.random.default_rng(0).integers(1, 4000, (6, 12, 16, 16)).astype(np.uint16)
    np.savez(folder / "set.npz", x=x, y=np.arange(6) % 2, classes=np.array(["a", "b"]), bands=np.array(S2_BANDS))
    edges = np.array([[0, 1, 2, 3], [1, 2, 3, 0]])
    np.savez(folder / "graph.npz", x=np.eye(4, dtype=np.float32), edge_index=edges, y=np.arange(4) % 2)
    np.savez(folder / "shapes.npz", x=np.random.default_rng(0).random((3, 32, 3)), y=np.arange(3))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def every(rounds):
    """Call a test with every number below ``rounds``, each in a folder of its own; all that fail are named."""

    def decorate(test):
        parameters = inspect.signature(test).parameters

        @functools.wraps(test)
        def all_rounds(**fixtures):
            wrong = []
            for number in range(rounds):
                if "tmp_path" in fixtures:
                    (folder := fixtures["tmp_path"] / str(number)).mkdir()
                try:
                    test(**{**fixtures, **({"tmp_path": folder} if "tmp_path" in fixtures else {}), "number": number})
                except Exception as error:
                    error.add_note(f"number {number} of {test.__name__}")
                    wrong.append(error)
            if wrong:
                raise ExceptionGroup(f"{len(wrong)} of {rounds} rounds", wrong)

        all_rounds.__signature__ = inspect.Signature([p for name, p in parameters.items() if name != "number"])
        return all_rounds

    return decorate


@every(ROUNDS)
def test_regions(tmp_path, number):
    path = tmp_path / "aoi.geojson"
    path.write_bytes(broken_text(REGION, rng_of("region", number)))
    with answered("region", number):
        area = read_aoi(path).geometry.area
        assert np.isfinite(area)
        assert area > 0


@every(ROUNDS)
@pytest.mark.parametrize("name", ["croma", "mae", "scgc", "point_cmae", "selfcon", "regularized_ae"])
def test_recipes(tmp_path, name, number):
    rng = rng_of(f"recipe {name}", number)
    values = yaml.safe_load(recipe.dump(recipe.load(name)))
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(broken_values(values, rng)))))
    with answered(name, number):
        recipe.load(str(path))


@every(ROUNDS)
@pytest.mark.parametrize("sensor", ["s1", "s2"])
def test_rasters(good, tmp_path, sensor, number):
    path = tmp_path / f"{sensor}.tif"
    path.write_bytes(broken_bytes(good[path.name], rng_of(sensor, number)))
    with answered(sensor, number):
        source = LocalRasters({sensor: [path]})
        box = next(iter(source.files.values()))[0].geobox
        source.load(GeoBox((16, 16), box.transform, box.crs))


@every(ROUNDS)
def test_weights(good, tmp_path, number):
    path = tmp_path / "e.safetensors"
    path.write_bytes(broken_bytes(good[path.name], rng_of("weights", number)))
    with answered("weights", number):
        encoder = read_encoder(path)
        assert all(torch.isfinite(p).all() for p in encoder.parameters())


@every(ROUNDS)
def test_headers_of_weights(good, tmp_path, number):
    data, rng = good["e.safetensors"], rng_of("header", number)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    note = broken_values(json.loads(header["__metadata__"]["geossl"]), rng)
    header["__metadata__"]["geossl"] = json.dumps(note)
    text = json.dumps(header).encode()
    path = tmp_path / "e.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with answered("header", number):
        read_encoder(path)


@every(ROUNDS)
def test_scans(good, tmp_path, number):
    path = tmp_path / "scan.las"
    path.write_bytes(broken_bytes(good[path.name], rng_of("scan", number)))
    with answered("scan", number):
        read_scan([survey(file) for file in find_files(path)], ["intensity"])


@every(ROUNDS)
@pytest.mark.parametrize(
    ("name", "read"), [("set.npz", read_set), ("graph.npz", read_graph), ("shapes.npz", read_objects)]
)
def test_tables(good, tmp_path, name, read, number):
    path = tmp_path / name
    path.write_bytes(broken_bytes(good[name], rng_of(name, number)))
    with answered(name, number):
        found = read(path)
        for i in range(len(getattr(found, "items", []))):
            found.items[i]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A finished map in a small store."""
    folder = tmp_path_factory.mktemp("map")
    write_raster(folder / "s2.tif", optical((96, 96)), names=S2_BANDS, BOA_ADD_OFFSET="0")
    torch.manual_seed(0)
    spec = croma_spec("tiny", window_px=48, margin_px=8, dim=16, depth=1, heads=4)
    save_encoder(folder / "e.safetensors", CROMAEncoder(spec).eval(), {})
    region = gpd.GeoDataFrame(geometry=[shapely.box(500_100, 4_599_140, 500_860, 4_599_900)], crs=32631)
    pixels = geossl.Rasters(s2=folder / "s2.tif")
    return geossl.embed_map(region, pixels, encoder=folder / "e.safetensors", out=folder / "m.zarr", picture=False)


READERS = {  # what reads a map, each with its own part of the description
    "open": lambda store, out: geossl.open(store).mean().compute(),
    "similar": lambda store, out: geossl.similar(store, (3.004, 41.546), out=out / "s.tif"),
    "tif": lambda store, out: geossl.export(store, out / "m.tif"),
    "table": lambda store, out: geossl.export(store, out / "m.parquet", level="tile"),
    "segment": lambda store, out: geossl.segment(map=store, classes=2, out=out / "c.tif"),
    "sample": lambda store, out: geossl.sample(store, pd.DataFrame({"lon": [3.004], "lat": [41.546]})),
    "view": lambda store, out: area_of(store),
    "stac": lambda store, out: attributes_of(store),
}


@every(ROUNDS)
@pytest.mark.parametrize("reader", READERS)
def test_descriptions_of_maps(store, tmp_path, reader, number):
    rng = rng_of(f"map {reader}", number)
    path = tmp_path / "m.zarr"
    shutil.copytree(store, path)
    file = rng.choice([path / "zarr.json", *sorted(path.rglob("zarr.json"))])
    values = json.loads(file.read_text())
    if rng.random() < 0.2:
        file.write_bytes(broken_bytes(file.read_bytes(), rng))
    elif rng.random() < 0.5 and values.get("attributes"):
        values.pop("consolidated_metadata", None)
        file.write_text(json.dumps(values | {"attributes": broken_values(values["attributes"], rng)}))
    else:
        file.write_text(json.dumps(broken_values(values, rng)))
    with answered(f"map {reader}", number):
        READERS[reader](path, tmp_path)


@every(4 * ROUNDS)
def test_items_of_catalogues(number):
    assets = {band: {"href": f"https://host.org/{band}.tif"} for band in (*S2_BANDS, "SCL")}
    item = {
        "id": "S2A_MSIL2A_20240610T143741_N0510_R096_T19HCC_20240610T200000",
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": SQUARE},
        "properties": {"datetime": "2024-06-10T14:37:41Z", "s2:processing_baseline": "05.10", "eo:cloud_cover": 1.0},
        "assets": assets,
    }
    broken = broken_values(item, rng_of("item", number))
    with answered("item", number):
        scene_of(without_nulls(broken), "s2", lambda href: 1200.0)
