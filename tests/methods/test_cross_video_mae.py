import math
from dataclasses import replace

import pytest
import torch

from geossl.errors import RunError
from geossl.methods.base import OptimConfig
from geossl.methods.cross_video_mae import CrossVideoMAE, Objective
from geossl.methods.losses import masked_mse
from geossl.methods.parts.cross_video_losses import nt_xent, patch_normalized, slot_means
from geossl.methods.parts.cross_video_views import choose_slots, choose_visible
from geossl.models.encoders.series_vit import SeriesViT, series_spec, tubelets, untubelets, valid_shares
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.spec import ImageGeometry
from geossl.sensors import SensorSpec

CONTRACT = [
    "data.batch_size=6",
    "encoder.statistics=published",
    "encoder.dim=48",
    "encoder.depth=2",
]  # recipe values for test_contract.py

OPTIM = OptimConfig("adamw", 1e-3, (0.9, 0.95), 0.01, "constant", 0, 40)
SENSORS = {"s2": SensorSpec(("B02", "B08"), "reflectance", "L2A", (0.05, 0.3), (0.03, 0.1))}
SMALL = Objective(mask_video=0.75, mask_image=0.5, decoder_dim=32, decoder_depth=1, projector_dim=16)
TERMS = ("reconstruct_video", "reconstruct_image", "intra_video", "intra_frame", "cross_video", "cross_frame")


def method_of(tubelet=1, seed=0, **changes):
    torch.manual_seed(0)
    shape = {"dim": 16, "depth": 1, "heads": 2, "patch_px": 4}
    video = SeriesViT(series_spec(SENSORS, ImageGeometry(window_px=16), tubelet=tubelet, **shape))
    image = ViT(vit_spec("nano", SENSORS, ImageGeometry(window_px=16), **shape))
    return CrossVideoMAE(video, image, OPTIM, replace(SMALL, **changes), seed=seed)


def batch_of(b=6, t=6, clouds=True):
    g = torch.Generator().manual_seed(3)
    clip = torch.rand(b, t, 2, 16, 16, generator=g) * 0.4
    if clouds:
        clip[0, 2] = torch.nan
        clip[1, 0, :, :9, :7] = torch.nan
    return {"clip": clip, "days": torch.sort(torch.rand(b, t, generator=g) * 365).values}


def drawn(method, batch):
    """The draw of a step, and what it was made from."""
    usable = valid_shares(batch["clip"], method.tubelet, 4) >= 0.5
    return method.draw(batch["clip"], usable, usable.float().mean(2) >= 0.5, method.rng()), usable


def valid_of():
    usable = torch.rand(5, 6, 16, generator=torch.Generator().manual_seed(0)) < 0.8
    usable[2, 4] = False
    return usable


def visible(kind, seed=0, ratio=0.75, usable=None):
    usable = valid_of() if usable is None else usable
    g = torch.Generator().manual_seed(seed)
    shown = choose_slots(usable.any(2), 5, torch.rand(5, 6, generator=g), torch.zeros(5, 6, dtype=torch.bool))
    ids = choose_visible(kind, usable, shown, ratio, torch.rand(usable.shape, generator=g))
    return torch.zeros(5, 96, dtype=torch.bool).scatter(1, ids, True).unflatten(1, (6, 16)), shown, ids


@pytest.mark.parametrize("kind", ["stratified", "tube", "random"])
@pytest.mark.parametrize("seed", [0, 1])
def test_visible_tokens_are_usable_equally_many_and_of_shown_slots(kind, seed):
    seen, shown, ids = visible(kind, seed)
    assert seen.flatten(1).sum(1).tolist() == [ids.shape[1]] * 5  # no id twice
    assert not (seen & ~valid_of()).any()
    assert not (seen & ~shown[..., None]).any()
    assert shown.sum(1).tolist() == [5] * 5


def test_stratified_masks_show_equally_many_in_every_slot_at_places_of_their_own():
    seen, shown, _ = visible("stratified")
    assert set(seen.sum(2)[shown].tolist()) == {4}
    assert any(not torch.equal(a, b) for a, b in zip(seen[0][shown[0]][:-1], seen[0][shown[0]][1:], strict=True))


