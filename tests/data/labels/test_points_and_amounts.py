import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import Point, box

from geossl.data.labels.ground_truth import read_labels
from geossl.data.labels.tasks import patch_means, strata
from geossl.errors import InputError
from tests.data.conftest import write_raster

LEFT, TOP = 500_000, 4_600_000
GRID = GeoBox((4, 6), Affine(10, 0, LEFT, 0, -10, TOP), "EPSG:32631")


def middle(column, row):
    """Centre of a pixel of GRID."""
    return Point(LEFT + 10 * column + 5, TOP - 10 * row - 5)


def points(values, places, **columns):
    frame = gpd.GeoDataFrame({"value": values, **columns}, geometry=[middle(*p) for p in places], crs=32631)
    return frame.to_crs(4326)


def polygons(values):
    shapes = [box(LEFT + 10 * i, TOP - 10, LEFT + 10 * i + 10, TOP) for i in range(len(values))]
    return gpd.GeoDataFrame({"value": values}, geometry=shapes, crs=32631)


def test_fractions_are_amounts_and_text_is_classes():
    amounts = read_labels(polygons([0.5, 2.25, None, 7.0]), "value")
    assert amounts.is_continuous
    assert amounts.names == ()
    np.testing.assert_array_equal(amounts.grid(GRID)[0], [0.5, 2.25, np.nan, 7, np.nan, np.nan])
    assert np.isnan(amounts.grid(GRID)[1:]).all()
    assert not read_labels(polygons(["a", "b"]), "value").is_continuous


def test_nineteen_fractions_are_nineteen_amounts_and_few_whole_numbers_ask():
    assert read_labels(polygons([i + 0.5 for i in range(19)]), "value").is_continuous
    assert read_labels(polygons(list(range(51))), "value").is_continuous
    with pytest.raises(InputError, match="holds 7 different whole numbers: classes or amounts.*task"):
        read_labels(polygons([1, 2, 3, 4, 5, 6, 7]), "value")
    assert read_labels(polygons([1, 2, 3]), "value", "regress").is_continuous
    assert read_labels(polygons([1, 2, 3]), "value", "classify").names == ("1", "2", "3")


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        (["a", "b"], "regress", "holds 'a', which is not a number"),
        ([np.nan, np.nan], "regress", "holds no value: all 2 rows are empty"),
        ([0.5, np.inf], None, "holds 1 infinite value; leave such rows empty"),
        ([0.5, 0.5], None, "holds one value only, 0.5"),
        ([7, 7], None, "holds one value only, 7"),
        ([0.5, 1.5], "rank", "task 'rank' is not known; use classify or regress"),
    ],
)
def test_columns_that_hold_no_amounts_are_refused(values, task, message):
    with pytest.raises(InputError, match=message):
        read_labels(polygons(values), "value", task)


def test_a_point_labels_its_pixel_and_several_their_mean():
    labels = read_labels(points([1.5, 2.5, 9.5], [(1, 1), (1, 1), (4, 2)]), "value")
    expected = np.full((4, 6), np.nan)
    expected[1, 1], expected[2, 4] = 2, 9.5
    np.testing.assert_allclose(labels.grid(GRID), expected)
    assert labels.shared(80.0) == "3 of 3 points share a patch of 80 m with others: their mean counts"


def test_of_points_on_one_pixel_the_commonest_class_counts_else_the_first_by_name():
    frame = points(["b", "b", "a", "c", "a"], [(0, 0), (0, 0), (0, 0), (3, 0), (3, 0)])
    labels = read_labels(frame, "value")
    assert labels.grid(GRID)[0].tolist() == [2, 0, 0, 1, 0, 0]
    assert "1 patches hold points of several classes" in labels.shared(80.0)


def test_a_radius_labels_pixels_whose_centre_lies_within():
    labels = read_labels(points([1.5, 2.5], [(2, 1), (2, 1)]), "value", radius_m=10.5)
    known = np.isfinite(labels.grid(GRID))
    assert known.tolist() == [
        [False, False, True, False, False, False],
        [False, True, True, True, False, False],
        [False, False, True, False, False, False],
        [False] * 6,
    ]


def test_labels_of_a_table_do_not_depend_on_how_it_is_cut_into_grids():
    rng = np.random.default_rng(0)
    frame = points(rng.random(40), list(zip(rng.integers(0, 6, 40), rng.integers(0, 4, 40), strict=True)))
    labels = read_labels(frame, "value", radius_m=25.0)
    whole = labels.grid(GRID)
    np.testing.assert_array_equal(whole[1:3, 2:5], labels.grid(GRID[1:3, 2:5]))


def test_tables_and_point_layers_are_the_same_labels(tmp_path):
    frame = points(["b", "a"], [(0, 0), (3, 2)], date=["2024-06-01", "2024-07-01"])
    table = pd.DataFrame(
        {"lon": frame.geometry.x, "lat": frame.geometry.y, "class": frame["value"], "date": frame["date"]}
    )
    table.to_csv(tmp_path / "p.csv", index=False)
    table.to_parquet(tmp_path / "p.parquet")
    frame.to_file(tmp_path / "p.gpkg")
    grids = [read_labels(tmp_path / name).grid(GRID) for name in ("p.csv", "p.parquet")]
    grids += [read_labels(tmp_path / "p.gpkg", "value").grid(GRID), read_labels(table).grid(GRID)]
    for grid in grids:
        assert grid[0].tolist() == [2, 0, 0, 0, 0, 0]
        assert grid[2].tolist() == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("table", "column", "message"),
    [
        ({"x1": [1.0], "lat": [2.0], "value": [0.5]}, None, "it needs lon and lat in degrees"),
        ({"lon": [500000.0], "lat": [2.0], "value": [0.5]}, None, "not longitude and latitude in degrees"),
        ({"lon": [2.0, 3.0], "lat": [42.0, 42.0], "v": [0.5, 1.5]}, None, "which attribute is the label"),
        ({"lon": [2.0], "lat": [42.0], "value": [0.5]}, "biomass", "no column 'biomass'; there are: lon, lat, value"),
    ],
)
def test_tables_that_cannot_be_labels_are_refused(table, column, message):
    with pytest.raises(InputError, match=message):
        read_labels(pd.DataFrame(table), column)


def test_rasters_of_fractions_or_with_a_scale_are_amounts(tmp_path):
    values = np.array([[[0.5, 1.5, np.nan, 3, 4, 5]] * 4], np.float32)
    labels = read_labels(write_raster(tmp_path / "a.tif", values, nodata=np.nan))
    assert labels.is_continuous
    np.testing.assert_array_equal(labels.grid(GRID), values[0])
    codes = write_raster(tmp_path / "b.tif", np.array([[[1, 2, 3, 4, 5, 6]] * 4], np.int16))
    assert not read_labels(codes).is_continuous
    np.testing.assert_array_equal(read_labels(codes, task="regress").grid(GRID)[0], [1, 2, 3, 4, 5, 6])


def test_amounts_are_averaged_by_patch_and_put_in_fifths():
    grid = np.array([[1, 3, np.nan, np.nan], [np.nan, 5, np.nan, np.nan]], np.float32)
    mean, count = patch_means(grid, 2)
    np.testing.assert_array_equal(mean, [[3, np.nan]])
    assert count.tolist() == [[3, 0]]
    assert strata(grid, (2.0, 4.0)).tolist() == [[1, 2, 0, 0], [0, 3, 0, 0]]
