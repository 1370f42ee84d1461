import copy

import numpy as np
import pytest
import torch

from geossl.errors import InputError
from geossl.models.encoder import PointEncoder, PointSpec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.training.classifier import Classifier, augmented, finetune_encoder, loss_of, varied
from geossl.training.early_stopping import FinetuneConfig

QUICK = FinetuneConfig(lrs=(1e-3,), epochs=8, batch_size=8, patience=8)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=4)).eval()


@pytest.fixture(scope="module")
def radar():
    """Two classes that differ in the direction of their stripes only, so that the encoder has to learn."""
    generator = torch.Generator().manual_seed(0)
    stripes = torch.where(torch.arange(16) % 4 < 2, -8.0, -18.0).expand(16, 16)
    items, labels = [], np.arange(64) % 2
    for y in labels:
        image = stripes if y else stripes.T
        items.append({"s1": torch.stack([image, image - 6]) + torch.randn(2, 16, 16, generator=generator)})
    return items, labels, np.repeat([0, 1, 2], [32, 16, 16])


def test_fine_tuning_learns_what_a_frozen_encoder_need_not_hold(encoder, radar, monkeypatch):
    monkeypatch.setattr(
        "geossl.training.classifier.augmented", lambda encoder, item, config, rng: item
    )  # turns swap the classes
    items, labels, part = radar
    before = copy.deepcopy(encoder.state_dict())
    model, chosen = finetune_encoder(encoder, items, labels, part, 2, QUICK, seed=0)
    test = np.flatnonzero(part == 2)
    assert (model.chances(items, test, False).argmax(1) == labels[test]).mean() == 1
    assert chosen["val_score"] == 1
    assert all(torch.equal(before[name], x) for name, x in encoder.state_dict().items())  # the caller's is left alone
    assert any(not torch.equal(before[name], x) for name, x in model.encoder.state_dict().items())


def test_the_test_part_is_never_read(encoder, radar):
    items, labels, part = radar
    torn = [item if p < 2 else None for item, p in zip(items, part, strict=True)]
    wrong = np.where(part < 2, labels, 1 - labels)
    quick = FinetuneConfig(lrs=(1e-3,), epochs=2, batch_size=8)
    one, chosen = finetune_encoder(encoder, items, labels, part, 2, quick, seed=0)
    two, same = finetune_encoder(encoder, torn, wrong, part, 2, quick, seed=0)
    assert chosen == same
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_the_best_epoch_is_kept_and_training_stops_after_it(encoder, radar):
    items, labels, part = radar
    hopeless = np.where(part == 1, np.random.default_rng(0).permutation(labels), labels)
    config = FinetuneConfig(lrs=(1e-3,), epochs=30, batch_size=8, patience=2)
    seen = []
    original = Classifier.chances
    try:
        Classifier.chances = lambda self, *a, **k: seen.append(1) or original(self, *a, **k)
        _, chosen = finetune_encoder(encoder, items, hopeless, part, 2, config, seed=0)
    finally:
        Classifier.chances = original
    assert len(seen) == min(30, chosen["epoch"] + 2)


def test_the_learning_rate_is_chosen_on_the_validation_part(encoder, radar):
    items, labels, part = radar
    config = FinetuneConfig(lrs=(0.0, 1e-3), epochs=4, batch_size=8)
    _, chosen = finetune_encoder(encoder, items, labels, part, 2, config, seed=0)
    _, still = finetune_encoder(encoder, items, labels, part, 2, FinetuneConfig(lrs=(0.0,), epochs=4), seed=0)
    assert chosen["val_score"] >= still["val_score"]
    assert chosen["lr"] in (0.0, 1e-3)


def test_several_classes_per_item_use_a_sigmoid_each(encoder, radar, monkeypatch):
    monkeypatch.setattr("geossl.training.classifier.augmented", lambda encoder, item, config, rng: item)
    items, labels, part = radar
    both = np.column_stack([labels, 1 - labels, np.ones_like(labels)])
    model, chosen = finetune_encoder(encoder, items, both, part, 3, QUICK, seed=0)
    chances = model.chances(items, np.flatnonzero(part == 2), True)
    assert chances[:, 2].min() > 0.5
    assert chosen["val_score"] > 0.5


def test_losses_are_those_of_torch():
    logits = torch.tensor([[2.0, -1.0], [0.0, 0.0]])
    single = loss_of(logits, torch.tensor([0, 1]))
    assert float(single) == pytest.approx((np.log(1 + np.exp(-3)) + np.log(2)) / 2)
    multi = loss_of(logits, torch.tensor([[1, 0], [0, 1]]))
    expected = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(-1)), np.log(2), np.log(2)]
    assert float(multi) == pytest.approx(np.mean(expected))


