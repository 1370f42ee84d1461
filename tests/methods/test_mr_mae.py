import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import nn

import geossl
from geossl import recipe
from geossl.data.sentinel.aligned import SAMPLE
from geossl.data.sentinel.batches import SentinelChips
from geossl.errors import InputError, MissingFileError, Note, RecipeError, RunError
from geossl.methods.base import OptimConfig
from geossl.methods.losses import feature_loss, masked_mse, normalized_features
from geossl.methods.mr_mae import MRMAE, pixel_targets, split_patches
from geossl.methods.valid import valid_images
from geossl.models.encoders.conv_vit import ConvViT
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import provenance, save_encoder
from geossl.models.layers.mae_decoder import DecoderShape
from geossl.models.layers.masking import take
from geossl.models.layers.patches import patchify
from geossl.models.spec import Provenance
from geossl.models.teachers import EncoderTeacher, Teacher
from geossl.sensors import RGB, S1, S2
from tests import landsat
from tests.models.encoders.test_vit import conv, vit

CONTRACT = [
    "data.batch_size=4",
    "data.chip_px=32",
    "data.crop_px=null",
    "encoder.statistics=published",
    "objective.decoder_dim=32",
    "teacher.name=TEACHERS/croma.safetensors",
]  # recipe values for test_contract.py

OPTIM = OptimConfig("adamw", 1e-3, (0.9, 0.95), 0.05, "cosine", 2, 200)
DECODER = {"decoder": DecoderShape(32, 1, 2)}
KINDS = pytest.mark.parametrize("make", [vit, conv], ids=["plain", "conv"])


class Norms(Teacher):
    """A small network with everything that must not move: batch statistics, dropout, weights."""

    def __init__(self):
        torch.manual_seed(7)
        model = nn.Sequential(nn.Conv2d(3, 12, 8, stride=8), nn.BatchNorm2d(12), nn.Dropout(0.5))
        super().__init__(model, "norms", "MIT", 12, 8)
        self.asked = 0

    def maps(self, batch, grid):
        self.asked += 1
        return self.model(batch["rgb"])


def method(make=vit, teachers=None, seed=0, **settings):
    teachers = [Norms()] if teachers is None else teachers
    encoder = make({"rgb": RGB}, seed=seed).train()
    return MRMAE(encoder, OPTIM, teachers, seed=seed, **{**DECODER, **settings})


def batch(n=6, seed=1):
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=g)
    pixels = nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    return {"rgb": pixels, "valid": torch.ones(n, 32, 32, dtype=torch.bool)}


def masks(n=6, seed=2):
    noise = torch.rand(n, 16, generator=torch.Generator().manual_seed(seed))
    return split_patches(noise, torch.ones(n, 16, dtype=torch.bool), 0.75)


@pytest.mark.parametrize("n", [196, 225, 64, 15])
@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.9])
def test_visible_and_masked_patches_are_a_partition(n, ratio):
    ids, masked = split_patches(torch.rand(5, n), torch.ones(5, n, dtype=torch.bool), ratio)
    assert ids.shape[1] == int(n * (1 - ratio) + 1e-9)
    for row, hidden in zip(ids, masked, strict=True):
        assert sorted([*row.tolist(), *hidden.nonzero()[:, 0].tolist()]) == list(range(n))


def test_the_papers_numbers_of_visible_patches():
    for n, visible in ((196, 49), (225, 56)):
        assert split_patches(torch.rand(1, n), torch.ones(1, n, dtype=torch.bool), 0.75)[0].shape[1] == visible


def test_unusable_patches_are_in_neither_set():
    valid = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) > 0.4
    ids, masked = split_patches(torch.rand(4, 64), valid, 0.75)
    visible = torch.zeros_like(valid).scatter(1, ids, True)
    assert torch.equal(visible | masked, valid)
    assert not (visible & masked).any()
    assert ids.shape[1] == int(valid.sum(1).min()) // 4


def test_every_patch_is_visible_equally_often():
    noise = torch.rand(4000, 16, generator=torch.Generator().manual_seed(0))
    ids, _ = split_patches(noise, torch.ones(4000, 16, dtype=torch.bool), 0.75)
    assert torch.bincount(ids.flatten(), minlength=16).float().div(4000).sub(0.25).abs().max() < 0.03


