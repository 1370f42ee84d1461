import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geossl.errors import WeightsError
from geossl.models.download import ENCODERS, download
from geossl.models.encoders.galileo import (
    GROUPS,
    S2_BANDS,
    GalileoEncoder,
    from_released,
    galileo_spec,
    resizing,
    sines,
)
from geossl.models.files import load_encoder, provenance

# Tokens of the authors' code at 0f0b5b95 for ``waves`` in July, mean over band groups.
PUBLISHED = Path(__file__).parent / "galileo_nano_tokens.npz"


def waves(bands, side, low, high, k):
    """Pixels anybody can write down."""
    y, x = np.mgrid[:side, :side]
    a = np.arange(bands)[:, None, None]
    return (low + (high - low) * (0.5 + 0.5 * np.sin(0.13 * (k + a) * x + 0.07 * (a + 1) * y + a))).astype(np.float32)


@pytest.fixture(scope="module")
def images():
    return {
        "s1": torch.from_numpy(waves(2, 24, -22, -8, 1))[None],
        "s2": torch.from_numpy(waves(10, 24, 0.02, 0.45, 2))[None],
    }


@pytest.fixture(scope="module")
def nano():
    return load_encoder("galileo_nano")


def at_patch(encoder, patch, window=48):
    other = GalileoEncoder(galileo_spec(patch_px=patch, window_px=window, margin_px=0, place="window")).eval()
    other.load_state_dict(encoder.state_dict())
    return other


def test_it_comes_with_geossl_and_says_from_where(nano, monkeypatch, tmp_path):
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path))  # nothing is looked up there
    path = download(ENCODERS["galileo_nano"])
    assert provenance(path)["sha256"] == ENCODERS["galileo_nano"].sha256
    assert nano.spec.licence == "MIT"
    assert (path.parent / "LICENSE_galileo.txt").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("patch", "step"), [(8, 1), (4, 2)])
def test_tokens_are_those_of_the_authors_code(nano, images, patch, step):
    with torch.no_grad():
        found = at_patch(nano, patch).tokens(images)[0, ::step, ::step].numpy()
    np.testing.assert_allclose(found, np.load(PUBLISHED)[f"patch{patch}"], atol=3e-5)


def test_maps_do_not_show_the_place_in_the_window(nano, images):
    with torch.no_grad():
        same = nano.tokens({name: x[..., 8:16, 8:16].repeat(1, 1, 3, 3) for name, x in images.items()})
        placed = at_patch(nano, 8).tokens({name: x[..., 8:16, 8:16].repeat(1, 1, 3, 3) for name, x in images.items()})
    torch.testing.assert_close(same, same[:, :1, :1].expand_as(same), atol=1e-4, rtol=1e-4)
    assert (placed - placed[:, :1, :1]).abs().mean() > 0.02


