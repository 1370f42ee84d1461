"""Rasters at addresses, over real HTTP on this machine, in a bucket of a local store, and in an archive."""

import json
import zipfile

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

import geossl
from geossl import retries
from geossl.data.sentinel.rasters import LocalRasters
from geossl.errors import BandError, InputError, MissingFileError, RunError
from geossl.sensors import S2_BANDS
from tests.data.conftest import optical, radar, write_raster
from tests.servers.stac import serving

GRID = GeoBox((40, 56), Affine(10, 0, 500_100, 0, -10, 4_599_900), "EPSG:32631")


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(retries.CLOCK, "sleep", lambda seconds: None)
    write_raster(tmp_path / "S2_20240611.tif", optical(), BOA_ADD_OFFSET="0")
    write_raster(tmp_path / "s1.tif", radar(), left=500_005.0)
    with serving(tmp_path, []) as found:
        yield found


def test_files_on_a_server_give_the_pixels_of_those_on_disk(server, tmp_path):
    here = geossl.Rasters(s1=tmp_path / "s1.tif", s2=tmp_path / "S2_20240611.tif").open()
    names = (f"{server.url}/files/s1.tif", f"{server.url}/files/S2_20240611.tif?sig=SECRET")
    there = geossl.Rasters(s1=names[0], s2=[names[1]]).open()
    for sensor, values in here.load(GRID).data_vars.items():
        np.testing.assert_array_equal(there.load(GRID)[sensor].values, values.values)
    described = there.describe()
    assert "SECRET" not in json.dumps(described)
    own = here.describe()["s2"][0]
    found = described["s2"][0]
    assert found["path"] == f"{server.url}/files/S2_20240611.tif"
    assert [found[key] for key in ("bytes", "day", "offset")] == [own["bytes"], "2024-06-11", 0]


def test_a_file_on_a_server_may_lack_bands_as_one_on_disk(server, tmp_path):
    ten = [band for band in S2_BANDS if band not in ("B01", "B09")]
    short = optical()[[S2_BANDS.index(band) for band in ten]]
    path = write_raster(tmp_path / "ten.tif", short, names=ten, BOA_ADD_OFFSET="0")
    (there,), (here,) = (LocalRasters({"s2": [p]}).files["s2"] for p in (f"{server.url}/files/ten.tif", path))
    assert there.bands == here.bands == (0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 10)
    cube = LocalRasters({"s2": [there.path]}).load(GRID)["s2"]
    np.testing.assert_array_equal(cube, LocalRasters({"s2": [path]}).load(GRID)["s2"])
    assert list(cube["s2_band"].values) == ten


def test_a_large_file_without_overviews_is_looked_at_in_places(server, tmp_path):
    big = np.tile(optical(), (1, 6, 5))
    path = write_raster(tmp_path / "S2_20240612.tif", big, BOA_ADD_OFFSET="0")
    address = f"{server.url}/files/{path.name}"
    here, there = (LocalRasters({"s2": [p]}) for p in (path, address))
    assert server.sent[path.name] < 0.3 * path.stat().st_size
    keys = ("offset", "scale", "reason", "bands")
    assert [getattr(there.files["s2"][0], key) for key in keys] == [getattr(here.files["s2"][0], key) for key in keys]


def test_a_read_that_fails_is_tried_again_and_never_taken_for_nodata(server, tmp_path):
    address = f"{server.url}/files/s1.tif"
    source = LocalRasters({"s1": [address]})
    server.faults = {"503": 0.4}
    np.testing.assert_array_equal(source.load(GRID)["s1"], LocalRasters({"s1": [tmp_path / "s1.tif"]}).load(GRID)["s1"])
    server.faults = {"503": 1.0}
    with pytest.raises(RunError, match=r"s1\.tif\?again=1 cannot be read"):
        LocalRasters({"s1": [f"{address}?again=1"]})


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("none.tif", RunError, r"http://127.0.0.1:\d+/files/none.tif cannot be read"),
        ("bare.tif", BandError, r"http://127.0.0.1:\d+/files/bare.tif has 3 bands without names"),
        ("points.vrt", InputError, r"http://127.0.0.1:\d+/files/points.vrt is not the address of a .tif or .jp2"),
        ("fake.tif", RunError, r"fake.tif cannot be read"),
        ("a b.tif", InputError, "is not an address; write spaces as %20"),
    ],
)
def test_what_cannot_be_read_is_one_line(server, tmp_path, name, error, text):
    write_raster(tmp_path / "bare.tif", optical()[:3])
    (tmp_path / "fake.tif").write_text('<VRTDataset rasterXSize="2" rasterYSize="2"></VRTDataset>')
    with pytest.raises(error, match=text):
        geossl.Rasters(s2=f"{server.url}/files/{name}").open()


def test_a_file_in_an_archive(tmp_path):
    write_raster(tmp_path / "s1.tif", radar())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "s1.tif", "inner/s1.tif")
    source = geossl.Rasters(s1=f"/vsizip/{tmp_path}/a.zip/inner/s1.tif").open()
    np.testing.assert_array_equal(source.load(GRID)["s1"], LocalRasters({"s1": [tmp_path / "s1.tif"]}).load(GRID)["s1"])
    assert source.describe()["s1"][0]["bytes"] == (tmp_path / "a.zip").stat().st_size
    with pytest.raises(MissingFileError, match=r"archive '.*/b.zip' does not exist"):
        geossl.Rasters(s1=f"/vsizip/{tmp_path}/b.zip/s1.tif").paths()
    with pytest.raises(RunError, match=r"a.zip/none.tif cannot be read"):
        geossl.Rasters(s1=f"/vsizip/{tmp_path}/a.zip/none.tif").open()


def test_a_host_within_an_address_goes_by_what_is_allowed(monkeypatch):
    address = "/vsizip//vsicurl/https://host.org/a.zip/s2.tif"
    with pytest.raises(InputError, match=r"lies in an archive on host.org; to allow it: GEOSSL_ALLOW=host.org"):
        geossl.Rasters(s2=address).paths()
    monkeypatch.setenv("GEOSSL_ALLOW", "host.org")
    assert geossl.Rasters(s2=address).paths() == {"s2": [address]}


@pytest.mark.parametrize(
    "address", ["https://", "http://x", "s3://bucket", "gs://b/x.vrt", "/vsizip/", "/vsizip//b.tif"]
)
def test_what_names_no_file_is_refused(address):
    with pytest.raises(InputError, match=r"is not the address of a .tif or .jp2|is not a file in an archive"):
        geossl.Rasters(s2=address)


@pytest.mark.parametrize("address", ["/vsicurl/https://host.org/a.tif", "/vsimem/a.tif", "ftp://host.org/a.tif"])
def test_other_ways_of_gdal_are_refused(address):
    with pytest.raises(InputError, match="is an address; geossl reads and writes files on this machine"):
        geossl.Rasters(s2=address)