def test_tube_masks_show_the_same_places_in_every_slot():
    seen, shown, _ = visible("tube")
    for clip, slots in zip(seen, shown, strict=True):
        assert (clip[slots] == clip[slots][0]).all()
    whole = torch.ones(5, 6, 16, dtype=torch.bool)
    seen, shown, _ = visible("tube", usable=whole)
    assert set(seen.sum(2)[shown].tolist()) == {4}


def test_random_masks_hide_the_asked_share_of_space_and_time():
    seen, _, ids = visible("random", usable=torch.ones(5, 6, 16, dtype=torch.bool))
    assert ids.shape[1] == 5 * 4
    assert len(set(seen.sum(2).flatten().tolist())) > 2


def test_a_tube_that_cannot_be_is_refused():
    usable = torch.ones(2, 2, 4, dtype=torch.bool)
    usable[0, 0, :2] = usable[0, 1, 2:] = False
    with pytest.raises(RunError, match="no patch that is valid on all dates; use stratified"):
        choose_visible("tube", usable, torch.ones(2, 2, dtype=torch.bool), 0.75, torch.rand(2, 2, 4))


def test_nt_xent_is_the_double_loop():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 5, generator=g)
    clip = torch.tensor([0, 0, 1, 1, 2, 2])
    z, total = torch.cat([a, b]), 0.0
    for i in range(12):
        partner = (i + 6) % 12
        others = [j for j in range(12) if j == partner or clip[j % 6] != clip[i % 6]]
        logits = {j: float(torch.cosine_similarity(z[i], z[j], dim=0)) / 0.3 for j in others}
        total -= logits[partner] - math.log(sum(math.exp(v) for v in logits.values()))
    assert float(nt_xent(a, b, 0.3, clip)) == pytest.approx(total / 12, abs=1e-5)


def test_nt_xent_of_orthogonal_pairs_is_known_and_order_does_not_matter():
    z, clip = torch.eye(5), torch.arange(5)
    assert float(nt_xent(z, 3 * z, 0.5, clip)) == pytest.approx(math.log(1 + 8 * math.exp(-2)), abs=1e-6)
    a, b = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 4, 1, 3])
    assert float(nt_xent(a, b, 0.1, clip)) == pytest.approx(float(nt_xent(a[order], b[order], 0.1, clip)), abs=1e-5)
    assert float(nt_xent(a[:1], b[:1], 0.1, clip[:1])) == pytest.approx(0, abs=1e-6)


def test_other_dates_of_a_clip_are_no_negatives():
    a, b = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    turned, clip = a.clone(), torch.tensor([0, 0, 1, 1])
    a[:2] = b[:2] = a[0]  # one clip whose rows are all alike
    turned[:2] = b[0]
    alike = nt_xent(a, b, 0.1, clip)
    assert float(alike) < float(nt_xent(a, b, 0.1, torch.arange(4)))


def test_error_counts_usable_numbers_of_asked_tokens():
    reconstructed, pixels = torch.zeros(1, 3, 4), torch.tensor([[[2.0] * 4, [1.0, 1, 1, 50], [9.0] * 4]])
    valid = torch.ones(1, 3, 4, dtype=torch.bool)
    valid[0, 1, 3] = False
    assert float(masked_mse(reconstructed, pixels, torch.tensor([[True, True, False]]), valid)) == 2.5
    assert float(masked_mse(reconstructed, pixels, torch.zeros(1, 3, dtype=torch.bool), valid)) == 0


def test_patch_norm_targets_have_no_brightness_and_unit_unbiased_variance():
    pixels = torch.rand(1, 2, 8, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1, 2, 8, dtype=torch.bool)
    valid[0, 1, :3] = False
    found = patch_normalized(pixels, valid)
    for token, numbers in ((0, slice(None)), (1, slice(3, None))):
        assert float(found[0, token, numbers].mean()) == pytest.approx(0, abs=1e-6)
        assert float(found[0, token, numbers].var()) == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(patch_normalized(3 * pixels + 5, valid)[valid], found[valid], rtol=0, atol=1e-3)


