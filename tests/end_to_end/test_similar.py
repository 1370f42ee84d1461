import json

import pytest
import rasterio

import geossl as package
from tests.end_to_end.test_cli import ROOT, SAMPLE, encoder, geossl, refused  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def real_map(encoder, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("map") / "map.zarr"
    rasters = ("--s1", SAMPLE / "s1", "--s2", SAMPLE / "s2")
    done = geossl("embed", "--aoi", ROOT / "examples/region.geojson", *rasters, "--encoder", encoder, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def test_similar_from_the_shell_equals_similar_in_python(real_map, tmp_path):
    box = package.open(real_map).odc.geobox.geographic_extent.boundingbox
    lon, lat = (box.left + box.right) / 2, (box.bottom + box.top) / 2
    done = geossl("similar", real_map, "--to", f"{lon},{lat}", "--top", "3", "--out", tmp_path / "s.tif")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == ["similarity", str(tmp_path / "s.tif"), "places", str(tmp_path / "s.geojson")]
    with rasterio.open(tmp_path / "s.tif") as file:
        assert (file.read(1, masked=True) == package.similar(real_map, (lon, lat)).to_masked_array()).all()
    assert len(json.loads((tmp_path / "s.geojson").read_text())["features"]) == 3


def test_similar_answers_mistakes_with_one_line_and_writes_nothing(real_map, tmp_path):
    at = ("--out", tmp_path / "s.tif")
    refused(geossl("similar", real_map, "--to", "10,50", *at), "--to 10,50 lies outside the map", "longitudes")
    refused(geossl("similar", real_map, "--to", "nothing.geojson", *at), "neither a point lon,lat nor a file")
    refused(geossl("similar", real_map, "--to", "10,50", "--top", "0", *at), "--top")
    refused(geossl("similar", tmp_path / "no.zarr", "--to", "10,50", *at), "does not exist")
    refused(geossl("similar", tmp_path, "--to", "10,50", *at), "is not an embedding map")
    refused(geossl("view", real_map, "--layer", "no.tif", "--port", "0", "--no-browser"), "--layer 'no.tif'")
    assert [*tmp_path.iterdir()] == []
