import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from geossl.models.layers.point_groups import farthest_points, gather_groups, nearest, spread


def clouds(b=3, n=60, seed=0):
    return torch.randn(b, n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_farthest(xyz, count, first):
    """One cloud, plain loops."""
    chosen = [first]
    while len(chosen) < count:
        distance = [min(float(((p - xyz[c]) ** 2).sum()) for c in chosen) for p in xyz]
        chosen.append(int(np.argmax(distance)))
    return chosen


@pytest.mark.parametrize("start", ["first", "centroid"])
def test_farthest_points_equal_a_double_loop(start):
    xyz = clouds(50, 30)
    found = farthest_points(xyz, 8, start)
    for cloud, ids in zip(xyz.numpy(), found.tolist(), strict=True):
        first = 0 if start == "first" else int(((cloud - cloud.mean(0)) ** 2).sum(1).argmin())
        assert ids == slow_farthest(cloud, 8, first)


def test_all_farthest_points_are_a_permutation_and_few_are_spread_widely():
    xyz = clouds()
    assert farthest_points(xyz, 60).sort(dim=1).values.tolist() == [list(range(60))] * 3
    chosen = xyz[0, farthest_points(xyz, 12)[0]]
    least = torch.pdist(chosen).min()
    rng = np.random.default_rng(0)
    assert all(least >= torch.pdist(xyz[0, rng.choice(60, 12, replace=False)]).min() for _ in range(20))


def test_places_that_occur_twice_are_allowed_and_more_points_than_there_are_are_not():
    twice = clouds(1, 4).repeat(1, 2, 1)
    ids = farthest_points(twice, 6)[0]
    assert len({tuple(p) for p in twice[0, ids].tolist()}) == 4
    with pytest.raises(ValueError, match="9 farthest points of 8"):
        farthest_points(twice, 9)


def test_from_the_centroid_the_order_of_points_does_not_matter():
    xyz = clouds()
    mixed = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    one, two = farthest_points(xyz, 10), farthest_points(xyz[:, mixed], 10)
    assert torch.equal(one, mixed[two])
    first = farthest_points(xyz[:, mixed], 10, "first")
    assert not torch.equal(one, mixed[first])


def test_neighbours_equal_a_tree_and_each_point_is_its_own_first_neighbour():
    xyz = clouds()
    query = clouds(3, 7, seed=2)
    distance, ids = nearest(query, xyz, 5)
    for i in range(3):
        d, n = KDTree(xyz[i].numpy()).query(query[i].numpy(), k=5)
        assert np.array_equal(ids[i].numpy(), n)
        np.testing.assert_allclose(distance[i].numpy(), d, rtol=1e-12)
    assert torch.equal(nearest(xyz, xyz, 1)[1][..., 0], torch.arange(60).expand(3, -1))


def test_groups_hold_the_rows_they_name():
    x = torch.arange(2 * 5 * 2.0).view(2, 5, 2)
    ids = torch.tensor([[[0, 4], [1, 1]], [[2, 3], [0, 0]]])
    found = gather_groups(x, ids)
    assert found[1, 0].tolist() == x[1, [2, 3]].tolist()
    assert found[0, 1].tolist() == x[0, [1, 1]].tolist()


def test_spread_values_equal_the_centres_there_and_their_weighted_mean_between():
    centres = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [100, 0, 0], [0, 200, 0]]])
    values = torch.tensor([[[1.0], [3.0], [50.0], [70.0]]])
    where = torch.tensor([[[0.0, 0, 0], [0.5, 0, 0]]])
    found = spread(values, centres, where)[0, :, 0]
    assert found[0] == pytest.approx(1.0, abs=1e-4)
    w = 1 / 0.25, 1 / 0.25, 1 / 99.5**2
    assert found[1] == pytest.approx((w[0] * 1 + w[1] * 3 + w[2] * 50) / sum(w), abs=1e-5)
