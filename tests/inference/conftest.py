from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
import torch
import xarray as xr
from odc.geo.xr import xr_coords
from pyproj import CRS

from geossl.grid import Aoi, Lattice
from geossl.inference.engine import store
from geossl.inference.engine.plan import Plan
from geossl.inference.engine.run import embed_map
from geossl.models import files
from geossl.models.encoder import DenseEncoder, DenseSpec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.layers.patches import patchify
from geossl.sensors import S1, S2

ORIGIN = 500_000, 4_600_000  # of the scene's upper left corner, UTM 31N; on no lattice corner
SHAPE = 260, 310  # pixels, no multiple of anything


class Identity(DenseEncoder):
    """The token of a patch is its own pixels, all bands."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def tokens(self, images, kept=None):
        h, w = (n // 8 for n in images["s1"].shape[-2:])
        return torch.cat([patchify(images[n], 8) for n in ("s1", "s2")], -1).unflatten(1, (h, w))

    def pooled(self, images, kept=None):
        return self.tokens(images).mean((1, 2))


@dataclass(frozen=True)
class Memory:
    """A scene whose pixels are a function of their coordinates; NaN outside, and in a cloud."""

    cloud: bool = False
    sensors: tuple = ("s1", "s2")

    @property
    def dated(self):
        return False

    def describe(self):
        return {"memory": self.cloud, "s1": [1], "s2": [1]}

    def footprints(self, crs):
        (x, y), (h, w) = ORIGIN, SHAPE
        assert CRS.from_user_input(crs).to_epsg() == 32631
        return {name: shapely.box(x, y - 10 * h, x + 10 * w, y) for name in self.sensors}

    def load(self, geobox):
        coords = xr_coords(geobox)
        x, y = np.meshgrid(coords["x"].values, coords["y"].values)
        column, row = (x - ORIGIN[0]) / 10 - 0.5, (ORIGIN[1] - y) / 10 - 0.5
        inside = (column >= 0) & (column < SHAPE[1]) & (row >= 0) & (row < SHAPE[0])
        s1 = np.stack([-12 + 3 * np.sin(column / (7 + b)) + np.cos(row / 5) for b in range(2)])
        s2 = np.stack([0.2 + 0.1 * np.sin(column * row / (900 + 50 * b)) for b in range(12)])
        s2[:, ~inside], s1[:, ~inside] = np.nan, np.nan
        if self.cloud:
            s2[:, (np.hypot(column - 150, row - 130) < 50)] = np.nan
        dims = {"s1": ("s1_band", "y", "x"), "s2": ("s2_band", "y", "x")}
        bands = {"s1_band": list(S1.bands), "s2_band": list(S2.bands)}
        data = {n: (dims[n], a.astype(np.float32)) for n, a in (("s1", s1), ("s2", s2))}
        return xr.Dataset(data, coords={**bands, **coords})[list(self.sensors)]


@pytest.fixture
def region():
    (x, y), (h, w) = ORIGIN, SHAPE
    corners = shapely.box(x + 50, y - 10 * h + 50, x + 10 * w - 50, y - 50)
    back = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    return Aoi(shapely.transform(corners, back.transform, interleaved=False), "the region")


@pytest.fixture(scope="session")
def croma_file(tmp_path_factory):
    torch.manual_seed(0)
    spec = croma_spec("tiny", window_px=64, margin_px=16, reach=None, dim=32, depth=2, heads=8)
    path = tmp_path_factory.mktemp("encoder") / "croma.safetensors"
    files.save_encoder(path, CROMAEncoder(spec).eval(), {})
    return path


@pytest.fixture
def identity_file(tmp_path, monkeypatch, request):
    window_px, margin_px = getattr(request, "param", (64, 16))
    spec = DenseSpec(
        name="identity",
        architecture="identity",
        arguments={},
        sensors={"s1": S1, "s2": S2},
        dim=14 * 64,
        patch_px=8,
        gsd_m=10.0,
        window_px=window_px,
        margin_px=margin_px,
        source="test",
        licence="MIT",
    )
    monkeypatch.setitem(files.ARCHITECTURES, "identity", f"{Identity.__module__}:Identity")
    encoder = Identity(spec)
    encoder.register_buffer("any", torch.zeros(1))
    path = tmp_path / "identity.safetensors"
    monkeypatch.setattr(Identity, "__init__", lambda self, spec: _init(self, spec))
    files.save_encoder(path, encoder, {})
    return path


def _init(self, spec):
    DenseEncoder.__init__(self)
    self.spec = spec
    self.register_buffer("any", torch.zeros(1))


@dataclass(frozen=True)
class Dated(Memory):
    """Two dates: one west of the middle, one east of it."""

    @property
    def dated(self):
        return True

    def load(self, geobox):
        cube = super().load(geobox)
        east = np.broadcast_to(cube["x"].values > ORIGIN[0] + 1605, cube["s1"].shape[1:])
        return cube.assign(date=(("y", "x"), np.where(east, 7000, 6000).astype(np.uint16)))


class Known(Dated):
    """Says which scenes it is made of."""

    def describe(self):
        return {"s1": [{"id": "S1_A", "day": "2019-03-01"}], "s2": [{"id": "S2_B", "day": "2016-06-05"}]}


@pytest.fixture(scope="module")
def place(tmp_path_factory, croma_file):
    """A finished map with dates."""
    (x, y) = ORIGIN
    back = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    area = shapely.transform(shapely.box(x, y - 2000, x + 2600, y), back.transform, interleaved=False)
    folder = tmp_path_factory.mktemp("export")
    embed_map(Aoi(area, "a"), Known(), croma_file, folder / "m.zarr", shard_cells=3)
    return folder


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory):
    """A map, and one of nine times its area."""
    folder = tmp_path_factory.mktemp("sizes")
    for side in (2, 6):
        random_map(folder / f"{side}.zarr", side)
    return folder


def random_map(path, side):
    """A store of ``side`` x ``side`` shards of 128 x 128 patches and 64 dimensions, written shard by shard."""
    lattice = Lattice(32631, 8, 10.0, 16)
    (left, top), length = (lattice.cell_m * k for k in (200, 2000)), side * 8 * lattice.cell_m
    metadata = {"dated": False, "sensors": [], "source": {}, "encoder_sha256": "0"}
    plan = Plan(lattice, shapely.box(left, top - length, left + length, top).buffer(-1), 8, 1, "int8", metadata)
    store.create(path, plan, croma_spec("tiny", window_px=160, margin_px=16, dim=64, depth=2, heads=8))
    rng = np.random.default_rng(0)
    ones = np.ones((128, 128), np.uint8)
    arrays = store.opened(path)
    for shard in plan.shards:
        store.write_shards(arrays, plan, (shard,), rng.normal(size=(64, 128, 128)).astype(np.float32), 100 * ones, ones)
    store.finish(path)


def square(west=610, south=-1510, side=800):
    return shapely.box(ORIGIN[0] + west, ORIGIN[1] + south, ORIGIN[0] + west + side, ORIGIN[1] + south + side)


def features(tmp_path, *geometries):
    names = [f"field {i}" for i in range(len(geometries))]
    frame = gpd.GeoDataFrame({"name": names}, geometry=list(geometries), crs=32631)
    frame.to_crs(4326).to_file(tmp_path / "fields.geojson")
    return tmp_path / "fields.geojson"
