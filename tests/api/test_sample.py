import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  (adds the .rio accessor)
import shapely
import xarray as xr
from click.testing import CliRunner
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import geossl
from geossl.cli import main
from geossl.errors import GridError, InputError, MissingFileError, Note

BOX = GeoBox.from_bbox((500000, 4600000, 500480, 4600400), crs="EPSG:32631", resolution=80)  # 5 rows, 6 columns


@pytest.fixture(scope="module")
def map_tif(tmp_path_factory):
    """Vector of patch (r, c): (r, c, 1); patch (0, 0) is nodata."""
    path = tmp_path_factory.mktemp("map") / "map.tif"
    rows, columns = np.mgrid[:5, :6].astype(np.float32)
    values = np.stack([rows, columns, np.ones_like(rows)])
    values[:, 0, 0] = np.nan
    array = xr.DataArray(values, {**xr_coords(BOX), "band": [1, 2, 3]}, ("band", "y", "x"))
    array.rio.write_nodata(np.nan).rio.to_raster(path)
    return path


def frame_at(*places, **columns):
    """Points at (column, row) positions on the map, in its CRS."""
    xy = [(500000 + 80 * column, 4600400 - 80 * row) for column, row in places]
    return gpd.GeoDataFrame(columns, geometry=[shapely.Point(p) for p in xy], crs=32631)


def test_each_point_gets_the_vector_of_its_patch_and_keeps_its_columns(map_tif):
    points = frame_at((2.5, 1.5), (5.99, 4.99), (2.01, 1.01), plot=["a", "b", "c"]).set_index("plot")
    with pytest.warns(Note, match="2 points share a patch"):
        found = geossl.sample(map_tif, points)
    assert found.index.tolist() == ["a", "b", "c"]
    assert found[["row", "column"]].to_numpy().tolist() == [[1, 2], [4, 5], [1, 2]]
    assert found[["e000", "e001", "e002"]].to_numpy().tolist() == [[1, 2, 1], [4, 5, 1], [1, 2, 1]]
    assert found.crs.to_epsg() == 4326


def test_a_radius_averages_the_patches_whose_centre_is_near(map_tif):
    points = frame_at((2.5, 2.5), (0.5, 0.5), (5.5, 0.5))
    found = geossl.sample(map_tif, points, radius_m=81.0)
    rows, columns = np.mgrid[:5, :6]
    for i, (c, r) in enumerate(((2, 2), (0, 0), (5, 0))):
        near = np.hypot(rows - r, columns - c) * 80 <= 81
        near[0, 0] = False
        expected = [rows[near].mean(), columns[near].mean(), 1.0]
        np.testing.assert_allclose(found.loc[i, ["e000", "e001", "e002"]].to_numpy(float), expected, atol=1e-6)


def test_points_off_the_map_and_on_nodata_are_told(map_tif):
    with pytest.warns(Note, match="1 of 3 points lie off the map; 1 points lie on nodata"):
        found = geossl.sample(map_tif, frame_at((0.5, 0.5), (9, 9), (1.5, 0.5)))
    assert found["row"].tolist() == [0, -1, 0]
    assert found["e001"].isna().tolist() == [True, True, False]


def test_a_csv_of_degrees_from_the_shell_becomes_a_table(map_tif, tmp_path):
    points = frame_at((3.5, 2.5), (4.5, 1.5)).to_crs(4326)
    table = pd.DataFrame({"id": [7, 8], "Lon": points.geometry.x, "LAT": points.geometry.y, "crop": ["oats", "rye"]})
    table.to_csv(tmp_path / "plots.csv", index=False, encoding="utf-8-sig")
    for ending, read in (("parquet", gpd.read_parquet), ("csv", pd.read_csv), ("gpkg", gpd.read_file)):
        out = tmp_path / f"t.{ending}"
        ran = CliRunner().invoke(main, ["sample", str(map_tif), str(tmp_path / "plots.csv"), "--out", str(out)])
        assert ran.exit_code == 0, ran.output
        assert "2 points, 2 on the map" in ran.output
        found = read(out)
        assert found["crop"].tolist() == ["oats", "rye"]
        np.testing.assert_allclose(found[["e000", "e001"]].to_numpy(float), [[2, 3], [1, 4]])


def test_layers_of_a_zarr_map_come_along(tmp_path, scene, encoder):
    source = geossl.Rasters(s1=scene / "s1.tif", s2=scene / "s2.tif")
    path = geossl.embed_map(scene / "aoi.geojson", source, encoder=encoder, out=tmp_path / "m.zarr", picture=False)
    embeddings = geossl.open(path)
    ((x, y),) = embeddings.odc.geobox.extent.centroid.to_crs("EPSG:4326").coords
    with pytest.warns(Note, match="1 of 2 points lie off the map"):
        found = geossl.sample(path, pd.DataFrame({"lon": [x, x], "lat": [y, 80.0]}, index=[3, 9]))
    assert found.index.tolist() == [3, 9]
    row, column = found.loc[3, ["row", "column"]]
    vector = found.filter(regex=r"^e\d{3}$").loc[3].to_numpy(np.float32)
    np.testing.assert_array_equal(vector, embeddings[:, row, column].values)
    assert found["valid"].tolist() == [100, 0]
    assert found["sensors"].tolist() == [7, 0]


@pytest.mark.parametrize(
    ("points", "error", "words"),
    [
        (pd.DataFrame({"a": [1.0]}), InputError, "has columns a; it needs lon and lat"),
        (pd.DataFrame({"lon": [95.0], "lat": [181.0]}), GridError, "not longitude and latitude in degrees: 1 of 1"),
        (pd.DataFrame({"lon": ["x"], "lat": [4.0]}), GridError, "the first is row 0"),
        (pd.DataFrame({"lon": [], "lat": []}), GridError, "holds no points"),
        (pd.DataFrame({"lon": [50.0], "lat": [4.0]}), GridError, "none of the 1 points lies on the map"),
        (
            pd.DataFrame({"lon": [3.0], "lat": [41.5], "e001": [0]}),
            InputError,
            "column 'e001', which a result",
        ),
        ("nowhere.csv", MissingFileError, "POINTS file 'nowhere.csv' does not exist"),
        (gpd.GeoDataFrame(geometry=[shapely.Point(3, 41)]), GridError, "has no CRS"),
        (gpd.GeoDataFrame(geometry=[shapely.box(3, 41, 4, 42)], crs=4326), GridError, "holds Polygon; expected points"),
    ],
)
def test_what_is_not_points_is_refused(map_tif, points, error, words):
    with pytest.raises(error, match=words):
        geossl.sample(map_tif, points)


@pytest.mark.parametrize("radius", [-1.0, float("nan"), float("inf"), 1e9])
def test_a_radius_is_a_distance(map_tif, radius):
    with pytest.raises(InputError, match="is not possible; expected metres, 0 to 10000"):
        geossl.sample(map_tif, frame_at((1, 1)), radius_m=radius)
