import random

import numpy as np
import pytest
import shapely
import torch

from geossl.data.sentinel.aligned import Sentinel1, aligned_scenes
from geossl.data.sentinel.samplers import GridChips, Place, RandomChips, split_scenes
from geossl.errors import InputError
from geossl.sensors import S2_BANDS
from tests.data.conftest import optical, radar, write_raster

TAGGED = {"names": S2_BANDS, "BOA_ADD_OFFSET": "0"}


def queries(sampler):
    return [(c.scene, c.row, c.top, c.left, c.size) for c in sampler]


def test_draws_depend_on_seed_and_number_only(folder):
    scenes = aligned_scenes(folder)
    whole = queries(RandomChips(scenes, 32, 40, seed=3))
    random.seed(1)
    torch.manual_seed(1)
    assert queries(RandomChips(scenes, 32, 40, seed=3)) == whole
    assert queries(RandomChips(scenes, 32, 40, seed=4)) != whole
    assert queries(RandomChips(scenes, 32, 40, seed=3, start=25)) == whole[25:]
    ranks = [queries(RandomChips(scenes, 32, 40, seed=3, rank=r, world_size=2)) for r in (0, 1)]
    assert [ranks[i % 2][i // 2] for i in range(40)] == whole
    assert len(RandomChips(scenes, 32, 41, rank=1, world_size=2)) == 20


def test_chips_lie_inside_the_polygon_not_its_bounding_box(folder):
    scenes = aligned_scenes(folder)
    x, y = 500_000, 4_600_000
    triangle = shapely.Polygon([(x, y), (x + 1200, y), (x, y - 960)])
    for chip in RandomChips(scenes, 24, 100, roi=[[triangle]]):
        square = shapely.box(x + 10 * chip.left, y - 10 * (chip.top + 24), x + 10 * (chip.left + 24), y - 10 * chip.top)
        assert triangle.buffer(0.02).covers(square)


@pytest.mark.parametrize(
    ("polygon", "has_all"),
    [
        (shapely.box(0, 0, 60, 40).buffer(1e-3), True),
        (shapely.box(0.4, 0.4, 59.6, 39.6), True),
        (shapely.Polygon([(0, 0), (60, 0), (60, 40)]), False),
        (shapely.box(0, 0, 60, 40) - shapely.box(30, 20, 31, 21), False),
    ],
)
def test_a_place_holds_what_its_polygon_covers(polygon, has_all):
    place = Place(0, 0, polygon)
    assert place.has_all == has_all
    for x, y in np.random.default_rng(0).integers(-3, 60, (400, 2)).tolist():
        assert place.holds(x, y, 12) == polygon.covers(shapely.box(x, y, x + 12, y + 12))


def test_chips_cover_the_whole_footprint(folder):
    seen = np.zeros((96, 120))
    for c in RandomChips(aligned_scenes(folder), 32, 600):
        seen[c.top : c.top + 32, c.left : c.left + 32] += 1
    assert (seen[5:, 5:] > 0).mean() > 0.99


def test_a_chip_larger_than_every_scene_is_refused(folder):
    with pytest.raises(InputError, match="no scene holds a chip of 104 px: the largest usable part is 9[56] px"):
        RandomChips(aligned_scenes(folder), 104, 1)


def test_grid_chips_are_unique_and_do_not_overshoot(folder):
    found = queries(GridChips(aligned_scenes(folder), 32, 16))
    assert len(set(found)) == len(found)
    assert max(c[2] + 32 for c in found) <= 96
    assert max(c[3] + 32 for c in found) <= 120


def test_training_and_held_out_chips_share_no_pixel(folder):
    scenes = aligned_scenes(folder)
    train, held = split_scenes(scenes, 0.3)
    assert max(c.left + 32 for c in RandomChips(scenes, 32, 200, roi=train)) <= 84
    assert min(c.left for c in GridChips(scenes, 32, 8, roi=held)) >= 84


def test_a_chip_is_a_torchgeo_query_of_the_same_place(folder):
    scenes = aligned_scenes(folder)
    for chip in RandomChips(scenes, 24, 5):
        whole = scenes[chip.scene].chip(chip.row, chip.top, chip.left, chip.size)
        asked = scenes[chip.scene][chip.query(scenes)]
        torch.testing.assert_close(asked["s2"], whole["s2"], rtol=0, atol=0)
        assert Sentinel1(folder / "s1")[chip.query(scenes)]["image"].shape == (2, 24, 24)


def test_larger_scenes_are_drawn_more_often(folder):
    write_raster(folder / "s1/b.tif", radar((96, 40)), left=600_000.0)
    write_raster(folder / "s2/b.tif", optical((96, 40)), left=600_000.0, **TAGGED)
    rows = np.bincount([c.row for c in RandomChips(aligned_scenes(folder), 16, 800)])
    assert 0.7 < rows[0] / rows.sum() < 0.8


def test_scenes_too_small_for_a_chip_are_left_out_with_a_warning(folder):
    write_raster(folder / "s1/b.tif", radar((20, 20)), left=600_000.0)
    write_raster(folder / "s2/b.tif", optical((20, 20)), left=600_000.0, **TAGGED)
    with pytest.warns(UserWarning, match="1 of 2 scenes hold no chip of 32 px and are left out"):
        sampler = RandomChips(aligned_scenes(folder), 32, 50)
    assert {c.row for c in sampler} == {0}


def test_a_small_scene_gives_chips_up_to_what_it_holds(folder):
    write_raster(folder / "s1/b.tif", radar((40, 50)), left=600_000.0)
    write_raster(folder / "s2/b.tif", optical((40, 50)), left=600_000.0, **TAGGED)
    chips = list(RandomChips(aligned_scenes(folder), (24, 60), 600))
    sizes = [{c.size for c in chips if c.row == row} for row in (0, 1)]
    assert (min(sizes[0]), max(sizes[0])) == (24, 60)
    assert (min(sizes[1]), max(sizes[1])) == (24, 40)


def test_what_one_scene_holds_out_is_held_out_of_overlapping_ones(folder):
    write_raster(folder / "s1/b.tif", radar(), left=500_400.0)
    write_raster(folder / "s2/b.tif", optical(), left=500_400.0, **TAGGED)
    scenes = aligned_scenes(folder)
    train, held = split_scenes(scenes, 0.25)
    assert held[0][0].bounds[0] == 500_900
    assert max(shapely.intersection(a, b).area for a in train[0] for b in held[0]) == 0
    assert train[0][1].area > 0


def test_the_cut_lies_on_a_pixel_border():
    scenes = aligned_scenes("sample")
    _, held = split_scenes(scenes, 0.3)
    for scene, parts in zip(scenes, held, strict=True):
        for row, part in zip(scene.index.itertuples(), parts, strict=True):
            pixels = (part.bounds[0] - row.affine.c) / 10
            assert abs(pixels - round(pixels)) < 1e-6
            assert round(pixels) == round(row.reference.geobox.width * 0.7)
