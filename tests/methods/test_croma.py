import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geossl.methods.base import OptimConfig
from geossl.methods.croma import CROMA, contrastive_loss, normalized_patches, visible_patches
from geossl.methods.losses import masked_mse
from geossl.methods.parts.croma_imitation import Imitation, levels
from geossl.methods.parts.shown import denormalized
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.croma_weights import to_layout
from geossl.models.encoders.galileo import GalileoEncoder, galileo_spec
from geossl.models.layers.mae_decoder import DecoderShape, MAEDecoder
from geossl.models.layers.patches import patchify
from geossl.models.teachers import EncoderTeacher

CONTRACT = [
    "data.batch_size=4",
    "data.chip_px=32",
    "data.crop_px=null",
    "objective.decoder_dim=64",
    "encoder.statistics=ssl4eo",
]  # recipe values for test_contract.py

OPTIM = OptimConfig("adamw", 1e-3, (0.9, 0.95), 0.01, "cosine", 2, 40)


def fill(state, rng):
    """The spec's scaling rule: matrices / sqrt(columns); norm weights 1 + 0.1 t; the rest 0.1 t."""
    for name, tensor in state:
        t = rng.standard_normal(tuple(tensor.shape))
        if tensor.ndim == 2:
            t = t / math.sqrt(tensor.shape[1])
        elif name.endswith("weight"):
            t = 1 + 0.1 * t
        else:
            t = 0.1 * t
        tensor.data.copy_(torch.from_numpy(t))


def toy_encoder():
    """Width 64, depth 4, 16 heads, filled as in the golden numbers, through torchgeo's key order."""
    spec = croma_spec("tiny", window_px=120, margin_px=24, dim=64, depth=4, heads=16)
    encoder = CROMAEncoder(spec).double()
    flat = to_layout(encoder, "torchgeo")
    rng = np.random.RandomState(0)
    fill(((key, flat[key]) for key in sorted(flat) if key != "attn_bias"), rng)
    return encoder, flat


@pytest.fixture(scope="module")
def toy():
    from geossl.models.encoders.croma_weights import from_layout

    encoder, flat = toy_encoder()
    encoder = from_layout(flat, heads=16).double()
    method = CROMA(encoder, OPTIM, decoder_dim=64)
    method.decoder = MAEDecoder(64, 896, DecoderShape(32, 1, 8), style="croma")
    method = method.double()
    d, block = method.decoder, method.decoder.blocks[0]
    a, f = block.attention, block.feed_forward
    ordered = [
        ("weight2", d.project.weight), ("bias", d.project.bias), ("bias", d.mask_token),
        ("weight", a.norm.weight), ("bias", a.norm.bias), ("w", a.to_qkv.weight), ("w", a.to_out.weight),
        ("bias", a.to_out.bias), ("weight", f.norm.weight), ("bias", f.norm.bias),
        ("w", f.expand.weight), ("bias", f.expand.bias), ("w", f.contract.weight), ("bias", f.contract.bias),
        ("weight", d.norm.weight), ("bias", d.norm.bias), ("w", d.to_pixels.weight), ("bias", d.to_pixels.bias),
        ("w", method.project_s1.weight), ("bias", method.project_s1.bias),
        ("w", method.project_s2.weight), ("bias", method.project_s2.bias),
    ]  # fmt: skip
    fill(ordered, np.random.RandomState(7))
    images = torch.from_numpy(np.random.RandomState(1).random_sample((4, 14, 120, 120)))
    ids = [torch.from_numpy(np.random.RandomState(s).random_sample((4, 225))).argsort(1)[:, :56] for s in (2, 3)]
    return method, images[:, 12:], images[:, :12], ids


def norm_of_gradients(loss, module):
    grads = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(g.square().sum()) for g in grads if g is not None))


