"""Scenes are ranked once for a region, or tile by tile where no swath covers it; over real HTTP on this machine."""

import numpy as np
import pytest

from geossl.data.stac.composite import CatalogScenes
from geossl.data.stac.ranking import find_scenes
from geossl.data.stac.scenes import tile_of
from tests.data.stac.test_search import PERIOD, catalog, grid, region, spot, truth  # noqa: F401  (a fixture)
from tests.servers import scenes

HALF = scenes.SIZE // 2
WEST, EAST = (0, 0.5), (0.5, 1)  # the region lies half in each; days since 2000: 8926 = 2024-06-09


def tile(name, day, where, code, classes=None, **more):
    """Writes a scene that covers one part of the fixture's square."""

    def write(folder):
        scl = scenes.classes_of(*where) if classes is None else np.where(scenes.classes_of(*where), classes, 0)
        found = scenes.raw(
            folder, name, f"2024-06-{day:02d}T14:40:00Z", scl=scl.astype(np.uint8), **{"s2:mgrs_tile": code, **more}
        )
        return found | {"geometry": scenes.part(*where)}

    return write


def swath(name, day, orbit, where, db=0.0):
    """Writes a radar pass of one part."""

    def write(folder):
        seen = slice(round(where[0] * scenes.SIZE), round(where[1] * scenes.SIZE))
        moment = f"2024-06-{day:02d}T10:00:00Z"
        return scenes.radar(folder, name, moment, orbit=orbit, seen=seen, db=db) | {"geometry": scenes.part(*where)}

    return write


def wide():
    return grid(600, 600, (60, 400))  # both sides of the border, which is at column 276 of the square's 672


def find(server, **settings):
    return find_scenes(region(500, 500, 5500), PERIOD, server.url, **{"sensors": ["s2"], **settings})


CLOUD = spot(90, 90, 45)


@pytest.fixture
def two_swaths(catalog):  # noqa: F811
    """No day covers the region; the best day of all is the second best in the east."""
    return catalog(
        tile("w09", 9, WEST, "18GXA"),
        tile("e09", 9, EAST, "18GYA", spot(90, 200, 35)),
        tile("e14", 14, EAST, "18GYA", dark=0.5),
        tile("w14", 14, (0, 0.3), "18GXA", CLOUD),
        swath("far", 1, 10, WEST, db=1.0),
        swath("west", 8, 10, WEST, db=2.0),
        swath("east", 13, 37, (0.4, 1), db=3.0),
    )


def test_days_are_ranked_by_tile_where_no_swath_covers_the_region(two_swaths):
    # w09 + e14 must come first, though together 09 shows more clear area than 14
    two_swaths.items = [i for i in two_swaths.items if not i["id"].startswith(("far", "west", "east"))]
    for item in two_swaths.items:  # both days leave out a strip of the region
        if item["id"] == "e09":
            item["geometry"] = scenes.part(0.55, 1)
    source = find(two_swaths)
    assert [s.id for s in source.optical] == ["w09", "e14", "w14", "e09"]
    days = source.load(wide())["date"].values
    border = HALF - 60
    assert set(np.unique(days[:, : border - 1])) == {8926}
    assert set(np.unique(days[:, border + 1 :])) == {8931}


def test_days_are_ranked_once_where_a_swath_covers_the_region(two_swaths):
    two_swaths.items = [i for i in two_swaths.items if not i["id"].startswith(("far", "west", "east"))]
    source = find(two_swaths)
    assert [s.id for s in source.optical][:2] == ["e09", "w09"]  # the day that covers all, in both tiles


def test_radar_orbits_and_days_are_chosen_by_tile_where_no_swath_covers_the_region(two_swaths):
    for item in two_swaths.items:
        if item["id"] == "e09":
            item["geometry"] = scenes.part(0.55, 1)
    source = find(two_swaths, sensors=["s1", "s2"])
    order = [(s.id, s.orbit, s.apart) for s in source.radar if s.area.intersects(source.radar[0].area)]
    assert order[:2] == [("west", 10, 1), ("far", 10, 8)]  # nearest to the west's own day
    assert source.describe()["delta_days"] == 1
    box = wide()
    brighter = source.load(box)["s1"].values - truth(box, "s1")
    border = HALF - 60
    np.testing.assert_allclose(brighter[:, :, : border - 1], 2.0, atol=1e-4)
    np.testing.assert_allclose(brighter[:, :, border + 1 :], 3.0, atol=1e-4)
    again = CatalogScenes.from_json(source.describe())
    assert again.radar == source.radar
    parts = [source.load(box[:, columns])["s1"].values for columns in (slice(0, 276), slice(276, 400))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), source.load(box)["s1"].values)


@pytest.mark.parametrize(
    ("name", "metadata", "code"),
    [
        ("S2A_MSIL2A_20240610T143741_R096_T18GYA_20240610T211543", {}, "18GYA"),
        ("S2B_8GYA_20240610_0_L2A", {}, "08GYA"),
        ("anything", {"s2:mgrs_tile": "31UFS"}, "31UFS"),
        ("anything", {"grid:code": "MGRS-31UFS"}, "31UFS"),
        ("raw", {}, ""),
    ],
)
def test_the_tile_is_stated_or_in_the_name(name, metadata, code):
    assert tile_of({"id": name, "properties": metadata}) == code
