"""Our CROMA against torchgeo's, the published layouts and the golden numbers of a deterministic fill."""

import hashlib
import math

import numpy as np
import pytest
import torch
from torchgeo.models.croma import CROMA, CROMABase_Weights, croma_base, croma_large, get_2dalibi

from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.croma_weights import from_layout, to_layout
from geossl.models.files import load_encoder
from geossl.models.layers.alibi import alibi_bias, alibi_slopes, grid_coordinates

PAIRS = {
    "sar_encodings": "s1_tokens",
    "sar_GAP": "s1_gap",
    "optical_encodings": "s2_tokens",
    "optical_GAP": "s2_gap",
    "joint_encodings": "joint_tokens",
    "joint_GAP": "joint_gap",
}


def fill(state, seed):
    """Matrices / sqrt(columns), norm weights 1 + 0.1 t, the rest 0.1 t, keys in lexicographic order."""
    rng = np.random.RandomState(seed)
    filled = {}
    for key in sorted(k for k in state if k != "attn_bias"):
        t = rng.standard_normal(tuple(state[key].shape))
        if t.ndim == 2:
            t = t / math.sqrt(t.shape[1])
        else:
            t = 1 + 0.1 * t if key.endswith("weight") else 0.1 * t
        filled[key] = torch.from_numpy(t).to(state[key].dtype)
    return filled


def inputs(b, h, w, seed, dtype=torch.float32):
    rng = np.random.RandomState(seed)
    return [torch.from_numpy(rng.random_sample((b, c, h, w))).to(dtype) for c in (2, 12)]


def reference(seed=0, dtype=torch.float64, image_size=48):
    theirs = CROMA(encoder_dim=64, encoder_depth=4, num_heads=16, image_size=image_size).to(dtype).eval()
    theirs.load_state_dict(fill(theirs.state_dict(), seed), strict=False)
    return theirs


@torch.inference_mode()
def assert_same(theirs, ours, s1, s2, **tolerance):
    out, expected = ours(s1, s2), theirs(s1, s2)
    for key, name in PAIRS.items():
        torch.testing.assert_close(getattr(out, name), expected[key], **tolerance)


@pytest.mark.parametrize(
    ("side", "total", "digest"),
    [
        (3, -283.086759076, "0797b9d955814d771ef65049779273f2084c69af535ae04ce817f85ea117fdbf"),
        (15, -950015.766870305, "cb8a11f203413f3b42ab8bba8b6a489fc70210e21a4a9cd577328e8525dce08b"),
    ],
)
def test_bias_has_the_published_bits(side, total, digest):
    where = grid_coordinates(side, side)
    bias = alibi_bias(where, where, alibi_slopes(16))[None]
    assert hashlib.sha256(bias.numpy().tobytes()).hexdigest() == digest
    assert float(bias.double().sum()) == pytest.approx(total, abs=1e-6)
    assert torch.equal(bias, get_2dalibi(16, side * side).view(bias.shape))


def test_slopes_of_twelve_heads_follow_the_paper_not_the_port():
    expected = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    expected += [0.70710677, 0.35355338, 0.17677669, 0.08838835]
    torch.testing.assert_close(alibi_slopes(12), torch.tensor(expected), atol=1e-7, rtol=0)


def test_bias_of_an_oblong_grid():
    where = grid_coordinates(6, 10)
    assert float(alibi_bias(where, where, alibi_slopes(16)).double().sum()) == pytest.approx(-36390.971503090, abs=1e-6)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("image_size", [48, 120])
def test_small_model_equals_torchgeo(dtype, atol, image_size):
    theirs = reference(dtype=dtype, image_size=image_size)
    assert_same(
        theirs, from_layout(theirs.state_dict()), *inputs(2, image_size, image_size, 1, dtype), atol=atol, rtol=0
    )


GOLDEN = {
    "s1_tokens": (-51.9207603781, 3772.4749256072, [-0.3968568098, 1.7237064369, -1.3555620457], -1.0109877600),
    "s1_gap": (10.0077200830, 65.5832529280, [-1.4315372302, -0.1224726778, -0.6434668045], 1.1276990373),
    "s2_tokens": (152.6365359634, 3792.8291072428, [0.2578703781, -1.0505859803, -0.3413787663], -0.7436693332),
    "s2_gap": (-2.5258970853, 55.9074558342, [-0.1372667183, 0.0798334247, 0.8249376735], 0.0028216953),
    "joint_tokens": (65.7121848478, 3800.0422811453, [-0.5634959097, -0.4460414563, -2.0373192799], -0.5414055666),
    "joint_gap": (1.8253384680, 104.8832882031, [-0.5226024304, -0.4370500959, -1.8242291221], -0.3978824881),
}


