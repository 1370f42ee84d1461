from dataclasses import replace

import numpy as np
import pytest

from geossl.data.points.blocks import BlockSettings, cut_block, inner, lattice_blocks, thinned
from geossl.data.points.las import read_scan, sorted_scan, survey
from tests.scans import BOTTOM, LEFT, SIDE, ground, scene, write_scan

SETTINGS = BlockSettings(block_m=12.0, points=128, voxel_m=0.25, ground="auto", min_points=20)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return read_scan([survey(write_scan(tmp_path_factory.mktemp("b") / "s.laz", *scene()))], ["last"])


def cut(scan, x=24.0, y=24.0, seed=0, **changes):
    return cut_block(scan, LEFT + x, BOTTOM + y, replace(SETTINGS, **changes), np.random.default_rng(seed))


def test_a_block_is_in_half_sides_from_its_centre_and_heights_above_ground(scan):
    block = cut(scan, 34, 34)
    xyz = scan.xyz[block.ids]
    np.testing.assert_allclose(block.points[:, 0] * 6 + LEFT + 34, xyz[:, 0], atol=1e-5 * LEFT)
    assert np.abs(block.points[:, :2]).max() <= 1
    above = xyz[:, 2] - ground(xyz[:, 0])
    np.testing.assert_allclose(block.points[:, 2] * 6, above, atol=0.5)  # the ground slopes between its points
    assert above.max() > 8
    assert np.array_equal(block.points[:, 3], scan.features[block.ids, 0])


def test_without_ground_points_heights_are_above_the_lowest(scan):
    plain = replace(scan, classes=np.ones_like(scan.classes))
    for how in ("auto", "class2", "lowest"):
        block = cut(plain, 34, 34, ground=how)
        above = scan.xyz[block.ids, 2] - ground(scan.xyz[block.ids, 0])
        assert np.median(np.abs(block.points[:, 2] * 6 - above)) < 1.0
    assert not np.array_equal(cut(scan, 34, 34, ground="lowest").points, cut(scan, 34, 34).points)


def test_without_heights_above_ground_the_lowest_point_of_the_block_is_zero(scan):
    block = cut(scan, ground="none", points=100_000, voxel_m=0.0)
    assert block.points[:, 2].min() == 0
    np.testing.assert_allclose(np.ptp(block.points[:, 2] * 6), np.ptp(scan.xyz[block.ids, 2]), rtol=1e-5)


def moved(scan, dx, dy, dtype=np.float64):
    """The same scan elsewhere, its coordinates stored as ``dtype``."""
    xyz = (scan.xyz + np.array([dx, dy, 0])).astype(dtype).astype(np.float64)
    return sorted_scan(xyz, scan.features, scan.classes, scan.source)


def test_a_block_far_from_the_origin_equals_the_same_block_near_it_and_float32_would_not(scan):
    whole = replace(SETTINGS, voxel_m=0.0, points=2000)

    def places(xyz_of, x, y):
        block = cut_block(xyz_of, x, y, whole, np.random.default_rng(0))
        _, once = np.unique(block.ids, return_index=True)
        points = block.points[once, :3]
        return points[np.lexsort(points.T)]

    far, near = places(scan, LEFT + 24, BOTTOM + 24), places(moved(scan, -LEFT, -BOTTOM), 24.0, 24.0)
    assert len(far) > 200
    np.testing.assert_allclose(far, near, atol=1e-4)
    rounded = places(moved(scan, 0, 0, np.float32), LEFT + 24, BOTTOM + 24)
    assert len(np.unique(rounded[:, 1])) < 40  # a northing of 6,277 km has steps of half a metre in float32
    assert len(np.unique(far[:, 1])) > 200


def test_at_most_one_point_per_cube_is_kept_and_none_is_lost_without_cubes():
    xyz = np.random.default_rng(0).uniform(0, 3, (500, 3))
    ids = np.arange(500)
    kept = thinned(xyz, ids, 1.0)
    cubes = np.floor(xyz[kept]).astype(int)
    assert len(np.unique(cubes, axis=0)) == len(kept) == 27
    assert np.array_equal(thinned(xyz, ids, 0.0), ids)


def test_points_are_repeated_only_if_there_are_too_few(scan):
    assert len(np.unique(cut(scan).ids)) == 128
    many = cut(scan, points=5000)
    assert len(many.points) == 5000
    assert len(np.unique(many.ids)) < 800
    assert cut(scan, -30, 0) is None
    assert cut(scan, min_points=5000) is None


def test_lattice_blocks_cover_the_ground_once_and_do_not_depend_on_the_rectangle(scan):
    everywhere = (LEFT, BOTTOM, LEFT + SIDE, BOTTOM + SIDE)
    blocks = list(lattice_blocks(scan, everywhere, SETTINGS))
    covered = np.zeros(len(scan.xyz), int)
    for block in blocks:
        assert block.centre[0] % 6 == block.centre[1] % 6 == 3
        covered[scan.inside(inner(block))] += 1
    assert (covered == 1).all()
    some = lattice_blocks(scan, (LEFT + 20, BOTTOM + 20, LEFT + 25, BOTTOM + 25), SETTINGS)
    by_place = {block.centre: block for block in blocks}
    for block in some:
        assert np.array_equal(block.points, by_place[block.centre].points)
