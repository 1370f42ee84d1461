import pytest
import torch
from torch_geometric.data import Data

from geossl.errors import InputError
from geossl.methods.base import OptimConfig
from geossl.methods.graphmae import GraphMAE, Mask, random_mask, scaled_cosine_error
from geossl.models.encoders.gnn import GNNEncoder
from geossl.models.encoders.graph_attention import sorted_edges
from tests.models.encoders.test_gnn import random_graph, spec_of

CONTRACT = ["encoder.dim=32", "data.batch_nodes=64"]  # recipe values for test_contract.py

OPTIM = OptimConfig("adam", 1e-3, (0.9, 0.999), 2e-4, "cosine", 0, 30, decay_all=True)


def method_of(kind="gat", norm="none", seed=0, features=6, **objective):
    torch.manual_seed(seed)
    return GraphMAE(GNNEncoder(spec_of(kind, features, norm=norm)), OPTIM, seed=seed, **{"decoder": kind, **objective})


def batch_of(nodes=12, edges=40):
    x, edge_index = random_graph(nodes, edges)
    return Data(x=x, edge_index=edge_index)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.0])
def test_error_is_one_for_right_angles_and_two_to_the_gamma_for_opposites(gamma):
    x = torch.tensor([[1.0, 0]])
    assert float(scaled_cosine_error(torch.tensor([[0.0, 1]]), x, gamma)) == pytest.approx(1)
    assert float(scaled_cosine_error(-x, x, gamma)) == pytest.approx(2**gamma)
    assert float(scaled_cosine_error(3 * x, x, gamma)) == 0
    two = scaled_cosine_error(torch.tensor([[-1.0, 0], [5, 0]]), x.expand(2, 2), gamma)
    assert float(two) == pytest.approx(2**gamma / 2)


def test_error_does_not_see_lengths():
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    lengths = torch.tensor([[1.0], [2], [3], [4], [5]])
    one, two = scaled_cosine_error(a, b, 2.0), scaled_cosine_error(7 * a, lengths * b, 2.0)
    torch.testing.assert_close(one, two)


def test_error_of_a_zero_row_is_one_with_a_finite_gradient():
    z = torch.zeros(1, 3, requires_grad=True)
    loss = scaled_cosine_error(z, torch.ones(1, 3), 2.0)
    loss.backward()
    assert float(loss.detach()) == 1
    assert torch.isfinite(z.grad).all()
    z = torch.ones(1, 3, requires_grad=True)
    scaled_cosine_error(z, torch.zeros(1, 3), 2.0).backward()
    assert float(scaled_cosine_error(z, torch.zeros(1, 3), 2.0).detach()) == 1
    assert not z.grad.any()


def test_masks_hide_as_many_as_they_should():
    mask = random_mask(2708, 0.5, 0.05, torch.Generator().manual_seed(0))
    assert (len(mask.token), len(mask.noise), len(mask.source)) == (1287, 67, 67)
    assert len(mask.hidden.unique()) == 1354
    small = random_mask(4, 0.5, 0.05, torch.Generator())
    assert (len(small.token), len(small.noise)) == (2, 0)
    for nodes, ratio in ((2, 0.01), (2, 0.99), (50, 0.99)):
        assert 1 <= len(random_mask(nodes, ratio, 0.0, torch.Generator()).hidden) <= nodes - 1
    with pytest.raises(InputError, match="graph of 1 node cannot be masked"):
        random_mask(1, 0.5, 0.0, torch.Generator())


def test_the_encoder_sees_features_the_token_and_others_features():
    method, batch = method_of(), batch_of()
    seen = {}

    def encode(parts, order, edges):
        seen["x"] = torch.cat(parts)[order]
        return torch.zeros(12, 8)

    method.encoder.encode = encode
    method.mask_token.data.fill_(9.0)
    method.loss_of(batch, Mask(torch.tensor([1, 4]), torch.tensor([7, 2]), torch.tensor([3, 7])))
    expected = batch.x.clone()
    expected[[1, 4]] = 9.0
    expected[[7, 2]] = batch.x[[3, 7]]
    assert torch.equal(seen["x"], expected)


