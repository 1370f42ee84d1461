import numpy as np
import pytest
import torch

from geossl.errors import BandError, GridError
from geossl.models.encoders.series_vit import SeriesViT, series_spec, tubelets, untubelets, valid_shares
from geossl.models.layers.time_encoding import TimeEncoding
from geossl.models.spec import ImageGeometry
from geossl.sensors import SensorSpec

S2 = SensorSpec(("B02", "B04", "B08"), "reflectance", "L2A", (0.05, 0.08, 0.3), (0.03, 0.05, 0.1))


def encoder(chip_px=None, **changes):
    torch.manual_seed(0)
    shape = {"dim": 16, "depth": 2, "heads": 2, "patch_px": 4}
    return SeriesViT(series_spec({"s2": S2}, ImageGeometry(window_px=8, chip_px=chip_px), **(shape | changes))).eval()


def series(t=5, side=8, b=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(b, t, 3, side, side, generator=g) * 0.4, torch.tensor([100.0, 130, 171, 260, 300])[:t].expand(
        b, -1
    )


def test_tubelets_come_back_for_unequal_sides():
    x = torch.arange(2 * 6 * 3 * 8 * 12).float().reshape(2, 6, 3, 8, 12)
    cut = tubelets(x, 2, 4)
    assert cut.shape == (2, 3, 6, 2 * 3 * 16)
    assert torch.equal(untubelets(cut, 2, 4, (2, 3)), x)


def test_a_tubelet_embedding_is_a_strided_3d_convolution():
    model, (x, _) = encoder(tubelet=2), series(4)
    kernel = model.embed.weight.view(16, 2, 3, 4, 4).transpose(1, 2)
    conv = torch.nn.functional.conv3d(x.transpose(1, 2), kernel, model.embed.bias, stride=(2, 4, 4))
    ours = model.embed(tubelets(x, 2, 4))
    torch.testing.assert_close(ours, conv.flatten(3).permute(0, 2, 3, 1), atol=1e-5, rtol=1e-5)


def test_usable_shares_count_pixels_with_all_bands():
    x = torch.zeros(1, 2, 3, 4, 8)
    x[0, 0, 1, :2, :4] = torch.nan  # half of the first patch, one band, first frame
    assert valid_shares(x, 1, 4).tolist() == [[[0.5, 1.0], [1.0, 1.0]]]
    assert valid_shares(x, 2, 4).tolist() == [[[0.75, 1.0]]]


def test_visible_tokens_come_in_the_order_of_their_ids():
    model, (x, days) = encoder(depth=0), series()
    x = model.normalize(x)
    ids = torch.stack([torch.randperm(20)[:7], torch.randperm(20)[:7]])
    everything = model(x, days)
    torch.testing.assert_close(model(x, days, ids), everything.gather(1, ids[..., None].expand(-1, -1, 16)))


def test_hidden_tokens_influence_nothing():
    model, (x, days) = encoder(), series()
    ids = torch.tensor([[0, 3, 7, 12], [1, 5, 9, 19]])
    seen = torch.zeros(2, 20, dtype=torch.bool).scatter(1, ids, True)
    other = torch.where(seen[..., None], tubelets(x, 1, 4).flatten(1, 2), 9.0).unflatten(1, (5, 4))
    other = untubelets(other, 1, 4, (2, 2))
    assert torch.equal(model(x, days, ids), model(other, days, ids))


@pytest.mark.parametrize("missing", [[4], [0], [1, 3]])
def test_missing_dates_influence_nothing(missing):
    model, (x, days) = encoder(), series()
    there = [i for i in range(5) if i not in missing]
    holes = x.clone()
    holes[:, missing] = torch.nan
    torch.testing.assert_close(model.pooled(holes, days), model.pooled(x[:, there], days[:, there]), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.tokens(holes, days), model.tokens(x[:, there], days[:, there]), atol=1e-5, rtol=0)


def test_clouds_over_a_patch_leave_it_out_on_that_date_and_nan_where_it_is_never_seen():
    model, (x, days) = encoder(), series()
    x[0, 1, :, :4, :4] = torch.nan
    changed = x.clone()
    changed[0, 1, :, :4, :4] = torch.where(torch.rand(4, 4) < 0.6, torch.nan, 0.9)  # mostly cloud: still left out
    changed[0, 1, :, 0, 0] = torch.nan
    assert torch.equal(model.tokens(x, days), model.tokens(changed, days))
    x[0, :, :, :4, :4] = torch.nan
    found = model.tokens(x, days)
    assert found[0, 0, 0].isnan().all()
    assert found[0, 1].isfinite().all()
    x[0] = torch.nan
    assert model.pooled(x, days)[0].isnan().all()


def test_a_series_does_not_depend_on_the_batch():
    model, (x, days) = encoder(), series()
    x[1, 0, :, :4] = torch.nan
    both, alone = model.tokens(x, days), model.tokens(x[1:], days[1:])
    assert torch.equal(both[1], alone[0])


def test_order_of_dates_does_not_matter_but_their_days_do():
    model, (x, days) = encoder(), series()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model.pooled(x[:, order], days[:, order]), model.pooled(x, days), atol=1e-5, rtol=0)
    assert (model.pooled(x[:, order], days) - model.pooled(x, days)).abs().max() > 1e-3