def test_a_sensor_or_patch_that_is_not_fed_influences_nothing(nano, images):
    kept = {"s1": torch.ones(1, 3, 3, dtype=torch.bool), "s2": torch.ones(1, 3, 3, dtype=torch.bool)}
    kept["s2"][0, 1, 1] = False
    one = {"s1": images["s1"], "s2": images["s2"].clone()}
    one["s2"][:, :, 8:16, 8:16] = 0.9
    with torch.no_grad():
        torch.testing.assert_close(nano.tokens(one, kept), nano.tokens(images, kept))
        only = {"s1": torch.ones(1, 3, 3, dtype=torch.bool), "s2": torch.zeros(1, 3, 3, dtype=torch.bool)}
        alone = nano.tokens({"s1": images["s1"]})
        torch.testing.assert_close(nano.tokens(images, only), alone, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(alone, nano.tokens(images), atol=1e-2)


def test_where_nothing_is_fed_there_is_no_token(nano, images):
    kept = {name: torch.ones(1, 3, 3, dtype=torch.bool) for name in images}
    for fed in kept.values():
        fed[0, 0, 2] = False
    with torch.no_grad():
        found = nano.tokens(images, kept).flatten(1, 2)[0]
    assert found[2].isnan().all()
    assert found[[0, 1, 3, 4, 5, 6, 7, 8]].isfinite().all()


def test_missing_pixels_take_the_mean_and_an_image_s_vector_is_the_mean_of_its_tokens(nano, images):
    holes = {"s1": images["s1"], "s2": images["s2"].clone()}
    holes["s2"][:, :, 3, 5] = torch.nan
    filled = {"s1": images["s1"], "s2": holes["s2"].clone()}
    filled["s2"][0, :, 3, 5] = torch.tensor(nano.spec.sensors["s2"].mean)
    with torch.no_grad():
        scaled = [nano.scaled("s2", x["s2"][:, None]) for x in (holes, filled)]
        for band in S2_BANDS:
            torch.testing.assert_close(scaled[0][band], scaled[1][band])
        torch.testing.assert_close(nano.pooled(images)[0], nano.tokens(images)[0].mean((0, 1)), atol=1e-5, rtol=1e-5)


def test_the_month_of_a_date_counts_and_dates_are_up_to_24(nano, images):
    series = {name: x[:, None].expand(-1, 2, -1, -1, -1) for name, x in images.items()}
    with torch.no_grad():
        winter, _ = nano.encoded(series, month=torch.tensor([[1, 2]]))
        summer, fed = nano.encoded(series, month=torch.tensor([[7, 8]]))
    assert winter.shape == (1, 2 * len(GROUPS), 3, 3, 128)
    assert fed.all()
    assert (winter - summer).abs().mean() > 0.01
    with pytest.raises(ValueError, match="25 dates; Galileo takes at most 24"):
        nano.encoded({"s1": images["s1"][:, None].expand(-1, 25, -1, -1, -1)})


def test_kernels_of_the_stored_side_stay_as_they_are():
    torch.testing.assert_close(resizing(8), torch.eye(64), atol=1e-4, rtol=0)
    assert resizing(3).shape == (9, 64)


def test_sines_begin_at_place_zero():
    table = sines(torch.tensor([0.0, 1.0]), 16)
    assert table[0].tolist() == [0.0] * 8 + [1.0] * 8
    assert table[1, 1] == pytest.approx(np.sin(10000 ** (-1 / 32)))


@pytest.mark.parametrize("wrong", [{"patch_px": 9}, {"patch_px": 0}, {"month": 13}, {"place": "far"}])
def test_what_was_never_published_is_refused(wrong):
    with pytest.raises(ValueError, match="must be 1 to 8|is not known"):
        galileo_spec(**wrong)


def released(own, depth):
    """State in the authors' names."""
    found = {"s_t_channel_embed": own["channel"], "norm.weight": own["norm.weight"], "norm.bias": own["norm.bias"]}
    for name in GROUPS:
        for kind in ("weight", "bias"):
            found[f"space_time_embed.{name}.proj.{kind}"] = own[f"embed.{name}.{kind}"]
    names = {"norm1": "attention.norm", "norm2": "feed_forward.norm", "attn.proj": "attention.to_out"}
    names |= {"mlp.fc1": "feed_forward.expand", "mlp.fc2": "feed_forward.contract"}
    for i in range(depth):
        for kind in ("weight", "bias"):
            for theirs, ours in names.items():
                found[f"blocks.{i}.{theirs}.{kind}"] = own[f"blocks.{i}.{ours}.{kind}"]
            for name, part in zip("qkv", own[f"blocks.{i}.attention.to_qkv.{kind}"].chunk(3), strict=True):
                found[f"blocks.{i}.attn.{name}.{kind}"] = part
    return found


def test_released_names_are_all_found(nano):
    own = nano.state_dict()
    back = from_released(released(own, 4))
    assert back.keys() == own.keys()
    assert all(torch.equal(back[key], own[key]) for key in own)


def test_larger_sizes_are_fetched_by_name_and_checked_by_what_is_published_of_their_hash(images, tmp_path, monkeypatch):
    tiny = GalileoEncoder(galileo_spec("tiny")).eval()
    theirs = {**released(tiny.state_dict(), 12), "month_embed.weight": torch.zeros(12, 48)}  # what we do not take
    torch.save(theirs, tmp_path / "model.pth")
    digits = hashlib.sha256((tmp_path / "model.pth").read_bytes()).hexdigest()[:8]
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path / "cache"))
    stand_in = replace(ENCODERS["galileo_tiny"], url=(tmp_path / "model.pth").as_uri(), sha256=digits)
    monkeypatch.setitem(ENCODERS, "galileo_tiny", stand_in)
    found = load_encoder("galileo_tiny")
    assert (found.spec.name, found.spec.dim, found.spec.licence) == ("galileo_tiny", 192, "MIT")
    with torch.no_grad():
        assert torch.equal(found.tokens(images), tiny.tokens(images))
    monkeypatch.setitem(ENCODERS, "galileo_tiny", replace(stand_in, sha256="0" * 8, file="other.pth"))
    with pytest.raises(WeightsError, match="expected 00000000; it was deleted"):
        load_encoder("galileo_tiny")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"norm.weight": None}, "incomplete Galileo weight file: 'norm.weight'"),
        ({"blocks.0.attn.q.weight": torch.zeros(5, 7)}, "different shapes"),
        ({"s_t_channel_embed": torch.zeros(7, 9)}, "36 numbers and 4 blocks, of which the attention heads"),
        ({"epoch": 3}, "more than the tensors"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(nano, tmp_path, broken, message):
    state = released(nano.state_dict(), 4) | broken
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=message):
        load_encoder(tmp_path / "model.pth")
