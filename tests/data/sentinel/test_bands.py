import numpy as np
import pytest
import rasterio
from rasterio.env import get_gdal_config
from rasterio.windows import Window

from geossl.api.source import Rasters
from geossl.data import addresses
from geossl.data.sentinel.aligned import SAMPLE
from geossl.data.sentinel.band_names import normal_name
from geossl.data.sentinel.bands import RasterFile, inspect
from geossl.data.sentinel.products import date_of, stated_date
from geossl.data.sentinel.rasters import LocalRasters
from geossl.errors import BandError, GridError, Note
from geossl.inference.outputs import cog
from geossl.sensors import S2_BANDS
from tests.data.conftest import optical, radar, write_raster


def test_a_described_file_is_never_read_by_position(tmp_path):
    colours = [f"colour {i}" for i in range(12)]
    with pytest.raises(BandError, match="lacks B01, .* it has COLOUR 0"):
        inspect(write_raster(tmp_path / "a.tif", optical(), names=colours, BOA_ADD_OFFSET="0"), "s2")
    generic = write_raster(tmp_path / "b.tif", optical(), names=[f"Band {i}" for i in range(1, 13)], BOA_ADD_OFFSET="0")
    with pytest.raises(BandError, match="has 12 bands without names; s2 has .* order is not guessed"):
        inspect(generic, "s2")
    with rasterio.open(generic, "r+") as file:
        file.update_tags(BANDS=",".join((*S2_BANDS[:8], *S2_BANDS[9:], "B8A")))
    assert inspect(generic, "s2").bands == (1, 2, 3, 4, 5, 6, 7, 8, 12, 9, 10, 11)


def test_bands_of_an_unnamed_stack_are_stated(tmp_path):
    order = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")  # 10 m, 20 m, 60 m
    data = optical()[[S2_BANDS.index(band) for band in order]]
    path = write_raster(tmp_path / "a.tif", data, names=[""] * 12, BOA_ADD_OFFSET="0")
    with pytest.raises(BandError, match=r"s2_bands B01,B02,... \(recipe: data.s2_bands\) or in the file: gdal_edit.py"):
        inspect(path, "s2")
    right = write_raster(tmp_path / "b.tif", optical(), BOA_ADD_OFFSET="0")
    box = inspect(right, "s2").geobox
    read = [
        source.load(box).s2.values
        for source in (
            LocalRasters({"s2": [path]}, bands={"s2": order}),
            Rasters(s2=path, s2_bands=",".join(order).lower()).open(),
            LocalRasters({"s2": [right]}),
        )
    ]
    np.testing.assert_array_equal(read[0], read[2])
    np.testing.assert_array_equal(read[1], read[2])


def test_stated_bands_do_not_overrule_a_file(tmp_path):
    turned = [*S2_BANDS[1:], S2_BANDS[0]]
    path = write_raster(tmp_path / "a.tif", optical(), BOA_ADD_OFFSET="0")
    with pytest.raises(BandError, match="names its bands B01, B02, .* but s2_bands says B02, B03, .* leave it out"):
        inspect(path, "s2", stated_bands=turned)
    assert inspect(path, "s2", stated_bands=S2_BANDS).bands == tuple(range(1, 13))
    short = write_raster(tmp_path / "b.tif", optical()[:11], names=[""] * 11, BOA_ADD_OFFSET="0")
    with pytest.raises(BandError, match="has 11 bands, but 12 names are given"):
        inspect(short, "s2", stated_bands=S2_BANDS)


def test_reflectance_of_a_desert_is_read_where_something_says_what_it_is(tmp_path):
    desert = ((optical() + 1500) / 10000).astype(np.float32)  # no number below 0.18
    with pytest.raises(BandError, match="as of a desert, snow or clouds, may as well carry the .0.1"):
        inspect(write_raster(tmp_path / "a.tif", desert), "s2")
    old = "S2A_MSIL2A_20200101T105441_N0213_R051_T31TDG_20200101T120000"
    for path, stated in ((tmp_path / "a.tif", 0), (write_raster(tmp_path / f"{old}.tif", desert), None)):
        file = inspect(path, "s2", stated)
        with rasterio.open(path) as source:
            values = file.physical(file.read(source, Window(0, 0, 120, 96), (96, 120)))
        np.testing.assert_allclose(values, desert)


