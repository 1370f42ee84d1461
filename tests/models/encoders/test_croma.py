import pytest
import torch

from geossl.errors import BandError, GridError
from geossl.models.encoder import DenseSpec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.layers import attention
from geossl.models.layers.alibi import alibi_bias, alibi_slopes, grid_coordinates
from geossl.models.layers.attention import Positions, attend, attend_blocks, attend_flex, attend_whole, choose_path
from geossl.models.layers.masking import random_kept_ids
from geossl.models.layers.normalize import ClippedRange
from geossl.models.layers.patches import patchify, sincos_positions, unpatchify
from geossl.sensors import SensorSpec

SENSORS = ("s1", "s2")


def tiny(position="alibi"):
    torch.manual_seed(0)
    spec = croma_spec("tiny", window_px=48, margin_px=8, position=position, dim=32, depth=2, heads=8)
    return CROMAEncoder(spec).eval()


def scene(b=2, h=32, w=48):
    g = torch.Generator().manual_seed(1)
    return {"s1": torch.randn(b, 2, h, w, generator=g) * 4 - 14, "s2": torch.rand(b, 12, h, w, generator=g) * 0.4}


def some_kept(b=2, gh=4, gw=6, share=0.5):
    g = torch.Generator().manual_seed(2)
    return {name: torch.rand(b, gh, gw, generator=g) < share for name in SENSORS}


def test_patches_are_channel_row_column_in_row_major_order():
    ramp = 1000 * torch.arange(2).view(2, 1, 1) + 16 * torch.arange(16).view(16, 1) + torch.arange(16)
    patches = patchify(ramp[None].float(), 8)
    assert patches[0, 0, :9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 16]
    assert patches[0, 0, 64] == 1000
    assert patches[0, 1:3, 0].tolist() == [8, 128]
    assert torch.equal(unpatchify(patches, 8, (2, 2))[0], ramp.float())


def test_unpatchify_undoes_an_oblong_grid():
    x = torch.randn(2, 3, 16, 40)
    assert torch.equal(unpatchify(patchify(x, 8), 8, (2, 5)), x)


def test_position_table_has_the_published_values():
    table = sincos_positions(15, 15, 512)
    assert table[1, :3].tolist() == pytest.approx([0.84147098, 0.80196180, 0.76172041], abs=1e-7)
    assert table[1, 128:130].tolist() == pytest.approx([0.54030231, 0.59737533], abs=1e-7)
    assert table[15, 0] == 0
    assert table[15, 256] == pytest.approx(0.84147098, abs=1e-7)


def test_bias_of_kept_patches_is_the_slice_of_the_whole():
    where, slopes = grid_coordinates(5, 7), alibi_slopes(8)
    rows, columns = torch.tensor([3, 30, 11]), torch.tensor([0, 34])
    whole = alibi_bias(where, where, slopes)
    assert torch.equal(alibi_bias(where[rows], where[columns], slopes), whole[:, rows][:, :, columns])


def test_bias_is_not_in_the_state():
    assert not [k for k in tiny().state_dict() if "bias" in k and "norm" not in k and tiny().state_dict()[k].ndim > 1]


@pytest.mark.parametrize("way", [attend_blocks, lambda *a: attend_flex(*a, compiled=False)])
def test_every_way_to_attend_gives_the_same(way, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_NUMBERS", 500)
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 8, n, 16, generator=g) for n in (24, 24, 24))
    where = grid_coordinates(4, 6)
    positions = Positions(where, where, alibi_slopes(8))
    torch.testing.assert_close(way(q, k, v, positions), attend_whole(q, k, v, positions), atol=1e-5, rtol=1e-5)


def test_attention_is_softmax_of_scaled_scores_plus_bias():
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 6, 4, generator=g).double()
    where = grid_coordinates(2, 3)
    bias = alibi_bias(where, where, alibi_slopes(2)).double()
    expected = ((q @ k.transpose(-1, -2)) / 2 + bias).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, Positions(where, where, alibi_slopes(2))), expected)


def test_large_grids_never_hold_the_whole_bias():
    assert choose_path("cuda", 2**27, grad=True) == "flex"
    assert choose_path("cpu", 2**27, grad=False) == "blocks"
    assert choose_path("cpu", 2**20, grad=False) == choose_path("cuda", 2**20, grad=True) == "whole"


@torch.inference_mode()
def test_patches_that_are_not_fed_cost_nothing_and_influence_nothing():
    encoder, images, kept = tiny(), scene(), some_kept()
    tokens = encoder.tokens(images, kept)
    unseen = {n: ~k.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None] for n, k in kept.items()}
    changed = {n: torch.where(unseen[n], torch.nan, x) for n, x in images.items()}
    assert torch.equal(tokens.nan_to_num(7), encoder.tokens(changed, kept).nan_to_num(7))
    assert torch.equal(torch.isnan(tokens[..., 0]), ~(kept["s1"] | kept["s2"]))


