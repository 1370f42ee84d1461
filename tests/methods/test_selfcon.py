import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geossl import recipe
from geossl.errors import Note, RecipeError
from geossl.methods.base import OptimConfig
from geossl.methods.selfcon import SelfCon, contrastive_loss
from geossl.models.encoders.exit_resnet import ExitResNet, exit_resnet_spec

CONTRACT = [
    "data.generators=[phase,detail]",
    "data.holdout_generators=[]",
    "data.batch_size=8",
    "encoder.width=4",
]  # recipe values for test_contract.py

OPTIM = OptimConfig("sgd", 0.05, (0.9, 0.9), 1e-4, "cosine", 2, 40)
LABELS = torch.tensor([0, 0, 1, 1, 1, 0, 2, 1])
ORIGIN, GENERATOR = torch.tensor([0, 0, 1, 1, 1, 1, 0, 1]), torch.tensor([4, 4, 0, 1, 0, 2, 4, 3])


@pytest.fixture
def z():
    rows = torch.from_numpy(np.random.RandomState(0).standard_normal((8, 2, 16)))
    return F.normalize(rows, dim=-1)


def slow_loss(z, labels, temperature):
    """The formula, anchor by anchor and pair by pair."""
    b, v, _ = z.shape
    outputs = [(i, o) for i in range(b) for o in range(v)]
    total, anchors = 0.0, 0
    for i, o in outputs:
        others = [(j, p) for j, p in outputs if (j, p) != (i, o)]
        below = sum(math.exp(float(z[i, o] @ z[j, p]) / temperature) for j, p in others)
        same = [(j, p) for j, p in others if labels[j] == labels[i]]
        if same:
            shares = [math.exp(float(z[i, o] @ z[j, p]) / temperature) / below for j, p in same]
            total -= sum(math.log(s) for s in shares) / len(same)
            anchors += 1
    return temperature / 0.07 * total / anchors


def test_losses_equal_the_published_numbers(z):
    assert z[0, 0, :2].tolist() == pytest.approx([0.417684272786, 0.094747399622], abs=1e-12)
    assert float(contrastive_loss(z, LABELS)) == pytest.approx(5.773858631629107, abs=1e-10)
    assert float(contrastive_loss(z, LABELS, 0.1)) == pytest.approx(6.378620389315003, abs=1e-10)
    assert float(contrastive_loss(z, torch.arange(8))) == pytest.approx(5.994471561924435, abs=1e-10)
    assert float(contrastive_loss(z[:, 1:], LABELS)) == pytest.approx(3.6022042976414634, abs=1e-10)
    assert float(contrastive_loss(z, ORIGIN)) == pytest.approx(6.164664031392206, abs=1e-10)
    made = ORIGIN == 1
    assert float(contrastive_loss(z[made], GENERATOR[made])) == pytest.approx(5.17217077314527, abs=1e-10)
    assert float(contrastive_loss(z.float(), LABELS)) == pytest.approx(5.773858631629107, abs=1e-5)


def test_starred_terms_equal_the_published_numbers(z):
    exits = torch.tensor([True, False])
    assert float(contrastive_loss(z, LABELS, anchors=exits)) == pytest.approx(6.5929168194786625, abs=1e-10)
    assert float(contrastive_loss(z, torch.arange(8), anchors=exits)) == pytest.approx(6.488161979959738, abs=1e-10)
    both = sum(float(contrastive_loss(z, LABELS, anchors=a)) for a in (exits, ~exits))
    assert both / 2 == pytest.approx(float(contrastive_loss(z, LABELS)), abs=1e-12)


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.07, 0.3])
def test_loss_equals_a_slow_loop_over_positives_and_negatives(outputs, temperature):
    g = torch.Generator().manual_seed(outputs)
    z = F.normalize(torch.randn(7, outputs, 5, generator=g, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0, 1, 1, 2, 0, 0, 3])
    assert float(contrastive_loss(z, labels, temperature)) == pytest.approx(
        slow_loss(z, labels, temperature), abs=1e-10
    )


def test_order_of_images_and_of_outputs_does_not_matter(z):
    mixed = torch.tensor([3, 1, 0, 7, 6, 2, 5, 4])
    assert float(contrastive_loss(z[mixed], LABELS[mixed])) == pytest.approx(
        float(contrastive_loss(z, LABELS)), abs=1e-12
    )
    assert float(contrastive_loss(z.flip(1), LABELS)) == pytest.approx(float(contrastive_loss(z, LABELS)), abs=1e-12)


