import numpy as np
import pyproj
import pytest
import shapely
import zarr

from geossl.grid import Aoi
from geossl.inference.engine.run import embed_map
from geossl.inference.engine.true_colour import TRUE_COLOUR, blocks_of, companded
from geossl.inference.outputs.raster import open_map
from tests.inference.conftest import ORIGIN, Memory

RED, GREEN, BLUE = 3, 2, 1  # of the twelve bands


@pytest.fixture
def small():
    (x, y), back = ORIGIN, pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    corners = shapely.box(x + 400, y - 1100, x + 1400, y - 300)
    return Aoi(shapely.transform(corners, back.transform, interleaved=False), "a part with some cloud")


@pytest.mark.parametrize(("gsd_m", "step"), [(None, 2), (40.0, 2)])
def test_a_map_keeps_the_colours_of_its_scenes(small, croma_file, tmp_path, gsd_m, step):
    (path,) = embed_map(small, Memory(cloud=True), croma_file, tmp_path / "a.zarr", shard_cells=3, gsd_m=gsd_m)
    found = open_map(path)
    geobox, parts = blocks_of(path, found.odc.geobox)
    picture = np.zeros((3, *geobox.shape), np.uint8)
    for where, values in parts:
        picture[(slice(None), *where)] = values
    assert abs(geobox.resolution.x) == 10 * step
    pixels = Memory(cloud=True).load(geobox.zoom_out(1 / step))["s2"].values[[RED, GREEN, BLUE]]
    h, w = geobox.shape
    with np.errstate(invalid="ignore"):
        mean = np.nanmean(pixels.reshape(3, h, step, w, step).swapaxes(2, 3).reshape(3, h, w, -1), axis=-1)
    valid = np.isfinite(found.values).all(axis=0)
    seen = valid.repeat(h // len(valid), 0).repeat(w // valid.shape[1], 1) & np.isfinite(mean).all(axis=0)
    assert seen.mean() > 0.2
    np.testing.assert_allclose(picture[:, seen], (255 * np.sqrt(mean / 0.6))[:, seen], atol=0.51)
    assert not picture[:, np.isnan(mean).any(axis=0)].any()


def test_a_map_of_radar_alone_has_no_colours(small, croma_file, tmp_path):
    (path,) = embed_map(small, Memory(sensors=("s1",)), croma_file, tmp_path / "a.zarr")
    assert TRUE_COLOUR not in zarr.open_group(path, mode="r")
    assert blocks_of(path, open_map(path).odc.geobox) is None


def test_a_map_begun_without_colours_goes_on_without(small, croma_file, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("geossl.inference.engine.true_colour.create", lambda *_: None)
        (path,) = embed_map(small, Memory(), croma_file, tmp_path / "a.zarr")
    assert blocks_of(path, open_map(path).odc.geobox) is None
    (other,) = embed_map(small, Memory(), croma_file, tmp_path / "b.zarr")
    np.testing.assert_array_equal(open_map(path).values, open_map(other).values)


def test_dark_pixels_are_no_fill_and_bright_ones_are_white():
    pixels = np.zeros((3, 2, 6), np.float32)
    for band, value in enumerate((1e-9, 0.15, 0.9)):
        pixels[band, :, 2:4] = value
    pixels[:, 0, 4] = 0.6
    pixels[:, 1, 4:] = np.nan
    found = companded(pixels, 2)
    assert found[:, 0].tolist() == [[0, 1, 255], [0, 128, 255], [0, 255, 255]]
