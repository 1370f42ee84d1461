import math

import pytest
import torch
import torch.nn.functional as F

from geossl import recipe
from geossl.errors import RecipeError
from geossl.methods.base import OptimConfig
from geossl.methods.point_cmae import Decoder, PointCMAE, agreement, chamfer, token_cosine
from geossl.models.encoders.point_transformer import Clouds, PointTransformer, point_spec
from geossl.models.layers.masking import take

CONTRACT = ["data.batch_size=4", "data.points=128", "encoder.group_size=8"]  # recipe values for test_contract.py

OPTIM = OptimConfig("adamw", 1e-3, (0.9, 0.999), 0.05, "cosine", 2, 40)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small_method(seed=0, groups=10, **objective):
    torch.manual_seed(seed)
    spec = point_spec("tiny", Clouds(points=64), groups=groups, group_size=6, width=24, depth=2, heads=4)
    return PointCMAE(PointTransformer(spec), OPTIM, seed=seed, **{"decoder_depth": 1} | objective)


def small_batch(b=6):
    return {"points": F.normalize(randn(b, 64, 3), dim=2) * torch.linspace(0.5, 1, b)[:, None, None]}


def slow_chamfer(a, b):
    d = [[float(((p - q) ** 2).sum()) for q in b] for p in a]
    return sum(min(row) for row in d) / len(a) + sum(min(c) for c in zip(*d, strict=True)) / len(b)


def test_chamfer_of_a_hand_made_case():
    a, b = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]]), torch.tensor([[[0.0, 0, 0], [3, 0, 0]]])
    assert float(chamfer(a, b)) == (0 + 1) / 2 + (0 + 4) / 2
    assert float(chamfer(a, b, "l1")) == pytest.approx(((0 + 1) / 2 + (0 + 2) / 2) / 2, abs=1e-5)


def test_chamfer_equals_a_double_loop_and_forgets_the_order():
    a, b = randn(4, 5, 3), randn(4, 7, 3, seed=1)
    slow = sum(slow_chamfer(x, y) for x, y in zip(a, b, strict=True)) / 4
    assert float(chamfer(a, b)) == pytest.approx(slow, abs=1e-6)
    assert float(chamfer(a, b)) == pytest.approx(float(chamfer(b, a)), abs=1e-6)
    assert float(chamfer(a, a[:, torch.randperm(5)])) == 0


def test_chamfer_grows_with_scale_squared_or_linearly():
    a, b = randn(2, 5, 3), randn(2, 5, 3, seed=1)
    assert float(chamfer(3 * a, 3 * b)) == pytest.approx(9 * float(chamfer(a, b)), rel=1e-5)
    assert float(chamfer(3 * a, 3 * b, "l1")) == pytest.approx(3 * float(chamfer(a, b, "l1")), rel=1e-4)


def test_chamfer_has_the_gradient_of_finite_differences():
    a, b = randn(1, 3, 3, dtype=torch.float64), randn(1, 4, 3, seed=3, dtype=torch.float64)
    step = 1e-3  # chamfer runs in float32
    x = a.clone().requires_grad_()
    chamfer(x, b).backward()
    for i in range(3):
        e = torch.zeros_like(a)
        e[0, i, 0] = step
        slope = (slow_chamfer((a + e)[0], b[0]) - slow_chamfer((a - e)[0], b[0])) / (2 * step)
        assert float(x.grad[0, i, 0]) == pytest.approx(slope, abs=2e-3)


def test_masks_hide_exactly_their_share_and_are_independent():
    method = small_method(groups=64)
    m, b = 38, 4000
    one, two = method.draw(b, torch.Generator().manual_seed(0))
    hidden = [torch.ones(b, 64, dtype=torch.bool).scatter(1, v, False) for v in (one, two)]
    assert all((h.sum(dim=1) == m).all() for h in hidden)
    assert torch.equal(one, one.sort(dim=1).values)
    both = hidden[0] & hidden[1]
    assert [set(row.nonzero()[:, 0].tolist()) for row in both[:20]] == [
        set(range(64)) - set(a.tolist()) - set(c.tolist()) for a, c in zip(one[:20], two[:20], strict=True)
    ]
    size = both.sum(dim=1).float()
    deviation = math.sqrt(m**2 / 64 * (64 - m) ** 2 / (64 * 63))  # hypergeometric
    assert float(size.mean()) == pytest.approx(m**2 / 64, abs=4 * deviation / math.sqrt(b))
    assert size.min() >= 2 * m - 64
    assert float(size.std()) == pytest.approx(deviation, rel=0.1)
    a, c = (h.flatten().double() for h in hidden)
    assert abs(float(((a - a.mean()) * (c - c.mean())).mean() / (a.std() * c.std()))) < 4 / math.sqrt(b * 64)


