import pytest
import timm
import torch

from geossl.api.attention import attention_profile
from geossl.errors import InputError, WeightsError
from geossl.evaluation.attention import attention_distance, normalized_mutual_information
from geossl.models.attention_maps import attention_maps
from geossl.sensors import RGB, S2
from tests.models.encoders.test_vit import conv, vit


def uniform(n):
    return torch.full((1, 1, n, n), 1 / n, dtype=torch.float64)


def half(n):
    return (uniform(n) + torch.eye(n, dtype=torch.float64)) / 2


def first_key(n):
    maps = torch.zeros(1, 1, n, n, dtype=torch.float64)
    maps[..., 0] = 1
    return maps


@pytest.mark.parametrize(
    ("side", "patch", "all_alike", "halved", "nmi", "one_key"),
    [
        (14, 16, 116.4922270918, 58.2461135459, 0.3717108041, 161.0301673851),
        (15, 8, 62.4280640475, 31.2140320237, 0.3746544195, 86.6372441029),
        (8, 1, 4.1364827114, 2.0682413557, 0.3430389425, 5.4720106597),
        (3, 1, 1.4533112733, 0.7266556366, 0.2667304772, 1.6349751825),
    ],
)
def test_both_measures_have_their_exact_values(side, patch, all_alike, halved, nmi, one_key):
    n, grid = side**2, (side, side)
    found = [float(attention_distance(maps(n), grid)) * patch for maps in (uniform, half, first_key)]
    assert found == pytest.approx([all_alike, halved, one_key], abs=1e-9)
    assert float(normalized_mutual_information(half(n))) == pytest.approx(nmi, abs=1e-9)
    assert float(normalized_mutual_information(uniform(n))) == pytest.approx(0, abs=1e-9)
    assert float(normalized_mutual_information(first_key(n))) == 0
    identity = torch.eye(n, dtype=torch.float64)[None, None]
    assert float(normalized_mutual_information(identity)) == pytest.approx(1, abs=1e-12)
    assert float(attention_distance(identity, grid)) == 0


def test_a_gaussian_of_one_patch():
    where = torch.cartesian_prod(torch.arange(14.0), torch.arange(14.0)).double()
    maps = (-torch.cdist(where, where).square() / 2).softmax(-1)[None, None]
    assert float(attention_distance(maps, (14, 14))) == pytest.approx(1.1519601749, abs=1e-9)
    assert float(normalized_mutual_information(maps)) == pytest.approx(0.4993296265, abs=1e-9)


def test_a_grid_that_is_not_square_equals_a_slow_loop():
    maps = torch.rand(2, 3, 6, 6, dtype=torch.float64).softmax(-1)
    total = torch.zeros(3, dtype=torch.float64)
    for q in range(6):
        for k in range(6):
            total += maps[:, :, q, k].mean(0) * ((q // 3 - k // 3) ** 2 + (q % 3 - k % 3) ** 2) ** 0.5 / 6
    torch.testing.assert_close(attention_distance(maps, (2, 3)), total)


def test_what_changes_nothing_changes_nothing():
    maps, mixed = torch.randn(2, 2, 12, 12, dtype=torch.float64).softmax(-1), torch.randperm(12)
    both = maps[:, :, mixed][..., mixed]
    torch.testing.assert_close(normalized_mutual_information(both), normalized_mutual_information(maps))
    flip = torch.arange(12).view(3, 4).flip(1).flatten()
    flipped = maps[:, :, flip][..., flip]
    torch.testing.assert_close(attention_distance(flipped, (3, 4)), attention_distance(maps, (3, 4)))


@pytest.mark.parametrize("position", ["sincos", "alibi"])
def test_maps_are_what_the_encoder_attends_with(position):
    model, images = vit({"rgb": RGB}, position=position), {"rgb": torch.rand(2, 3, 24, 32)}
    maps = list(attention_maps(model, images))
    assert len(maps) == 2
    assert torch.allclose(maps[0].sum(-1), torch.ones(()))
    x, positions = model.start(model.normalize(images))
    block = model.blocks[0]
    value = block.attention.split(x)[2]
    by_hand = x + block.attention.to_out((maps[0] @ value).transpose(1, 2).flatten(2))
    expected = x + block.attention(x, positions)
    torch.testing.assert_close(by_hand, expected, atol=1e-5, rtol=0)


def test_class_tokens_are_cut_and_rows_summed_to_one_again():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).eval()
    images, seen = torch.rand(1, 3, 64, 64), []
    model.blocks[3].attn.fused_attn = False
    model.blocks[3].attn.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = list(attention_maps(model, images))[3]
    theirs = seen[0][..., 1:, 1:]
    torch.testing.assert_close(found, theirs / theirs.sum(-1, keepdim=True), atol=1e-5, rtol=0)


def test_a_profile_of_ours_and_of_timm_with_a_picture(tmp_path):
    images = {"s2": torch.rand(5, 12, 32, 48)}
    ours = vit({"s2": S2})
    found = attention_profile({"a": ours, "b": ours}, images, picture=tmp_path / "p.png", batch_size=2)
    one = found["a"]
    assert one.distance_px.shape == one.nmi.shape == (2, 2)
    assert one.seen.shape == (2, 2, 4, 6)
    assert one.seen.sum((2, 3)) == pytest.approx(1, abs=1e-5)
    assert one.distance_m == pytest.approx(10 * one.distance_px)
    assert one.spread_px.shape == (2,)
    assert (tmp_path / "p.png").stat().st_size > 10_000
    whole = attention_profile(ours, images)["encoder"]
    assert whole.nmi == pytest.approx(one.nmi, abs=1e-5)
    theirs = timm.create_model("test_vit", img_size=64, num_classes=0)
    of_timm = attention_profile(theirs, torch.rand(2, 3, 64, 64))["encoder"]
    assert of_timm.nmi.shape[0] == len(theirs.blocks)
    with pytest.raises(ValueError, match="size of a pixel is not known"):
        _ = of_timm.distance_m


def test_networks_without_global_attention_are_one_line(tmp_path):
    with pytest.raises(WeightsError, match="ConvViT on dict has no global attention to look at"):
        attention_profile(conv({"rgb": RGB}), {"rgb": torch.rand(1, 3, 32, 32)})
    with pytest.raises(InputError, match="must end in .png"):
        attention_profile(vit(), {"x": torch.rand(1, 3, 32, 32)}, picture=tmp_path / "p.txt")
