import pytest
import torch
import torchvision

from geossl.errors import BandError
from geossl.models.encoders.exit_resnet import ExitResNet, exit_resnet_spec, load_trunk
from geossl.models.files import load_encoder, save_encoder
from geossl.models.spec import ImageGeometry
from geossl.sensors import SensorSpec


def small(window_px=32, margin_px=8, **settings):
    torch.manual_seed(0)
    geometry = ImageGeometry(window_px=window_px, margin_px=margin_px)
    return ExitResNet(exit_resnet_spec(10, geometry=geometry, width=4, **settings)).eval()


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("kind", "extra"), [("fc", 1_050_624), ("small", 9_786_368), ("same", 22_063_104)])
def test_exits_of_resnet50_have_the_published_sizes(kind, extra):
    with torch.device("meta"):
        encoder = ExitResNet(exit_resnet_spec(50, exit_kind=kind))
    assert parameters(encoder.exits) == extra
    assert parameters(encoder) - extra == 23_508_032


@pytest.mark.parametrize("depth", [18, 50])
def test_the_strided_trunk_equals_torchvision(depth):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")()
    for name, buffer in theirs.named_buffers():  # statistics that are not 0 and 1
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    ours = ExitResNet(exit_resnet_spec(depth, stem="strided", exits=()))
    load_trunk(ours, theirs.state_dict())
    theirs.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval().outputs(x)[:, -1], theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_stems_differ_in_resolution_only():
    x = torch.zeros(1, 3, 96, 96)
    sides = {
        stem: [m.shape[-1] for m in small(stem=stem, window_px=96, margin_px=32).maps(x)]
        for stem in ("strided", "full", "small")
    }
    assert sides == {"strided": [24, 12, 6, 3], "full": [96, 48, 24, 12], "small": [96, 48, 24, 12]}
    load_trunk(small(stem="full"), small(stem="strided", window_px=96, margin_px=32).state_dict())