def test_losses_and_gradients_equal_the_published_toy_case(toy):
    method, s1, s2, (ids1, ids2) = toy
    assert ids1[0, :6].tolist() == [203, 188, 126, 77, 189, 81]
    losses = method.losses_of(s1, s2, ids1, ids2, torch.ones(4, 225, dtype=torch.bool))
    assert float(losses["contrast"]) == pytest.approx(1.3764768273, abs=1e-7)
    assert float(losses["reconstruct_s2"]) == pytest.approx(2.1992773166, abs=1e-7)
    assert float(losses["reconstruct_s1"]) == pytest.approx(2.1212065447, abs=1e-7)
    encoder = method.encoder
    assert norm_of_gradients(losses["contrast"], encoder.radar) == pytest.approx(0.3574628411, rel=1e-6)
    assert norm_of_gradients(losses["contrast"], encoder.optical) == pytest.approx(0.8377841288, rel=1e-6)
    reconstruct = losses["reconstruct_s1"] + losses["reconstruct_s2"]
    assert norm_of_gradients(reconstruct, encoder.radar_gap) == 0
    assert norm_of_gradients(reconstruct, encoder.radar) > 1


def test_the_published_bias_of_the_joint_encoder_gives_the_published_number(toy, monkeypatch):
    """Published code hands the joint self-attention the bias of radar queries to optical keys."""
    method, s1, s2, (ids1, ids2) = toy
    fuse = method.encoder.joint.forward
    monkeypatch.setattr(
        method.encoder.joint, "forward", lambda x, context, own, across: fuse(x, context, across, across)
    )
    losses = method.losses_of(s1, s2, ids1, ids2, torch.ones(4, 225, dtype=torch.bool))
    assert float(losses["reconstruct_s2"]) == pytest.approx(2.1993601036, abs=1e-7)
    assert float(losses["reconstruct_s1"]) == pytest.approx(2.1211167009, abs=1e-7)
    reconstruct, encoder = losses["reconstruct_s1"] + losses["reconstruct_s2"], method.encoder
    expected = ((encoder.radar, 1.2824194472), (encoder.optical, 1.6869465946), (encoder.joint, 0.9995436007))
    for module, norm in expected:
        assert norm_of_gradients(reconstruct, module) == pytest.approx(norm, rel=1e-6)


def test_the_published_gather_without_gradient_gives_the_published_gradients(toy, monkeypatch):
    method, s1, s2, (ids1, ids2) = toy
    monkeypatch.setattr("geossl.methods.croma.gather", lambda z: z.detach())
    loss = method.losses_of(s1, s2, ids1, ids2, torch.ones(4, 225, dtype=torch.bool))["contrast"]
    assert float(loss) == pytest.approx(1.3764768273, abs=1e-7)
    assert norm_of_gradients(loss, method.encoder.radar) == pytest.approx(0.1518325341, rel=1e-6)
    assert norm_of_gradients(loss, method.encoder.optical) == pytest.approx(0.6238646641, rel=1e-6)


def test_order_of_visible_patches_does_not_matter(toy):
    method, s1, s2, (ids1, ids2) = toy
    everywhere = torch.ones(4, 225, dtype=torch.bool)
    mixed = torch.randperm(56, generator=torch.Generator().manual_seed(0))
    one = method.losses_of(s1, s2, ids1, ids2, everywhere)
    two = method.losses_of(s1, s2, ids1[:, mixed], ids2[:, mixed.flip(0)], everywhere)
    for name in one:
        assert float(one[name]) == pytest.approx(float(two[name]), abs=1e-12)


def test_pixels_hidden_from_both_sensors_do_not_reach_the_contrast(toy):
    method, s1, s2, (ids1, ids2) = toy
    hidden = torch.ones(4, 225, dtype=torch.bool).scatter(1, ids1, False).scatter(1, ids2, False)
    pixels = hidden.view(4, 1, 15, 15).repeat_interleave(8, 2).repeat_interleave(8, 3)
    everywhere = torch.ones(4, 225, dtype=torch.bool)
    before = method.losses_of(s1, s2, ids1, ids2, everywhere)["contrast"]
    after = method.losses_of(s1 + pixels * 0.3, s2 + pixels * 0.3, ids1, ids2, everywhere)["contrast"]
    assert torch.equal(before, after)