def test_turns_and_flips_move_all_sensors_alike(encoder):
    image = torch.arange(64.0).view(1, 8, 8)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        out = augmented(encoder, {"s1": image, "s2": 2 * image}, FinetuneConfig(), rng)
        assert torch.equal(2 * out["s1"], out["s2"])
        assert out["s1"].sort().values.sum() == image.sum()
        seen.add(tuple(out["s1"].flatten().tolist()))
    assert len(seen) == 8
    oblong = augmented(encoder, {"s1": torch.zeros(1, 8, 16)}, FinetuneConfig(), rng)
    assert oblong["s1"].shape == (1, 8, 16)


def test_clouds_are_varied_as_their_kind_allows():
    rng = np.random.default_rng(0)
    points = torch.from_numpy(np.c_[rng.normal((0, 0, 5), 1, (40, 3)), np.arange(40)]).double()
    scan = [varied(points, np.random.default_rng(i), is_scan=True) for i in range(3)]
    for cloud in scan:  # another order, the same heights and distances from the axis, features stay with their points
        back = cloud[cloud[:, 3].argsort()]
        assert not torch.equal(cloud[:, 3], points[:, 3])
        torch.testing.assert_close(back[:, 2:], points[:, 2:])
        torch.testing.assert_close(back[:, :2].norm(dim=1), points[:, :2].norm(dim=1))
    assert not torch.allclose(scan[0][scan[0][:, 3].argsort()], scan[1][scan[1][:, 3].argsort()])
    thing = varied(points, rng, is_scan=False)
    factors = thing[thing[:, 3].argsort()][:, :3] / points[:, :3]
    torch.testing.assert_close(factors, factors[:1].expand_as(factors))
    assert ((factors > 2 / 3) & (factors < 3 / 2)).all()
    assert len(factors[0].unique()) == 3


class Nearly(PointEncoder):
    """Vectors of clouds that share nearly everything: a large constant, and a little of what tells classes apart."""

    def __init__(self):
        super().__init__()
        self.spec = PointSpec(
            name="nearly", architecture="point_transformer", arguments={}, dim=6, source="", licence="", points=8,
            features=(), block_m=None, voxel_m=0.0, ground="none",
        )  # fmt: skip
        self.weight = torch.nn.Parameter(torch.ones(1))

    def tokens(self, points):
        raise NotImplementedError

    def pooled(self, points):
        shared = torch.tensor([3.0, -2.0, 5.0, 1.0, -4.0, 2.0])
        return self.weight * shared + 0.01 * points[:, 0, :1] * torch.tensor([0.0, 1.0, 0.0, -1.0, 0.0, 0.0])

    point_dim = 6

    def per_point(self, points, where):
        raise NotImplementedError


def test_the_norm_is_over_the_batch_so_that_small_differences_between_items_are_seen():
    model = Classifier(Nearly(), 2).train()
    vectors = model.encoder.pooled(torch.randn(64, 8, 3, generator=torch.Generator().manual_seed(0)))
    between = vectors.var(dim=0).sum() / vectors.var(dim=1).mean()
    assert between < 1e-4  # of what a norm per sample would leave
    model.norm.momentum = None
    normed = model.norm(vectors)
    for column in (1, 3):
        numbers = [float(v) for v in vectors[:, column].detach().double()]
        mean = sum(numbers) / 64
        std = (sum((v - mean) ** 2 for v in numbers) / 64 + 1e-6) ** 0.5
        expected = torch.tensor([(v - mean) / std for v in numbers])
        torch.testing.assert_close(normed[:, column].detach(), expected, rtol=1e-3, atol=1e-3)
    model.eval()  # running statistics: an item's logits do not depend on the others
    torch.testing.assert_close(model.norm(vectors[:1]), model.norm(vectors)[:1], rtol=0, atol=0)


def test_heads_are_linear_for_images_and_of_three_layers_with_dropout_for_clouds(encoder):
    assert isinstance(Classifier(encoder, 3).head, torch.nn.Linear)
    kinds = [type(m).__name__ for m in Classifier(Nearly(), 3).head]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]


def test_the_head_has_a_rate_of_its_own(encoder, radar, monkeypatch):
    items, labels, part = radar
    seen = []

    def keep(model, groups, *rest):
        seen.append([group["lr"] for group in groups])
        return (0.0, 0.0), 1

    monkeypatch.setattr("geossl.training.classifier.train_until_best", keep)
    for rate in (10.0, 1.0):
        finetune_encoder(encoder, items, labels, part, 2, FinetuneConfig(lrs=(1e-3,), head_rate=rate), seed=0)
    assert seen == [[1e-3, pytest.approx(1e-2)], [1e-3, 1e-3]]


def test_one_training_item_is_refused(encoder, radar):
    items, labels, _ = radar
    with pytest.raises(InputError, match="at least 2 training items in a batch for batch statistics, not 1"):
        finetune_encoder(encoder, items[:3], labels[:3], np.array([0, 1, 1]), 2, QUICK, seed=0)
