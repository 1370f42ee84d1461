import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from geossl.data.labels.ground_truth import read_labels
from geossl.data.resampling import outline, reaches
from geossl.data.sentinel.rasters import LocalRasters
from tests.data.conftest import write_raster

AUSTRIA = GeoBox((16, 16), Affine(40, 0, 404400, 0, -40, 5342400), "EPSG:32633")
FIJI = GeoBox((16, 16), Affine(40, 0, 180000, 0, -40, 8140000), "EPSG:32701")  # west of 180 degrees


def ramp(height, width, west, gsd):
    """Radar whose VV says its longitude, from -20 dB at 180 to -10 dB at 0 degrees."""
    longitude = np.radians(west + gsd * (np.arange(width) + 0.5))
    vv = np.tile(-15 + 5 * np.cos(longitude), (height, 1)).astype(np.float32)
    return np.stack([vv, vv - 8])


@pytest.mark.parametrize(("box", "longitude"), [(AUSTRIA, 13.7), (FIJI, -180.0)])
@pytest.mark.parametrize("west", [-180.0, 0.0])
def test_a_raster_of_the_world_is_read_everywhere(tmp_path, box, longitude, west):
    path = write_raster(tmp_path / "a.tif", ramp(360, 720, west, 0.5), epsg=4326, left=west, top=90.0, gsd=0.5)
    found = LocalRasters({"s1": [path]}).load(box)["s1"].values
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0], -15 + 5 * np.cos(np.radians(longitude)), atol=0.01)


def test_longitudes_that_run_on_beyond_180_are_read_on_both_sides(tmp_path):
    data = ramp(400, 400, 179.9, 1e-3)
    path = write_raster(tmp_path / "a.tif", data, epsg=4326, left=179.9, top=-16.6, gsd=1e-3)
    source = LocalRasters({"s1": [path]})
    assert np.isfinite(source.load(FIJI)["s1"].values).all()
    assert source.footprints(4326)["s1"].bounds == pytest.approx((-180, -17.0, 180, -16.6))
    assert source.footprints(4326)["s1"].area == pytest.approx(0.16)


def test_the_outline_of_a_file_across_180_is_two_strips_not_a_belt():
    grid = GeoBox((500, 500), Affine(10, 0, 817000, 0, -10, 8140000), "EPSG:32760")
    found = outline(grid, CRS(4326))
    assert found.area < 0.003
    assert len(found.geoms) == 2
    assert outline(grid, CRS(32701)).area == pytest.approx(25e6, rel=0.01)


def test_a_block_beyond_a_file_is_not_asked_for():
    grid = GeoBox((100, 100), Affine(10, 0, 500_000, 0, -10, 4_600_000), "EPSG:32631")
    assert reaches(grid, grid[:10, :10])
    assert not reaches(grid, GeoBox((10, 10), Affine(10, 0, 502_000, 0, -10, 4_600_000), "EPSG:32631"))
    assert not reaches(grid, FIJI)


def test_world_labels_are_read_in_a_utm_zone(tmp_path):
    stripes = (np.arange(360) % 2 + np.ones((1, 180, 1))).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", stripes, epsg=4326, left=-180.0, top=90.0, gsd=1.0)
    assert (read_labels(path).grid(AUSTRIA) == 2).all()  # 13 degrees east is column 193


def test_masked_ground_is_not_labelled(tmp_path):
    labels = np.where(np.arange(40) < 20, 1, 2).astype(np.uint8) * np.ones((1, 40, 1), np.uint8)
    path = write_raster(tmp_path / "a.tif", labels)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        mask = np.full((40, 40), 255, np.uint8)
        mask[:5] = 0
        file.write_mask(mask)
    found = read_labels(path)
    grid = found.grid(GeoBox((40, 40), Affine(10, 0, 500_000, 0, -10, 4_600_000), "EPSG:32631"))
    assert (grid[:5] == 0).all()
    np.testing.assert_array_equal(grid[5:], labels[0, 5:])