def test_files_that_change_how_a_raster_is_read_are_named(tmp_path):
    path = write_raster(tmp_path / "a.tif", optical(), BOA_ADD_OFFSET="0")
    aux = tmp_path / "a.tif.aux.xml"
    head, tail = "<PAMDataset><PAMRasterBand band='1'>", "</PAMRasterBand></PAMDataset>"
    aux.write_text(f'{head}<Metadata><MDI key="STATISTICS_MEAN">1</MDI></Metadata>{tail}')
    assert inspect(path, "s2").sidecars == ()
    aux.write_text(f"{head}<NoDataValue>400</NoDataValue>{tail}")
    assert inspect(path, "s2").sidecars == ("a.tif.aux.xml",)
    assert LocalRasters({"s2": [path]}).describe()["s2"][0]["sidecars"] == ["a.tif.aux.xml"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("b1", "B01"),
        ("B8a", "B8A"),
        ("B12", "B12"),
        ("vh", "VH"),
        ("B4, central wavelength 665 nm", "B04"),
        ("Band 3", ""),
    ],
)
def test_spellings_of_a_band_are_one_name(text, name):
    assert normal_name(text) == name


def test_level_1c_files_lose_b10_and_are_recorded_as_such(tmp_path):
    data = np.concatenate([optical(), optical()[:1]])
    names = (*S2_BANDS[:10], "B10", *S2_BANDS[10:])
    named = inspect(write_raster(tmp_path / "a.tif", data, names=names, BOA_ADD_OFFSET="0"), "s2")
    assert named.bands == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13)
    assert named.level == "L1C"
    with pytest.raises(BandError, match="has 13 bands without names; s2 has B01, B02"):
        inspect(write_raster(tmp_path / "b.tif", data, BOA_ADD_OFFSET="0"), "s2")
    assert inspect(next((SAMPLE / "s2").glob("637U*")), "s2").level == "L2A"
    assert inspect(next((SAMPLE / "s1").glob("BEN_4_*")), "s1").level == "sigma0"


def test_two_dates_in_one_file_are_refused(tmp_path):
    twice = write_raster(tmp_path / "a.tif", np.concatenate([optical()] * 2), names=S2_BANDS * 2, BOA_ADD_OFFSET="0")
    with pytest.raises(BandError, match="B12 more than once; s2 needs one of each"):
        inspect(twice, "s2")


def test_a_fill_value_that_is_not_declared_is_refused(tmp_path):
    data = radar()
    data[:, :20] = -9999
    with pytest.raises(BandError, match="values from -9999 .* declare it: gdal_edit.py -a_nodata"):
        inspect(write_raster(tmp_path / "a.tif", data), "s1")
    assert inspect(write_raster(tmp_path / "b.tif", data, nodata=-9999), "s1").scale == 1


def test_the_date_is_read_from_the_name(tmp_path):
    assert date_of("433D_629L_3_1_20200408") == "20200408"
    assert date_of("S2A_MSIL2A_20230610T074621_N0509") == "20230610"
    assert date_of("tile_20209999_b") == ""
    assert date_of("boadella_2020-02-03") == "20200203"
    assert date_of("2020-13-03") == ""


def test_the_date_is_read_from_the_tags_where_the_name_has_none():
    assert stated_date({"DATETIME": "2020-02-02T10:31:00Z"}) == "20200202"
    assert stated_date({"TIFFTAG_DATETIME": "2024:01:01 00:00:00", "AREA_OR_POINT": "Area"}) == ""
    assert stated_date({"date": "spring", "ACQUISITION_DATE": "20210716"}) == "20210716"


def test_contradicting_or_broken_offsets_are_refused(tmp_path):
    with pytest.raises(BandError, match="tag BOA_ADD_OFFSET gives the Sentinel-2 offset 1000, expected 0 or -1000"):
        inspect(write_raster(tmp_path / "a.tif", optical(), BOA_ADD_OFFSET="1000"), "s2")
    with pytest.raises(BandError, match="stated gives the Sentinel-2 offset 5"):
        inspect(write_raster(tmp_path / "b.tif", optical()), "s2", 5)
    with pytest.raises(BandError, match="processing baseline 'new' is not a number"):
        inspect(write_raster(tmp_path / "c.tif", optical(), PROCESSING_BASELINE="new"), "s2")
    path = write_raster(tmp_path / "P.SAFE/a.tif", optical())
    metadata = tmp_path / "P.SAFE/MTD_MSIL2A.xml"
    metadata.write_text("<a><BOA_ADD_OFFSET>-1000</BOA_ADD_OFFSET><BOA_ADD_OFFSET>0</BOA_ADD_OFFSET></a>")
    with pytest.raises(BandError, match="gives bands different offsets \\(-1000, 0\\)"):
        inspect(path, "s2")
    metadata.write_text("<a>")
    with pytest.raises(BandError, match="not readable as XML"):
        inspect(path, "s2")