def test_one_exit_and_two_views_are_the_same_loss_on_the_same_vectors():
    """SupCon's own formula (views stacked one after the other) gives what SelfCon gives for exit and end."""
    g = torch.Generator().manual_seed(0)
    first, second = F.normalize(torch.randn(2, 6, 4, generator=g, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0, 1, 0, 1, 2, 2])
    rows, y = torch.cat([first, second]), labels.repeat(2)
    similarity = rows @ rows.T / 0.07
    similarity = similarity - similarity.max(1, keepdim=True).values
    others = 1 - torch.eye(12)
    log_share = similarity - (similarity.exp() * others).sum(1, keepdim=True).log()
    positive = (y[:, None] == y) * others
    supcon = -((positive * log_share).sum(1) / positive.sum(1)).mean()
    selfcon = contrastive_loss(torch.stack([first, second], dim=1), labels)
    assert float(selfcon) == pytest.approx(float(supcon), abs=1e-12)


def test_nothing_known_costs_the_logarithm_of_all_others():
    z = F.normalize(torch.ones(6, 2, 4), dim=-1)
    assert float(contrastive_loss(z, torch.zeros(6, dtype=torch.long))) == pytest.approx(math.log(11), abs=1e-5)


def test_lonely_images_without_an_exit_are_no_anchors():
    z = F.normalize(torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    pair = contrastive_loss(z, torch.tensor([0, 0, 1]))
    by_hand = slow_loss(z.double(), [0, 0, 1], 0.07)
    assert float(pair) == pytest.approx(by_hand, rel=1e-5)
    alone = contrastive_loss(z.requires_grad_(), torch.arange(3))
    alone.backward()
    assert float(alone.detach()) == 0
    assert torch.isfinite(z.grad).all()


def method(exits=(2,), seed=0, **settings):
    torch.manual_seed(seed)
    encoder = ExitResNet(exit_resnet_spec(10, width=4, stem="small", exits=exits))
    return SelfCon(encoder, OPTIM, projection=(16, 8), seed=seed, **settings)


def batch(views=1):
    g = torch.Generator().manual_seed(1)
    return {"views": torch.rand(6, views, 3, 16, 16, generator=g), "generator": torch.tensor([-1, -1, 0, 1, 0, -1])}


def test_both_labels_are_two_terms_and_the_second_is_of_generated_images_only():
    own, data = method(), batch()
    losses = own.losses(data)
    z = own.projected(data["views"][:, 0])
    made = data["generator"] >= 0
    assert set(losses) == {"origin", "generator"}
    assert float(losses["origin"]) == pytest.approx(float(contrastive_loss(z, made.long())), rel=1e-5)
    assert float(losses["generator"]) == pytest.approx(
        float(contrastive_loss(z[made], data["generator"][made])), rel=1e-5
    )


def test_a_batch_without_generated_images_counts_nothing_for_the_second_label():
    own, data = method(), batch()
    data["generator"] = torch.full((6,), -1)
    losses = own.losses(data)
    assert float(losses["generator"]) == 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in own.parameters())


def test_without_labels_only_an_images_own_outputs_attract():
    own, data = method(labels=()), batch()
    z = own.projected(data["views"][:, 0])
    assert float(own.losses(data)["self"]) == pytest.approx(float(contrastive_loss(z, torch.arange(6))), rel=1e-5)


def test_views_and_exits_are_outputs_of_the_same_image():
    own, data = method(), batch(views=2)
    z = own.projected(data["views"].flatten(0, 1)).reshape(6, 4, 8)
    label = (data["generator"] >= 0).long()
    assert float(own.losses(data)["origin"]) == pytest.approx(float(contrastive_loss(z, label)), rel=1e-5)