@torch.inference_mode()
def test_feeding_a_subset_equals_the_masked_forward_of_pretraining():
    encoder, images, kept = tiny(), scene(), some_kept()
    tokens, scaled = encoder.tokens(images, kept), encoder.normalize(images)
    for i in range(2):
        ids = {f"{n}_ids": kept[n][i].flatten().nonzero().T for n in SENSORS}
        out = encoder(scaled["s1"][i : i + 1], scaled["s2"][i : i + 1], **ids)
        flat = tokens[i].flatten(0, 1)
        assert torch.equal(flat[ids["s1_ids"][0]], out.joint_tokens[0])
        optical_only = (kept["s2"][i] & ~kept["s1"][i]).flatten()
        assert torch.equal(flat[optical_only], out.s2_tokens[0][~torch.isin(ids["s2_ids"][0], ids["s1_ids"][0])])


@torch.inference_mode()
def test_a_sample_does_not_depend_on_its_batch():
    encoder, images, kept = tiny(), scene(), some_kept()
    kept["s1"][0] = kept["s2"][0] = True
    together = encoder.tokens(images, kept)
    for i in range(2):
        alone = encoder.tokens({n: x[i : i + 1] for n, x in images.items()}, {n: k[i : i + 1] for n, k in kept.items()})
        assert torch.equal(together[i].nan_to_num(7), alone[0].nan_to_num(7))


@pytest.mark.parametrize("position", ["alibi", "sincos"])
@torch.inference_mode()
def test_order_of_fed_patches_does_not_matter(position):
    encoder, scaled = tiny(position), tiny().normalize(scene(1))
    ids = torch.tensor([[3, 9, 0, 17, 5]])
    mixed = torch.tensor([4, 2, 0, 1, 3])
    one = encoder(scaled["s1"], scaled["s2"], ids, ids).joint_tokens
    two = encoder(scaled["s1"], scaled["s2"], ids[:, mixed], ids).joint_tokens
    torch.testing.assert_close(one[:, mixed], two, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_moving_all_patches_leaves_alibi_alone_and_changes_sincos():
    scaled = tiny().normalize(scene(1))
    for position, is_same in (("alibi", True), ("sincos", False)):
        encoder = tiny(position)
        one = encoder(scaled["s1"], None, torch.tensor([[0, 1, 6, 7]])).s1_gap
        moved = scaled["s1"].roll((8, 16), (2, 3))
        two = encoder(moved, None, torch.tensor([[8, 9, 14, 15]])).s1_gap
        assert torch.allclose(one, two, atol=1e-5) == is_same


@torch.inference_mode()
def test_one_sensor_gives_tokens_of_that_sensor():
    encoder, images = tiny(), scene()
    out = encoder(**encoder.normalize(images))
    for name, tokens, gap in (("s1", out.s1_tokens, out.s1_gap), ("s2", out.s2_tokens, out.s2_gap)):
        only = {name: images[name]}
        torch.testing.assert_close(encoder.tokens(only).flatten(1, 2), tokens)
        torch.testing.assert_close(encoder.pooled(only), gap)


@torch.inference_mode()
def test_a_sample_without_a_sensor_takes_the_other_sensors_branch():
    encoder, images, kept = tiny(), scene(3), some_kept(3)
    kept["s2"][0], kept["s1"][1] = False, False
    tokens, pooled = encoder.tokens(images, kept), encoder.pooled(images, kept)
    for row, name in ((0, "s1"), (1, "s2")):
        one = {name: images[name][row : row + 1]}, {name: kept[name][row : row + 1]}
        assert torch.equal(tokens[row].nan_to_num(7), encoder.tokens(*one)[0].nan_to_num(7))
        assert torch.equal(pooled[row], encoder.pooled(*one)[0])


@torch.inference_mode()
def test_a_sample_without_any_fed_patch_is_nan():
    encoder, images, kept = tiny(), scene(), some_kept()
    kept["s1"][1] = kept["s2"][1] = False
    tokens, pooled = encoder.tokens(images, kept), encoder.pooled(images, kept)
    assert torch.isnan(tokens[1]).all()
    assert torch.isnan(pooled[1]).all()
    assert torch.isfinite(pooled[0]).all()


def test_range_maps_two_deviations_to_zero_and_one_and_fills_nan():
    x = torch.tensor([-99.0, 3.0, 7.0, 99.0, torch.nan]).view(1, 1, 1, 5)
    assert ClippedRange([5.0], [2.0])(x).flatten().tolist() == [0, 0.25, 0.75, 1, 0.5]


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ({}, GridError, "no image given"),
        ({"s1": torch.zeros(1, 2, 30, 32)}, GridError, "30 x 32 px; height and width must be multiples of the 8 px"),
        ({"s1": torch.zeros(1, 2, 32, 32), "s2": torch.zeros(1, 12, 64, 32)}, GridError, "resample them to one grid"),
        ({"s2": torch.zeros(1, 13, 32, 32)}, BandError, "s2 has 13 bands; this encoder needs 12: B01"),
    ],
)
def test_wrong_images_are_refused_at_the_door(images, error, message):
    with pytest.raises(error, match=message):
        tiny()(**images)


