import geopandas as gpd
import numpy as np
import pytest
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import box

from geossl.data.labels.blocks import assign_blocks
from geossl.data.labels.chips import Ground, LabelChips
from geossl.data.labels.ground_truth import read_labels
from geossl.data.labels.patches import join, patch_samples
from geossl.data.splits import SHARES, SPLIT_NAMES, hash_priority
from geossl.errors import InputError

RNG = np.random.default_rng(0)


def parcels(count=20, side=320, classes=3, left=500_000, top=4_600_000):
    """A chequerboard of fields of ``side`` metres."""
    corners = [(left + side * c, top - side * r) for r in range(count) for c in range(count)]
    shapes = [box(x, y - side, x + side, y) for x, y in corners]
    names = [f"class {i % classes}" for i in np.random.default_rng(1).integers(0, 9, len(shapes))]
    return read_labels(gpd.GeoDataFrame({"c": names}, geometry=shapes, crs=32631), "c")


def test_parts_have_their_share_of_every_class():
    labels = parcels()
    split = assign_blocks(labels, 8, 10.0, 0)
    assert 40 <= len(split.parts) <= 170
    assert split.side_m % 320 == 0  # whole patches
    box_ = GeoBox((640, 640), Affine(10, 0, 500_000, 0, -10, 4_600_000), "EPSG:32631")
    part, grid = Ground(labels, split, 8, 10.0).parts(box_), labels.grid(box_)
    for value in (1, 2, 3):
        shares = [(part[grid == value] == i).mean() for i in range(3)]
        np.testing.assert_allclose(shares, list(SHARES.values()), atol=0.1)


def test_a_split_depends_on_the_seed_alone():
    labels = parcels()
    assert assign_blocks(labels, 8, 10.0, 3) == assign_blocks(labels, 8, 10.0, 3)
    assert assign_blocks(labels, 8, 10.0, 3).parts != assign_blocks(labels, 8, 10.0, 4).parts


def test_no_patch_lies_in_two_blocks():
    split = assign_blocks(parcels(), 8, 10.0, 0)
    corner = np.array([[500_000.0, 4_600_000.0]]) + 80 * RNG.integers(-40, 40, (500, 2))  # of patches on the lattice
    places = [corner + np.array([x, y]) for x in (0.5, 79.5) for y in (0.5, 79.5)]
    for other in places[1:]:
        assert np.array_equal(split.blocks(places[0], 32631), split.blocks(other, 32631))


def test_no_part_is_empty_even_with_three_blocks():
    x = (499_840, 510_080, 529_920)
    shapes = [box(left, 4_599_840, left + 160, 4_600_000) for left in x]
    labels = read_labels(gpd.GeoDataFrame({"c": ["a", "b", "b"]}, geometry=shapes, crs=32631), "c")
    for seed in range(5):
        assert sorted(assign_blocks(labels, 8, 10.0, seed).parts.values()) == [0, 1, 2]


def test_labels_far_apart_are_split_in_many_small_blocks():
    shapes = [s for left in (500_000, 700_000) for s in parcels(6, 320, left=left).labelled.geometry]
    names = ["a", "b"] * (len(shapes) // 2)
    split = assign_blocks(read_labels(gpd.GeoDataFrame({"c": names}, geometry=shapes, crs=32631), "c"), 8, 10.0, 0)
    assert len(split.parts) >= 40


def test_labels_in_one_spot_cannot_be_split():
    shapes = [box(500_000, 4_599_900, 500_050, 4_600_000), box(500_050, 4_599_900, 500_100, 4_600_000)]
    labels = read_labels(gpd.GeoDataFrame({"c": ["a", "b"]}, geometry=shapes, crs=32631), "c")
    with pytest.raises(InputError, match="within 1 block.*label places further apart"):
        assign_blocks(labels, 8, 10.0, 0)


def test_polygons_between_pixel_centres_are_refused():
    shapes = [box(500_001, 4_599_998, 500_003, 4_599_999), box(500_011, 4_599_998, 500_013, 4_599_999)]
    labels = read_labels(gpd.GeoDataFrame({"c": ["a", "b"]}, geometry=shapes, crs=32631), "c")
    with pytest.raises(InputError, match="no pixel centre lies in a label"):
        assign_blocks(labels, 8, 10.0, 0)


def test_a_priority_depends_on_its_place_alone_and_is_spread_evenly():
    places = np.column_stack([RNG.integers(0, 10**6, 20_000), RNG.integers(0, 10**7, 20_000)]) * 80.0
    whole = hash_priority(places, 32631, 0)
    assert np.array_equal(hash_priority(places[::-1], 32631, 0), whole[::-1])
    assert len(np.unique(whole)) == len(np.unique(places, axis=0))
    np.testing.assert_allclose(np.histogram(whole / 2.0**64, 10, (0, 1))[0], 2000, atol=250)
    assert not np.isin(hash_priority(places, 32631, 1), whole).any()
    assert not np.isin(hash_priority(places, 32632, 0), whole).any()


@pytest.fixture(scope="module")
def ground():
    labels = parcels(6)
    return Ground(labels, assign_blocks(labels, 8, 10.0, 0), 8, 10.0)


def test_every_labelled_pixel_is_in_exactly_one_part(ground):
    boxes = ground.boxes(96)
    grids = {name: sum(int((ground.labels_of(b, name) > 0).sum()) for b in boxes[name]) for name in SPLIT_NAMES}
    assert sum(grids.values()) == 36 * 32 * 32
    assert min(grids.values()) > 0
    for chip in boxes["train"]:
        seen = np.stack([ground.labels_of(chip, name) for name in SPLIT_NAMES])
        assert ((seen > 0).sum(axis=0) <= 1).all()
        assert np.array_equal(seen.sum(axis=0), ground.labels.grid(chip))


class Columns:
    """A source whose pixels are their easting."""

    def load(self, geobox):
        x = np.broadcast_to(geobox.coordinates["x"].values, geobox.shape).astype(np.float32)
        return xr.Dataset({"s1": (("s1_band", "y", "x"), np.stack([x, -x]))}, coords={"s1_band": ["VV", "VH"]})


def test_chips_have_bands_in_the_order_asked_for(ground):
    boxes = ground.boxes(96)["val"]
    chips = LabelChips(Columns(), ground, boxes, "val", {"s1": ("VH", "VV")})
    assert len(chips) == len(boxes)
    assert chips[0]["s1"].shape == (2, 96, 96)
    assert (chips[0]["s1"][0] < 0).all()
    assert chips[0]["labels"].dtype == torch.int64


def test_patch_samples_are_the_same_in_whatever_pieces_they_come(ground):
    box_ = GeoBox((24, 24), Affine(80, 0, 500_000 - 80, 0, -80, 4_600_000 + 160), "EPSG:32631")
    x = RNG.normal(size=(5, 24, 24)).astype(np.float32)
    x[:, 3, 4] = np.nan

    def cut(*wheres):
        return join([patch_samples(x[(..., *w)], box_[w], ground.labels, ground.split, 8, 0) for w in wheres])

    whole = cut(np.s_[0:24, 0:24])
    pieces = cut(np.s_[10:24, 0:24], np.s_[0:10, 7:24], np.s_[0:10, 0:7])
    for name in ("x", "counts", "part", "block", "priority"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name)), name
    assert np.isfinite(whole.x).all()
    assert (whole.counts.sum(1) <= 64).all()
    half = whole.to_fit(8)
    assert half.counts.sum(1).min() >= 32
