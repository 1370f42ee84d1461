import re
import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.shutil import copy

from geossl.data.sentinel.bands import inspect
from geossl.data.sentinel.inspection import inspect_all
from geossl.data.sentinel.rasters import LocalRasters
from geossl.errors import BandError, GridError, Note
from geossl.sensors import S2_BANDS
from tests.data.conftest import optical, radar, write_raster


def test_files_beneath_a_vrt_say_whether_they_carry_the_offset(tmp_path):
    one = write_raster(tmp_path / "one.tif", optical(add=1000), names=S2_BANDS, BOA_ADD_OFFSET="-1000")
    vrt = tmp_path / "all.vrt"
    copy(one, vrt, driver="VRT")
    vrt.write_text(re.sub("<Metadata>.*?</Metadata>", "", vrt.read_text(), flags=re.DOTALL))
    assert inspect(vrt, "s2").reason == "tag BOA_ADD_OFFSET of one.tif"
    other = write_raster(tmp_path / "other.tif", optical(), names=S2_BANDS, BOA_ADD_OFFSET="0")
    source = re.compile("<SimpleSource>.*?</SimpleSource>", re.DOTALL)
    vrt.write_text(source.sub(lambda m: m[0] + m[0].replace(one.name, other.name), vrt.read_text()))
    with pytest.raises(BandError, match="files with and without the .1000 .*one.tif says -1000, .*other.tif says 0"):
        inspect(vrt, "s2", stated_offset=0)
    vrt.write_text(vrt.read_text().replace("<SourceBand>", "<ScaleOffset>-1000</ScaleOffset><SourceBand>"))
    with pytest.raises(BandError, match="is not known"):  # it computes numbers, so its files say nothing of them
        inspect(vrt, "s2")


def test_a_file_per_band_is_asked_one_by_one(tmp_path):
    for band, numbers in zip(S2_BANDS, optical(), strict=True):
        carries = band == "B05"
        write_raster(
            tmp_path / f"a_{band}.tif", (numbers + 1000 * carries)[None], BOA_ADD_OFFSET="-1000" if carries else "0"
        )
    with pytest.raises(BandError, match=r"a_B05.tif says -1000, tag BOA_ADD_OFFSET of a_B12.tif says 0"):
        inspect_all([tmp_path], "s2")
    write_raster(tmp_path / "a_B05.tif", (optical()[4:5] / 10000).astype(np.float32), BOA_ADD_OFFSET="0")
    with pytest.raises(BandError, match="bands are in different units: B05 up to 0.1"):
        inspect_all([tmp_path], "s2")


MOON = CRS.from_dict(proj="longlat", a=1737400, b=1737400)


def test_a_file_without_a_valid_pixel_is_said(tmp_path):
    path = write_raster(tmp_path / "a.tif", 0 * optical(), names=S2_BANDS, BOA_ADD_OFFSET="0")
    with pytest.warns(Note, match=r"a.tif: no pixel that was looked at is valid"):
        inspect(path, "s2")


def test_complex_numbers_are_not_cut_to_their_real_part(tmp_path):
    path = write_raster(tmp_path / "a.tif", radar().astype(np.complex64), names=("VV", "VH"))
    with pytest.raises(BandError, match=r"a.tif holds complex numbers, as single-look radar does; expected dB"):
        inspect(path, "s1")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"scales": [0] * 12}, BandError, "states the scale 0 and offset 0, which make no number"),
        ({"scales": [-1e-4] * 12}, BandError, "states the scale -0.0001"),
        ({"scales": [1e-4] + [1] * 11}, BandError, "bands are in different units: B01 up to"),
        ({"transform": Affine(np.nan, 0, 0, 0, -10, 0)}, GridError, "has pixels of no size"),
        ({"crs": MOON}, GridError, "has the CRS of another body than Earth"),
        ({"transform": Affine.identity()}, GridError, "has a CRS, but no transform"),
        ({"descriptions": [f"b{i}" for i in range(1, 13)]}, BandError, "has 12 bands without names"),
        ({"descriptions": [f"{band}_iqr" for band in S2_BANDS]}, BandError, "lacks B01"),
    ],
)
def test_what_a_file_says_must_make_sense(tmp_path, settings, error, message):
    path = write_raster(tmp_path / "a.tif", optical(), names=S2_BANDS, BOA_ADD_OFFSET="0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "r+") as file:
            for name, value in settings.items():
                setattr(file, name, value)
    with pytest.raises(error, match=message):
        inspect(path, "s2")


def test_a_vh_of_exactly_zero_is_fill_and_a_vv_may_be_cut_off_there(tmp_path):
    data = radar()
    data[1, :5], data[0, 5:10] = 0, 0
    source = LocalRasters({"s1": [write_raster(tmp_path / "a.tif", data)]})
    found = source.load(source.files["s1"][0].geobox)["s1"].values
    assert np.isnan(found[:, :5]).all()
    assert np.isfinite(found[:, 5:]).all()
