"""Local attention against a plain loop, and against full attention where it reaches everything."""

import math

import pytest
import torch

from geossl.models.layers import local_attention
from geossl.models.layers.alibi import alibi_slopes, grid_coordinates
from geossl.models.layers.attention import Positions, attend
from geossl.models.layers.local_attention import (
    Neighbourhood,
    attend_local,
    attend_local_flex,
    tile_order,
    within_reach,
)

HEADS = 2


def tokens(b, grid, d=8, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(b, HEADS, grid[0] * grid[1], d, generator=g, dtype=torch.float64).to(dtype) for _ in "qkv")


def some_fed(b, grid, share=0.6):
    return torch.rand(b, grid[0] * grid[1], generator=torch.Generator().manual_seed(1)) < share


def by_loops(q, k, v, grid, reach, fed):
    """One query at a time, one key at a time; NaN where no fed key is within reach."""
    slopes, out = alibi_slopes(HEADS), torch.full_like(q, torch.nan)
    where = grid_coordinates(*grid).tolist()
    for b in range(len(q)):
        for h in range(HEADS):
            for i, (y, x) in enumerate(where):
                weights, sums = 0.0, torch.zeros_like(v[0, 0, 0])
                for j, (row, column) in enumerate(where):
                    if max(abs(y - row), abs(x - column)) > reach or not fed[b, j]:
                        continue
                    score = (q[b, h, i] @ k[b, h, j]).item() / math.sqrt(q.shape[-1])
                    weight = math.exp(score - slopes[h].item() * math.hypot(y - row, x - column))
                    weights, sums = weights + weight, sums + weight * v[b, h, j]
                if weights:
                    out[b, h, i] = sums / weights
    return out


@pytest.mark.parametrize(("grid", "reach"), [((9, 11), 2), ((8, 16), 5), ((3, 5), 7), ((17, 8), 9), ((1, 1), 1)])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.05])
def test_local_attention_is_the_plain_loop(grid, reach, share):
    q, k, v = tokens(2, grid)
    fed = some_fed(2, grid, share)
    expected = by_loops(q, k, v, grid, reach, fed)
    has_key = within_reach(fed.unflatten(1, grid), reach).flatten(1)
    assert torch.equal(torch.isfinite(expected[:, 0, :, 0]), has_key)
    near = Neighbourhood(grid, reach, alibi_slopes(HEADS), fed)
    for way in (attend_local, lambda *a: attend_local_flex(*a, compiled=False)):
        out = way(q, k, v, near).transpose(1, 2)
        torch.testing.assert_close(out[has_key], expected.transpose(1, 2)[has_key], atol=1e-6, rtol=1e-6)
        assert torch.isfinite(out).all()


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
def test_lower_precision_stays_near_double(dtype, atol):
    grid = (13, 20)
    near = Neighbourhood(grid, 5, alibi_slopes(HEADS), some_fed(2, grid))
    double, single = attend_local(*tokens(2, grid), near), attend_local(*tokens(2, grid, dtype=dtype), near)
    assert single.dtype == dtype
    torch.testing.assert_close(single.double(), double, atol=atol, rtol=0)


def test_a_reach_over_the_whole_grid_is_full_attention():
    grid, where = (9, 12), grid_coordinates(9, 12)
    q, k, v = tokens(2, grid)
    full = attend(q, k, v, Positions(where, where, alibi_slopes(HEADS)))
    local = attend(q, k, v, Neighbourhood(grid, 12, alibi_slopes(HEADS)))
    torch.testing.assert_close(local, full, atol=1e-12, rtol=1e-10)


def test_a_shifted_grid_gives_shifted_results():
    grid, reach = (24, 24), 3
    q, k, v = (x.unflatten(2, grid) for x in tokens(1, grid))
    near = Neighbourhood(grid, reach, alibi_slopes(HEADS))
    whole = attend_local(*(x.flatten(2, 3) for x in (q, k, v)), near).unflatten(2, grid)
    part = Neighbourhood((19, 21), reach, alibi_slopes(HEADS))
    shifted = attend_local(*(x[:, :, 5:, 3:].flatten(2, 3) for x in (q, k, v)), part).unflatten(2, (19, 21))
    torch.testing.assert_close(shifted[:, :, reach:, reach:], whole[:, :, 5 + reach :, 3 + reach :])


def test_strips_of_tiles_do_not_change_a_bit(monkeypatch):
    grid = (40, 24)
    near = Neighbourhood(grid, 4, alibi_slopes(HEADS), some_fed(1, grid))
    whole = attend_local(*tokens(1, grid, dtype=torch.float32), near)
    monkeypatch.setattr(local_attention, "GATHERED_NUMBERS", 1)
    assert torch.equal(attend_local(*tokens(1, grid, dtype=torch.float32), near), whole)


def test_gradients_are_those_of_masked_full_attention():
    grid, reach = (6, 10), 2
    where = grid_coordinates(*grid)
    far = (where[:, None] - where).abs().amax(dim=-1) > reach
    positions = Positions(where, where, alibi_slopes(HEADS))
    positions.kept = positions.bias().masked_fill(far, -1e30)
    grads = []
    for places in (positions, Neighbourhood(grid, reach, alibi_slopes(HEADS))):
        q, k, v = (x.requires_grad_() for x in tokens(1, grid))
        attend(q, k, v, places).square().sum().backward()
        grads.append((q.grad, k.grad, v.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_tiles_follow_each_other_row_by_row():
    order = tile_order((16, 10)).tolist()
    assert order[:9] == [0, 1, 2, 3, 4, 5, 6, 7, 10]
    assert order[64:67] == [8, 9, 18]
    assert sorted(order) == list(range(160))