def test_predicting_the_mean_costs_almost_one_and_perfection_nothing():
    target = pixel_targets(100 * torch.rand(2, 3, 32, 32), 16)
    everywhere = torch.ones(2, 4, dtype=torch.bool)
    assert float(masked_mse(torch.zeros_like(target), target, everywhere)) == pytest.approx(767 / 768, abs=1e-5)
    assert float(masked_mse(target, target, everywhere)) == 0
    assert pixel_targets(torch.full((1, 3, 16, 16), 0.3), 16).abs().max() < 1e-3


def test_pixels_of_a_patch_are_ordered_channel_row_column():
    x = torch.arange(12.0).view(1, 3, 2, 2)
    expected = (torch.arange(12.0) - 5.5) / torch.arange(12.0).std()
    torch.testing.assert_close(pixel_targets(x, 2)[0, 0], expected)


def test_pixels_are_normalised_over_a_patch_over_its_bands_or_not_at_all():
    x = torch.randn(2, 3, 16, 16) * torch.tensor([1.0, 5.0, 20.0]).view(3, 1, 1) + 7
    pixels = patchify(x, 8)
    by_band = pixel_targets(x, 8, "patch_band").unflatten(-1, (3, 64))
    assert by_band.mean(-1).abs().max() < 1e-5
    assert by_band.var(-1).sub(1).abs().max() < 1e-4
    whole = pixel_targets(x, 8)
    assert whole.var(-1).sub(1).abs().max() < 1e-4
    spread = whole.unflatten(-1, (3, 64)).var(-1).mean((0, 1))
    assert spread[2] > 100 * spread[0]  # contrast between bands is part of the target
    assert torch.equal(pixel_targets(x, 8, "none"), pixels)
    one = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(pixel_targets(one, 8, "patch_band"), pixel_targets(one, 8))


def test_targets_are_normalised_token_by_token():
    x = torch.randn(2, 5, 64) * 7 + 3
    out = normalized_features(x, "layer_norm")
    assert out.mean(-1).abs().max() < 1e-5
    assert out.var(-1, unbiased=False).sub(1).abs().max() < 1e-5
    assert normalized_features(x, "l2").norm(dim=-1).sub(1).abs().max() < 1e-5
    assert torch.equal(normalized_features(x, "none"), x)


def test_feature_losses_by_hand():
    one, two = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]])
    assert float(feature_loss(one, two, "mse")) == (1 + 16) / 2
    assert float(feature_loss(one, two, "smooth_l1")) == (0.25 + 3) / 2
    assert float(feature_loss(one, two, "cosine")) == 1