def test_patches_with_unusable_pixels_are_not_asked_for(toy):
    method, s1, s2, (ids1, ids2) = toy
    valid = torch.ones(4, 225, dtype=torch.bool)
    masked = torch.ones_like(valid).scatter(1, ids2, False)
    patch = int(masked[0].nonzero()[0])
    valid[0, patch] = False
    with_it = method.losses_of(s1, s2, ids1, ids2, torch.ones_like(valid))["reconstruct_s2"]
    without = method.losses_of(s1, s2, ids1, ids2, valid)["reconstruct_s2"]
    total, count = float(with_it) * masked.sum(), masked.sum()
    dropped = total - float(without) * (count - 1)
    assert with_it != without
    assert 0 < dropped < 10  # one patch's error, of the size of the others


def test_contrast_is_log_of_batch_size_when_nothing_is_known():
    z = torch.ones(8, 4) / 2
    assert float(contrastive_loss(z, z, torch.tensor(10.0))) == pytest.approx(math.log(8), abs=1e-6)


def test_contrast_is_zero_when_partners_are_found_without_doubt():
    z = torch.eye(8)
    assert float(contrastive_loss(z, z, torch.tensor(100.0))) < 1e-6


def test_separate_targets_standardise_each_sensor_and_joint_targets_do_not():
    g = torch.Generator().manual_seed(0)
    s1, s2 = torch.rand(2, 3, 128, generator=g) * 0.1, torch.rand(2, 3, 768, generator=g) + 5
    own1, own2 = normalized_patches(s1, s2, separate=True)
    assert own1.mean(-1).abs().max() < 1e-3
    assert own2.var(-1).sub(1).abs().max() < 1e-3
    joint1, _ = normalized_patches(s1, s2, separate=False)
    assert joint1.mean() < -1


def test_masked_error_counts_asked_patches_only():
    reconstructed, target = torch.zeros(1, 2, 4), torch.tensor([[[2.0] * 4, [9.0] * 4]])
    assert float(masked_mse(reconstructed, target, torch.tensor([[True, False]]))) == 4.0
    assert float(masked_mse(reconstructed, target, torch.tensor([[False, False]]))) == 0.0


def small_method(seed=0, **objective):
    torch.manual_seed(seed)
    encoder = CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=8))
    return CROMA(encoder, OPTIM, decoder_dim=64, seed=seed, **objective)


def small_batch():
    g = torch.Generator().manual_seed(1)
    return {
        "s1": torch.randn(6, 2, 48, 48, generator=g) * 4 - 14,
        "s2": torch.rand(6, 12, 48, 48, generator=g) * 0.4,
        "valid": torch.ones(6, 48, 48, dtype=torch.bool),
    }


def test_thirty_steps_on_one_batch_halve_the_contrast():
    method, batch = small_method(), small_batch()
    optimizer = method.optim.build(method)
    first = None
    for _ in range(30):
        losses = method.losses(batch)
        first = first or float(losses["contrast"])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert float(losses["contrast"]) < 0.5 * first


def test_same_seed_same_loss_and_other_seed_other_masks():
    batch = small_batch()
    method = small_method()
    one, two = method.losses(batch), method.losses(batch)
    assert all(torch.equal(one[k], two[k]) for k in one)
    method.seed = 1
    assert not torch.equal(method.losses(batch)["reconstruct_s2"], one["reconstruct_s2"])


@pytest.mark.parametrize(
    ("setting", "value", "term"),
    [
        ("mask_ratio", 0.5, "reconstruct_s2"),
        ("contrast_weight", 2.0, "contrast"),
        ("reconstruct_weight", 3.0, "reconstruct_s1"),
        ("separate_targets", True, "reconstruct_s1"),
        ("max_logit_scale", 1.0, "contrast"),
        ("decoder_depth", 2, "reconstruct_s2"),
    ],
)
def test_every_setting_changes_the_loss(setting, value, term):
    plain, changed = small_method().losses(small_batch()), small_method(**{setting: value}).losses(small_batch())
    assert not torch.equal(plain[term], changed[term])


