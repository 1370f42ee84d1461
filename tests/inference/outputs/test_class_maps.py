import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import rioxarray
import torch
import xarray as xr
from affine import Affine
from matplotlib import image
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import Geod, Transformer
from rio_cogeo.cogeo import cog_validate
from shapely.geometry import box, mapping

from geossl.errors import InputError
from geossl.inference.layers import answered, stored_layers
from geossl.inference.outputs.class_maps import Areas, Legend, areal_scale, write_classes
from geossl.models.heads.answers import Answer
from geossl.models.heads.classifiers import LinearHead

LEGEND = Legend(["water", "field", "wood"], ["#0000ff", "#ffff00", "#00ff00"])


def geobox(shape, left=500_000, gsd=10, top=4_600_000):
    return GeoBox(shape, Affine(gsd, 0, left, 0, -gsd, top), "EPSG:32631")


def geodesic_hectares(left, top, width, height):
    """Of a rectangle in UTM 31N, its edges followed in many steps."""
    outline = box(left, top - height, left + width, top).segmentize(100)
    x, y = Transformer.from_crs(32631, 4326, always_xy=True).transform(*np.array(outline.exterior.coords).T)
    return abs(Geod(ellps="WGS84").polygon_area_perimeter(x, y)[0]) / 10_000


@pytest.mark.parametrize("left", [160_000, 500_000, 830_000])
def test_areas_are_those_on_the_ellipsoid(left):
    areas = Areas(geobox((700, 900), left), 3)
    areas.add(np.s_[0:700, 0:900], np.ones((700, 900), np.uint8))
    expected = geodesic_hectares(left, 4_600_000, 9000, 7000)
    np.testing.assert_allclose(areas.hectares(), [0, expected, 0], rtol=2e-6)
    assert abs(expected / 6300 - 1) > 3e-4  # what the projection's own square metres would miss


def test_areas_do_not_depend_on_pieces():
    values = np.random.default_rng(0).integers(0, 3, (600, 500)).astype(np.uint8)
    values[:50] = 255
    whole, pieces = Areas(geobox((600, 500)), 3), Areas(geobox((600, 500)), 3)
    whole.add(np.s_[0:600, 0:500], values)
    for rows in (slice(333, 600), slice(0, 333)):
        for columns in (slice(0, 77), slice(77, 500)):
            pieces.add((rows, columns), values[rows, columns])
    assert np.array_equal(whole.hectares(), pieces.hectares())


def test_areal_scale_of_an_equal_area_projection_is_one():
    np.testing.assert_allclose(areal_scale("EPSG:3035", np.array([4.3e6]), np.array([3.2e6])), 1, rtol=1e-9)


def test_stored_cells_lie_where_their_pixels_were():
    number = np.arange(4 * 6).reshape(4, 6)  # 2 x 3 patches of 2 x 2 cells
    cells = np.stack([number, number + 100]).reshape(2, 2, 2, 3, 2).transpose(0, 2, 4, 1, 3).reshape(8, 2, 3)
    box_ = geobox((2, 3), gsd=20)
    numbers = xr.DataArray(cells.astype(np.float32), dims=("embedding", "y", "x"), coords=xr_coords(box_))
    fine, parts = stored_layers(numbers, 2)
    ((where, values),) = parts
    assert fine == geobox((4, 6))
    assert where == np.s_[0:4, 0:6]
    assert np.array_equal(values, [number, number + 100])


def test_a_class_does_not_depend_on_the_other_rows():
    torch.manual_seed(0)
    head, x = LinearHead(40, 5), np.random.default_rng(0).normal(size=(3000, 40)).astype(np.float32)
    whole = answered(Answer(head, "s2"), x)
    assert np.array_equal(whole[:, 1234:1239], answered(Answer(head, "s2"), x[1234:1239]))
    chances = head(torch.from_numpy(x)).detach().numpy()
    assert np.array_equal(whole[0], chances.argmax(1))
    np.testing.assert_allclose(whole[1], 100 * chances.max(1), atol=0.51)


def written(folder, values, area=None, **settings):
    grid = geobox(values.shape[1:])
    parts = iter([((slice(0, 20), slice(0, 40)), values[:, :20]), ((slice(20, 40), slice(0, 40)), values[:, 20:])])
    write_classes(folder / "c.tif", grid, parts, LEGEND, area, {"model": "m"}, **settings)
    return folder / "c.tif"


@pytest.fixture
def values():
    found = np.zeros((2, 40, 40), np.uint8)
    found[0, :, 10:], found[0, 30:, 30:], found[1] = 1, 255, 80
    return found


def test_a_class_raster_is_a_cog_with_colours_names_and_nodata(tmp_path, values):
    path = written(tmp_path, values)
    assert cog_validate(path)[0]
    with rasterio.open(path) as file:
        assert file.nodata == 255
        assert file.colormap(1)[1] == (255, 255, 0, 255)
        assert json.loads(file.tags()["CLASS_NAMES"]) == LEGEND.names
    opened = rioxarray.open_rasterio(path, masked=True)
    assert int(opened.isnull().sum()) == 100
    with rasterio.open(tmp_path / "c_confidence.tif") as file:
        assert np.unique(file.read(1)).tolist() == [80]
    styled = ["c.qml", "c.tif", "c.tif.aux.xml", "c_area.csv", "c_confidence.qml", "c_confidence.tif"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", *styled]


def test_the_table_and_the_outlines_agree(tmp_path, values):
    written(tmp_path, values, outlines=tmp_path / "c.gpkg")
    table = pd.read_csv(tmp_path / "c_area.csv")
    shapes = gpd.read_file(tmp_path / "c.gpkg")
    assert table["name"].tolist() == LEGEND.names
    assert table["percent"].tolist() == [26.67, 73.33, 0]
    np.testing.assert_allclose(table["hectares"], np.array([400, 1100, 0]) / 100 / 0.9992, atol=0.01)
    assert set(shapes["name"]) == {"water", "field"}
    np.testing.assert_allclose(shapes["hectares"].sum(), table["hectares"].sum(), atol=0.02)
    assert shapes.crs.to_epsg() == 32631


def test_cells_whose_centre_lies_outside_the_area_are_nodata(tmp_path, values):
    triangle = box(500_000, 4_599_700, 500_104, 4_600_000)
    path = written(tmp_path, values, area=triangle)
    with rasterio.open(path) as file:
        inside = rasterio.features.geometry_mask([mapping(triangle)], file.shape, file.transform, invert=True)
        assert np.array_equal(file.read(1) != 255, inside & (values[0] != 255))


def test_a_raster_without_a_class_is_not_written(tmp_path, values):
    values[0] = 255
    with pytest.raises(InputError, match="nothing could be classified"):
        written(tmp_path, values)
    assert not list(tmp_path.iterdir())


def test_the_picture_shows_each_class_in_its_colour_and_share(tmp_path, values):
    picture = written(tmp_path, values).with_suffix(".png")
    pixels = (255 * image.imread(picture)[..., :3]).round().astype(int).reshape(-1, 3)
    shown = [int((pixels == tuple(int(c[i : i + 2], 16) for i in (1, 3, 5))).all(axis=1).sum()) for c in LEGEND.colours]
    assert shown[0] / shown[1] == pytest.approx(400 / 1100, rel=0.1)
    assert shown[2] == 0