def test_the_same_seed_draws_the_same_masks_and_another_seed_others():
    method = small_method()
    draws = [method.draw(8, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert not torch.equal(draws[0][0], draws[2][0])
    assert not torch.equal(*draws[0])


def test_visible_tokens_go_back_to_their_own_places(monkeypatch):
    decoder = Decoder(24, 1, 4, 6)
    seen = {}
    monkeypatch.setattr(
        "geossl.methods.point_cmae.run_blocks", lambda blocks, x, place, drop, rng: seen.update(x=x) or [x]
    )
    numbers = torch.arange(10.0)[None, :, None].expand(3, 10, 24)
    for visible in small_method().draw(3, torch.Generator().manual_seed(4)):
        decoder(take(numbers, visible), randn(3, 10, 3), visible, 0.0, None)
        back = seen["x"][..., 0]
        assert torch.equal(back.gather(1, visible), visible.float())
        hidden = torch.ones(3, 10, dtype=torch.bool).scatter(1, visible, False)
        assert (back[hidden] == decoder.mask_token[0]).all()


def test_agreement_is_0_for_equal_and_2_for_opposite_features():
    x, hidden = randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    assert float(agreement(x, 7 * x, hidden, "aligned")) == pytest.approx(0, abs=1e-6)
    assert float(agreement(x, -x, hidden, "aligned")) == pytest.approx(2, abs=1e-6)


def test_all_pairs_equal_the_full_similarity_matrix():
    one, two = randn(3, 6, 5), randn(3, 6, 5, seed=1)
    hidden = torch.rand(3, 6, generator=torch.Generator().manual_seed(2)) < 0.5
    cosine = F.cosine_similarity(one[:, :, None], two[:, None], dim=3)
    whole = (1 - cosine)[hidden].mean()  # rows hidden by both, all columns
    assert float(agreement(one, two, hidden, "all_pairs")) == pytest.approx(float(whole), abs=1e-6)


def test_a_token_that_one_mask_shows_matters_to_all_pairs_only():
    one, two, hidden = randn(1, 6, 5), randn(1, 6, 5, seed=1), torch.tensor([[True, True, True, False, False, False]])
    other = two.clone()
    other[0, 4] += 3
    assert torch.equal(agreement(one, two, hidden, "aligned"), agreement(one, other, hidden, "aligned"))
    assert not torch.equal(agreement(one, two, hidden, "all_pairs"), agreement(one, other, hidden, "all_pairs"))


@pytest.mark.parametrize("how", ["aligned", "all_pairs"])
def test_masks_that_share_nothing_give_zero_and_finite_gradients(how):
    x = randn(2, 4, 3).requires_grad_()
    loss = agreement(x, randn(2, 4, 3, seed=1), torch.zeros(2, 4, dtype=torch.bool), how)
    loss.backward()
    assert float(loss) == 0
    assert torch.isfinite(x.grad).all()


def test_all_pairs_pull_tokens_together_and_aligned_do_not():
    hidden = torch.ones(4, 8, dtype=torch.bool)
    found = {}
    for how in ("aligned", "all_pairs"):
        one, two = randn(4, 8, 16).requires_grad_(), randn(4, 8, 16, seed=1).requires_grad_()
        optimizer = torch.optim.SGD([one, two], lr=50.0)
        for _ in range(200):
            optimizer.zero_grad()
            agreement(one, two, hidden, how).backward()
            optimizer.step()
        found[how] = float(token_cosine(one.detach()))
    assert found["all_pairs"] > 0.95
    assert found["aligned"] < 0.3


def test_token_cosine_of_equal_and_of_orthogonal_tokens():
    assert float(token_cosine(torch.ones(2, 5, 3))) == pytest.approx(1)
    assert float(token_cosine(torch.eye(4)[None])) == pytest.approx(0, abs=1e-7)


def gradient_of_tokens(method, term):
    groups = method.encoder.group(small_batch()["points"])
    tokens = randn(6, 10, 24).requires_grad_()
    visible = method.draw(6, torch.Generator().manual_seed(0))
    method.losses_of(tokens, groups, visible)[term].backward()
    hidden = torch.ones(6, 10, dtype=torch.bool)
    for v in visible:
        hidden = hidden & torch.ones_like(hidden).scatter(1, v, False)
    return tokens.grad.abs().sum(dim=2), hidden


@pytest.mark.parametrize("masks", [1, 2])
@pytest.mark.parametrize("term", ["reconstruct", "contrast"])
def test_hidden_patches_do_not_leak(masks, term):
    if masks == 1 and term == "contrast":
        return
    grad, hidden = gradient_of_tokens(small_method(masks=masks), term)
    assert hidden.any()
    assert (grad[hidden] == 0).all()
    assert (grad[~hidden] > 0).all()


def test_one_mask_is_point_mae():
    method = small_method(masks=1)
    losses = method.losses(small_batch())
    assert set(losses) == {"reconstruct"}
    assert len(method.decoders) == 1
    both = small_method(contrast="none")
    both.decoders[0].load_state_dict(method.decoders[0].state_dict())
    both.encoder.load_state_dict(method.encoder.state_dict())
    groups = method.encoder.group(small_batch()["points"])
    tokens = randn(6, 10, 24)
    visible = both.draw(6, torch.Generator().manual_seed(0))
    first = float(method.losses_of(tokens, groups, visible[:1])["reconstruct"])
    second = both.losses_of(tokens, groups, visible)["reconstruct"]
    both.decoders = both.decoders[1:]
    assert float(second) == pytest.approx(
        first + float(both.losses_of(tokens, groups, visible[1:])["reconstruct"]), rel=1e-5
    )


def test_both_decoders_and_the_shared_encoder_learn_from_both_terms():
    for term in ("reconstruct", "contrast"):
        method = small_method()
        method.losses(small_batch())[term].backward()
        silent = {n for n, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        assert not {n for n in silent if n.startswith("encoder")}
        assert {n.split(".")[2] for n in silent} <= ({"norm", "to_points"} if term == "contrast" else set())


def test_the_papers_size_has_the_published_number_of_parameters_per_decoder():
    assert sum(p.numel() for p in Decoder(384, 4, 6, 32).parameters()) == 7_181_408


def test_steps_on_one_batch_reconstruct_it_much_better():
    method, batch = small_method(), small_batch()
    method.train()
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    first = None
    for _ in range(40):
        loss = method.losses(batch)["reconstruct"]
        first = first or float(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.4 * first


@pytest.mark.parametrize(
    ("setting", "value", "term"),
    [
        ("mask_ratio", 0.3, "reconstruct"),
        ("decoder_depth", 2, "reconstruct"),
        ("contrast", "all_pairs", "contrast"),
        ("contrast_weight", 2.0, "contrast"),
        ("reconstruct_weight", 3.0, "reconstruct"),
        ("chamfer_norm", "l1", "reconstruct"),
        ("drop_path", 0.9, "reconstruct"),
        ("masks", 1, "reconstruct"),
    ],
)
def test_every_setting_changes_the_loss(setting, value, term):
    plain, changed = small_method().losses(small_batch()), small_method(**{setting: value}).losses(small_batch())
    assert not torch.equal(plain[term], changed[term])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("encoder.groups=600", "more than data.points=512"),
        ("objective.mask_ratio=0.01", "hides 0 of 32 groups"),
        ("data.scale=[2,1]", "smaller one first"),
        ("objective.contrast=both", "contrast"),
        ("objective.masks=3", "masks"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load("point_cmae", [change])


def test_decoder_blocks_start_without_biases_as_published():
    decoder = Decoder(24, 2, 4, 6)
    linear = [m for m in decoder.blocks.modules() if isinstance(m, torch.nn.Linear)]
    assert all(m.bias is None or not m.bias.any() for m in linear)
    assert sum(m.bias is not None for m in linear) == 6
    assert decoder.to_points.bias.any()  # PyTorch's start, likewise as published


def test_reconstructions_show_the_clouds_with_most_relief_and_leave_batch_norm_as_it_was():
    method, batch = small_method().train(), small_batch()
    before = {name: x.clone() for name, x in method.state_dict().items()}
    (found,) = method.reconstructions(batch).values()
    assert method.training
    assert all(torch.equal(before[name], x) for name, x in method.state_dict().items())
    hidden = int(0.6 * 10)
    assert found.hidden.shape == found.found.shape == (4, hidden * 6, 3)
    assert found.visible.shape == (4, (10 - hidden) * 6, 3)
    order = batch["points"][..., 2].std(dim=1).argsort(descending=True)
    for cloud, points in zip(batch["points"][order], found.hidden, strict=False):
        assert (torch.cdist(points, cloud).amin(dim=1) < 1e-3).all()  # points of the cloud, where they were