def test_gradient_reaches_every_parameter():
    method = small_method()
    sum(method.losses(small_batch()).values()).backward()
    assert [n for n, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_rate_warms_up_and_ends_at_zero():
    rates = [OPTIM.rate(s) for s in range(41)]
    assert rates[0] == 0.5
    assert max(rates) == rates[2] == 1.0
    assert rates[40] == pytest.approx(0, abs=1e-9)
    assert OptimConfig("sgd", 1.0, (0.9, 0.9), 0.0, "constant", 0, 10).rate(9) == 1.0


def test_biases_norms_and_temperature_are_not_decayed():
    method = small_method()
    decayed, plain = method.optim.build(method).param_groups
    assert decayed["weight_decay"] == 0.01
    assert plain["weight_decay"] == 0
    ids = {id(p) for p in plain["params"]}
    assert id(method.log_scale) in ids
    assert id(method.decoder.mask_token) in ids


def test_contrast_is_computed_in_float32_under_autocast():
    g = torch.Generator().manual_seed(0)
    z1, z2 = (F.normalize(torch.randn(16, 32, generator=g), dim=1) for _ in range(2))
    scale = torch.tensor(100.0)
    rows = [[float((z1[i] * z2[j]).sum()) for j in range(16)] for i in range(16)]
    there = [math.log(sum(math.exp(100 * v) for v in rows[i])) - 100 * rows[i][i] for i in range(16)]
    back = [math.log(sum(math.exp(100 * rows[i][j]) for i in range(16))) - 100 * rows[j][j] for j in range(16)]
    expected = (sum(there) + sum(back)) / 32
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_loss(z1, z2, scale)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_patches_with_too_few_valid_pixels_are_not_fed(monkeypatch):
    method, batch = small_method(), small_batch()
    bad = torch.tensor([0, 7, 11, 35])  # of 6 x 6 patches
    for patch in bad.tolist():
        row, column = 8 * (patch // 6), 8 * (patch % 6)
        batch["valid"][:, row : row + 8, column : column + 2] = False  # three quarters are left
    seen = []

    def keep(s1, s2, ids1, ids2, valid, counts):
        assert counts.all()
        seen.extend([ids1, ids2, valid])
        return {}

    monkeypatch.setattr(method, "losses_of", keep)
    for seed in range(20):
        method.seed = seed
        method.losses(batch)
    for ids in (seen[0::3], seen[1::3]):
        fed = torch.cat(ids)
        assert not torch.isin(fed, bad).any()
        assert fed.shape[1] == 9  # a quarter of all patches, as without holes
    assert all(not valid[:, bad].any() and int(valid.sum()) == 6 * 32 for valid in seen[2::3])


def test_a_chip_under_clouds_enters_no_loss_and_takes_no_sight_from_the_others():
    usable = [[36, 36], [36, 6], [36, 5], [4, 3], [0, 0]]
    assert [visible_patches(torch.tensor(u), 9)[0] for u in usable] == [9, 5, 9, 2, 1]
    assert visible_patches(torch.tensor([36, 5, 0]), 9)[1].tolist() == [True, False, False]
    assert visible_patches(torch.tensor([4, 3]), 9)[1].all()
    method, batch = small_method(), small_batch()
    cloudy = {name: x.clone() for name, x in batch.items()}
    cloudy["valid"][1, :40] = cloudy["valid"][1, :, 40:] = False  # 5 of 36 patches are left
    seen = {}
    hook = method.encoder.register_forward_pre_hook(lambda _, args: seen.update(ids=args[2]))
    found = method.losses(cloudy)
    hook.remove()
    assert seen["ids"].shape == (len(batch["s1"]), 9)
    cloudy["s1"][1], cloudy["s2"][1] = -3.0, 0.7  # whatever it holds
    for name, value in method.losses(cloudy).items():
        torch.testing.assert_close(value, found[name], rtol=0, atol=0)


def test_contrast_of_chips_that_count_is_a_loop_over_them():
    g = torch.Generator().manual_seed(3)
    z1, z2 = (F.normalize(torch.randn(6, 5, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    rows = [0, 2, 3, 5]
    total = 0.0
    for a, b in ((z1, z2), (z2, z1)):
        for i in rows:
            logits = [7 * float(a[i] @ b[j]) for j in rows]
            total += math.log(sum(map(math.exp, logits))) - 7 * float(a[i] @ b[i])
    counts = torch.zeros(6, dtype=torch.bool).index_fill(0, torch.tensor(rows), True)
    scale = torch.tensor(7.0, dtype=torch.float64)
    assert float(contrastive_loss(z1, z2, scale, counts)) == pytest.approx(total / 8, rel=1e-12)
    everyone = contrastive_loss(z1, z2, scale)
    assert torch.equal(contrastive_loss(z1, z2, scale, torch.ones(6, dtype=torch.bool)), everyone)


def test_targets_keep_the_level_they_are_asked_to_keep():
    g = torch.Generator().manual_seed(0)
    s1, s2 = torch.rand(2, 2, 16, 16, generator=g), torch.rand(2, 3, 16, 16, generator=g)
    s2[0, :, :8, :8] += 5  # a bright patch, and
    s2[1] += 3  # a bright chip
    valid = torch.ones(2, 4, dtype=torch.bool)
    valid[1, 3] = False
    levels = {}
    for norm in ("patch", "chip_band", "none"):
        found = small_method(pixel_norm=norm, separate_targets=True).targets(s1, s2, valid)[1].unflatten(-1, (3, 64))
        levels[norm] = found.mean(dim=(2, 3))
        if norm == "chip_band":
            for chip, band in ((0, 0), (0, 2), (1, 1)):
                numbers = torch.cat([found[chip, n, band] for n in range(4) if valid[chip, n]])
                assert float(numbers.mean()) == pytest.approx(0, abs=1e-5)
                assert float(numbers.var(unbiased=False)) == pytest.approx(1, abs=1e-3)
    assert levels["patch"].abs().max() < 1e-4
    assert levels["chip_band"][0, 0] > levels["chip_band"][0, 1] + 2
    assert levels["chip_band"][1, :3].abs().max() < 0.2
    assert levels["none"][1].min() > 3


@pytest.fixture(scope="module")
def taught():
    """A toy CROMA with a random Galileo as teacher, and a batch in physical units without B01."""
    encoder = CROMAEncoder(croma_spec("tiny", dim=32, depth=2, heads=4))
    teacher = EncoderTeacher(GalileoEncoder(galileo_spec()).eval())
    rng = torch.Generator().manual_seed(0)
    s2 = 0.2 + 0.1 * torch.rand(3, 12, 32, 24, generator=rng)
    s2[:, 0] = torch.nan
    batch = {"s1": -12 + 3 * torch.randn(3, 2, 32, 24, generator=rng), "s2": s2}
    batch["valid"] = torch.ones(3, 32, 24, dtype=torch.bool)
    batch["valid"][1, :8, :8] = False
    torch.manual_seed(0)
    return CROMA(encoder, OPTIM, decoder_dim=64, imitation=Imitation(encoder, teacher, 2.0, 0.5)), batch


def test_imitation_is_the_smooth_error_of_every_standardised_number(taught):
    method, batch = taught
    terms = method.losses(batch)
    images = method.encoder.normalize({"s1": batch["s1"], "s2": batch["s2"]})
    out, head = method.encoder(images["s1"], images["s2"]), method.imitation.features
    errors = []
    for name, tokens, seen in (("optical", out.s2_tokens, ("s2",)), ("joint", out.joint_tokens, ("s1", "s2"))):
        target = method.imitation.teacher.features({s: batch[s] for s in seen}, (4, 3))
        keep = [(b, n) for b in range(3) for n in range(12) if (b, n) != (1, 0)]
        wanted = torch.stack([target[b, n] for b, n in keep])
        wanted = (wanted - wanted.mean(0)) / (wanted.var(0, correction=0) + 1e-6).sqrt()
        found = torch.stack([head[name](tokens[b, n]) for b, n in keep])
        errors.append(F.smooth_l1_loss(found, wanted))
    torch.testing.assert_close(terms["imitate"], 2.0 * sum(errors) / 2)
    assert set(terms) == {"imitate", "levels", "contrast", "reconstruct_s1", "reconstruct_s2"}


def test_levels_are_mean_spread_and_surroundings_of_each_band():
    pixels = torch.rand(1, 2, 32, 24)
    pixels[0, 1, 0, 0] = torch.nan
    found = levels(pixels, 8)[0].unflatten(0, (4, 3))
    patch = pixels[0, :, 8:16, 8:16]
    torch.testing.assert_close(found[1, 1, :2], patch.mean((1, 2)))
    torch.testing.assert_close(found[1, 1, 2:4], patch.std((1, 2), correction=0))
    torch.testing.assert_close(found[3, 2, 4:], pixels[0, :, 16:32, 8:24].mean((1, 2)))
    assert found[0, 0].isnan().tolist() == [False, True] * 3
    torch.testing.assert_close(
        found[1, 1, 5], torch.cat([pixels[0, 1, :24, :24].flatten()[8:]]).nanmean(), atol=0.02, rtol=0
    )


def test_a_teacher_is_neither_trained_nor_saved(taught):
    method, batch = taught
    before = [p.clone() for p in method.imitation.teacher.model.parameters()]
    sum(method.losses(batch).values()).backward()
    assert all(p.grad is None for p in method.imitation.teacher.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, method.imitation.teacher.model.parameters(), strict=True))
    assert not any("teacher" in name for name in method.state_dict())
    assert method.encoder.joint.blocks[0].feed_forward.expand.weight.grad.abs().sum() > 0


def test_without_teacher_and_levels_weights_and_losses_are_the_paper_s(taught):
    _, batch = taught
    batch = {**batch, "s2": batch["s2"].nan_to_num(nan=0.1)}

    def losses(levels):
        torch.manual_seed(3)
        method = CROMA(CROMAEncoder(croma_spec("tiny", dim=32, depth=2, heads=4)), OPTIM, decoder_dim=64)
        method.imitation = Imitation(method.encoder, None, level_weight=1.0) if levels else None
        return method.losses(batch)

    plain, more = losses(False), losses(True)
    assert set(plain) == {"contrast", "reconstruct_s1", "reconstruct_s2"}
    assert all(torch.equal(plain[name], more[name]) for name in plain)


@pytest.mark.parametrize("separate", [True, False])
def test_fused_targets_are_the_same_but_for_rounding(separate):
    draw = torch.Generator().manual_seed(0)
    s1, s2 = (torch.rand(2, 5, n, generator=draw) for n in (128, 768))
    s1[0, 0], s2[0, 0] = 0.5, 0.5  # a patch without contrast
    for plain, fused in zip(*(normalized_patches(s1, s2, separate, fused=f) for f in (False, True)), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pixel_norm", ["patch", "chip_band", "none"])
def test_targets_are_shown_in_the_scaling_of_the_images(pixel_norm):
    method = small_method(pixel_norm=pixel_norm)
    images = method.encoder.normalize({name: small_batch()[name] for name in ("s1", "s2")})
    valid = torch.ones(images["s1"].shape[0], 36, dtype=torch.bool)
    for target, (name, bands) in zip(
        method.targets(images["s1"], images["s2"], valid), (("s1", 2), ("s2", 12)), strict=True
    ):
        patches = patchify(images[name], 8)
        torch.testing.assert_close(denormalized(target, target, patches, bands), patches, atol=1e-4, rtol=1e-4)


def test_reconstructions_show_hidden_patches_and_leave_the_method_as_it_was():
    method, batch = small_method(), small_batch()
    before = method.losses(batch)
    shown = method.reconstructions(batch)
    assert [x.truth.shape[1] for x in shown.values()] == [1, 3]
    for found in shown.values():
        assert found.masked.float().mean() == pytest.approx(0.75)
        assert found.truth.shape == found.found.shape
        assert not torch.allclose(found.truth, found.found)
    assert all(torch.equal(before[name], value) for name, value in method.losses(batch).items())
