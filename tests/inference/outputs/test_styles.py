from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from geossl.inference.outputs.cog import Statistics, write_blocks
from geossl.inference.outputs.styles import shown_ranges, write_categories, write_class_style, write_value_style
from geossl.inference.outputs.styles import write_vector_style as write_rgb

GRID = GeoBox((4, 6), Affine(80, 0, 400_000, 0, -80, 4_600_000), "EPSG:32631")
NAMES, COLOURS = ("water & ice", "trees"), ("#419bdf", "#397d49")


def raster(path, data, nodata=np.nan):
    parts = [((slice(0, 4), slice(0, 3)), data[:, :, :3]), ((slice(0, 4), slice(3, 6)), data[:, :, 3:])]
    write_blocks(path, GRID, parts, count=len(data), dtype=str(data.dtype), nodata=nodata)
    return path


def read(path):
    return ElementTree.fromstring(path.read_text().partition("\n")[2])


def test_statistics_of_a_file_are_those_of_its_numbers(tmp_path):
    data = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    data[0, 1, 2] = np.nan
    with rasterio.open(raster(tmp_path / "a.tif", data)) as file:
        for band in (0, 1):
            tags = {key: float(value) for key, value in file.tags(band + 1).items()}
            known = data[band][np.isfinite(data[band])].astype(float)
            expected = [known.max(), known.mean(), known.min(), known.std(), 100 * known.size / 24]
            np.testing.assert_allclose([tags[key] for key in sorted(tags)], expected, rtol=1e-5)


def test_nodata_does_not_count_and_a_band_without_values_has_no_statistics():
    found = Statistics(2, 0.0)
    found.add(np.array([[[0, 3, 5]], [[0, 0, 0]]], np.uint8))
    assert found.tags(0)["STATISTICS_MEAN"] == "4"
    assert found.tags(1) == {}


def test_classes_have_names_and_colours_in_both_sidecars(tmp_path):
    path = tmp_path / "c.tif"
    write_class_style(path, NAMES, COLOURS)
    write_categories(path, NAMES, COLOURS)
    entries = read(tmp_path / "c.qml").findall(".//paletteEntry")
    assert [(e.get("value"), e.get("label"), e.get("color")) for e in entries] == [
        ("0", "water & ice", "#419bdf"),
        ("1", "trees", "#397d49"),
    ]
    aux = ElementTree.parse(tmp_path / "c.tif.aux.xml")
    assert [c.text for c in aux.findall(".//Category")] == [*NAMES]
    assert [c.text for c in aux.findall(".//Row[@index='1']/F")] == ["1", "trees", "57", "125", "73"]


def test_a_ramp_runs_from_low_to_high(tmp_path):
    write_value_style(tmp_path / "v.tif", -1.0, 3.0, "viridis", band=2)
    renderer = read(tmp_path / "v.qml").find(".//rasterrenderer")
    values = [float(item.get("value")) for item in renderer.findall(".//item")]
    assert renderer.get("band") == "2"
    assert (values[0], values[-1]) == (-1, 3)
    assert np.diff(values) == pytest.approx(0.2)
    assert renderer.findall(".//item")[0].get("color") == "#440154"


def test_vectors_are_stretched_by_what_is_stored(tmp_path):
    data = np.stack([np.full((4, 6), 7), *np.random.default_rng(0).normal(5, 1, (2, 4, 6))]).astype(np.float32)
    write_rgb(raster(tmp_path / "e.tif", data))
    lows = [float(e.text) for e in read(tmp_path / "e.qml").findall(".//minValue")]
    assert lows[0] == 7
    assert lows[1:] == pytest.approx([low for low, _ in shown_ranges(tmp_path / "e.tif", 3)[1:]])
    assert all(3 <= low < 5 for low in lows[1:])
