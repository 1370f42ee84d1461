"""Surfaces with a known ground; houses are wider than any block."""

from dataclasses import replace

import numpy as np
import pytest

from geossl.data.points.blocks import BlockSettings, cut_block
from geossl.data.points.ground import REACH_M, GroundSurface, ground_points
from geossl.data.points.las import find_files, read_scan, survey

SIDE = 120.0


def surface(slope=0.0, seed=0, n=40_000):
    """x, y, and the height of sloping, gently rolling ground."""
    x, y = np.random.default_rng(seed).uniform(0, SIDE, (2, n))
    return x, y, 50 + slope * x + 2 * np.sin(x / 25) * np.cos(y / 30)


def with_house(x, y, z, width, eaves=4.0, roof=0.0, at=60.0):
    """Points with a square house on them, and which of them lie on its roof."""
    away = np.maximum(np.abs(x - at), np.abs(y - at))
    on = away < width / 2
    top = z[on].max() + eaves if on.any() else 0.0
    return np.column_stack([x, y, np.where(on, top + roof * (width / 2 - away), z)]), on


@pytest.mark.parametrize("slope", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("width", [8.0, 20.0, 36.0])
@pytest.mark.parametrize("roof", [0.0, 0.5], ids=["flat", "pitched"])
def test_the_ground_under_a_house_wider_than_a_block_is_that_around_it(slope, width, roof):
    x, y, z = surface(slope)
    xyz, on = with_house(x, y, z, width, roof=roof)
    found = GroundSurface(ground_points(xyz)).at(xyz[:, :2])
    assert np.abs(found[~on] - z[~on]).max() < 0.7 + slope  # a metre of slope between a point and its neighbours
    tilt = (slope + 0.15) * width / 2  # what nobody can know from outside the house
    assert np.abs(found[on] - z[on]).max() < 0.7 + tilt
    assert (xyz[on, 2] - found[on]).min() > 2.5


def test_a_house_cut_by_the_rim_of_the_data_is_not_ground_and_a_sloping_rim_is():
    x, y, z = surface(0.3)
    xyz, on = with_house(x, y, z, 24.0, at=SIDE - 6)
    found = ground_points(xyz)
    ground = z[np.isin(xyz[:, 0], found[:, 0]) & ~on]
    assert not np.isin(xyz[on, 0], found[:, 0]).any()
    assert len(ground) == len(found)
    rim = (x > SIDE - 4) & ~on
    away = np.abs(GroundSurface(found).at(xyz[rim, :2]) - z[rim])
    assert away.max() < 1.0


def test_bushes_and_crowns_are_no_ground_where_some_pulses_reach_it():
    x, y, z = surface(0.1)
    rng = np.random.default_rng(1)
    crown = (np.hypot(x - 60, y - 60) < 30) & (rng.random(len(x)) < 0.9)
    xyz = np.column_stack([x, y, np.where(crown, z + rng.uniform(1, 15, len(x)), z)])
    found = GroundSurface(ground_points(xyz)).at(xyz[:, :2])
    assert np.quantile(np.abs(found - z), 0.99) < 0.4
    assert np.sqrt(np.mean((found - z) ** 2)) < 0.15


def test_ground_that_was_found_from_a_part_of_the_scan_is_that_of_the_whole():
    x, y, z = surface(0.2)
    xyz, _ = with_house(x, y, z, 36.0)
    away = np.abs(xyz[:, :2] - 60).max(axis=1)

    def middle(rim):
        found = ground_points(xyz[away < 10 + rim])
        return np.unique(found[np.abs(found[:, :2] - 60).max(axis=1) < 10], axis=0)

    assert np.array_equal(middle(REACH_M), middle(SIDE))
    assert len(middle(2)) > len(middle(SIDE)) == 0  # nothing but roof to be seen


def test_one_point_and_two_places_have_a_ground():
    one = np.array([[3.0, 4.0, 7.0]])
    assert ground_points(one).tolist() == one.tolist()
    assert GroundSurface(one).at(np.array([[0.0, 0.0], [9.0, 9.0]])).tolist() == pytest.approx([7, 7])
    assert len(ground_points(np.array([[0.0, 0.0, 1.0], [1e7, 1e7, 90.0]]))) == 2


@pytest.fixture(scope="module")
def tiles():
    return read_scan([survey(path) for path in find_files("sample")], [])


def test_the_ground_of_the_bundled_scan_agrees_with_its_classes(tiles):
    known = tiles.classes > 1
    truth = GroundSurface(tiles.xyz[tiles.classes == 2]).at(tiles.xyz[:, :2])
    assert np.sqrt(np.mean((tiles.ground.at(tiles.xyz[:, :2]) - truth) ** 2)) < 0.15
    ground = np.abs(tiles.xyz[:, 2] - tiles.ground.at(tiles.xyz[:, :2])) < 0.3
    assert (ground == (tiles.classes == 2))[known].mean() > 0.98


def test_roofs_of_the_bundled_scan_are_high_in_blocks_without_ground_classes(tiles):
    plain = replace(tiles, classes=np.ones_like(tiles.classes))
    settings = BlockSettings(block_m=12.0, points=512, voxel_m=0.25, ground="auto", min_points=64)
    middle = GroundSurface(tiles.xyz[tiles.classes == 2])  # roofs far from any ground point
    roofs = np.flatnonzero(tiles.classes == 6)
    deep = roofs[middle.tree.query(tiles.xyz[roofs, :2])[0] > 5]
    assert len(deep) > 100
    heights = []
    for i in deep[:: len(deep) // 20]:
        block = cut_block(plain, *tiles.xyz[i, :2], settings, np.random.default_rng(0))
        on = tiles.classes[block.ids] == 6
        heights.append(np.median(block.points[on, 2]) * block.scale_m)
    assert min(heights) > 2
