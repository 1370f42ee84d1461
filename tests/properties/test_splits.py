"""Splits of any labelled ground: no block in two parts, shares near the wanted ones, the same for the same seed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geossl.data.labels.blocks import BlockSplit, merged
from geossl.data.splits import SHARES, SPLIT_NAMES, blocked_split, ground_blocks, hash_priority, random_split

WANTED = np.array([SHARES[name] for name in SPLIT_NAMES])
seeds = st.integers(0, 2**31 - 1)


@st.composite
def samples(draw, least_blocks=3, most_blocks=60):
    """Block and class of samples; every block holds one sample at least."""
    blocks, classes = draw(st.integers(least_blocks, most_blocks)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(seeds))
    block = np.concatenate([np.arange(blocks), rng.integers(0, blocks, draw(st.integers(0, 300)))])
    return block, rng.integers(0, classes, len(block))


@st.composite
def places(draw):
    rng = np.random.default_rng(draw(seeds))
    count, extent = draw(st.integers(1, 200)), draw(st.sampled_from([50.0, 5_000.0, 300_000.0]))
    xy = np.round(rng.uniform(-extent, extent, (count, 2)), 1)
    return xy, rng.choice([32631, 32632], count)


@given(samples(), seeds)
def test_no_block_is_in_two_parts_no_part_is_empty_and_the_seed_decides(ground, seed):
    block, y = ground
    part = blocked_split(block, y, seed)
    assert all(len(set(part[block == b])) == 1 for b in set(block))
    assert set(part) == {0, 1, 2}
    np.testing.assert_array_equal(part, blocked_split(block, y, seed))


@given(st.integers(20, 60), st.integers(1, 4), seeds)
def test_shares_of_every_class_come_near_the_wanted_ones(blocks, classes, seed):
    """Blocks alike, so that good shares exist: 300 deals find shares within 10 points, on the average within 4."""
    block = np.repeat(np.arange(blocks), classes)
    y = np.tile(np.arange(classes), blocks)
    part = blocked_split(block, y, seed)
    shares = np.array([[(part[y == k] == i).mean() for k in range(classes)] for i in range(3)])
    assert np.abs(shares - WANTED[:, None]).max() < 0.10
    assert np.abs(shares - WANTED[:, None]).mean() < 0.04


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), seeds)
def test_a_random_split_has_the_wanted_shares_of_every_class(classes, seed):
    y = np.array(classes)
    part = random_split(y, seed)
    np.testing.assert_array_equal(part, random_split(y, seed))
    for value in set(classes):
        counts = np.bincount(part[y == value], minlength=3)
        assert np.abs(counts[1:] - WANTED[1:] * counts.sum()).max() <= 0.5
        assert abs(counts[0] - WANTED[0] * counts.sum()) <= 1


@given(places(), st.sampled_from([10.0, 640.0]), seeds)
def test_blocks_of_ground_are_squares_of_one_zone_in_any_order(ground, least_m, seed):
    xy, epsg = ground
    block = ground_blocks(xy, epsg, least_m)
    assert set(block) == set(range(block.max() + 1))
    extent = sum(np.prod(np.ptp(xy[epsg == zone], axis=0) + least_m) for zone in set(epsg))
    side = max(least_m, np.sqrt(extent / 40))
    for b in set(block):
        assert len(set(epsg[block == b])) == 1
        assert np.ptp(xy[block == b], axis=0).max() <= side
    order = np.random.default_rng(seed).permutation(len(xy))
    np.testing.assert_array_equal(ground_blocks(xy[order], epsg[order], least_m), block[order])


@given(places(), seeds, seeds)
def test_the_priority_of_a_place_is_its_own(ground, seed, other):
    xy, _ = ground
    whole = hash_priority(xy, 32631, seed)
    pieces = np.concatenate([hash_priority(part, 32631, seed) for part in np.array_split(xy, min(3, len(xy)))])
    np.testing.assert_array_equal(pieces, whole)
    assert len(set(whole.tolist())) == len(np.unique(np.round(xy * 10), axis=0))
    if seed != other:
        assert (hash_priority(xy, 32631, other) != whole).all()


@given(st.integers(-500, 500), st.integers(-500, 500), st.integers(2, 8), seeds)
def test_coarser_blocks_hold_the_same_pixels(row, column, times, seed):
    rng = np.random.default_rng(seed)
    fine = {(32631, row + i, column + j): rng.integers(0, 9, 3) for i in range(5) for j in range(5)}
    coarse = merged(fine, times)
    np.testing.assert_array_equal(sum(coarse.values()), sum(fine.values()))
    for (_, r, c), counts in coarse.items():
        inside = [v for (_, y, x), v in fine.items() if (y // times, x // times) == (r, c)]
        np.testing.assert_array_equal(counts, sum(inside))


@given(
    st.floats(80, 5000), st.integers(-400, 400), st.integers(-400, 400), st.floats(0.01, 0.99), st.floats(0.01, 0.99)
)
def test_a_place_is_in_the_part_of_its_block(side, row, column, down, right):
    split = BlockSplit(side, {(32631, row, column): 1})
    inside = np.array([[(column + right) * side, -(row + down) * side]])
    assert split.blocks(inside, 32631).tolist() == [[32631, row, column]]
    assert split.part(inside, 32631).tolist() == [1]
    assert split.part(inside, 32632).tolist() == [-1]
    assert split.part(inside + np.array([side, 0]), 32631).tolist() == [-1]
