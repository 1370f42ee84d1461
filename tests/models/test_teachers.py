import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from geossl.api.pretrain.teachers import stretched
from geossl.errors import BandError, GridError, MissingFileError, UnknownNameError, WeightsError
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.foreign.timm_models import read_tensors, timm_model
from geossl.models.teachers import EncoderTeacher, Teacher, TimmTeacher, on_grid
from geossl.sensors import RGB, S2, SensorSpec
from tests.models.encoders.test_vit import conv, vit

PLAIN = SensorSpec(RGB.bands, RGB.unit, RGB.level, (0.0,) * 3, (1.0,) * 3)


def ramp(h, w):
    """A picture whose red is its column and green its row, as share of its size, at the middle of each pixel."""
    rows, columns = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return torch.stack([columns, rows, torch.zeros(h, w)])[None]


def cells(gh, gw):
    """Middle of every patch, row-major."""
    return ramp(gh, gw)[0, :2].flatten(1).T[None]


class Means(nn.Module):
    """A network that tells where its patches lie: their mean pixels."""

    def __init__(self, patch, dynamic):
        super().__init__()
        self.num_features, self.pretrained_cfg = 3, {"input_size": (3, 224, 224)}
        self.patch = patch
        self.dynamic_img_size = dynamic
        self.patch_embed = nn.Module()
        self.patch_embed.patch_size, self.patch_embed.img_size = (patch, patch), (224, 224)

    def forward_features(self, x):
        return nn.functional.avg_pool2d(x, self.patch).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("patch", "dynamic"), [(8, True), (14, True), (16, True), (16, False)])
@pytest.mark.parametrize("grid", [(4, 4), (15, 15), (6, 10)])
def test_features_lie_on_the_students_patches(patch, dynamic, grid):
    """Equal patches, resized input, and resampled features: a patch's feature is its own place on the ground."""
    teacher = TimmTeacher(Means(patch, dynamic), "means", "MIT", "rgb", PLAIN)
    h, w = 8 * grid[0], 8 * grid[1]
    found = teacher.features({"rgb": ramp(h, w)}, grid)[..., :2]
    inner = cells(*grid).sub(0.5).abs().amax(-1) < 0.5 - 1 / min(grid)
    tolerance = 1e-5 if patch == 8 else 0.02 if dynamic else 0.03  # pooled areas overlap a little
    torch.testing.assert_close(found[inner], cells(*grid)[inner], atol=tolerance, rtol=0)
    flipped = teacher.features({"rgb": ramp(h, w).flip(-1)}, grid)[..., :2]
    assert (flipped[inner] - cells(*grid)[inner]).abs().max() > 0.2


def test_how_features_are_aligned_is_said():
    for patch, dynamic, words in ((8, True, "same patches"), (16, True, "64 x 96 px"), (16, False, "its own size")):
        teacher = TimmTeacher(Means(patch, dynamic), "means", "MIT", "rgb", PLAIN)
        assert words in teacher.alignment((4, 6), 8)


