"""Scenes of a catalogue by month, over real HTTP on this machine."""

import json
import warnings

import numpy as np
import pytest

import geossl
from geossl.api.source import opened
from geossl.data.periods import recorded_scenes, scenes_every
from geossl.data.stac.ranking import find_scenes
from geossl.errors import InputError, Note
from tests.data.stac.test_search import catalog, grid, region  # noqa: F401  (a fixture)
from tests.servers import scenes


@pytest.fixture
def summer(catalog):  # noqa: F811
    """Sentinel-2 in June and August, radar in June."""
    return catalog(
        lambda folder: scenes.raw(folder, "june", "2024-06-10T14:40:00Z"),
        lambda folder: scenes.raw(folder, "august", "2024-08-11T14:40:00Z", dark=0.5),
        lambda folder: scenes.radar(folder, "pass", "2024-06-12T10:00:00Z"),
    )


def asked(server, date="2024-06/2024-08"):
    return geossl.Catalog(date, server.url)


def test_an_encoder_of_series_gets_an_image_per_month(summer):
    with pytest.warns(Note) as said:
        found = opened(asked(summer), region(), None, encoder="presto")
    texts = {str(one.message) for one in said}
    assert "no s2 scene in 2024-07; these months are missing" in texts
    assert "no s1 scene in 2024-07, 2024-08; these months are missing" in texts
    assert found.periods == ("2024-06", "2024-07", "2024-08")
    box = grid(shape=(20, 30))
    cube = found.load(box)
    june = find_scenes(region(), "2024-06", summer.url)
    np.testing.assert_array_equal(cube["s2"].values[0], june.load(box)["s2"].values)
    np.testing.assert_array_equal(cube["s1"].values[0], june.load(box)["s1"].values)
    assert np.isnan(cube["s2"].values[1]).all()
    assert np.isfinite(cube["s2"].values[2]).all()
    assert np.isnan(cube["s1"].values[1:]).all()


def test_a_resumed_map_takes_its_months_from_its_plan(summer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        found = opened(asked(summer), region(), None, encoder="presto")
        described = json.loads(json.dumps(found.describe()))
        assert [one["period"] for one in described["s2"]] == ["2024-06", "2024-08"]
        summer.items.clear()  # nothing is searched again for months that have scenes
        request = asked(summer).request()
        again = scenes_every("month", region(), request.pop("date"), request, described)
    assert again.parts[::2] == found.parts[::2]
    assert again.parts[1] == ()
    assert json.loads(json.dumps(again.describe())) == described
    assert json.loads(json.dumps(recorded_scenes(described).describe())) == described


def test_a_period_without_scenes_is_refused(summer):
    with pytest.raises(InputError, match="has no valid scene over the region in 2023-01/2023-02"):
        opened(asked(summer, "2023-01/2023-02"), region(), None, encoder="presto")


def test_scenes_of_a_catalogue_are_images_of_their_own(summer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        asked_for = geossl.Catalog("2024-06/2024-08", summer.url, every="scene")
        found = opened(asked_for, region(), None, takes_times=True)
        assert found.periods == ("2024-06-10", "2024-08-11")
        assert [part.sensors for (part,) in found.parts] == [("s1", "s2"), ("s2",)]  # radar is 60 days from August
        assert found.each_dated
        box = grid(shape=(20, 30))
        alone = find_scenes(region(), "2024-08", summer.url).load(box)
        np.testing.assert_array_equal(found.image(1, box)["s2"].values, alone["s2"].values)
        np.testing.assert_array_equal(found.image(1, box)["date"].values, alone["date"].values)
        described = json.loads(json.dumps(found.describe()))
        summer.items.clear()
        request = asked_for.request()
        again = scenes_every("scene", region(), request.pop("date"), request, described)
    assert again.parts == found.parts
    assert json.loads(json.dumps(recorded_scenes(described).describe())) == described