def test_outputs_are_the_exits_in_order_and_then_the_end():
    encoder, x = small(exits=(3, 1)), torch.randn(2, 3, 16, 16)
    maps, found = encoder.maps(x), encoder.outputs(x)
    assert found.shape == (2, 3, 32)
    torch.testing.assert_close(found[:, 0], encoder.exits["1"](maps[0]))
    torch.testing.assert_close(found[:, 2], maps[3].mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", ["fc", "small", "same"])
def test_every_kind_of_exit_gives_vectors_as_long_as_the_end(kind):
    assert small(exits=(2,), exit_kind=kind).outputs(torch.zeros(1, 3, 16, 16)).shape == (1, 2, 32)


@pytest.mark.parametrize("bands", [1, 2, 12])
def test_any_number_of_bands(bands):
    sensor = SensorSpec(tuple(map(str, range(bands))), "reflectance", "L2A", (0.2,) * bands, (0.1,) * bands)
    encoder = small(sensors={"s2": sensor})
    assert encoder.tokens({"s2": torch.rand(2, bands, 32, 32)}).shape == (2, 4, 4, 32)
    with pytest.raises(BandError, match=f"takes s2 \\({bands} bands\\); got s2 \\(3 bands\\)" if bands != 3 else "x"):
        encoder.pooled({"s2": torch.rand(2, 3, 32, 32)})


def test_pixels_that_are_not_usable_count_as_the_mean():
    encoder = small()
    x = torch.rand(1, 3, 32, 32)
    filled = x.clone()
    filled[:, :, 4:9, 4:9] = torch.tensor(encoder.spec.sensors["rgb"].mean).view(3, 1, 1)
    x[:, :, 4:9, 4:9] = torch.nan
    torch.testing.assert_close(encoder.tokens({"rgb": x}), encoder.tokens({"rgb": filled}), rtol=1e-4, atol=1e-5)


def test_a_sensor_that_is_not_given_counts_as_its_mean():
    sensors = {n: SensorSpec(("a", "b"), "dB", "x", (1.0, 2.0), (1.0, 1.0)) for n in ("s1", "s2")}
    encoder, x = small(sensors=sensors), torch.rand(1, 2, 16, 16)
    mean = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    torch.testing.assert_close(encoder.pooled({"s1": x}), encoder.pooled({"s1": x, "s2": mean}))


def test_patches_that_are_not_fed_influence_nothing_and_have_no_vector():
    encoder, x = small(), torch.rand(2, 3, 32, 32)
    kept = torch.ones(2, 4, 4, dtype=torch.bool)
    kept[:, 1, 2] = False
    other = x.clone()
    other[:, :, 8:16, 16:24] = 7
    one, two = (encoder.tokens({"rgb": v}, {"rgb": kept}) for v in (x, other))
    torch.testing.assert_close(one, two, equal_nan=True)
    assert torch.isnan(one[:, 1, 2]).all()
    assert torch.isfinite(one[:, 0]).all()
    assert torch.equal(encoder.pooled({"rgb": x}, {"rgb": kept}), encoder.pooled({"rgb": other}, {"rgb": kept}))
    none = encoder.pooled({"rgb": x}, {"rgb": torch.zeros_like(kept)})
    assert torch.isnan(none).all()


def test_a_vector_is_centred_on_its_patch():
    """The pixels a vector depends on most lie as far left of the patch's middle as right of it, within half a pixel."""
    encoder = small(window_px=96, margin_px=8).double()
    x = torch.zeros(1, 3, 96, 96, dtype=torch.float64).requires_grad_()
    total = torch.zeros(96, 96, dtype=torch.float64)
    for seed in range(4):
        torch.manual_seed(seed)
        base = torch.rand(1, 3, 96, 96, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(encoder.tokens({"rgb": base + x})[0, 6, 6].sum(), x)
        total += gradient[0].abs().sum(0)
    centre = [float((total.sum(1 - axis) * torch.arange(96)).sum() / total.sum()) for axis in (0, 1)]
    assert centre == pytest.approx([6 * 8 + 3.5] * 2, abs=1.5)


def test_a_map_moves_with_its_pixels():
    encoder, x = small(window_px=96, margin_px=8), torch.rand(1, 3, 128, 128)
    one, two = encoder.tokens({"rgb": x}), encoder.tokens({"rgb": x.roll((8, 8), dims=(2, 3))})
    torch.testing.assert_close(one[:, 6:9, 6:9], two[:, 7:10, 7:10], rtol=1e-4, atol=1e-5)


def test_pictures_need_not_be_whole_patches_but_maps_do():
    encoder = small()
    assert encoder.pooled({"rgb": torch.rand(1, 3, 37, 29)}).shape == (1, 32)
    with pytest.raises(BandError, match="37 x 29 px are not whole 8-px patches"):
        encoder.tokens({"rgb": torch.rand(1, 3, 37, 29)})


def test_an_image_embeds_the_same_alone_and_in_a_batch():
    encoder, x = small(), torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(encoder.pooled({"rgb": x})[2:3], encoder.pooled({"rgb": x[2:3]}), rtol=1e-4, atol=1e-6)


def test_a_saved_encoder_loads_equal(tmp_path):
    encoder = small(exits=(1, 2))
    save_encoder(tmp_path / "e.safetensors", encoder, {})
    again = load_encoder(tmp_path / "e.safetensors")
    x = torch.rand(1, 3, 16, 16)
    assert again.spec == encoder.spec
    assert torch.equal(again.outputs(x), encoder.outputs(x))


def test_weights_of_another_shape_are_refused():
    with pytest.raises(BandError, match=r"conv1.weight is \(4, 3, 7, 7\) here and \(64, 3, 7, 7\) there"):
        load_trunk(small(), torchvision.models.resnet18().state_dict())
    with pytest.raises(ValueError, match="exits after 1 to 3"):
        small(exits=(4,))
