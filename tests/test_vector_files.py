import json
import os
import zipfile

import geopandas as gpd
import pytest
import shapely

from geossl.errors import GridError, InputError, MissingFileError
from geossl.grid import read_aoi
from geossl.vector_files import MOST_JSON_BYTES, read_features, split_layer


def square(west):
    return shapely.box(west, 48, west + 0.1, 48.1)


@pytest.fixture
def layers(tmp_path):
    for name, west in (("draft", 13.0), ("final", 14.0)):
        gpd.GeoDataFrame(geometry=[square(west)], crs=4326).to_file(tmp_path / "region.gpkg", layer=name)
    return tmp_path / "region.gpkg"


def geojson(path, west=13, encoding="utf-8", **members):
    ring = [[west, 48], [west + 0.1, 48], [west + 0.1, 48.1], [west, 48.1], [west, 48]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature], **members}), encoding=encoding)
    return path


def test_one_of_several_layers_is_named(layers):
    with pytest.raises(GridError, match="holds layers draft, final; name one of them: aoi .*gpkg:draft"):
        read_aoi(layers)
    assert read_aoi(f"{layers}:final").geometry.bounds[0] == 14
    with pytest.raises(GridError, match="has no layer 'last'; there are: draft, final"):
        read_aoi(f"{layers}:last")
    assert split_layer("C:/no/such.gpkg")[1] is None


def test_all_folders_of_a_kml_are_taken(tmp_path):
    ring = "<Placemark><Polygon><outerBoundaryIs><LinearRing><coordinates>{0},48 {1},48 {1},48.1 {0},48.1 {0},48"
    ring += "</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>"
    parts = "".join(f"<Folder><name>part {w}</name>{ring.format(w, w + 0.1)}</Folder>" for w in (13, 14))
    text = f'<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document>{parts}</Document></kml>'
    (tmp_path / "region.kml").write_text(text)
    assert read_aoi(tmp_path / "region.kml").geometry.bounds == pytest.approx((13, 48, 14.1, 48.1))


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"]
)
def test_geojson_is_read_in_any_encoding(tmp_path, encoding):
    path = geojson(tmp_path / "a.geojson", encoding=encoding, name="M\u00fcnchen")
    assert read_aoi(path).geometry.bounds == (13, 48, 13.1, 48.1)


@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:4326",
        4326,
        {"type": "name", "properties": "EPSG:4326"},
        {"properties": {"name": "urn:ogc:def:crs:OGC::CRS84"}},
    ],
)
def test_ways_of_old_writers_to_name_the_crs(tmp_path, crs):
    assert read_aoi(geojson(tmp_path / "a.geojson", crs=crs)).geometry.bounds == (13, 48, 13.1, 48.1)


@pytest.mark.parametrize("crs", [[1, 2], {"properties": {"name": ["x"]}}, 3857, "nonsense", {"properties": 3.5}, True])
def test_other_crs_are_one_line(tmp_path, crs):
    with pytest.raises(GridError, match="GeoJSON must be in longitude and latitude") as caught:
        read_aoi(geojson(tmp_path / "a.geojson", crs=crs))
    assert "\n" not in str(caught.value)


def test_web_maps_count_on_westwards(tmp_path):
    assert read_aoi(geojson(tmp_path / "a.geojson", west=-185)).geometry.bounds == pytest.approx((175, 48, 175.1, 48.1))


def test_geoparquet_is_read(tmp_path):
    gpd.GeoDataFrame({"name": ["a"]}, geometry=[square(13)], crs=4326).to_parquet(tmp_path / "a.parquet")
    assert read_features(tmp_path / "a.parquet")["name"].tolist() == ["a"]


def test_a_file_geodatabase_is_a_folder_that_is_read(tmp_path):
    frame = gpd.GeoDataFrame({"name": ["a"]}, geometry=[square(13)], crs=4326)
    frame.to_file(tmp_path / "a.gdb", driver="OpenFileGDB", layer="one")
    assert (tmp_path / "a.gdb").is_dir()
    assert read_aoi(tmp_path / "a.gdb").geometry.bounds == pytest.approx((13, 48, 13.1, 48.1))
    frame.to_file(tmp_path / "a.gdb", driver="OpenFileGDB", layer="two")
    with pytest.raises(GridError, match="holds layers one, two; name one of them"):
        read_aoi(tmp_path / "a.gdb")
    assert read_aoi(f"{tmp_path / 'a.gdb'}:two").geometry.area == pytest.approx(0.01)


def test_the_files_a_mac_adds_to_a_zip_are_no_layers(tmp_path):
    gpd.GeoDataFrame({"name": ["a"]}, geometry=[square(13)], crs=4326).to_file(tmp_path / "a.shp")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for part in sorted(tmp_path.glob("a.[sdpc]*")):
            file.write(part, f"a/{part.name}")
            file.writestr(f"__MACOSX/a/._{part.name}", b"\x00\x05\x16\x07" + bytes(100))
    assert read_aoi(tmp_path / "a.zip").geometry.bounds == pytest.approx((13, 48, 13.1, 48.1))
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as file:
        for part in sorted(tmp_path.glob("a.[sdpc]*")):
            file.write(part, f"old/b{part.suffix}")
    with pytest.raises(GridError, match=r"holds layers a, b; name one of them: aoi .*a.zip:a"):
        read_aoi(tmp_path / "a.zip")
    assert read_aoi(f"{tmp_path / 'a.zip'}:b").geometry.area == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("deep.json", "[" * 200_000, "is not JSON"),
        ("a.json", '{"type": 3}', "not GeoJSON"),
        (
            "a.geojson",
            '{"type": "FeatureCollection", "features": 7}',
            "cannot be read as vector data|holds no geometry",
        ),
        ("a.shp", "junk", "cannot be read as vector data"),
        ("a.gpkg", "", "cannot be read as vector data"),
        ("a.parquet", "PAR1", "cannot be read as vector data"),
        ("a.vrt", "<OGRVRTDataSource><OGRVRTLayer/></OGRVRTDataSource>", "is a virtual file"),
    ],
)
def test_files_that_are_something_else_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(GridError, match=message) as caught:
        read_aoi(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_pipes_folders_long_names_and_huge_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.geojson")
    for path in (tmp_path / "pipe.geojson", tmp_path):
        with pytest.raises(GridError, match="is not a file"):
            read_aoi(path)
    with pytest.raises(MissingFileError, match="does not exist"):
        read_aoi(tmp_path / "gone.geojson")
    for name, message in (("x" * 5000, "is a name of more than 240 bytes"), ("a\0b.geojson", "is not a file name")):
        with pytest.raises(InputError, match=message):
            read_aoi(tmp_path / name)
    for address in ("https://host.org/a.geojson", "s3://bucket/a.gpkg", "/vsicurl/https://host.org/a.geojson"):
        with pytest.raises(InputError, match=f"{address} is an address; geossl reads and writes files"):
            read_aoi(address)
    with (tmp_path / "big.geojson").open("wb") as file:
        file.truncate(MOST_JSON_BYTES + 1)  # sparse
    with pytest.raises(GridError, match="is 256 MB of JSON"):
        read_aoi(tmp_path / "big.geojson")