def test_coarser_grids_are_means_and_finer_ones_keep_the_mean():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert on_grid(maps, (2, 2))[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert on_grid(maps, (4, 4)) is maps
    assert float(on_grid(maps, (8, 8)).mean()) == pytest.approx(7.5)


def test_our_encoders_teach_their_own_tokens():
    croma = CROMAEncoder(croma_spec("tiny", dim=32, depth=2, heads=8)).eval()
    batch = {"s1": torch.randn(2, 2, 32, 48) * 4 - 12, "s2": torch.rand(2, 12, 32, 48)}
    batch["s2"][0, :, :5] = torch.nan
    both, optical = EncoderTeacher(croma), EncoderTeacher(croma, ["s2"])
    torch.testing.assert_close(both.features(batch, (4, 6)), croma.tokens(batch).flatten(1, 2), atol=0, rtol=0)
    alone = croma.tokens({"s2": batch["s2"]}).flatten(1, 2)
    torch.testing.assert_close(optical.features(batch, (4, 6)), alone, atol=0, rtol=0)
    assert optical.features(batch, (2, 3)).shape == (2, 6, 32)
    assert EncoderTeacher(conv({"s2": S2})).features(batch, (4, 6)).isfinite().all()


def test_a_teacher_takes_its_bands_by_name_and_zero_for_cirrus():
    seen = SensorSpec(("B10", "B08"), "reflectance", "L1C", (0.0, 0.0), (1.0, 1.0))
    teacher = TimmTeacher(Means(8, True), "means", "MIT", "s2", seen)
    s2 = torch.arange(12.0).view(1, 12, 1, 1).expand(1, 12, 16, 16)
    assert teacher.features({"s2": s2}, (2, 2))[0, 0].tolist() == [0, 7]
    with pytest.raises(BandError, match="takes s2; the data has rgb"):
        teacher.features({"rgb": torch.zeros(1, 3, 16, 16)}, (2, 2))
    with pytest.raises(BandError, match="has no sensor s3; it takes x"):
        EncoderTeacher(vit(), ["s3"])


def test_true_colours_are_stretched_with_fixed_limits():
    seen = SensorSpec(("B04", "B03", "B02"), "reflectance", "L2A", tuple(0.3 * m for m in RGB.mean), (0.3,) * 3)
    teacher = TimmTeacher(Means(8, True), "means", "MIT", "s2", seen, (0.0, 0.3))
    s2 = torch.full((1, 12, 8, 8), 0.15)
    s2[:, 3] = 0.9
    assert teacher.features({"s2": s2}, (1, 1))[0, 0].tolist() == pytest.approx([1 - 0.485, 0.5 - 0.456, 0.5 - 0.406])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "test_vit", "test_convnext", "test_resnet"])
def test_any_network_of_timm_teaches(name):
    torch.manual_seed(0)
    teacher = TimmTeacher(timm_model(name, 3, None), name, "MIT", "rgb", RGB)
    found = teacher.features({"rgb": torch.rand(2, 3, 32, 48)}, (4, 6))
    assert found.shape == (2, 24, teacher.dim)
    assert found.isfinite().all()


def test_layers_of_timm_are_what_leaves_their_blocks():
    torch.manual_seed(0)
    model = timm_model("vit_tiny_patch16_224", 3, None)
    teacher = TimmTeacher(model, "vit", "MIT", "rgb", RGB, layers=(3, -1, 0))
    batch, seen = {"rgb": torch.rand(2, 3, 32, 48)}, []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[:, 1:]))
    last = teacher.features(batch, (2, 3))
    found = teacher.features_of_layers(batch, (2, 3))
    torch.testing.assert_close(found[0], seen[3], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], last, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[2], seen[0], atol=1e-5, rtol=0)
    assert not found[0].requires_grad


def test_layers_of_ours_end_with_the_normed_last_one():
    model, batch = vit({"rgb": RGB}, class_token=True), {"rgb": torch.rand(2, 3, 32, 32)}
    first, last = EncoderTeacher(model, layers=(0, 1)).features_of_layers(batch, (4, 4))
    x = model.start(model.normalize(batch))[0]
    torch.testing.assert_close(first, model.blocks[0](x)[:, 1:], atol=0, rtol=0)
    torch.testing.assert_close(last, EncoderTeacher(model).features(batch, (4, 4)), atol=0, rtol=0)


def test_layers_that_a_teacher_does_not_have_are_one_line():
    with pytest.raises(WeightsError, match=r"vit_nano has 2 blocks, not layers \[2\]; \[-1\] is any network's last"):
        EncoderTeacher(vit({"rgb": RGB}), layers=(2,))
    croma = CROMAEncoder(croma_spec("tiny", dim=32, depth=2, heads=8))
    with pytest.raises(WeightsError, match=r"croma_tiny has 0 blocks, not layers \[0, -1\]"):
        EncoderTeacher(croma, layers=(0, -1))
    with pytest.raises(WeightsError, match="can teach its last layer only"):
        EncoderTeacher(conv({"rgb": RGB}), layers=(0,)).features_of_layers({"rgb": torch.rand(1, 3, 32, 32)}, (4, 4))


