import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import Point, box

from geossl.data.labels.colours import class_colours, palette
from geossl.data.labels.ground_truth import class_counts, majority, read_labels
from geossl.errors import InputError, Note
from tests.data.conftest import write_raster

LEFT, TOP = 500_000, 4_600_000
GRID = GeoBox((4, 6), Affine(10, 0, LEFT, 0, -10, TOP), "EPSG:32631")


def square(column, row, width=1, height=1):
    """Pixels of GRID as a polygon."""
    x, y = LEFT + 10 * column, TOP - 10 * row
    return box(x, y - 10 * height, x + 10 * width, y)


def frame(classes, shapes, crs=32631):
    return gpd.GeoDataFrame({"crop": classes}, geometry=shapes, crs=crs)


def test_polygons_are_burnt_where_pixel_centres_lie_and_the_last_one_wins():
    labels = read_labels(frame(["oat", "rye"], [square(0, 0, 3, 2), square(2, 1, 2, 2)]), "crop")
    assert labels.names == ("oat", "rye")
    assert labels.grid(GRID).tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 2, 2, 0, 0], [0, 0, 2, 2, 0, 0], [0] * 6]


def test_polygons_in_degrees_give_the_same_pixels():
    polygons = frame(["oat", "rye"], [square(0, 0, 3, 2).buffer(-1), square(4, 1, 2, 2).buffer(-1)])
    degrees = read_labels(polygons.to_crs(4326), "crop").grid(GRID)
    assert np.array_equal(degrees, read_labels(polygons, "crop").grid(GRID))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([10, 9, 2], ("2", "9", "10")),  # by size, not by letter
        ([3.0, None, 1.0], ("1", "3")),  # whole numbers beside a missing one are read as floats
        (["b", None, "a"], ("a", "b")),
        ([True, False, True], ("False", "True")),
        (["x", 5, "y"], ("5", "x", "y")),
    ],
)
def test_values_of_any_kind_become_classes_and_missing_ones_are_no_label(values, names):
    labels = read_labels(frame(values, [square(i, 0) for i in range(3)]), "crop", "classify")
    assert labels.names == names
    expected = [0 if v is None else names.index(f"{v:g}" if isinstance(v, float) else str(v)) + 1 for v in values]
    assert labels.grid(GRID)[0].tolist() == [*expected, 0, 0, 0]


def test_raster_values_need_not_be_consecutive(tmp_path):
    values = np.array([[40, 7, 0, 300, 7, 40]] * 4, np.int16)
    write_raster(tmp_path / "l.tif", values[None], CLASSES='{"7": "oat", "300": "rye"}')
    labels = read_labels(tmp_path / "l.tif")
    assert labels.names == ("oat", "class 40", "rye")
    assert labels.grid(GRID)[0].tolist() == [2, 1, 0, 3, 1, 2]


def test_zero_is_a_class_where_nodata_is_another_value(tmp_path):
    write_raster(tmp_path / "l.tif", np.array([[[-1, 0, 1, 1, 0, -1]] * 4], np.int16), nodata=-1)
    labels = read_labels(tmp_path)  # a folder
    assert labels.names == ("class 0", "class 1")
    assert labels.grid(GRID)[0].tolist() == [0, 1, 2, 2, 1, 0]


def test_labels_say_when_they_change(tmp_path):
    before = read_labels(frame(["oat", "rye"], [square(0, 0), square(2, 1)]), "crop").describe()
    assert before == read_labels(frame(["oat", "rye"], [square(0, 0), square(2, 1)]), "crop").describe()
    assert before != read_labels(frame(["rye", "oat"], [square(0, 0), square(2, 1)]), "crop").describe()
    assert before != read_labels(frame(["oat", "rye"], [square(0, 0), square(2, 2)]), "crop").describe()