def test_an_unknown_sensor_is_named():
    with pytest.raises(BandError, match="unknown sensor \\['dem'\\]"):
        tiny().tokens({"dem": torch.zeros(1, 1, 8, 8)})


def test_masks_are_drawn_by_least_noise():
    noise = torch.tensor([[0.4, 0.1, 0.3, 0.2]])
    assert random_kept_ids(noise, 2).tolist() == [[1, 3]]
    for keep in (0, 4):
        with pytest.raises(ValueError, match="leaves none visible or none hidden"):
            random_kept_ids(noise, keep)


def test_a_spec_survives_json_and_refuses_nonsense():
    spec = croma_spec("tiny")
    assert DenseSpec.from_dict(spec.to_dict()) == spec
    assert spec.patch_m == 80
    with pytest.raises(ValueError, match="multiples of patch_px"):
        croma_spec("tiny", window_px=100)
    with pytest.raises(ValueError, match="leaves nothing"):
        croma_spec("tiny", window_px=48, margin_px=24)
    with pytest.raises(ValueError, match="need one each"):
        SensorSpec(("VV",), "dB", "GRD", (1.0, 2.0), (1.0,))
    with pytest.raises(ValueError, match="positive"):
        SensorSpec(("VV",), "dB", "GRD", (1.0,), (0.0,))


def at_patches(images, rows, columns):
    """The images cut to some patches."""
    return {n: x[:, :, 8 * rows.start : 8 * rows.stop, 8 * columns.start : 8 * columns.stop] for n, x in images.items()}


@torch.inference_mode()
def test_local_tokens_that_reach_everything_are_the_published_ones():
    encoder, images = tiny().double(), {n: x.double() for n, x in scene().items()}
    torch.testing.assert_close(encoder.local_tokens(images, None, 6), encoder.tokens(images), atol=1e-10, rtol=0)
    kept = {n: k | (torch.arange(6) < 3) for n, k in some_kept().items()}  # both sensors within reach everywhere
    local, full = encoder.local_tokens(images, kept, 6), encoder.tokens(images, kept)
    torch.testing.assert_close(local, full, atol=1e-10, rtol=0, equal_nan=True)


@torch.inference_mode()
def test_a_local_token_sees_as_far_as_its_layers_reach_and_no_farther():
    encoder, images = tiny().double(), {n: x.double() for n, x in scene(1, 40 * 8, 40 * 8).items()}
    cone = 3 * (2 + 1)  # two optical blocks, and one cross-attention
    whole = encoder.local_tokens(images, None, 3)
    part = encoder.local_tokens(at_patches(images, slice(5, 40), slice(8, 40)), None, 3)
    torch.testing.assert_close(part[:, cone:, cone:], whole[:, 5 + cone :, 8 + cone :], atol=1e-12, rtol=0)
    assert not torch.allclose(part[:, 0, 0], whole[:, 5, 8], atol=1e-4)


@torch.inference_mode()
def test_local_patches_that_are_not_fed_influence_nothing():
    encoder, images, kept = tiny(), scene(), some_kept()
    tokens = encoder.local_tokens(images, kept, 2)
    unseen = {n: ~k.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None] for n, k in kept.items()}
    changed = {n: torch.where(unseen[n], torch.nan, x) for n, x in images.items()}
    assert torch.equal(tokens.nan_to_num(7), encoder.local_tokens(changed, kept, 2).nan_to_num(7))
    assert torch.equal(torch.isnan(tokens[..., 0]), ~(kept["s1"] | kept["s2"]))


@torch.inference_mode()
def test_radar_without_optical_within_reach_is_the_radar_encoders():
    encoder, images = tiny(), scene(1, 8, 20 * 8)
    fed = torch.arange(20)[None, None] < 5
    tokens = encoder.local_tokens(images, {"s2": fed}, 3)
    radar = encoder.local_tokens({"s1": images["s1"]}, None, 3)
    assert torch.equal(tokens[:, :, 8:], radar[:, :, 8:])
    assert not torch.allclose(tokens[:, :, 7], radar[:, :, 7], atol=1e-3)


def test_absolute_positions_need_whole_windows():
    with pytest.raises(GridError, match="absolute positions, which need whole windows; use reach=None"):
        tiny("sincos").local_tokens(scene(), None, 7)
    with pytest.raises(GridError, match="reach 0 is not a number of patches"):
        tiny().local_tokens(scene(), None, 0)