def test_a_year_later_only_the_year_differs():
    days = torch.tensor([[40.0, 200.0]])
    now, later = TimeEncoding.features(days), TimeEncoding.features(days + 365.25)
    torch.testing.assert_close(now[..., :2], later[..., :2], atol=1e-5, rtol=0)
    torch.testing.assert_close(later[..., 2] - now[..., 2], torch.full((1, 2), 0.2), atol=1e-5, rtol=0)
    assert TimeEncoding.features(torch.tensor([[365.25 * 5]]))[0, 0].tolist() == pytest.approx([0, 1, 0], abs=1e-5)


def test_without_time_the_order_is_not_seen_and_with_an_index_it_is():
    x, days = series()
    flipped = x.flip(1)
    for kind, differs in (("none", False), ("index", True)):
        model = encoder(time=kind)
        away = (model.pooled(x, days) - model.pooled(flipped, days)).abs().max()
        assert (away > 1e-4) == differs
        assert torch.equal(model.pooled(x, days), model.pooled(x, days + 77))


@pytest.mark.parametrize("t", [1, 4])
@pytest.mark.parametrize("side", [4, 16])
def test_any_length_and_size_fits(t, side):
    x, days = series(t, side)
    found = encoder().tokens(x, days)
    assert found.shape == (2, side // 4, side // 4, 16)
    assert found.isfinite().all()


def test_the_statistics_are_those_of_the_spec():
    x = torch.tensor(S2.mean).view(1, 1, 3, 1, 1).expand(1, 2, 3, 8, 8) + torch.tensor(S2.std).view(3, 1, 1)
    torch.testing.assert_close(encoder().normalize(x), torch.ones(1, 2, 3, 8, 8))


def test_what_does_not_fit_is_refused():
    x, days = series()
    with pytest.raises(BandError, match="2 bands; series_vit needs 3: B02, B04, B08"):
        encoder().tokens(x[:, :, :2], days)
    with pytest.raises(GridError, match="8 x 6 px"):
        encoder().tokens(x[..., :6], days)
    with pytest.raises(GridError, match="5 frames; series_vit needs a multiple of 2"):
        encoder(tubelet=2).normalize(x)


def test_every_argument_of_the_spec_changes_the_model():
    plain = sum(p.numel() for p in encoder().parameters())
    for change in ({"dim": 32}, {"depth": 1}, {"patch_px": 8}, {"tubelet": 2}, {"time": "none"}):
        assert sum(p.numel() for p in encoder(**change).parameters()) != plain
    x, days = series(side=16)
    assert (
        np.abs((encoder(chip_px=8).pooled(x, days) - encoder(chip_px=16).pooled(x, days)).detach().numpy()).max() > 1e-4
    )