@pytest.mark.parametrize("kind", ["gat", "gin"])
@pytest.mark.parametrize("is_alone", [False, True])
def test_a_hidden_node_does_not_see_its_target(kind, is_alone):
    method, batch = method_of(kind).eval(), batch_of()
    if is_alone:
        batch.edge_index = batch.edge_index[:, (batch.edge_index != 4).all(dim=0)]
    seen = []
    method.decoder.register_forward_hook(lambda module, given, out: seen.append(out.detach().clone()))
    mask = Mask(torch.tensor([1, 4]), torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    method.loss_of(batch, mask)
    batch.x[4] += 100
    method.loss_of(batch, mask)
    assert torch.equal(seen[0], seen[1])
    batch.x[5] += 100
    method.loss_of(batch, mask)
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize(("remask", "reaches"), [(True, False), (False, True)])
def test_remasking_cuts_the_way_from_a_hidden_code_to_its_own_target(remask, reaches):
    method, batch = method_of(remask=remask).eval(), batch_of()
    codes = torch.randn(12, 8, requires_grad=True)
    method.encoder.encode = lambda *a: codes
    mask = Mask(torch.tensor([4]), torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    method.loss_of(batch, mask).backward()
    assert bool(codes.grad[4].abs().sum() > 0) is reaches
    assert codes.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["gat", "gin", "mlp"])
def test_permuting_nodes_keeps_the_loss(kind):
    method = method_of("gin" if kind == "gin" else "gat", decoder=kind).eval()
    batch, order = batch_of(), torch.randperm(12, generator=torch.Generator().manual_seed(3))
    back = torch.argsort(order)
    mask = Mask(torch.tensor([1, 4, 9]), torch.tensor([7]), torch.tensor([3]))
    moved = Data(x=batch.x[order], edge_index=back[batch.edge_index])
    one, two = method.loss_of(batch, mask), method.loss_of(moved, Mask(*(back[ids] for ids in mask)))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_skipping_codes_nobody_looks_at_changes_nothing(monkeypatch):
    method, batch = method_of().eval(), batch_of()
    mask = Mask(torch.tensor([1, 4, 9]), torch.tensor([7]), torch.tensor([3]))
    fast = method.loss_of(batch, mask)
    whole = sorted_edges(batch.edge_index, 12)
    encode = method.encoder.encode
    monkeypatch.setattr(method.encoder, "encode", lambda parts, order, edges: encode(parts, order, [whole, whole]))
    torch.testing.assert_close(fast, method.loss_of(batch, mask))


def test_only_the_core_of_a_sampled_graph_is_asked_for():
    method, batch = method_of().eval(), batch_of()
    mask = Mask(torch.tensor([1, 4, 9]), torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    whole = [float(method.loss_of(batch, mask).detach()) for _ in range(2)]
    batch.core = torch.zeros(12, dtype=torch.bool).index_fill(0, torch.tensor([4]), True)
    seen = []
    method.decoder.register_forward_hook(lambda module, given, out: seen.append(given[2].tolist()))
    part = float(method.loss_of(batch, mask).detach())
    assert seen == [[4]]
    assert whole[0] == whole[1] != part
    batch.core[:] = False
    assert float(method.loss_of(batch, mask).detach()) == 0


def test_dropped_edges_are_hidden_from_the_encoder_alone():
    method, batch, counts = method_of(edge_drop=0.9), batch_of(), []
    encode = method.encoder.encode

    def counting(parts, order, edges):
        counts.append(len(edges[0].source) - 12)
        assert int((edges[0].source == edges[0].target).sum()) == 12  # one each, whatever is dropped
        return encode(parts, order, edges)

    method.encoder.encode = counting
    method.decoder.register_forward_hook(lambda module, given, out: counts.append(given[1].shape[1]))
    method.train().losses(batch)
    assert counts[0] < counts[1] == batch.edge_index.shape[1]


@pytest.mark.parametrize(("kind", "norm"), [("gat", "none"), ("gat", "layer"), ("gin", "batch")])
def test_training_lowers_the_loss_and_reaches_every_parameter(kind, norm):
    g = torch.Generator().manual_seed(0)
    x, edge_index = random_graph(60, 240, 12)
    for _ in range(2):  # features that neighbours share, so that there is something to learn
        x = x + torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]) / 4
    method = method_of(kind, norm, features=12, gamma=1.0, replace_ratio=0.1).train()
    method.mask_token.data.normal_(generator=g)
    batch, optimizer = Data(x=x, edge_index=edge_index), torch.optim.Adam(method.parameters(), 1e-2)
    losses = []
    for step in range(60):
        loss = method.losses(batch)["reconstruct"]
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            silent = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            # codes of hidden nodes are zero, so the score of the node asked for is zero, whatever this vector is
            assert silent == (["decoder.conv.att_target"] if kind == "gat" else [])
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]


def test_same_seed_same_loss_with_dropout_and_all():
    batch, method = batch_of(), method_of().train()
    one, two = (float(method.losses(batch)["reconstruct"].detach()) for _ in range(2))
    assert one == two
    method.seed = 1
    assert float(method.losses(batch)["reconstruct"].detach()) != one


@pytest.mark.parametrize(
    ("setting", "value"),
    [("mask_ratio", 0.3), ("replace_ratio", 0.5), ("edge_drop", 0.5), ("gamma", 3.0), ("remask", False),
     ("decoder", "mlp")],
)  # fmt: skip
def test_every_setting_changes_the_loss(setting, value):
    plain, changed = (method_of(**c).train().losses(batch_of())["reconstruct"] for c in ({}, {setting: value}))
    assert not torch.equal(plain, changed)


def test_every_parameter_is_decayed_when_asked_for():
    method = method_of()
    assert {g["weight_decay"] for g in OPTIM.build(method).param_groups} == {2e-4}
    assert isinstance(OPTIM.build(method), torch.optim.Adam)


def test_the_exported_part_holds_no_decoder():
    names = set(method_of().encoder.state_dict())
    assert not [n for n in names if "token" in n or "bridge" in n or "decoder" in n]
    assert "layers.1.conv.weight" in names


def test_batch_norm_of_the_sum_decoder_sees_every_nodes_neighbours():
    """Against a plain loop over nodes: sums of all neighbours and twice a node's own code, then the layer's MLP."""
    method = method_of("gin", "batch").train()
    _x, edge_index = random_graph(12, 40)
    codes, rows = torch.randn(12, method.encoder.spec.dim, generator=torch.Generator().manual_seed(3)), [7, 2, 9]
    method.decoder.drop.p = 0.0
    sums = []
    for node in range(12):
        near = {int(s) for s, t in edge_index.T.tolist() if t == node and s != node}
        total = 2 * codes[node]  # the self-loop, and epsilon = 0
        for other in near:
            total = total + codes[other] * sum(s == other and t == node for s, t in edge_index.T.tolist())
        sums.append(total)
    first, norm, activation, last = method.decoder.conv.nn
    hidden = first(torch.stack(sums))
    mean, var = hidden.mean(0), hidden.var(0, unbiased=False)
    expected = last(activation((hidden - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias))[rows]
    found = method.decoder(codes, edge_index, torch.tensor(rows))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
