import pytest
import timm
import torch
from timm.layers import build_sincos2d_pos_embed

from geossl.errors import BandError, GridError
from geossl.models.encoders.conv_vit import ConvViT, MaskedConvBlock, conv_vit_spec
from geossl.models.encoders.stacked import choose_bands, pick
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.files import load_encoder, save_encoder
from geossl.models.layers.masking import enlarge, patch_shares, random_kept_ids
from geossl.models.layers.patches import sincos_positions
from geossl.models.spec import ImageGeometry
from geossl.sensors import RGB, S1, S2, SensorSpec

SMALL = {"dim": 32, "depth": 2, "heads": 2}
CONV = {"dims": [8, 16, 32], "depths": [1, 1, 2], "heads": 2}
BOTH = {"s1": S1, "s2": S2}


def flat(bands):
    """A sensor whose values are already standardised."""
    return {"x": SensorSpec(tuple(f"B{i}" for i in range(bands)), "any", "any", (0.0,) * bands, (1.0,) * bands)}


def vit(sensors=None, side=32, seed=0, **more):
    torch.manual_seed(seed)
    return ViT(
        vit_spec("nano", sensors or flat(3), ImageGeometry(window_px=side), patch_px=8, **{**SMALL, **more})
    ).eval()


def conv(sensors=None, side=32, seed=0, **more):
    torch.manual_seed(seed)
    return ConvViT(conv_vit_spec("nano", sensors or flat(3), ImageGeometry(window_px=side), **{**CONV, **more})).eval()


KINDS = pytest.mark.parametrize("make", [vit, conv], ids=["plain", "conv"])
POSITIONS = pytest.mark.parametrize("position", ["sincos", "alibi"])


def test_a_plain_vit_is_timms_with_the_same_weights():
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    ours = vit(class_token=True)
    state = {"class_token": theirs.cls_token[0, 0], "norm.weight": theirs.norm.weight, "norm.bias": theirs.norm.bias}
    state |= {"embed.weight": theirs.patch_embed.proj.weight.flatten(1), "embed.bias": theirs.patch_embed.proj.bias}
    pairs = (
        ("attention.norm", "norm1"),
        ("attention.to_qkv", "attn.qkv"),
        ("attention.to_out", "attn.proj"),
        ("feed_forward.norm", "norm2"),
        ("feed_forward.expand", "mlp.fc1"),
        ("feed_forward.contract", "mlp.fc2"),
    )
    for i in range(2):
        for mine, timms in pairs:
            for kind in ("weight", "bias"):
                state[f"blocks.{i}.{mine}.{kind}"] = theirs.get_parameter(f"blocks.{i}.{timms}.{kind}")
    ours.load_state_dict(state)
    theirs.pos_embed.data = torch.cat([torch.zeros(1, 32), sincos_positions(4, 4, 32)])[None]
    x = torch.randn(2, 3, 32, 32)
    expected = theirs.eval().forward_features(x)[:, 1:]
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=0)


def test_positions_are_maes_up_to_the_trained_grid_and_squeezed_beyond():
    """MAE: sine and cosine of the column with frequencies 10000^(-k / 8), then of the row."""
    table = sincos_positions(4, 4, 32)
    frequency = 10000.0 ** -(torch.arange(8) / 8)
    row, column = 2, 3
    expected = torch.cat([f(p * frequency) for p in (column, row) for f in (torch.sin, torch.cos)])
    torch.testing.assert_close(table[row * 4 + column], expected)
    assert torch.equal(sincos_positions(3, 4, 32, 4), sincos_positions(3, 4, 32))
    twice = sincos_positions(8, 8, 32, 4)
    inner = sincos_positions(1, 1, 32)  # position 0 lies between the first two of twice as many cells
    assert torch.linalg.norm(twice[0] - inner[0]) < torch.linalg.norm(twice[18] - inner[0])
    assert not torch.equal(twice, sincos_positions(8, 8, 32))


