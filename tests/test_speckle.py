import warnings

import numpy as np
import pytest
import rasterio

from geossl.data.sentinel.rasters import SAMPLE, LocalRasters
from geossl.errors import Note
from geossl.sensors import S1_BANDS
from geossl.speckle import note_speckle


def bundled():
    """Decibels of the bundled pairs, and their names."""
    for path in sorted((SAMPLE / "s1").glob("*.tif")):
        with rasterio.open(path) as file:
            yield path.name, file.read()


def said_of(values):
    """The note on some decibels; empty if there is none."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Note)
        note_speckle("a.tif", values, S1_BANDS)
    return str(said[0].message) if said else ""


def test_decibels_of_real_scenes_pass_and_half_or_twice_them_are_said():
    scenes = [values for _, values in bundled()]
    assert [said_of(values) for values in scenes] == [""] * len(scenes)
    halves = ["half of what they are; amplitudes take 20*log10" in said_of(values / 2) for values in scenes]
    doubles = ["twice what they are; power takes 10*log10" in said_of(values * 2) for values in scenes]
    assert len(scenes) > 5
    assert sum(halves) >= 0.9 * len(scenes)
    assert sum(doubles) >= 0.9 * len(scenes)


def test_a_file_larger_than_a_look_is_looked_at_in_its_middle(tmp_path):
    _, values = next(bundled())
    wide = np.tile(values / 2, (1, 4, 4))  # thinned, its speckle would say nothing
    profile = {"driver": "GTiff", "count": 2, "height": wide.shape[1], "width": wide.shape[2], "dtype": "float32"}
    with rasterio.open(
        tmp_path / "s1.tif", "w", crs=32633, transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **profile
    ) as file:
        file.write(wide)
        file.descriptions = S1_BANDS
    with pytest.warns(Note, match=r"s1.tif: .* look like 10\*log10 of amplitudes"):
        LocalRasters({"s1": [tmp_path / "s1.tif"]})
