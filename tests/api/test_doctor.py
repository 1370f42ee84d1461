import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

import geossl
from geossl.api import doctor
from geossl.api.source import Rasters
from geossl.cli import main


def write(path, numbers, names, **tags):
    kind = {"driver": "GTiff", "dtype": numbers.dtype, "crs": "EPSG:32631", "transform": from_origin(5e5, 5e6, 10, 10)}
    with rasterio.open(path, "w", count=len(numbers), height=16, width=16, **kind) as file:
        file.write(numbers)
        file.descriptions = names
        file.update_tags(**tags)


@pytest.fixture
def scenes(tmp_path):
    """An optical scene that states its offset, and one that does not."""
    numbers = np.random.default_rng(0).integers(1200, 4000, (12, 16, 16)).astype("uint16")
    names = geossl.sensors.SENSORS["s2"].bands
    write(tmp_path / "a_20230601.tif", numbers, names, BOA_ADD_OFFSET="-1000", LEVEL="L2A")
    write(tmp_path / "b.tif", numbers, names)
    return tmp_path


def test_files_are_described_and_the_next_is_looked_at_where_one_cannot_be_used(scenes):
    good, bad = doctor.look(Rasters(s2=scenes))
    assert (good.file.offset, good.file.level, good.file.date) == (-1000, "L2A", "20230601")
    assert "2023-06-01, level L2A, 16 x 16 px of 10 m, EPSG:32631" in str(good)
    assert "reflectance = (number -1000) / 10000 (tag BOA_ADD_OFFSET)" in str(good)
    assert bad.file is None
    assert "cannot be used: whether Sentinel-2 numbers carry the +1000" in str(bad)


def test_the_command_says_how_many_cannot_be_used(scenes, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--s2", str(scenes)])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.err == "geossl: 1 of 2 files cannot be used as they are\n"
    assert "croma_tiny bundled" in said.out


def test_a_missing_extra_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda package: None if package == "laspy" else object())
    lines = doctor.extras()
    assert "points" not in lines[0]
    assert lines[1:] == ["missing   LAS and LAZ files (laspy): pip install 'geossl[points]'"]