def test_positions_are_timms_in_another_order_of_channels():
    theirs = build_sincos2d_pos_embed([4, 6], dim=32)  # sines of row and column, then cosines
    ours = sincos_positions(4, 6, 32).unflatten(1, (2, 2, 8)).flip(1).transpose(1, 2).flatten(1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@KINDS
@POSITIONS
def test_hidden_pixels_reach_nothing_that_is_visible(make, position):
    model = make(position=position).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    ids = random_kept_ids(torch.rand(2, 16), 4)
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, ids, False).unflatten(1, (4, 4))
    out = model(x, ids)
    seen = enlarge(~hidden, 8)[:, None].expand_as(x)
    (grad,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
    assert torch.equal(grad[~seen], torch.zeros_like(grad[~seen]))
    assert (grad[seen] != 0).all()


@KINDS
@POSITIONS
def test_order_of_fed_patches_is_the_order_of_the_tokens(make, position):
    model, x = make(position=position), torch.randn(2, 3, 32, 32)
    ids = torch.tensor([[3, 9, 0, 7], [15, 2, 1, 4]])
    mixed = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(x, ids)[:, mixed], model(x, ids[:, mixed]), atol=1e-5, rtol=0)


@KINDS
@POSITIONS
def test_feeding_all_patches_is_feeding_no_ids(make, position):
    model, x = make(position=position), torch.randn(2, 3, 24, 40)
    everything = torch.arange(15).expand(2, -1)
    torch.testing.assert_close(model(x, everything), model(x), atol=1e-5, rtol=0)


def test_a_mask_is_enlarged_by_repetition():
    kept = torch.tensor([[[True, False], [False, True]]])
    by_hand = torch.tensor([[[1, 1, 1, 1, 0, 0, 0, 0]] * 4 + [[0, 0, 0, 0, 1, 1, 1, 1]] * 4], dtype=torch.bool)
    assert torch.equal(enlarge(kept, 4), by_hand)
    assert patch_shares(by_hand, 4).tolist() == [[1, 0, 0, 1]]


def test_a_masked_convolution_equals_a_slow_loop():
    torch.manual_seed(0)
    block = MaskedConvBlock(4).double()
    x, kept = torch.randn(1, 4, 6, 6, dtype=torch.float64), torch.rand(1, 6, 6) > 0.4
    u = block.project(block.norm1(x))
    spread = block.spread.bias[None, :, None, None].expand_as(u).clone()
    for r in range(6):
        for c in range(6):
            for dr in range(-2, 3):
                for dc in range(-2, 3):
                    if 0 <= r + dr < 6 and 0 <= c + dc < 6 and kept[0, r + dr, c + dc]:
                        spread[0, :, r, c] += block.spread.weight[:, 0, dr + 2, dc + 2] * u[0, :, r + dr, c + dc]
    middle = x + block.merge(spread)
    expected = middle + block.contract(torch.nn.functional.gelu(block.expand(block.norm2(middle))))
    torch.testing.assert_close(block(x, kept), expected, atol=1e-10, rtol=0)


def test_the_papers_size_has_the_papers_parts():
    """Counts of the published code at 224 px, three bands, strides 4, 2, 2."""
    with torch.device("meta"):
        model = ConvViT(conv_vit_spec("base", flat(3), ImageGeometry(window_px=224), strides=(4, 2, 2)))

    def count(*modules):
        return sum(p.numel() for m in modules for p in m.parameters())

    assert [count(e) for e in model.embeds] == [13_056, 394_368, 1_181_952]
    assert (count(model.fine), count(model.middle)) == (1_329_664, 2_977_536)
    assert (count(model.project), count(model.blocks)) == (590_592, 77_966_592)
    assert count(model.norm) == 0


@KINDS
@pytest.mark.parametrize("bands", [2, 3, 12, 14])
@pytest.mark.parametrize("size", [(120, 120), (96, 160), (224, 224)])
def test_any_bands_and_any_size_of_whole_patches(make, bands, size):
    model = make(flat(bands))
    with torch.inference_mode():
        tokens = model.tokens({"x": torch.randn(1, bands, *size)})
    assert tokens.shape == (1, size[0] // 8, size[1] // 8, 32)
    assert tokens.isfinite().all()


@KINDS
@POSITIONS
@torch.inference_mode()
def test_partly_fed_images_do_not_depend_on_their_batch(make, position):
    model = make(BOTH, position=position)
    images = {"s1": torch.randn(3, 2, 32, 32) * 4 - 12, "s2": torch.rand(3, 12, 32, 32) * 0.4}
    kept = {
        name: torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(i)) > 0.5 for i, name in enumerate(images)
    }
    kept["s1"][1], kept["s2"][1] = True, True
    kept["s1"][2], kept["s2"][2] = False, False
    tokens, pooled = model.tokens(images, kept), model.pooled(images, kept)
    fed = kept["s1"] | kept["s2"]
    assert torch.equal(tokens.isfinite().all(-1), fed)
    assert pooled.isfinite().all(-1).tolist() == [True, True, False]
    torch.testing.assert_close(pooled[0], tokens[0][fed[0]].mean(0), atol=1e-5, rtol=0)
    alone = model.tokens({n: x[:1] for n, x in images.items()}, {n: k[:1] for n, k in kept.items()})
    assert torch.equal(alone.nan_to_num(), tokens[:1].nan_to_num())
    noise = {n: torch.where(enlarge(kept[n], 8)[:, None], x, 1e6) for n, x in images.items()}
    assert torch.equal(model.tokens(noise, kept).nan_to_num(), tokens.nan_to_num())


