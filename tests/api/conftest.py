import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch

from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import save_encoder
from geossl.sensors import S2_BANDS
from tests.data.conftest import write_raster

SIDE = 320  # pixels of the scene, 10 m each
FIELD = 32  # pixels of a field
LEFT, TOP = 499_840, 4_595_520  # in two blocks of the lattice; fields are the smallest blocks a split knows
NAMES = ("forest", "water", "wheat")


@pytest.fixture(scope="session")
def fields():
    """Fields of three classes as polygons."""
    kinds = np.random.default_rng(0).integers(0, 3, (SIDE // FIELD, SIDE // FIELD))
    rows, columns = np.indices(kinds.shape)
    x, y, side = LEFT + 10 * FIELD * columns.ravel(), TOP - 10 * FIELD * rows.ravel(), 10 * FIELD
    names = [NAMES[kind] for kind in kinds.ravel()]
    return gpd.GeoDataFrame({"crop": names}, geometry=shapely.box(x, y - side, x + side, y), crs=32631)


@pytest.fixture(scope="session")
def scene(tmp_path_factory, fields):
    """Folder with s1.tif and s2.tif in which the classes can be told apart, parcels.gpkg, aoi.geojson."""
    folder, rng = tmp_path_factory.mktemp("scene"), np.random.default_rng(1)
    kinds = np.array([NAMES.index(c) for c in fields["crop"]]).reshape(SIDE // FIELD, SIDE // FIELD)
    pixels = kinds.repeat(FIELD, 0).repeat(FIELD, 1)
    s1 = np.array([[-9, -22, -13], [-15, -30, -20]], np.float32)[:, pixels]
    red, near_infrared = np.array([300, 200, 1200])[pixels], np.array([3500, 150, 2500])[pixels]
    s2 = np.stack([near_infrared if band in ("B07", "B08", "B8A", "B09") else red for band in S2_BANDS])
    s1 = s1 + rng.normal(size=s1.shape).astype(np.float32)
    s2 = (s2 + rng.integers(0, 100, s2.shape)).astype(np.uint16)
    write_raster(folder / "s1.tif", s1, left=LEFT, top=TOP)
    write_raster(folder / "s2.tif", s2, left=LEFT, top=TOP, names=S2_BANDS, BOA_ADD_OFFSET="0")
    fields.to_file(folder / "parcels.gpkg")
    middle = shapely.box(LEFT + 500, TOP - 10 * SIDE + 400, LEFT + 10 * SIDE - 500, TOP - 300)
    gpd.GeoDataFrame(geometry=[middle], crs=32631).to_crs(4326).to_file(folder / "aoi.geojson")
    return folder


def encoder_file(path, seed):
    torch.manual_seed(seed)
    spec = croma_spec("tiny", window_px=64, margin_px=16, dim=32, depth=2, heads=8)
    save_encoder(path, CROMAEncoder(spec).eval(), {})
    return path


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    return encoder_file(tmp_path_factory.mktemp("encoder") / "e.safetensors", 0)


@pytest.fixture(scope="session")
def other_encoder(tmp_path_factory):
    return encoder_file(tmp_path_factory.mktemp("encoder") / "other.safetensors", 1)
