import numpy as np
import pytest
import torch
from torch import nn

from geossl.errors import InputError, WeightsError
from geossl.evaluation import features as module
from geossl.evaluation.baselines import BandStatistics, untrained
from geossl.evaluation.features import digest, features, patch_features
from geossl.models.encoder import Encoder, EncoderSpec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.point_transformer import Clouds, PointTransformer, point_spec


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=4)).eval()


@pytest.fixture(scope="module")
def items():
    generator = torch.Generator().manual_seed(0)
    return [
        {"s1": torch.randn(2, 16, 24, generator=generator) * 4 - 14, "s2": torch.rand(12, 16, 24, generator=generator)}
        for _ in range(7)
    ]


def only(items, *names):
    return [{name: item[name] for name in names} for item in items]


def test_batches_do_not_change_vectors(encoder, items):
    one, all_of_them = (features(encoder, items, batch_size=n) for n in (1, 64))
    np.testing.assert_allclose(one, all_of_them, atol=1e-5)
    assert one.shape == (7, 32)


def test_each_set_of_sensors_uses_its_own_branch(encoder, items):
    whole = {name: torch.stack([item[name] for item in items]) for name in ("s1", "s2")}
    out = encoder(**encoder.normalize(whole))
    expected = {("s1",): out.s1_gap, ("s2",): out.s2_gap, ("s1", "s2"): out.joint_gap}
    for names, gap in expected.items():
        found = features(encoder, only(items, *names))
        np.testing.assert_allclose(found, gap.detach().numpy(), atol=1e-5, err_msg=str(names))


def test_patches_come_chip_by_chip_and_row_by_row(encoder, items):
    found = patch_features(encoder, items, batch_size=3)
    tokens = encoder.tokens({name: x[None] for name, x in items[4].items()}).detach()[0]
    assert found.shape == (7 * 2 * 3, 32)
    np.testing.assert_allclose(found[4 * 6 : 5 * 6], tokens.flatten(0, 1).numpy(), atol=1e-5)


def test_a_change_is_told_the_number_of_its_item(encoder, items):
    seen = []

    def swap(item, i):
        seen.append(i)
        return items[6 - i]

    np.testing.assert_allclose(features(encoder, items, change=swap), features(encoder, items)[::-1], atol=1e-5)
    assert seen == list(range(7))


def test_the_mode_of_the_encoder_is_left_alone_and_gradients_are_not_kept(encoder, items):
    encoder.train()
    features(encoder, items[:1])
    assert encoder.training
    encoder.eval()
    assert all(p.grad is None for p in encoder.parameters())


def test_progress_is_told_after_every_batch(encoder, items):
    seen = []
    features(encoder, items, batch_size=3, progress=lambda done, total, what: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_interrupted_work_goes_on_where_it_stopped(encoder, items, tmp_path):
    read = []

    class Stops(list):
        def __getitem__(self, i):
            if i == 4 and not read.count("again"):
                raise KeyboardInterrupt
            read.append(i)
            return super().__getitem__(i)

    source = Stops(items)
    with pytest.raises(KeyboardInterrupt):
        features(encoder, source, batch_size=2, store=tmp_path / "store")
    assert len(list((tmp_path / "store").glob("*.npy"))) == 2
    read[:] = ["again"]
    found = features(encoder, source, batch_size=2, store=tmp_path / "store")
    assert read == ["again", 4, 5, 6]
    np.testing.assert_array_equal(found, features(encoder, items, batch_size=2))


def test_a_store_belongs_to_one_encoder_and_its_items(encoder):
    other = untrained(encoder, 1)
    names = {digest(encoder, "a"), digest(encoder, "b"), digest(other, "a")}
    assert len(names) == 3
    assert digest(encoder, "a") in names


class Words(Encoder):
    """An encoder of something else: counts letters."""

    def __init__(self):
        super().__init__()
        self.spec = EncoderSpec(name="words", architecture="words", arguments={}, dim=2, source="", licence="")
        self.scale = nn.Parameter(torch.tensor(1.0))


def test_another_kind_of_encoder_needs_one_function(monkeypatch):
    with pytest.raises(WeightsError, match=r"'words' \(words\) gives no vectors"):
        features(Words(), ["ab", "a"])
    count = lambda encoder, items: encoder.scale * torch.tensor([[w.count("a"), w.count("b")] for w in items]).float()  # noqa: E731
    monkeypatch.setitem(module.EMBEDDERS, Words, count)
    assert features(Words(), ["ab", "aa"]).tolist() == [[1, 1], [2, 0]]
    broken = lambda encoder, items: torch.full((len(items), 2), torch.nan)  # noqa: E731
    monkeypatch.setitem(module.EMBEDDERS, Words, broken)
    with pytest.raises(InputError, match="2 of 2 vectors of 'words' are not finite"):
        features(Words(), ["ab", "aa"])


def test_band_statistics_are_means_and_deviations_of_usable_pixels(encoder, items):
    image = items[0]["s1"].clone()
    image[:, :4] = torch.nan
    statistics = BandStatistics(encoder.spec)
    found = features(statistics, [{"s1": image}])[0]
    valid = image[:, 4:].flatten(1)
    np.testing.assert_allclose(found, torch.cat([valid.mean(1), valid.std(1, correction=0)]), rtol=1e-4)
    patches = statistics.tokens({"s2": items[0]["s2"][None]})[0]
    second = items[0]["s2"][:, :8, 8:16].flatten(1)
    np.testing.assert_allclose(patches[0, 1], torch.cat([second.mean(1), second.std(1, correction=0)]), rtol=1e-4)


def test_an_untrained_encoder_is_drawn_by_seed(encoder, items):
    one, same, other = (features(untrained(encoder, seed), items) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)
    assert not np.allclose(one, features(encoder, items))


def point_encoder(**clouds):
    torch.manual_seed(0)
    sizes = {"groups": 8, "group_size": 6, "width": 24, "depth": 2, "heads": 4}
    return PointTransformer(point_spec("tiny", Clouds(points=32, **clouds), **sizes)).eval()


def test_clouds_of_any_size_are_scaled_as_the_encoder_was_trained():
    encoder = point_encoder()
    clouds = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (20, 32, 90)]
    x = features(encoder, clouds)
    assert x.shape == (3, 48)
    np.testing.assert_allclose(features(encoder, [5 * c + 70 for c in clouds]), x, atol=1e-4)
    of_blocks = point_encoder(block_m=12.0)
    block = clouds[1] - clouds[1].mean(0)
    inside = features(of_blocks, [6 * block])
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    by_hand = of_blocks.pooled(block[order][None].float())
    np.testing.assert_allclose(inside, by_hand.detach().numpy(), atol=1e-5)
    assert np.abs(features(of_blocks, [3 * block]) - inside).max() > 1e-3  # metres matter
    with pytest.raises(InputError, match="points hold 3 numbers; .* needs 4: x, y, z, last"):
        features(point_encoder(features=("last",)), clouds)