def test_gradient_reaches_exit_end_and_both_heads():
    own = method()
    torch.stack(list(own.losses(batch()).values())).sum().backward()
    assert [n for n, p in own.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert len(method(exits=()).projectors) == 1


def test_starred_forms_add_the_exits_to_a_loss_of_ends_alone():
    data = batch(views=2)
    own = method(exits=(1, 2), alpha=0.5, labels=("origin",))
    z = own.projected(data["views"].flatten(0, 1)).reshape(6, 6, 8)  # exit, exit, end of a view, then of the other
    label, ends = (data["generator"] >= 0).long(), torch.tensor([False, False, True] * 2)
    expected = contrastive_loss(z[:, [2, 5]], label) + 0.5 * contrastive_loss(z, label, anchors=~ends)
    assert float(own.losses(data)["origin"]) == pytest.approx(float(expected), rel=1e-5)
    supcon = method(exits=(1, 2), alpha=0.0, labels=("origin",)).losses(data)["origin"]
    assert float(supcon) == pytest.approx(float(contrastive_loss(z[:, [2, 5]], label)), rel=1e-5)


def test_an_end_is_no_anchor_of_the_starred_term():
    """Whatever else an end is like, its own row of the loss is not there: moving it against a wall of zeros is free."""
    z = torch.zeros(4, 2, 6, dtype=torch.float64)
    z[:, 0, 0], z[:, 1, 1:5] = 1, torch.eye(4, dtype=torch.float64)  # exits all alike, ends at right angles to them
    z.requires_grad_()
    exits = torch.tensor([True, False])
    (as_anchor,) = torch.autograd.grad(contrastive_loss(z, torch.arange(4)), z)
    (starred,) = torch.autograd.grad(contrastive_loss(z, torch.arange(4), anchors=exits), z)
    others = as_anchor[:, 1, 1:5] - torch.diag_embed(as_anchor[:, 1, 1:5].diagonal())
    assert others.abs().max() > 0.01  # as anchors, ends are pushed off each other
    assert starred[:, 1, 1:].abs().max() == 0  # as candidates, they are moved along the exits only


@pytest.mark.parametrize("views", [1, 2])
def test_every_picture_with_two_outputs_has_a_positive(views):
    alone = contrastive_loss(
        method().projected(torch.rand(3 * views, 3, 16, 16)).reshape(3, 2 * views, 8), torch.arange(3)
    )
    assert float(alone.detach()) > 0


def test_chunks_do_not_matter_where_batch_statistics_do_not():
    with pytest.warns(Note, match="batch statistics are those of chunks of 4 images"):
        whole, parts, data = method().eval(), method(chunk=4).eval(), batch()
    one, two = (torch.stack(list(m.losses(data).values())).sum() for m in (whole, parts))
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    one.backward()
    two.backward()
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    differ = [float(m.train().losses(data)["origin"].detach()) for m in (method(), method(chunk=4))]
    assert differ[0] != differ[1]  # batch normalisation sees chunks


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.labels=[]", "encoder.exits=[]"], "needs encoder.exits or data.views=2"),
        (["encoder.input=s2"], "reads unlabelled scenes; use objective.labels"),
        (["encoder.exits=[]", "objective.alpha=1"], "objective.alpha=1 weights exits, but encoder.exits is empty"),
        (["encoder.exits=[2,2]"], "names a stage twice"),
        (["encoder.exits=[4]"], "encoder.exits.0 = 4 is wrong"),
        (["encoder.window_px=100"], "multiple of the 8-px patch"),
        (["encoder.halo_px=48"], "leaves nothing of encoder.window_px=96"),
        (["data.batch_size=7"], "multiple of 2"),
        (["data.augment=[blurr]"], "data.augment.0 = 'blurr' is wrong"),
    ],
)
def test_settings_that_cannot_work_are_one_line(overrides, message):
    with pytest.raises(RecipeError, match=message.replace("[", r"\[").replace(".", r"\.")):
        recipe.load("selfcon", overrides)


def test_the_recipes_of_the_paper_and_of_scenes_are_complete():
    paper = recipe.load("selfcon/imaginet")
    assert (paper.encoder.depth, paper.encoder.stem, paper.data.batch_size, paper.train.max_steps) == (
        50,
        "full",
        200,
        320000,
    )
    assert recipe.load("selfcon/sentinel2").objective.labels == ()


def test_the_papers_size_has_the_papers_parts():
    with torch.device("meta"):
        for stem in ("full", "strided"):  # strides have no weights
            own = SelfCon(ExitResNet(exit_resnet_spec(50, stem=stem)), OPTIM)
            assert sum(p.numel() for p in own.encoder.parameters()) == 24_558_656
            assert [sum(p.numel() for p in head.parameters()) for head in own.projectors] == [4_458_624] * 2
            assert sum(p.numel() for p in own.parameters()) == 33_475_904


def test_heads_with_batch_normalisation_cannot_make_all_vectors_one():
    """Images that an encoder hardly tells apart become vectors that cancel out, not a single one."""
    nearly_one = torch.ones(32, 1, 32) + 1e-3 * torch.randn(32, 1, 32, generator=torch.Generator().manual_seed(0))
    mean = {}
    for batchnorm in (False, True):
        head = method(exits=(), batchnorm=batchnorm).projectors[0]
        mean[batchnorm] = float(head(nearly_one[:, 0]).mean(dim=0).norm().detach())
    assert mean[False] > 0.99
    assert mean[True] < 0.2


def test_contrast_is_computed_in_float32_under_autocast(z):
    with torch.autocast("cpu", torch.bfloat16):
        found = float(contrastive_loss(z.float(), LABELS, 0.07))
    assert found == pytest.approx(float(slow_loss(z, LABELS, 0.07)), rel=1e-5)
