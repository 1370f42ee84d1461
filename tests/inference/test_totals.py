import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from pyproj import Geod
from shapely.geometry import box

import geossl.inference.totals as totals
from geossl.inference.totals import Errors, named_areas, of_polygon, ratio, write_totals
from geossl.inference.value_maps import write_values
from geossl.models.heads.answers import Amount
from tests.inference.outputs.test_class_maps import geobox

UNIT = Amount("agbm", "t/ha")


@pytest.fixture
def raster(tmp_path):
    """A map of 80 m cells: 100 in the west, 20 in the east, lower and upper 10 off; unlike the labels in the south."""
    grid = geobox((20, 20), gsd=80)
    value = np.where(np.arange(20) < 10, 100.0, 20.0) * np.ones((20, 1))
    unlike = np.where(np.arange(20)[:, None] < 15, 50.0, 150.0) * np.ones(20)
    layers = np.stack([value, value - 10, value + 10, unlike]).astype(np.float32)
    layers[:, 0, 0] = np.nan
    parts = iter([(np.s_[0:10, 0:20], layers[:, :10]), (np.s_[10:20, 0:20], layers[:, 10:])])
    write_values(tmp_path / "v.tif", grid, parts, UNIT, None, {"model": "m"}, has_trust=True)
    return tmp_path / "v.tif"


def degrees(shape):
    return gpd.GeoSeries([shape], crs=32631).to_crs(4326)[0]


def test_a_value_map_is_a_cog_of_three_bands_with_unit_names_and_trust(raster):
    with rasterio.open(raster) as file:
        assert file.units == ("t/ha",) * 3
        assert file.descriptions[0] == "agbm"
        assert file.descriptions[1] == "agbm, lower end of the 90 % prediction interval"
        assert np.isnan(file.nodata)
        assert file.read(1)[5, [2, 15]].tolist() == [100, 20]
        assert file.read(3)[5, 2] == 110
    with rasterio.open(raster.with_name("v_applicability.tif")) as file:
        assert file.read(1)[[1, 18], 3].tolist() == [0, 1]
        assert file.read(2)[[1, 18], 3].tolist() == [50, 150]
        assert file.read(1)[0, 0] == 255
    assert raster.with_suffix(".png").stat().st_size > 10_000


def test_means_weigh_cells_by_their_share_and_areas_are_on_the_ellipsoid(raster):
    left, top = 500_000, 4_600_000
    area = degrees(box(left + 720, top - 1200, left + 840, top - 400))  # 80 m of the west, 40 m of the east
    found = of_polygon(raster, area, UNIT, None)
    np.testing.assert_allclose(found["mean"], (2 * 100 + 20) / 3, rtol=1e-3)
    ground = abs(Geod(ellps="WGS84").geometry_area_perimeter(area)[0]) / 1e4
    np.testing.assert_allclose(found["hectares"], ground)
    assert abs(ground / 9.6 - 1) > 3e-4  # what the projection's own square metres would miss
    np.testing.assert_allclose(found["total"], found["mean"] * ground)
    np.testing.assert_allclose(found["percent_mapped"], 100, atol=0.1)
    assert (found["unit"], found["total_unit"]) == ("t/ha", "t")
    assert np.isnan(found["mean_se"])


def test_labels_in_a_polygon_correct_its_mean_and_say_how_sure_it_is(raster):
    area = degrees(box(500_000 + 80, 4_600_000 - 1520, 500_000 + 720, 4_600_000 - 80))
    x, y = area.representative_point().xy
    places = np.column_stack([np.full(40, x[0]), np.full(40, y[0])])
    errors = np.random.default_rng(0).normal(-15, 4, 40)
    known = Errors(places, errors, np.arange(40) // 4, 640.0, 25.0)
    found = of_polygon(raster, area, UNIT, known)
    np.testing.assert_allclose(found["mean"], 100 + errors.mean(), rtol=1e-6)
    assert found["estimator"] == "difference estimator"
    assert found["labelled_patches"] == 40
    few = Errors(places, errors, np.arange(40) // 20, 640.0, 25.0)
    found = of_polygon(raster, area, UNIT, few)
    assert found["estimator"] == "mean of predictions"
    np.testing.assert_allclose(found["mean_se"], 25 / np.sqrt(found["hectares"] * 1e4 / 640**2))


def test_the_standard_error_is_that_of_blocks_that_are_drawn():
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        blocks = np.repeat(np.arange(30), 5)
        errors = rng.normal(size=30)[blocks] + 0.2 * rng.normal(size=150)  # alike within a block
        found.append(ratio(errors, blocks))
    means, se = np.array(found).T
    np.testing.assert_allclose(se.mean(), means.std(), rtol=0.1)


def test_strips_do_not_change_a_total(raster, monkeypatch):
    area = degrees(box(500_000 + 100, 4_600_000 - 1500, 500_000 + 1500, 4_600_000 - 100))
    whole = of_polygon(raster, area, UNIT, None)
    monkeypatch.setattr(totals, "STRIP", 7)
    np.testing.assert_allclose(of_polygon(raster, area, UNIT, None)["mean"], whole["mean"], rtol=1e-12)


def test_a_polygon_off_the_map_has_no_mean(raster, tmp_path):
    frame = gpd.GeoDataFrame({"name": ["far"]}, geometry=[box(10, 50, 10.01, 50.01)], crs=4326)
    ((name, area),) = named_areas(frame)
    row = {"name": name, **of_polygon(raster, area, UNIT, None)}
    write_totals(tmp_path / "t.csv", [row])
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["name"].tolist() == ["far"]
    assert table[["mean", "total"]].isna().all(axis=None)
    assert table["percent_mapped"].tolist() == [0]