@torch.inference_mode()
def test_golden_numbers_of_the_small_model():
    out = from_layout(reference().state_dict())(*inputs(2, 48, 48, 1, torch.float64))
    for name, (total, size, first, last) in GOLDEN.items():
        x = getattr(out, name)
        assert float(x.sum()) == pytest.approx(total, abs=1e-6)
        assert float(x.abs().sum()) == pytest.approx(size, abs=1e-6)
        assert x.flatten()[:3].tolist() == pytest.approx(first, abs=1e-8)
        assert float(x.flatten()[-1]) == pytest.approx(last, abs=1e-8)


BASE = {
    "s1_tokens": ([0.53076, 0.28879, 0.04159], 0.001061),
    "s1_gap": ([0.07426, 0.26867, -0.43058], -0.007797),
    "s2_tokens": ([1.27591, -1.78778, 0.09215], -0.003116),
    "s2_gap": ([-0.11322, 0.89649, -0.15913], -0.005216),
    "joint_tokens": ([0.46792, 1.03105, -0.60987], 0.004925),
    "joint_gap": ([0.45502, 0.94457, -0.53850], 0.004925),
}


@torch.inference_mode()
def test_base_equals_torchgeo_and_its_golden_numbers_also_in_bfloat16():
    theirs = croma_base().eval()
    theirs.load_state_dict(fill(theirs.state_dict(), 3), strict=False)
    ours, (s1, s2) = from_layout(theirs.state_dict()), inputs(1, 120, 120, 1)
    assert_same(theirs, ours, s1, s2, atol=2e-5, rtol=1e-5)
    out = ours(s1, s2)
    with torch.autocast("cpu", torch.bfloat16):
        low = ours(s1, s2)
    for name, (first, mean) in BASE.items():
        x = getattr(out, name)
        assert x.flatten()[:3].tolist() == pytest.approx(first, abs=2e-5)
        assert float(x.mean()) == pytest.approx(mean, abs=2e-5)
        assert torch.cosine_similarity(x, getattr(low, name).float(), dim=-1).min() > 0.999


@pytest.mark.slow
@torch.inference_mode()
def test_large_equals_torchgeo():
    theirs = croma_large().eval()
    assert_same(theirs, from_layout(theirs.state_dict()), *inputs(1, 120, 120, 1), atol=2e-5, rtol=1e-5)


@pytest.mark.online
@pytest.mark.slow
@torch.inference_mode()
def test_released_weights_equal_torchgeos_port():
    theirs = croma_base(weights=CROMABase_Weights.CROMA_VIT).eval()
    assert_same(theirs, load_encoder("croma_base"), *inputs(1, 120, 120, 1), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_weights_of_one_size_give_torchgeos_answer_at_another():
    small = reference(dtype=torch.float32, image_size=48)
    large = CROMA(encoder_dim=64, encoder_depth=4, num_heads=16, image_size=160).eval()
    large.load_state_dict({k: v for k, v in small.state_dict().items() if k != "attn_bias"}, strict=False)
    assert_same(large, from_layout(small.state_dict()), *inputs(1, 160, 160, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("modality", ["sar", "optical"])
@torch.inference_mode()
def test_one_sensor_gives_what_a_one_sensor_model_gives(modality):
    both = reference(dtype=torch.float32)
    single = CROMA(modalities=[modality], encoder_dim=64, encoder_depth=4, num_heads=16, image_size=48).eval()
    single.load_state_dict(both.state_dict(), strict=False)
    s1, s2 = inputs(1, 48, 48, 1)
    given = {"s1": s1} if modality == "sar" else {"s2": s2}
    out = from_layout(both.state_dict())(**given)
    expected = single(x_sar=s1) if modality == "sar" else single(x_optical=s2)
    for key, name in PAIRS.items():
        if key.startswith(modality):
            torch.testing.assert_close(getattr(out, name), expected[key], atol=1e-5, rtol=0)
    assert out.joint_tokens is None


def test_layouts_survive_a_round_trip_and_load_into_torchgeo():
    theirs = reference(dtype=torch.float32)
    ours = from_layout(theirs.state_dict())
    again = from_layout(to_layout(ours, "released"))
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))
    missing = theirs.load_state_dict(to_layout(ours, "torchgeo"), strict=False)
    assert missing.missing_keys == ["attn_bias"]
    assert missing.unexpected_keys == []


@pytest.mark.parametrize(("size", "count"), [("base", 194_365_440), ("large", 672_557_056)])
def test_number_of_parameters_is_the_released_one(size, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in CROMAEncoder(croma_spec(size)).parameters()) == count


@torch.inference_mode()
def test_turning_the_grid_turns_the_tokens():
    ours = from_layout(reference(dtype=torch.float32).state_dict())
    s1, s2 = inputs(1, 48, 80, 3)

    def transposed(x):  # of the patches, pixels inside each untouched
        return x.unflatten(2, (-1, 8)).unflatten(4, (-1, 8)).permute(0, 1, 4, 3, 2, 5).flatten(4, 5).flatten(2, 3)

    one, two = ours(s1, s2), ours(transposed(s1), transposed(s2))
    turned = two.joint_tokens.unflatten(1, (10, 6)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(turned, one.joint_tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(two.joint_gap, one.joint_gap, atol=1e-5, rtol=0)
