import numpy as np
import pytest
import torch

from geossl.api.evaluate.settings import settings_of
from geossl.errors import InputError
from geossl.models.encoders.conv_vit import ConvViT, conv_vit_spec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.exit_resnet import ExitResNet, exit_resnet_spec
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.spec import ImageGeometry
from geossl.sensors import S2
from geossl.training.classifier import finetune_encoder
from geossl.training.early_stopping import PUBLISHED, FinetuneConfig
from geossl.training.regularizing import (
    decayed_groups,
    drop_paths,
    erased,
    layers_of,
    mixed,
    randomly_changed,
    soft_loss,
    soft_targets,
)


def vit(depth=3):
    torch.manual_seed(0)
    return ViT(vit_spec("nano", {"s2": S2}, ImageGeometry(window_px=16), patch_px=8, dim=16, depth=depth, heads=2))


def test_rates_fall_by_a_factor_per_block_towards_the_input():
    encoder = vit()
    groups = decayed_groups(encoder, 1.0, 0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {name: rate[id(p)] for name, p in encoder.named_parameters()}
    assert found["norm.weight"] == 1
    assert {found[name] for name in found if name.startswith("blocks.2.")} == {0.5}
    assert {found[name] for name in found if name.startswith("blocks.0.")} == {0.125}
    assert {found[name] for name in found if name.startswith("embed")} == {0.0625}
    decayed = {id(p) for group in groups if "weight_decay" not in group for p in group["params"]}
    assert all((p.ndim >= 2) == (id(p) in decayed) for p in encoder.parameters())
    assert len(rate) == len(list(encoder.parameters()))


def test_branches_side_by_side_share_layers_and_what_joins_them_comes_after():
    layers, head = layers_of(CROMAEncoder(croma_spec("tiny", dim=32, depth=4, heads=4)))  # radar 2, optical 4, joint 2
    of = lambda start: {layer for name, layer in layers.items() if name.startswith(start)}  # noqa: E731
    assert of("radar.embed") == of("optical.embed") == {0}
    assert of("optical.blocks.3") == {4}
    assert of("joint.blocks.0") == {5}
    assert of("joint.norm") == of("radar_gap") == {7}
    assert head == 7


def test_convolutions_before_the_blocks_are_layer_zero():
    torch.manual_seed(0)
    shape = {"dims": (8, 16, 32), "depths": (1, 1, 2), "heads": 2}
    encoder = ConvViT(conv_vit_spec("nano", {"s2": S2}, ImageGeometry(window_px=32), **shape))
    layers, head = layers_of(encoder)
    assert {layers[name] for name in layers if not name.startswith("blocks")} == {0}
    assert (max(layers.values()), head) == (2, 3)  # there is no norm after the blocks


def test_an_encoder_without_blocks_is_refused():
    with pytest.raises(InputError, match="needs an encoder of transformer blocks; exit_resnet has none"):
        layers_of(ExitResNet(exit_resnet_spec(10, width=4)))


def test_skipped_branches_leave_tokens_as_they_were_and_others_are_scaled():
    encoder, x = vit(depth=2).train(), torch.randn(400, 4, 16)
    block, first = encoder.blocks[1], encoder.blocks[0]
    added = block.attention(x, None)
    with drop_paths(encoder, 0.5, seed=0):
        assert torch.equal(first.attention(x, None), first.attention(x, None))  # of the first block none is skipped
        found = block.attention(x, None)
        kept = found.flatten(1).abs().sum(1) > 0
        assert 0.4 < kept.float().mean() < 0.6
        torch.testing.assert_close(found[kept], 2 * added[kept])
        encoder.eval()
        assert torch.equal(block.attention(x, None), added)
    assert torch.equal(block.train().attention(x, None), added)


def test_a_pasted_box_brings_its_share_of_the_label():
    zero, one = {"s2": torch.zeros(2, 10, 10)}, {"s2": torch.ones(2, 10, 10)}
    shares = []
    for seed in range(20):
        images, targets = mixed([zero, one], torch.eye(2), np.random.default_rng(seed), mixup=0.0, cutmix=1.0)
        share = float(images[0]["s2"].mean())
        assert targets[0].tolist() == pytest.approx([1 - share, share], abs=1e-6)
        assert set(images[0]["s2"].unique().tolist()) <= {0.0, 1.0}
        shares.append(share)
    assert np.std(shares) > 0.1


def test_blended_images_are_blended_as_their_labels():
    zero, one = {"s2": torch.zeros(2, 4, 4)}, {"s2": torch.ones(2, 4, 4)}
    images, targets = mixed([zero, one], torch.eye(2), np.random.default_rng(3), mixup=0.8, cutmix=0.0)
    assert 0 < float(targets[0, 1]) < 1
    torch.testing.assert_close(images[0]["s2"], targets[0, 1].expand(2, 4, 4))
    with pytest.raises(InputError, match="images of one size and the same sensors; set image_px"):
        mixed([zero, {"s2": torch.zeros(2, 8, 8)}], torch.eye(2), np.random.default_rng(0), 1.0, 0.0)


def test_an_erased_box_is_noise_of_the_bands_and_its_area_as_published():
    encoder, shares = vit(), []
    mean, std = (torch.tensor(values)[:, None, None] for values in (S2.mean, S2.std))
    image = {"s2": mean.expand(-1, 60, 60).clone()}
    image["s2"][:, :, 0] = torch.nan
    for seed in range(40):
        found = erased(encoder, image, 1.0, np.random.default_rng(seed))["s2"]
        assert found[:, :, 0].isnan().all()
        noise = ((found - mean) / std)[:, :, 1:]
        inside = noise.abs().amax(0) > 0
        shares.append(float(inside.float().mean()))
        assert abs(float(noise[:, inside].std()) - 1) < 0.1
    assert 0.01 < min(shares) < 0.06
    assert 0.25 < max(shares) < 0.36
    kept = [erased(encoder, image, 0.25, np.random.default_rng(s))["s2"] is image["s2"] for s in range(40)]
    assert 22 <= sum(kept) <= 37


def test_a_picture_is_changed_by_its_draw_and_other_bands_never():
    image = {"rgb": torch.rand(3, 24, 24), "s2": torch.rand(12, 24, 24)}
    state = torch.random.get_rng_state()
    found = [randomly_changed(image, 9, np.random.default_rng(seed)) for seed in (*range(8), 7)]
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(f["s2"] is image["s2"] and f["rgb"].min() >= 0 and f["rgb"].max() <= 1 for f in found)
    assert torch.equal(found[-1]["rgb"], found[-2]["rgb"])
    assert sum(not torch.equal(f["rgb"], image["rgb"]) for f in found[:-1]) >= 6
    image["rgb"][0, 0, 0] = torch.nan
    assert randomly_changed(image, 9, np.random.default_rng(0))["rgb"] is image["rgb"]


def test_smoothed_targets_sum_to_one_and_plain_ones_give_the_cross_entropy():
    y, logits = torch.tensor([2, 0]), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert soft_targets(y, 4, 0.1)[0].tolist() == pytest.approx([0.025, 0.025, 0.925, 0.025])
    plain = torch.nn.functional.cross_entropy(logits, y)
    assert float(soft_loss(logits, soft_targets(y, 4, 0.0), False)) == pytest.approx(float(plain))
    smooth = torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1)
    assert float(soft_loss(logits, soft_targets(y, 4, 0.1), False)) == pytest.approx(float(smooth), rel=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [("layer_decay", 0.5), ("drop_path", 0.5), ("mixup", 1.0), ("cutmix", 1.0), ("smoothing", 0.2), ("erasing", 1.0),
     ("head_norm", "layer"), ("warmup_epochs", 0)],
)  # fmt: skip
def test_every_setting_of_fine_tuning_changes_the_model(key, value):
    g = torch.Generator().manual_seed(0)
    items = [{"s2": torch.rand(12, 16, 16, generator=g)} for _ in range(12)]
    labels, part = np.arange(12) % 2, np.repeat([0, 1], [8, 4])
    states = []
    for change in ({}, {key: value}, {key: value}):
        config = FinetuneConfig(lrs=(1e-3,), epochs=1, batch_size=4, **{"warmup_epochs": 1, **change})
        model, _ = finetune_encoder(vit(), items, labels, part, 2, config, seed=0)
        states.append(torch.cat([p.detach().flatten() for p in model.encoder.parameters()]))
    assert not torch.equal(states[0], states[1])
    assert torch.equal(states[1], states[2])


def test_published_settings_are_asked_for_by_name(tmp_path):
    found = settings_of("finetune", tmp_path / "r.html", None, {"finetuning": "mae_base"}).finetune
    assert found == PUBLISHED["mae_base"]
    assert (found.lrs, found.layer_decay, found.smoothing, found.head_norm) == ((2e-3,), 0.65, 0.1, "layer")
    assert (found.erasing, found.rand_augment) == (0.25, 9)
    short = settings_of("finetune", tmp_path / "r.html", None, {"finetuning": "mae_base", "epochs": 6}).finetune
    assert (short.epochs, short.warmup_epochs, short.layer_decay) == (6, 3, 0.65)
    with pytest.raises(InputError, match="finetuning 'mae' is not known; use mae_base, mae_large"):
        settings_of("finetune", tmp_path / "r.html", None, {"finetuning": "mae"})