def test_slot_means_are_of_that_slot_alone():
    tokens = torch.arange(10.0).view(1, 5, 2)
    ids = torch.tensor([[0, 17, 3, 33, 18]])
    assert slot_means(tokens, ids, torch.tensor([[1, 0]]), 16).tolist() == [[[5.0, 6.0], [2.0, 3.0]]]


@pytest.mark.parametrize("tubelet", [1, 2])
def test_a_frame_of_the_image_branch_is_that_frame_of_the_clip(tubelet):
    method, batch = method_of(tubelet, jitter=0.0, frames_per_clip=2), batch_of()
    draw, _ = drawn(method, batch)
    for clip, frames, images in zip(batch["clip"], draw.frames, draw.images, strict=True):
        torch.testing.assert_close(images, clip[frames], equal_nan=True, rtol=0, atol=0)
    assert torch.equal(draw.views[0].nan_to_num(-1), batch["clip"].nan_to_num(-1))


def test_a_held_out_frame_is_hidden_from_the_video_branch_and_one_of_the_clip_is_shown():
    for kind, shown in (("holdout", False), ("clip", True)):
        method, batch = method_of(frame_from=kind), batch_of()
        draw, _ = drawn(method, batch)
        for ids in draw.ids:
            slots = torch.zeros(6, 6, dtype=torch.bool).scatter(1, ids // 16, True)
            assert (slots.gather(1, draw.frames) == shown).all()
        near = method.nearest(draw, batch["days"], 16)
        assert all(torch.equal(slot, draw.frames) == shown for slot in near)


def test_the_partner_of_a_held_out_frame_is_the_nearest_date_that_is_seen():
    method, batch = method_of(), batch_of()
    draw, _ = drawn(method, batch)
    for ids, near in zip(draw.ids, method.nearest(draw, batch["days"], 16), strict=True):
        for days, mine, frame, slot in zip(batch["days"], ids, draw.frames[:, 0], near[:, 0], strict=True):
            away = {int(s): abs(float(days[s] - days[frame])) for s in (mine // 16).unique()}
            assert int(slot) == min(away, key=away.get)


def test_augmented_views_keep_holes_and_stay_near():
    method, batch = method_of(jitter=0.1), batch_of()
    draw, _ = drawn(method, batch)
    raw, other = draw.views
    assert torch.equal(raw.isnan(), other.isnan())
    gain = (other[3] - raw[3]) / raw[3]
    assert 0 < gain[gain.isfinite()].abs().median() < 0.3
    step = other[3, :, 1] / raw[3, :, 1]  # a gain common to the dates, and haze per date: ratios differ by date
    assert step[0].std() > 0


def rgb_method(**changes):
    torch.manual_seed(0)
    sensors = {"rgb": SensorSpec(("red", "green", "blue"), "reflectance", "L2A", (0.4,) * 3, (0.2,) * 3)}
    shape = {"dim": 16, "depth": 1, "heads": 2, "patch_px": 4}
    video = SeriesViT(series_spec(sensors, ImageGeometry(window_px=16), tubelet=2, time="index", **shape))
    image = ViT(vit_spec("nano", sensors, ImageGeometry(window_px=16), **shape))
    return CrossVideoMAE(video, image, OPTIM, replace(SMALL, jitter=0.0, frame_from="clip", **changes))


def test_the_second_view_of_video_is_a_crop_of_the_first_enlarged():
    method = rgb_method(crop=0.5)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    clip = torch.stack([y / 15, x / 15, 0.5 + 0 * x]).expand(6, 4, 3, 16, 16)
    draw, _ = drawn(method, {"clip": clip, "days": torch.arange(4.0).expand(6, 4)})
    raw, other = draw.views
    assert torch.equal(raw, clip)
    inner = other[..., 2:-2, 2:-2]
    for channel, axis in ((0, -2), (1, -1)):  # a ramp stays a ramp, less steep: that is its scale
        steps = inner[:, :, channel].diff(dim=axis).flatten(1) * 15
        shares = steps.mean(dim=1)
        torch.testing.assert_close(steps, shares[:, None].expand_as(steps), rtol=0, atol=1e-4)
        assert (shares < 1 + 1e-5).all()
        assert shares.std() > 0.01
    area = inner[:, :, 0].diff(dim=-2).flatten(1).mean(1) * inner[:, :, 1].diff(dim=-1).flatten(1).mean(1) * 225
    assert 0.45 < float(area.min()) < float(area.max()) <= 1 + 1e-4
    assert torch.equal(other[:, 0], other[:, 3])  # all frames alike


def test_colours_of_the_second_view_change_alike_in_all_frames_and_stay_colours():
    method, g = rgb_method(colour=0.4), torch.Generator().manual_seed(0)
    clip = torch.rand(6, 1, 3, 16, 16, generator=g).expand(6, 4, 3, 16, 16)
    draw, _ = drawn(method, {"clip": clip, "days": torch.arange(4.0).expand(6, 4)})
    assert torch.equal(draw.views[1][:, 0], draw.views[1][:, 3])
    assert 0 <= float(draw.views[1].min()) < float(draw.views[1].max()) <= 1
    assert float((draw.views[1] - clip).abs().mean()) > 0.02
    assert float((draw.images[:, 0] - clip[:, 0]).abs().mean()) > 0.02


def test_gaps_are_of_the_augmented_view_alone_and_leave_dates_half_valid():
    method, batch = method_of(gaps=1.0, jitter=0.0), batch_of()
    draw, _ = drawn(method, batch)
    raw, other = draw.views
    assert torch.equal(raw.isnan(), batch["clip"].isnan())
    new = other.isnan() & ~raw.isnan()
    assert 0.1 < float(new.float().mean()) < 0.5
    valid = valid_shares(other, 1, 4) >= 0.5
    assert (valid.float().mean(2) >= 0.5).sum() == (valid_shares(raw, 1, 4) >= 0.5).float().mean(2).ge(0.5).sum()
    seen = torch.zeros(6, 96, dtype=torch.bool).scatter(1, draw.ids[1], True)
    assert not (seen & ~valid.flatten(1)).any()
    assert not drawn(method_of(gaps=0.0), batch)[0].views[1].isnan().logical_xor(raw.isnan()).any()


def test_views_see_dates_of_their_own():
    method, batch = method_of(dates=0.5), batch_of(clouds=False)
    draw, _ = drawn(method, batch)
    slots = [torch.zeros(6, 6, dtype=torch.bool).scatter(1, ids // 16, True) for ids in draw.ids]
    assert all(shown.sum(1).tolist() == [2] * 6 for shown in slots)  # half of the five beside the frame's
    assert not torch.equal(*slots)


def changed_pixels(clip, where):
    """Other pixels in the tokens of ``where`` (b s n)."""
    cut = tubelets(clip, 1, 4)
    return untubelets(torch.where(where[..., None], cut + 0.3, cut), 1, 4, (4, 4))


def test_masked_pixels_reach_no_contrast():
    method, batch = method_of(jitter=0.0).eval(), batch_of(clouds=False)
    draw, _ = drawn(method, batch)
    seen = torch.zeros(6, 96, dtype=torch.bool)
    for ids in draw.ids:
        seen.scatter_(1, ids, True)
    other = changed_pixels(batch["clip"], ~seen.unflatten(1, (6, 16)))
    changed = replace(draw, views=(other, other))
    one, two = (method.losses_of(batch["clip"], batch["days"], d) for d in (draw, changed))
    for name in TERMS[2:]:
        assert torch.equal(one[name], two[name]), name
    assert not torch.equal(one["reconstruct_video"], two["reconstruct_video"])  # the target, not the prediction


def test_missing_pixels_reach_nothing():
    method, batch = method_of(jitter=0.0), batch_of()
    cloudy = batch["clip"].isnan()
    losses = method.losses(batch)
    assert all(torch.isfinite(term) for term in losses.values())
    for filler in (0.0, 7.0):
        x = method.encoder.normalize(torch.where(cloudy, torch.nan, batch["clip"].nan_to_num(filler)))
        assert torch.equal(x, method.encoder.normalize(batch["clip"]))


def test_predictions_do_not_see_masked_pixels():
    method, batch = method_of(jitter=0.0), batch_of(clouds=False)
    draw, _ = drawn(method, batch)
    ids = draw.ids[0]
    hidden = ~torch.zeros(6, 96, dtype=torch.bool).scatter(1, ids, True)
    other = changed_pixels(batch["clip"], hidden.unflatten(1, (6, 16)))
    one, two = (
        method.decoder(method.encoder(method.encoder.normalize(x), batch["days"], ids), ids, (4, 4), batch["days"])
        for x in (batch["clip"], other)
    )
    assert torch.equal(one, two)


def test_every_token_is_visible_or_reconstructed_or_not_usable(monkeypatch):
    method, batch, asked = method_of(jitter=0.0, reconstruct_image=0.0), batch_of(), []
    draw, usable = drawn(method, batch)

    def keep(*arguments):
        asked.append(arguments[2])
        return masked_mse(*arguments)

    monkeypatch.setattr("geossl.methods.cross_video_mae.masked_mse", keep)
    method.losses_of(batch["clip"], batch["days"], draw)
    assert len(asked) == 2
    for ids, masked in zip(draw.ids, asked, strict=True):
        seen = torch.zeros_like(masked).scatter(1, ids, True)
        assert torch.equal(seen.int() + masked.int() + (~usable.flatten(1)).int(), torch.ones_like(masked).int())
        assert masked.any()


@pytest.mark.parametrize("gone", [TERMS[2:], TERMS[:1], ("reconstruct_image", "cross_video", "cross_frame"), TERMS[:4]])
def test_a_weight_of_zero_removes_its_term_and_nothing_else(gone):
    batch = batch_of()
    whole, part = method_of(), method_of(**dict.fromkeys(gone, 0.0))
    full, less = whole.losses(batch), part.losses(batch)
    assert set(less) == set(TERMS) - set(gone)
    for name, term in less.items():
        assert torch.equal(term, full[name]), name
    sum(less.values()).backward()
    sum(full[name] for name in less).backward()
    ours = dict(part.named_parameters())
    for name, p in whole.named_parameters():
        mine = ours[name].grad
        assert mine is None or torch.allclose(mine, p.grad, atol=1e-6), name
        assert mine is not None or p.grad is None or not p.grad.any(), name


def test_frames_alone_leave_the_video_branch_untrained():
    method = method_of(**dict.fromkeys(TERMS, 0.0) | {"reconstruct_image": 1.0})
    sum(method.losses(batch_of()).values()).backward()
    assert not any(p.requires_grad for p in method.encoder.parameters())
    assert all(p.grad is not None for p in method.image_encoder.parameters())


def test_a_frozen_image_branch_teaches_and_stays_as_it_is():
    method = method_of(train_image="frozen")
    before = {name: p.clone() for name, p in method.image_encoder.state_dict().items()}
    optimizer = method.optim.build(method)
    losses = method.losses(batch_of())
    assert set(losses) == set(TERMS) - {"reconstruct_image"}
    sum(losses.values()).backward()
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in method.image_encoder.state_dict().items())
    assert all(p.grad is None for p in method.image_encoder.parameters())
    assert any(p.grad.any() for p in method.project_image.parameters())


def test_one_way_contrast_gives_the_image_branch_no_gradient():
    weights = {"reconstruct_image": 0.0, "reconstruct_video": 0.0, "intra_video": 0.0, "intra_frame": 0.0}
    both, one_way = method_of(**weights), method_of(**weights, cross_gradient="video")
    for method in (both, one_way):
        sum(method.losses(batch_of()).values()).backward()
    assert any(p.grad is not None and p.grad.any() for p in both.image_encoder.parameters())
    assert all(p.grad is None for p in one_way.image_encoder.parameters())
    assert any(p.grad.any() for p in one_way.encoder.parameters())


@pytest.mark.parametrize(
    ("setting", "value", "term"),
    [
        ("mask_video", 0.5, "reconstruct_video"),
        ("mask_image", 0.75, "reconstruct_image"),
        ("mask_kind", "tube", "reconstruct_video"),
        ("mask_kind", "random", "reconstruct_video"),
        ("target", "patch_norm", "reconstruct_video"),
        ("reconstruct_video", 2.0, "reconstruct_video"),
        ("reconstruct_image", 2.0, "reconstruct_image"),
        ("intra_video", 2.0, "intra_video"),
        ("intra_frame", 2.0, "intra_frame"),
        ("cross_video", 2.0, "cross_video"),
        ("cross_frame", 2.0, "cross_frame"),
        ("temperature", 0.2, "cross_video"),
        ("frames_per_clip", 2, "cross_frame"),
        ("frame_from", "clip", "cross_frame"),
        ("jitter", 0.3, "intra_video"),
        ("gaps", 1.0, "intra_video"),
        ("dates", 0.5, "intra_video"),
        ("projector_dim", 8, "intra_video"),
        ("projector_norm", "layer", "intra_video"),
        ("decoder_dim", 64, "reconstruct_video"),
        ("decoder_depth", 2, "reconstruct_video"),
    ],
)
def test_every_setting_changes_a_loss(setting, value, term):
    plain, changed = method_of().losses(batch_of()), method_of(**{setting: value}).losses(batch_of())
    assert not torch.equal(plain[term], changed[term])


def test_gradient_reaches_every_parameter():
    method = method_of()
    sum(method.losses(batch_of()).values()).backward()
    silent = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [n for n in silent if not n.endswith(".0.bias")] == []  # a bias before a batch norm changes nothing


def test_sixty_steps_on_one_batch_reconstruct_better_and_find_the_frames():
    method, batch = method_of(frame_from="clip"), batch_of(12)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    first = None
    for _ in range(60):
        losses = method.losses(batch)
        first = first or {name: float(term.detach()) for name, term in losses.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    losses = {name: term.detach() for name, term in losses.items()}
    assert float(losses["reconstruct_video"]) < 0.7 * first["reconstruct_video"]
    assert float(losses["cross_video"]) < 0.5 * first["cross_video"]
    assert float(method.logged_scalars["retrieval"]) > 0.5


def test_clips_that_are_mostly_cloud_are_left_out_and_too_many_are_refused():
    method, batch = method_of(), batch_of()
    batch["clip"][5, 1:] = torch.nan
    method.losses(batch)
    assert float(method.logged_scalars["left_out"]) == 1
    batch["clip"][1:] = torch.nan
    with pytest.raises(RunError, match="1 of 6 clips have 2 dates that are half valid"):
        method.losses(batch)


def test_a_clip_that_stands_in_for_another_is_no_negative_of_itself():
    method, batch = method_of(jitter=0.0), batch_of(clouds=False)
    batch = {key: x[[0, 1, 2, 3, 4, 0]] for key, x in batch.items()}
    draw, _ = drawn(method, batch)
    told = method.losses_of(batch["clip"], batch["days"], draw, torch.tensor([0, 1, 2, 3, 4, 0]))
    not_told = method.losses_of(batch["clip"], batch["days"], draw)
    assert float(told["cross_video"].detach()) < float(not_told["cross_video"].detach())
    assert torch.equal(told["reconstruct_video"], not_told["reconstruct_video"])


def test_contrast_keeps_its_precision_under_autocast():
    a, b = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    plain = nt_xent(a, b, 0.1, torch.arange(8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent(a, b, 0.1, torch.arange(8)), plain)


def test_both_branches_are_exported():
    method = method_of()
    assert method.exports == {"encoder": method.encoder, "image_encoder": method.image_encoder}


@pytest.mark.parametrize("target", ["band_norm", "patch_norm"])
@pytest.mark.parametrize("tubelet", [1, 2])
def test_reconstructions_show_dates_of_the_clip_with_the_fewest_gaps(target, tubelet):
    method, batch = method_of(tubelet=tubelet, target=target), batch_of(t=8)
    before = method.losses(batch)
    (found,) = method.reconstructions(batch).values()
    clip = method.encoder.normalize(batch["clip"])[2]  # the first two have gaps
    assert torch.equal(found.truth, clip[:6, :1])  # there is no true colour with these bands
    assert found.masked.float().mean(dim=(1, 2)).tolist() == [0.75] * 6
    assert not torch.allclose(found.truth, found.found)
    assert all(torch.equal(before[name], value) for name, value in method.losses(batch).items())


def test_without_masked_video_nothing_is_shown():
    assert method_of(reconstruct_video=0.0).reconstructions(batch_of()) == {}