@KINDS
@torch.inference_mode()
def test_a_missing_sensor_counts_as_its_band_means(make):
    model = make(BOTH)
    s2 = torch.rand(1, 12, 32, 32)
    mean = torch.tensor(S1.mean).view(1, 2, 1, 1).expand(1, 2, 32, 32)
    alone = model.tokens({"s2": s2})
    torch.testing.assert_close(model.tokens({"s1": mean, "s2": s2}), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.tokens({"s1": torch.full_like(mean, torch.nan), "s2": s2}), alone, atol=0, rtol=0)


@torch.inference_mode()
def test_with_alibi_a_token_depends_on_distances_only():
    """Two patches alone in a large image: moved together, they give the same vectors; with sine-cosine they do not."""
    x, here, there = torch.zeros(1, 3, 64, 64), torch.tensor([[9, 18]]), torch.tensor([[36, 45]])
    x[..., 8:16, 8:16] = x[..., 32:40, 32:40] = torch.randn(3, 8, 8)
    x[..., 16:24, 16:24] = x[..., 40:48, 40:48] = torch.randn(3, 8, 8)
    model = vit(side=64, position="alibi")
    torch.testing.assert_close(model(x, here), model(x, there), atol=1e-5, rtol=0)
    assert (vit(side=64)(x, here) - vit(side=64)(x, there)).abs().max() > 1e-2


@KINDS
def test_wrong_images_are_one_line(make):
    model = make(BOTH)
    with pytest.raises(BandError, match=r"takes s1, s2, not rgb"):
        model.tokens({"rgb": torch.zeros(1, 3, 32, 32)})
    with pytest.raises(BandError, match="s2 has 3 bands; this encoder needs 12: B01, B02"):
        model.tokens({"s2": torch.zeros(1, 3, 32, 32)})
    with pytest.raises(GridError, match="30 x 32 px; height and width must be multiples of the 8 px patch"):
        model.tokens({"s2": torch.zeros(1, 12, 30, 32)})
    with pytest.raises(GridError, match="different sizes"):
        model.tokens({"s1": torch.zeros(1, 2, 24, 24), "s2": torch.zeros(1, 12, 32, 32)})


@KINDS
@POSITIONS
def test_a_saved_encoder_gives_the_same_vectors(make, position, tmp_path):
    model = make(BOTH, position=position)
    save_encoder(tmp_path / "e.safetensors", model, {})
    images = {"s1": torch.randn(1, 2, 32, 32), "s2": torch.rand(1, 12, 32, 32)}
    again = load_encoder(tmp_path / "e.safetensors")
    assert torch.equal(again.pooled(images), model.pooled(images))
    assert again.spec == model.spec


def test_bands_are_chosen_by_name():
    batch = {"s1": torch.zeros(1, 2, 8, 8), "s2": torch.arange(12.0).view(1, 12, 1, 1).expand(1, 12, 8, 8)}
    sensor = choose_bands("s2", ("B08", "B02"))
    assert sensor.mean == (S2.mean[7], S2.mean[1])
    assert pick(batch, {"s2": sensor})["s2"][0, :, 0, 0].tolist() == [7, 1]
    assert pick(batch, {"rgb": RGB}) == {}
    with pytest.raises(BandError, match="s2 has no band B10; known: B01"):
        choose_bands("s2", ("B10",))


def test_a_class_token_needs_a_place():
    with pytest.raises(ValueError, match="class token has no place"):
        vit(class_token=True, position="alibi")
    assert vit(class_token=True)(torch.randn(1, 3, 32, 32)).shape == (1, 16, 32)