def test_bands_are_stretched_to_colours_by_their_own_statistics():
    seen = stretched(
        SensorSpec(("3", "1", "2"), "as stored", "x", (200.0, 10.0, 0.0), (50.0, 1.0, 2.0)), RGB.mean, RGB.std
    )
    teacher = TimmTeacher(Means(8, True), "means", "MIT", "bands", seen)
    pixels = torch.tensor([10.0, -4.0, 300.0, 9.0]).view(1, 4, 1, 1).expand(1, 4, 8, 8)  # mean, low end, high end
    found = teacher.features({"bands": pixels}, (1, 1))[0, 0]
    shown = torch.tensor([1.0, 0.5, 0.0])  # mean - 2 std is 0, mean + 2 std is 1
    torch.testing.assert_close(found, (shown - torch.tensor(RGB.mean)) / torch.tensor(RGB.std), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", [0, -1])
def test_relations_of_timm_are_those_it_attends_with(layer):
    torch.manual_seed(0)
    model = timm_model("vit_tiny_patch16_224", 3, None)
    teacher, batch = TimmTeacher(model, "vit", "MIT", "rgb", RGB), {"rgb": torch.rand(1, 3, 32, 32)}
    attention, seen = model.blocks[layer].attn, []
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    teacher.features(batch, (4, 4))
    q, k, _ = teacher.relations(batch, (4, 4), layer)
    ours = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    theirs = seen[0][..., 1:, 1:]
    torch.testing.assert_close(ours, theirs / theirs.sum(-1, keepdim=True), atol=1e-5, rtol=0)


def test_relations_of_ours_stop_at_their_block():
    model = vit({"rgb": RGB}, class_token=True)
    batch = {"rgb": torch.rand(2, 3, 32, 32)}
    calls = []
    model.blocks[1].feed_forward.register_forward_hook(lambda *_: calls.append(1))
    q, _, v = EncoderTeacher(model).relations(batch, (4, 4), 1)
    assert q.shape == v.shape == (2, 2, 16, 16)
    assert calls == []
    x = model.start(model.normalize(batch))[0]
    expected = model.blocks[1].attention.split(model.blocks[0](x))[0][:, :, 1:]
    torch.testing.assert_close(q, expected, atol=0, rtol=0)


def test_networks_without_plain_attention_have_no_relations():
    batch = {"rgb": torch.rand(1, 3, 32, 32)}
    with pytest.raises(WeightsError, match="resnet10t has no token relations; use a ViT"):
        TimmTeacher(timm_model("resnet10t", 3, None), "resnet10t", "MIT", "rgb", RGB).relations(batch, (4, 4), 0)
    with pytest.raises(WeightsError, match="has no token relations"):
        EncoderTeacher(conv({"rgb": RGB})).relations(batch, (4, 4), 0)
    fixed = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    with pytest.raises(GridError, match="takes one size of image only"):
        TimmTeacher(fixed, "fixed", "MIT", "rgb", RGB).relations(batch, (4, 4), 0)


def test_a_teacher_is_frozen_for_good():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))

    class Norms(Teacher):
        def maps(self, batch, grid):
            return self.model(batch["rgb"])

    teacher = Norms(model, "norms", "MIT", 3, 8)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    out = teacher.features({"rgb": torch.randn(4, 3, 8, 8, requires_grad=True)}, (8, 8))
    assert not out.requires_grad
    assert not model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())


def test_weights_come_from_local_files_and_must_fit(tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        model = timm_model("test_vit", 3, tmp_path / name)
        assert torch.equal(model.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    with pytest.raises(WeightsError, match="are not those of resnet10t"):
        timm_model("resnet10t", 3, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="are not those of test_vit: size mismatch"):
        timm_model("test_vit", 13, tmp_path / "a.safetensors")
    with pytest.raises(UnknownNameError, match="did you mean 'vit_small_patch16_224'"):
        timm_model("vit_smal_patch16_224", 3, None)
    with pytest.raises(MissingFileError, match="does not exist"):
        read_tensors(tmp_path / "none.pth")
    for content in (b"no weights", b"", b"junk"):
        (tmp_path / "c.pth").write_bytes(content)
        with pytest.raises(WeightsError, match="is damaged, holds more than tensors or is not a weight file"):
            read_tensors(tmp_path / "c.pth")
    torch.save({"x": test_weights_come_from_local_files_and_must_fit}, tmp_path / "d.pth")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        read_tensors(tmp_path / "d.pth")
    torch.save([1, 2], tmp_path / "e.pth")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        read_tensors(tmp_path / "e.pth")