@KINDS
def test_each_loss_looks_at_its_own_patches_only(make):
    module, data = method(make), batch()
    ids, masked = masks()
    plain = module.losses_of(data, ids, masked)
    decode = module.decoder.forward
    visible = ~masked
    module.decoder.forward = lambda *a: decode(*a) + 5 * visible[..., None]
    assert torch.equal(module.losses_of(data, ids, masked)["reconstruct"], plain["reconstruct"])
    module.decoder.forward = lambda *a: decode(*a) + 5 * masked[..., None]
    assert module.losses_of(data, ids, masked)["reconstruct"] > plain["reconstruct"] + 1
    module.decoder.forward = decode
    features = module.teachers[0].features(data, (4, 4))
    for where, changes in ((masked, False), (visible, True)):
        module.teachers[0].features = lambda *_, where=where: features + torch.randn_like(features) * where[..., None]
        assert torch.equal(module.losses_of(data, ids, masked)["mimic"], plain["mimic"]) != changes
    module.teachers[0].features = lambda *_: features
    hidden = masked.unflatten(1, (4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    other = {**data, "rgb": torch.where(hidden, torch.rand_like(data["rgb"]), data["rgb"])}
    changed = module.losses_of(other, ids, masked)
    assert float(changed["mimic"]) == pytest.approx(float(plain["mimic"]), abs=1e-6)
    assert abs(float(changed["reconstruct"] - plain["reconstruct"])) > 1e-3


@KINDS
def test_gradients_go_where_they_are_due(make):
    module, data = method(make), batch()

    def reached(term):
        module.zero_grad()
        module.losses_of(data, *masks())[term].backward()
        return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    everything = {name for name, _ in module.named_parameters()}
    decoder = {name for name in everything if name.startswith("decoder.")}
    heads = {name for name in everything if name.startswith("heads.")}
    assert reached("mimic") == everything - decoder
    assert reached("reconstruct") == everything - heads
    assert {"fusion.fine.weight", "fusion.middle.weight"} <= everything or make is vit


def test_a_teacher_sees_the_whole_image():
    """What is hidden from the student changes the targets of what it sees."""
    teacher = EncoderTeacher(vit({"rgb": RGB}, seed=3))
    module, data = method(teachers=[teacher]), batch()
    ids, masked = masks()
    hidden = masked.unflatten(1, (4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    other = {**data, "rgb": torch.where(hidden, 1 - data["rgb"], data["rgb"])}
    assert torch.equal(
        module.visible_tokens(*seen(module, data, ids)), module.visible_tokens(*seen(module, other, ids))
    )
    assert (
        abs(float(module.losses_of(other, ids, masked)["mimic"] - module.losses_of(data, ids, masked)["mimic"])) > 1e-4
    )


def seen(module, data, ids):
    return module.encoder.normalize({"rgb": data["rgb"]}), ids


@pytest.mark.parametrize("layers", [(0,), (-2, -1), (1, 0, 3)])
def test_layers_of_a_teacher_have_a_head_each_and_are_averaged(layers):
    teacher = EncoderTeacher(vit({"rgb": RGB}, seed=3, depth=4), layers=layers)
    module, data = method(teachers=[teacher]), batch()
    ids, masked = masks()
    tokens = module.visible_tokens(*seen(module, data, ids))
    outputs = teacher.encoder.layers(teacher.encoder.normalize({"rgb": data["rgb"]}), layers)
    parts = [
        feature_loss(head(tokens), normalized_features(take(found, ids), "layer_norm"), "mse")
        for head, found in zip(module.heads, outputs, strict=True)
    ]
    assert float(module.losses_of(data, ids, masked)["mimic"]) == pytest.approx(
        float(sum(parts)) / len(layers), rel=1e-5
    )


@KINDS
def test_order_of_visible_patches_does_not_matter(make):
    module, data = method(make), batch()
    ids, masked = masks()
    one = module.losses_of(data, ids, masked)
    two = module.losses_of(data, ids[:, torch.tensor([2, 0, 3, 1])], masked)
    for name in one:
        assert float(one[name]) == pytest.approx(float(two[name]), abs=1e-5)


def trained(module, steps, data=None):
    optimizer = module.optim.build(module)
    module.train()
    first = None
    for _ in range(steps):
        losses = module.losses(data or batch())
        first = first or {name: float(x) for name, x in losses.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return first, {name: float(x) for name, x in losses.items()}, optimizer


def test_a_teacher_stays_as_it_is():
    teacher = Norms()
    before = {name: x.clone() for name, x in teacher.model.state_dict().items()}
    module = method(teachers=[teacher])
    _, _, optimizer = trained(module, 5)
    assert not teacher.model.training
    assert all(torch.equal(x, before[name]) for name, x in teacher.model.state_dict().items())
    assert all(p.grad is None for p in teacher.model.parameters())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in teacher.model.parameters()}
    assert not any("teacher" in name for name in module.state_dict())
    assert set(module.encoder.state_dict()) == set(vit({"rgb": RGB}).state_dict())


def test_without_mimicking_it_is_mae_whether_a_teacher_is_there_or_not():
    teacher = Norms()
    with_one, without = (method(teachers=t, mimic_weight=0.0) for t in ([teacher], []))
    assert trained(with_one, 3)[1] == trained(without, 3)[1]
    for one, two in zip(with_one.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, two)
    assert teacher.asked == 0
    assert list(without.losses(batch())) == ["reconstruct"]
    assert list(method(reconstruct_weight=0.0).losses(batch())) == ["mimic"]
    with pytest.raises(ValueError, match="nothing to learn from"):
        method(teachers=[], mimic_weight=1.0)


def test_losses_of_several_teachers_are_averaged():
    module = method(teachers=[Norms(), Norms()])
    module.heads[1].load_state_dict(module.heads[0].state_dict())
    one = method(teachers=[Norms()])
    one.load_state_dict(module.state_dict(), strict=False)
    assert torch.equal(module.losses(batch())["mimic"], one.losses(batch())["mimic"])


@pytest.mark.parametrize(
    ("setting", "value", "term"),
    [
        ("mask_ratio", 0.5, "reconstruct"),
        ("mimic_weight", 2.0, "mimic"),
        ("reconstruct_weight", 3.0, "reconstruct"),
        ("mimic_loss", "cosine", "mimic"),
        ("target_norm", "l2", "mimic"),
        ("pixel_norm", "patch_band", "reconstruct"),
        ("pixel_norm", "none", "reconstruct"),
        ("decoder", DecoderShape(64, 1, 2), "reconstruct"),
        ("decoder", DecoderShape(32, 2, 2), "reconstruct"),
        ("decoder", DecoderShape(32, 1, 4), "reconstruct"),
    ],
)
def test_every_setting_changes_the_loss(setting, value, term):
    plain, changed = method().losses(batch()), method(**{setting: value}).losses(batch())
    assert not torch.equal(plain[term], changed[term])


def test_same_seed_same_loss_and_other_seed_other_masks():
    module = method()
    assert torch.equal(module.losses(batch())["reconstruct"], module.losses(batch())["reconstruct"])
    first = module.losses(batch())["reconstruct"]
    module.seed = 1
    assert not torch.equal(module.losses(batch())["reconstruct"], first)


@KINDS
def test_it_learns_one_batch(make):
    first, last, _ = trained(method(make, mimic_loss="mse"), 60)
    assert last["mimic"] < first["mimic"] / 2
    assert last["reconstruct"] < 0.9 * first["reconstruct"]


def test_images_without_usable_pixels_are_left_out():
    module, data = method(), batch()
    data["valid"][2] = False
    data["valid"][4, :8, :8] = False
    data["rgb"][2] = torch.nan
    losses = module.losses(data)
    assert all(x.isfinite() for x in losses.values())
    assert float(module.logged_scalars["left_out"]) == 1
    rows = [0, 1, 3, 4, 5]
    torch.testing.assert_close(losses["mimic"], module.losses({n: x[rows] for n, x in data.items()})["mimic"])
    with pytest.raises(RunError, match="no image of a batch has 4 valid patches"):
        module.losses({**data, "valid": torch.zeros_like(data["valid"])})


def test_an_image_with_few_usable_pixels_takes_no_sight_from_the_others():
    valid = torch.zeros(3, 64, 64, dtype=torch.bool)
    valid[0] = valid[1, :16] = valid[2, :8, :40] = True  # 64, 16 and 5 of 64 patches
    images = {"valid": valid, "number": torch.arange(3)}
    found, share, left_out = valid_images(images, 8)
    assert (found["number"].tolist(), left_out, share.sum(dim=1).tolist()) == ([0, 1], 1, [64, 16])
    alone = {name: x[2:] for name, x in images.items()}
    assert valid_images(alone, 8)[0]["number"].tolist() == [2]


def test_another_sensors_teacher_is_imitated():
    """Radar learns from the optical branch of CROMA on the same place."""
    croma = CROMAEncoder(croma_spec("tiny", dim=32, depth=2, heads=8))
    module = MRMAE(vit({"s1": S1}), OPTIM, [EncoderTeacher(croma, ["s2"])], **DECODER)
    data = {"s1": torch.randn(2, 2, 32, 32) * 4 - 12, "s2": torch.rand(2, 12, 32, 32)}
    data["valid"] = torch.ones(2, 32, 32, dtype=torch.bool)
    before = module.losses(data)
    after = module.losses({**data, "s2": data["s2"].flip(0)})
    assert after["mimic"] != before["mimic"]
    assert after["reconstruct"] == before["reconstruct"]


@KINDS
def test_losses_fall_on_held_out_chips_of_the_bundled_scenes(make):
    torch.manual_seed(0)
    teacher = EncoderTeacher(vit({"s2": S2}, seed=3))
    module = MRMAE(make({"s2": S2}).train(), OptimConfig(*OPTIM_200), [teacher], **DECODER)
    before, after = losses_around_training(module, *bundled_chips(32, 200))
    assert float(after["mimic"]) < 0.6 * float(before["mimic"])
    assert float(after["reconstruct"]) < 0.95 * float(before["reconstruct"])


OPTIM_200 = ("adamw", 2e-3, (0.9, 0.95), 0.05, "constant", 5, 200)


def losses_around_training(module, train, held):
    """Losses on held-out chips before and after a step on every batch."""
    with torch.no_grad():
        before = module.losses(held)
    optimizer = module.optim.build(module)
    for chips in train:
        optimizer.zero_grad()
        sum(module.losses(chips).values()).backward()
        optimizer.step()
    with torch.no_grad():
        return before, module.losses(held)


def bundled_chips(side, steps):
    """Batches of the west of the bundled scenes, and one of their east."""
    data = SentinelChips("sample", side, 8, steps, holdout=0.25)
    found = data.labelled(data.held_roi).images
    rows = {name: x[:: len(x) // 24] for name, x in found.items()}
    return data.train_dataloader(), {
        **rows,
        "valid": torch.isfinite(rows["s2"]).all(1) & torch.isfinite(rows["s1"]).all(1),
    }


QUICK = ["train.max_steps=2", "train.log_every=1", "data.batch_size=2", "data.chip_px=32", "data.crop_px=null"]
QUICK += ["encoder.window_px=32", "encoder.halo_px=8", "encoder.statistics=published"]
QUICK += ["objective.decoder_dim=32", "objective.decoder_depth=1", "objective.decoder_heads=2"]


@pytest.fixture(scope="module")
def croma_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "croma.safetensors"
    torch.manual_seed(0)
    save_encoder(
        path, CROMAEncoder(croma_spec("tiny", provenance=Provenance(licence="MIT"), dim=32, depth=2, heads=8)), {}
    )
    return path


@pytest.mark.parametrize("kind", ["plain", "conv"])
@pytest.mark.parametrize("sensors", ["{s2: all}", "{s1: all, s2: [B02, B03, B04, B08]}"])
def test_a_run_exports_an_encoder_that_embeds_without_its_teacher(kind, sensors, croma_file, tmp_path, caplog):
    caplog.set_level("INFO", logger="geossl")
    changes = [f"encoder.kind={kind}", f"encoder.sensors={sensors}", f"teacher.name={croma_file}", f"out={tmp_path}/r"]
    with pytest.warns(Note, match=r"features of teacher croma_tiny \(layer -1\) are nearly the same for all patches"):
        run = geossl.pretrain(recipe.load("mr_mae", [*QUICK, *changes]))
    assert "teacher croma_tiny, 32 numbers per patch: same patches" in caplog.text
    encoder = geossl.load_encoder(run / "encoder.safetensors")
    assert isinstance(encoder, ConvViT) == (kind == "conv")
    assert encoder.spec.source.endswith("teacher croma_tiny (MIT)")
    assert provenance(run / "encoder.safetensors")["recipe"]["method"] == "mr_mae"
    assert not any(name.startswith(("teacher", "decoder", "heads", "fusion")) for name in encoder.state_dict())
    geossl.embed_map(
        "examples/region.geojson",
        geossl.Rasters(s1="geossl/data/sample/s1" if "s1" in sensors else None, s2="geossl/data/sample/s2"),
        encoder=run / "encoder.safetensors",
        out=tmp_path / "map.zarr",
        picture=False,
    )
    values = geossl.open(tmp_path / "map.zarr").values
    assert np.isfinite(values).mean() > 0.2


def test_landsat_from_chips_to_a_map(tmp_path):
    """Sentinel-2 pixels written as Landsat: product folder in, map of 240 m on the lattice of 30 m pixels out."""
    optical = SAMPLE / "s2" / "433D_629L_3_1_20200408.tif"
    data, transform, crs = landsat.of_sentinel2(optical)
    quality = np.full(data.shape[1:], landsat.CLEAR, np.uint16)
    quality[:30, :30] = landsat.CLOUD
    landsat.write_product(tmp_path / "scenes" / "landsat", data, quality, transform, crs)
    changes = [f"data.source={tmp_path}/scenes", "encoder.sensors={landsat: all}", f"out={tmp_path}/r"]
    run = geossl.pretrain(recipe.load("mae", [*QUICK, *changes]))
    encoder = geossl.load_encoder(run / "encoder.safetensors")
    assert (encoder.spec.gsd_m, encoder.spec.patch_m) == (30, 240)
    assert encoder.spec.sensors["landsat"].bands == landsat.BANDS
    assert list(provenance(run / "encoder.safetensors")["data"]["landsat_levels"].values()) == ["C2 L2"]
    out = geossl.embed_map(
        "examples/region.geojson",
        geossl.Rasters(landsat=tmp_path / "scenes" / "landsat"),
        encoder=run / "encoder.safetensors",
        out=tmp_path / "map.zarr",
        picture=False,
    )
    found = geossl.open(out)
    assert abs(found.odc.geobox.resolution.x) == 240
    assert found.odc.geobox.transform.c % 240 == 0
    layers = xr.open_zarr(out, chunks=None)
    is_there = np.isfinite(found.values).all(axis=0)
    assert set(np.unique(layers["sensors"].values[is_there])) == {8}
    assert is_there.any()
    x, y = layers.x.values, layers.y.values
    cloudy = is_there[np.ix_(y > transform.f - 29 * 30 + 240, x < transform.c + 29 * 30 - 240)]
    assert not cloudy.any()


@pytest.mark.parametrize("make", [vit, conv], ids=["plain", "conv"])
def test_its_encoder_is_judged_on_a_folder_of_pictures(make, tmp_path):
    """Three colours as classes: even an untrained encoder tells them apart."""
    rng = np.random.default_rng(0)
    for name, colour in (("a", (200, 30, 30)), ("b", (30, 200, 30)), ("c", (30, 30, 200))):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(rng.normal(colour, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    save_encoder(tmp_path / "e.safetensors", make({"rgb": RGB}), {})
    with pytest.warns(Note, match="does not say where its samples lie"):
        found = geossl.evaluate(tmp_path / "e.safetensors", tmp_path / "set", protocol="knn", out=tmp_path / "r.html")
    assert "1.0" in str(found)


def test_a_teacher_that_is_not_there_is_made_by_its_recipe(tmp_path):
    page = tmp_path / "small.yaml"
    text = recipe.dump(recipe.load("mae", [*QUICK, "train.max_steps=1"]))
    page.write_text(text)
    name = tmp_path / "made" / "encoder.safetensors"
    changes = [f"teacher.name={name}", f"teacher.recipe={page}", f"out={tmp_path}/r", "train.max_steps=1"]
    geossl.pretrain(recipe.load("mr_mae", [*QUICK, *changes]))
    assert name.is_file()
    before = name.read_bytes()
    geossl.pretrain(recipe.load("mr_mae", [*QUICK, *changes, f"out={tmp_path}/again"]))
    assert name.read_bytes() == before
    with pytest.raises(MissingFileError, match="does not exist"):
        geossl.pretrain(recipe.load("mr_mae", [*QUICK, f"out={tmp_path}/x", "teacher={name: nowhere/e.safetensors}"]))
    with pytest.raises(MissingFileError, match="makes one called FOLDER/encoder.safetensors; give such a name"):
        geossl.pretrain(recipe.load("mr_mae", [*QUICK, f"out={tmp_path}/x", f"teacher.name={tmp_path}/e.safetensors"]))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher=null", "objective.mimic_weight=1 needs a teacher; 0 is plain MAE"),
        ("encoder.sensors={s3: all}", "must be {rgb: all} for RGB images, {bands: all} for GeoTIFFs"),
        ("encoder.sensors={rgb: all, s2: all}", "must be {rgb: all} for RGB images"),
        ("encoder.sensors={rgb: all}", "is for scenes, not for RGB images"),
        ("data.crop_share=[0.2, 1]", "crop_share is for RGB images only; use data.crop_px"),
        ("data.chip_px=20", "data.chip_px=20 must be a multiple of the 8-px patch"),
        ("encoder.halo_px=168", "leaves nothing of encoder.window_px=336"),
        ("objective.decoder_heads=7", "must be a multiple of 4 x objective.decoder_heads=7"),
        ("teacher={kind: timm, name: resnet18}", "teacher.weights is missing; give a local weight file for resnet18"),
        ("teacher.weights=x.pth", "belongs to timm and torchgeo"),
        ("teacher.kind=tim", "'geossl', 'timm' or 'torchgeo'"),
        ("encoder.class_token=true", "needs encoder.position=sincos"),
        (
            "encoder={kind: conv, size: nano, sensors: {s2: all}, class_token: true}",
            "needs encoder.kind=plain",
        ),
    ],
)
def test_wrong_recipes_say_what_was_expected(override, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load("mr_mae", [override])


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("{kind: timm, name: vit_smal_patch16_224, weights: x.pth}", "did you mean 'vit_small_patch16_224'"),
        ("{kind: timm, name: test_vit, weights: x.pth}", "weight file 'x.pth' does not exist"),
        (
            "{kind: torchgeo, name: ViTSmall16_Weights.SENTINEL2_ALL_DIN}",
            "did you mean 'ViTSmall16_Weights.SENTINEL2_AL",
        ),
        ("{kind: torchgeo, name: ViTSmall16_Weights.LANDSAT_TM_TOA_MOCO}", "only weights of Sentinel-1 and -2"),
        ("{name: runs}", "did you mean|known:"),
    ],
)
def test_teachers_that_cannot_be_had_are_one_line(teacher, message, tmp_path):
    with pytest.raises(InputError, match=message):
        geossl.pretrain(recipe.load("mr_mae", [*QUICK, f"teacher={teacher}", f"out={tmp_path}/r"]))
    assert not (tmp_path / "r").exists()


def test_a_teacher_of_other_sensors_is_refused_before_anything_is_written(croma_file, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "pictures" / "1.png")
    pictures = ["encoder.sensors={rgb: all}", "data.holdout=0", f"data.source={tmp_path}/pictures"]
    with pytest.raises(InputError, match="teacher croma_tiny takes s1, s2; the data has rgb"):
        geossl.pretrain(recipe.load("mr_mae", [*QUICK, *pictures, f"teacher.name={croma_file}", f"out={tmp_path}/r"]))
    teacher = f"teacher={{name: {croma_file}, sensors: [s3]}}"
    with pytest.raises(InputError, match="has no sensor s3; it takes s1, s2"):
        geossl.pretrain(recipe.load("mr_mae", [*QUICK, teacher, f"out={tmp_path}/r"]))
    assert not (tmp_path / "r").exists()


@KINDS
def test_reconstructions_show_a_picture_per_sensor_and_leave_the_method_as_it_was(make):
    sensors = {"s1": S1, "s2": S2}
    torch.manual_seed(0)
    maker = MRMAE(make(sensors, seed=0).train(), OPTIM, mimic_weight=0.0, **DECODER)
    batch = {name: torch.rand(5, len(spec.bands), 32, 32) for name, spec in sensors.items()}
    batch["valid"] = torch.ones(5, 32, 32, dtype=torch.bool)
    batch["valid"][0, :8, :8] = False
    before = maker.losses(batch)
    shown = maker.reconstructions(batch)
    assert {title: x.truth.shape[1] for title, x in shown.items()} == {
        "Sentinel-1, VV": 1,
        "Sentinel-2, true colour": 3,
    }
    for found in shown.values():
        assert len(found.truth) == 4
        hidden = found.masked.float().mean(dim=(1, 2))
        assert hidden.tolist() == [0.75] * 4  # the chip with a gap comes last, and is not shown
        assert not torch.allclose(found.truth, found.found)
    assert all(torch.equal(before[name], value) for name, value in maker.losses(batch).items())


def test_without_a_decoder_nothing_is_shown():
    assert method(reconstruct_weight=0.0).reconstructions({}) == {}
