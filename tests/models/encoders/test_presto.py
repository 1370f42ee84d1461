from pathlib import Path

import numpy as np
import pytest
import torch

from geossl.models.download import ENCODERS, download
from geossl.models.encoders.presto import CHUNK, GROUPS, More, PrestoEncoder, from_released, presto_spec
from geossl.models.files import load_encoder, provenance

# Vectors that the authors' code (nasaharvest/presto at 13173d02, single_file_presto.py) gave for ``wave`` with their
# weights, made once by hand: with all inputs, with gaps, and without the line that appends its location token.
PUBLISHED = Path(__file__).parent / "presto_vectors.npz"


def wave(bands, months, low, high, k, series=5):
    """Numbers anybody can write down: (series, months, bands) between two bounds."""
    i, t, c = np.meshgrid(np.arange(series), np.arange(months), np.arange(bands), indexing="ij")
    numbers = low + (high - low) * (0.5 + 0.5 * np.sin(0.9 * k * i + 0.53 * t * (c + 1) / bands + 0.7 * c))
    return torch.from_numpy(numbers.astype(np.float32))


def pixels(months=12):
    return {"s1": wave(2, months, -22, -8, 1), "s2": wave(10, months, 0.02, 0.45, 2)}


def more(months=12):
    scale = torch.tensor([30.0, 0.1])
    weather = torch.tensor([270.0, 0.0]) + scale * wave(2, months, 0, 1, 3)
    terrain = torch.tensor([900.0, 20.0]) * wave(2, 1, 0, 1, 4)[:, 0]
    classes = torch.arange(5 * months).reshape(5, months) % 10  # 9 = not known
    return More(weather, terrain, torch.where(classes == 9, 3, classes), place())


def place():
    return torch.tensor([60.0, 120.0]) * wave(2, 1, -1, 1, 5)[:, 0]


def with_gaps(x):
    """A third of the radar months and half of the optical ones missing, others in every series."""
    i, t = np.indices(x["s1"].shape[:2])
    holes = {"s1": (i + t) % 3 == 0, "s2": (3 * i + t) % 4 < 2}
    return {name: v.masked_fill(torch.from_numpy(holes[name])[..., None], torch.nan) for name, v in x.items()}


@pytest.fixture(scope="module")
def presto():
    return load_encoder("presto")


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, torch.from_numpy(b)).min()


@torch.no_grad()
def test_vectors_are_those_of_the_authors_code(presto):
    known = np.load(PUBLISHED)
    found = {
        "all": presto.series(pixels(), 4, more()),
        "gaps": presto.series(with_gaps(pixels()), torch.arange(5) + 6, More(location=place())),
        "placeless": presto.series(with_gaps(pixels(18)), 11),
    }
    for name, vectors in found.items():
        np.testing.assert_allclose(vectors, known[name], atol=2e-5)
        assert cosine(vectors, known[name]) > 0.99999


def test_it_comes_with_geossl_and_says_from_where(presto, monkeypatch, tmp_path):
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path))  # nothing is looked up there
    path = download(ENCODERS["presto"])
    assert provenance(path)["sha256"] == ENCODERS["presto"].sha256
    assert presto.spec.licence == "MIT"
    assert (path.parent / "LICENSE_presto.txt").exists()
    assert path.stat().st_size < 2e6
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_a_map_s_window_gives_every_pixel_the_vector_of_its_own_series(presto):
    x = {name: v.repeat(80, 1, 1).reshape(20, 20, 12, -1) for name, v in with_gaps(pixels()).items()}
    for v in x.values():
        v[2, 3] = torch.nan
    assert CHUNK < 20 * 20  # so that pixels run in several parts
    images = {name: v.movedim((2, 3), (0, 1)).flatten(0, 1)[None] for name, v in x.items()}
    found = presto.tokens(images)[0]
    assert found[2, 3].isnan().all()
    known = presto.series(with_gaps(pixels())).repeat(80, 1).reshape(20, 20, -1)
    known[2, 3] = torch.nan
    torch.testing.assert_close(found, known, atol=1e-5, rtol=1e-5, equal_nan=True)
    torch.testing.assert_close(presto.pooled(images)[0], known.flatten(0, 1).nanmean(0), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_not_fed_or_missing_influences_nothing(presto):
    a, b = with_gaps(pixels()), pixels()
    image = {name: v[0].flatten()[None, :, None, None] for name, v in b.items()}
    fed = {"s1": torch.ones(1, 1, 1, dtype=torch.bool), "s2": torch.zeros(1, 1, 1, dtype=torch.bool)}
    torch.testing.assert_close(presto.tokens(image, fed), presto.tokens({"s1": image["s1"]}), atol=1e-5, rtol=1e-5)
    lacking = {**image, "s2": image["s2"].clone()}
    lacking["s2"][:, 7::10] = torch.nan  # B8A, in every month: one band group of seven, which files may lack
    assert 7 not in presto.spec.needed("s2")
    known = b["s2"][:1].index_fill(2, torch.tensor([7]), torch.nan)
    torch.testing.assert_close(
        presto.tokens(lacking)[0, 0], presto.series({"s1": b["s1"][:1], "s2": known}), atol=1e-5, rtol=1e-5
    )
    a["s2"][:, :, 7] = torch.nan
    without = presto.series(a)
    assert without.isfinite().all()
    assert (without - presto.series(with_gaps(b))).abs().max() > 0.01
    nothing = {name: torch.full_like(v, torch.nan) for name, v in b.items()}
    assert presto.series(nothing).isnan().all()


@torch.no_grad()
def test_months_count_and_the_place_is_not_asked_for(presto):
    x = pixels()
    winter, summer = presto.series(x, 1), presto.series(x, 7)
    assert (winter - summer).abs().mean() > 0.01
    torch.testing.assert_close(presto.series(x), winter)
    assert (presto.series(x, 1, More(location=place())) - winter).abs().mean() > 0.01
    unknown = more()._replace(land_cover=torch.full((5, 12), 9), weather=None, terrain=None, location=None)
    torch.testing.assert_close(presto.series(x, 1, unknown), winter, atol=1e-5, rtol=1e-5)


def test_what_it_cannot_take_is_refused(presto):
    with pytest.raises(ValueError, match="25 months.*at most 24"):
        presto.series(pixels(25))
    with pytest.raises(ValueError, match="from month 1 to 12"):
        presto.series(pixels(), 0)
    with pytest.raises(ValueError, match="month=13 must be 1 to 12"):
        presto_spec(month=13)


def test_released_names_are_all_found(presto):
    own = presto.state_dict()
    names = {"location": "latlon_embed", "norm": "norm", **{f"embed.{n}": f"eo_patch_embed.{n}" for n in GROUPS}}
    inner = {"attention.norm": "norm1", "attention.to_qkv": "attn.qkv", "attention.to_out": "attn.proj"}
    inner |= {"feed_forward.norm": "norm2", "feed_forward.expand": "mlp.fc1", "feed_forward.contract": "mlp.fc2"}
    names |= {f"blocks.{i}.{ours}": f"blocks.{i}.{theirs}" for i in range(2) for ours, theirs in inner.items()}
    released = {
        f"encoder.{theirs}.{kind}": own[f"{ours}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    released["encoder.channel_embed.weight"] = own["channel"]
    released["encoder.dw_embed.weight"] = torch.cat([own["land_cover.weight"], torch.ones(1, 128)])
    PrestoEncoder(presto_spec()).load_state_dict(from_released(released), strict=True)