def test_metadata_wins_over_the_name_and_a_tag_over_both(tmp_path):
    name = "S2A_MSIL2A_20170610T074621_N0205_R135_T36MXC_20170610T1"
    path = write_raster(tmp_path / f"{name}.SAFE/{name}.tif", optical(add=1000))
    with pytest.warns(Note, match="baseline 02.05 in the name .* says 0, but no number is dark"):
        assert inspect(path, "s2").offset == 0
    (path.parent / "MTD_MSIL2A.xml").write_text("<a><BOA_ADD_OFFSET>-1000</BOA_ADD_OFFSET></a>")
    with pytest.warns(Note, match="MTD_MSIL2A.xml and baseline 02.05 in the name .* disagree"):
        assert inspect(path, "s2").offset == -1000
    assert inspect(write_raster(path, optical(), BOA_ADD_OFFSET="0"), "s2").offset == 0


@pytest.mark.parametrize(
    ("tags", "stated", "name", "offset"),
    [
        ({"BOA_ADD_OFFSET": "-1000"}, None, "a.tif", -1000),
        ({"PROCESSING_BASELINE": "05.09"}, None, "a.tif", -1000),
        ({"PROCESSING_BASELINE": "03.01"}, None, "a.tif", 0),
        ({}, None, "S2A_MSIL2A_20230610T074621_N0509_R135_T36MXC_20230610T1.tif", -1000),
        ({}, None, "S2A_MSIL2A_20170610T074621_N0205_R135_T36MXC_20170610T1.tif", 0),
        ({}, -1000, "a.tif", -1000),
    ],
)
def test_the_offset_is_stated_tagged_or_in_the_name(tmp_path, tags, stated, name, offset):
    assert inspect(write_raster(tmp_path / name, optical(add=-offset), **tags), "s2", stated).offset == offset


def test_the_offset_is_found_in_the_products_metadata(tmp_path):
    path = write_raster(tmp_path / "P.SAFE/IMG/a.tif", optical(add=1000))
    text = "<a><BOA_ADD_OFFSET band_id='0'>-1000</BOA_ADD_OFFSET><BOA_ADD_OFFSET band_id='1'>-1000</BOA_ADD_OFFSET></a>"
    (tmp_path / "P.SAFE/MTD_MSIL2A.xml").write_text(text)
    assert inspect(path, "s2").offset == -1000


def test_float_reflectance_is_taken_as_it_is(tmp_path):
    path = write_raster(tmp_path / "a.tif", (optical() / 10000).astype(np.float32), names=S2_BANDS)
    assert inspect(path, "s2").reason == "already reflectance"


@pytest.mark.parametrize(
    ("data", "sensor", "settings", "error", "message"),
    [
        (radar() * 0 + 0.02, "s1", {}, BandError, "not backscatter in dB .* convert linear power with 10\\*log10"),
        (radar()[::-1], "s1", {}, BandError, "VV, median -19.* darker than band 2"),
        (radar()[:1], "s1", {}, BandError, "has 1 bands without names; s1 has VV, VH"),
        (optical()[:10], "s2", {}, BandError, "has 10 bands without names; s2 has B01"),
        (optical()[:11], "s2", {"names": S2_BANDS[:11]}, BandError, "lacks B12 for s2"),
        (radar(), "s1", {"epsg": None}, GridError, "has no CRS"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(tmp_path, data, sensor, settings, error, message):
    path = write_raster(tmp_path / "bad.tif", data, **settings)
    with pytest.raises(error, match=message):
        inspect(path, sensor)


def test_gdal_caches_blocks_not_bytes(tmp_path, monkeypatch):
    """Rasterio takes GDAL_CACHEMAX in bytes; 64 of them decoded a block again for every line that was read of it."""
    path, seen = write_raster(tmp_path / "a.tif", optical(), names=S2_BANDS, BOA_ADD_OFFSET="0"), []
    read = RasterFile.read
    monkeypatch.setattr(RasterFile, "read", lambda *a: seen.append(get_gdal_config("GDAL_CACHEMAX")) or read(*a))
    source = LocalRasters({"s2": [path]})
    source.load(source.files["s2"][0].geobox)
    assert set(seen) == {64 * 2**20}
    assert len(seen) >= 2  # once to look at it, once to read it
    assert addresses.GDAL["GDAL_CACHEMAX"] == cog.GDAL_CACHE_BYTES == 64 * 2**20