@pytest.mark.parametrize(
    ("labels", "column", "message"),
    [
        (frame(["a", "b"], [square(0, 0), square(1, 0)]), None, "which attribute is the label.*crop"),
        (frame(["a", "b"], [square(0, 0), square(1, 0)]), "corn", "no column 'corn'; there are: crop"),
        (frame(["a", "b"], [square(0, 0), square(1, 0)]), "geometry", "no column 'geometry'"),
        (frame(["a", "a"], [square(0, 0), square(1, 0)]), "crop", "has 1 class; expected 2 to 254"),
        (frame([f"{i}" for i in range(255)], [square(0, 0)] * 255), "crop", "has 255 classes; expected 2 to 254"),
        (frame([None, None], [square(0, 0)] * 2), "crop", "has 0 classes"),
        (frame(["a", "b"], [square(0, 0), square(1, 0)], crs=None), "crop", "no CRS"),
        (frame(["a", "b"], [Point(0, 0), square(1, 0)]), "crop", "holds Point; expected polygons"),
    ],
)
def test_polygons_that_cannot_be_labels_are_refused(labels, column, message):
    with pytest.raises(InputError, match=message):
        read_labels(labels, column)


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (np.ones((1, 4, 4), np.float32), {}, "holds no number, or one only"),
        (np.ones((3, 4, 4), np.uint8), {}, "has 3 bands; expected one"),
        (np.ones((1, 4, 4), np.complex64), {}, "holds complex numbers; expected classes or amounts"),
        (np.ones((1, 4, 4), np.uint8), {}, "has 1 class; expected"),
        (np.arange(400, dtype=np.int16).reshape(1, 20, 20), {}, "has 399 classes; expected"),
        (np.ones((1, 4, 4), np.uint8), {"epsg": None}, "has no CRS"),
        (np.array([[[-1, 1, 2, 2]]], np.int16), {}, "holds -1, which is no class; if it is nodata, declare it"),
        (np.array([[[0, 1, 2, 2]]], np.int16), {"SCALE": "0.5"}, "has the scale 0.5 and offset 0, so it holds amounts"),
    ],
)
def test_rasters_that_cannot_be_labels_are_refused(tmp_path, data, settings, message):
    with pytest.raises(InputError, match=message):
        read_labels(
            write_raster(tmp_path / "l.tif", data, **settings), task="classify" if "SCALE" in settings else None
        )


def test_values_like_nodata_are_said(tmp_path):
    classes = np.array([[[1, 2, 255, 255]]], np.uint8)
    with pytest.warns(Note, match="255 counts as a class; if it is nodata, declare it"):
        assert read_labels(write_raster(tmp_path / "l.tif", classes)).values == (1, 2, 255)
    assert read_labels(write_raster(tmp_path / "l.tif", classes, nodata=255)).values == (1, 2)
    amounts = np.array([[[0.5, 1.5, -9999, 3.4e38, 4, 5]] * 4], np.float32)
    with pytest.warns(Note, match="holds -9999, which is taken for nodata"):
        found = read_labels(write_raster(tmp_path / "a.tif", amounts)).grid(GRID)[0]
    np.testing.assert_array_equal(found, [0.5, 1.5, np.nan, np.nan, 4, 5])
    tagged = write_raster(tmp_path / "t.tif", np.array([[[5, 10, 20, 30, 40, 50]] * 4], np.int16), SCALE_FACTOR="0.1")
    np.testing.assert_allclose(read_labels(tagged).grid(GRID)[0], [0.5, 1, 2, 3, 4, 5])


def test_pixels_of_a_patch_are_counted_by_class():
    labels = np.array([[1, 1, 0, 2], [1, 2, 0, 0]], np.uint8)
    assert class_counts(labels, 2, 3).tolist() == [[[0, 3, 1, 0], [3, 0, 1, 0]]]
    assert majority(labels, 2).tolist() == [[1, 0]]


def test_usual_classes_have_usual_colours_and_others_can_be_told_apart():
    assert class_colours(["Water", "trees", "built"]) == ("#419bdf", "#397d49", "#c4281b")
    mixed = class_colours(["water", "wheat", "maize"])
    assert mixed == palette(3)
    assert len(set(mixed)) == 3
    assert class_colours(["shrub", "rangeland"]) == palette(2)
