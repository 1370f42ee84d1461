"""Blocks over tiles against the same blocks on whole grids, and what is left out."""

import pytest
import torch

from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.layers import tiles
from geossl.models.layers.alibi import alibi_slopes
from geossl.models.layers.tiles import TileGrid, groups, key_rows


def encoder(dtype=torch.float64):
    torch.manual_seed(0)
    spec = croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=4, heads=8)
    return CROMAEncoder(spec).eval().to(dtype)


def scene(b, gh, gw, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    s1, s2 = (torch.rand(b, c, gh * 8, gw * 8, generator=g) for c in (2, 12))
    return {"s1": (s1 * 20 - 25).to(dtype), "s2": (s2 * 0.4).to(dtype)}


def some_kept(b, gh, gw, share=0.5):
    g = torch.Generator().manual_seed(2)
    return {name: torch.rand(b, gh, gw, generator=g) < share for name in ("s1", "s2")}


@pytest.mark.parametrize("share", [1.0, 0.5, 0.02])
@pytest.mark.parametrize(("b", "gh", "gw", "reach"), [(2, 13, 18, 2), (1, 33, 9, 7), (3, 5, 7, 11)])
def test_tiles_give_what_whole_grids_give(b, gh, gw, reach, share):
    model, images, kept = encoder(), scene(b, gh, gw), some_kept(b, gh, gw, share)
    whole = model.local_tokens(images, kept, reach).detach()  # gradients on: whole grids
    with torch.inference_mode():
        tiled = model.local_tokens(images, kept, reach)
    torch.testing.assert_close(tiled, whole, atol=1e-10, rtol=0, equal_nan=True)


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tiles_left_out_do_not_change_a_bit(precision):
    model, images, kept = encoder(torch.float32), scene(1, 64, 80, torch.float32), some_kept(1, 64, 80, 0.9)
    with torch.autocast("cpu", enabled=precision == "bf16"):
        whole = model.local_tokens(images, kept, 3)
        for box in (slice(0, 8), slice(30, 37), slice(56, 64)):
            wanted = torch.zeros(1, 64, 80).bool()
            wanted[:, box, box] = True
            part = model.local_tokens(images, kept, 3, wanted)
            assert torch.equal(part[wanted].nan_to_num(7), whole[wanted].nan_to_num(7))
            assert torch.isnan(part[~wanted]).all()


@torch.inference_mode()
def test_only_what_wanted_tiles_can_see_is_computed(monkeypatch):
    model, images, done = encoder(torch.float32), scene(1, 80, 80, torch.float32), []
    run = tiles.run_group
    monkeypatch.setattr(tiles, "run_group", lambda *a: done.append(a[4].unique().numel()) or run(*a))
    model.local_tokens(images, None, 4)
    whole, wanted = sum(done), torch.zeros(1, 80, 80).bool()
    done.clear()
    wanted[:, 40:48, 40:48] = True
    model.local_tokens(images, None, 4, wanted)
    assert whole == 100 * (2 + 4 + 2)
    radii = [2, 1, 3, 2, 2, 1, 1, 0]  # tiles around the wanted one after every radar, optical and joint block
    assert sum(done) == sum((2 * n + 1) ** 2 for n in radii) == 152


@torch.inference_mode()
def test_bfloat16_stays_near_single_precision():
    model, images = encoder(torch.float32), scene(1, 24, 24, torch.float32)
    single = model.local_tokens(images, None, 5)
    with torch.autocast("cpu"):
        half = model.local_tokens(images, None, 5)
    assert half.dtype == torch.float32
    cosine = torch.cosine_similarity(single, half, dim=-1)
    assert 1e-8 < (1 - cosine).max() < 1e-3


def test_rows_of_keys_are_those_of_the_tokens_around_a_tile():
    numbers = torch.arange(3 * 4 * 64).view(1, 24, 32, 1)
    area = TileGrid(1, (24, 32), 2, alibi_slopes(2))
    packed = area.pack(numbers.flatten(1, 2).float()).flatten()
    ids = key_rows(3, 4, 2)[5].view(12, 12)  # second row, second column of tiles
    assert torch.equal(packed[ids.flatten()].view(12, 12), numbers[0, 6:18, 6:18, 0].float())
    assert (key_rows(3, 4, 2)[0].view(12, 12)[:2] == -1).all()
    assert torch.equal(area.unpack(area.pack(numbers.flatten(1, 2).float())), numbers.flatten(1, 2).float())


def test_groups_are_filled_up():
    sizes = [len(group) for group in groups(torch.arange(tiles.GROUP + 3))]
    assert sizes == [tiles.GROUP, tiles.GROUP]
    assert list(groups(torch.arange(0))) == []
