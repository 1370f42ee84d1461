import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GINConv

from geossl.models.encoder import GraphSpec
from geossl.models.encoders.gnn import GNNEncoder, NodeMLP
from geossl.models.encoders.graph_attention import GraphAttention, sorted_edges, times
from geossl.models.files import load_encoder, save_encoder


def spec_of(kind="gat", features=6, dim=8, layers=2, **changes):
    settings = {"heads": 2, "in_drop": 0.2, "attention_drop": 0.1, "activation": "prelu", "norm": "none"}
    arguments = {"kind": kind, "layers": layers, "dim": dim, **settings, "residual": False, **changes}
    return GraphSpec(
        name="g", architecture="gnn", arguments=arguments, dim=dim, source="", licence="", features=features,
        names=(), scaling="none", hops=layers,
    )  # fmt: skip


def random_graph(nodes=9, edges=20, features=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    pairs = torch.randint(0, nodes, (2, edges), generator=g)
    pairs = pairs[:, pairs[0] != pairs[1]]
    both = torch.unique(torch.cat([pairs, pairs.flip(0)], 1), dim=1)
    return torch.randn(nodes, features, generator=g), both


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_attention_equals_a_loop_over_edges():
    x, edge_index = random_graph(5, 8)
    layer = GraphAttention(6, 8, 2, 0.0, 0.0).eval()
    nn.init.normal_(layer.bias)
    out = layer([x], None, sorted_edges(edge_index, 5))
    projected = (x @ layer.weight.T).view(5, 2, 4)
    pairs = [*map(tuple, edge_index.T.tolist()), *((i, i) for i in range(5))]
    for i in range(5):
        for head in range(2):
            near = [j for j, k in pairs if k == i]
            a, b = layer.att_source[0, head], layer.att_target[0, head]
            score = torch.stack([projected[j, head] @ a + projected[i, head] @ b for j in near])
            share = nn.functional.leaky_relu(score, 0.2).softmax(0)
            expected = (share[:, None] * projected[near, head]).sum(0) + layer.bias.view(2, 4)[head]
            torch.testing.assert_close(out.view(5, 2, 4)[i, head], expected, atol=1e-6, rtol=1e-5)


def test_a_node_alone_gives_its_own_projection():
    layer, x = GraphAttention(6, 8, 2, 0.0, 0.0), torch.randn(3, 6)
    out = layer([x], None, sorted_edges(torch.zeros((2, 0), dtype=torch.int64), 3))
    torch.testing.assert_close(out, x @ layer.weight.T + layer.bias)


def of_pyg(layer, in_dim, dim, heads):
    theirs = GATConv(in_dim, dim // heads, heads, add_self_loops=True)
    state = {"att_src": layer.att_source, "att_dst": layer.att_target, "bias": layer.bias, "lin.weight": layer.weight}
    theirs.load_state_dict({name: value.detach() for name, value in state.items()})
    return theirs


def test_attention_equals_pyg_with_values_and_gradients():
    x, edge_index = random_graph(40, 160, 12)
    ours = GraphAttention(12, 16, 4, 0.0, 0.0)
    theirs = of_pyg(ours, 12, 16, 4)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = ours([a], None, sorted_edges(edge_index, 40)), theirs(b, edge_index)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.weight.grad, theirs.lin.weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.att_source.grad, theirs.att_src.grad, atol=1e-5, rtol=1e-4)


def test_widening_after_mixing_equals_pyg_with_values_and_gradients():
    codes, edge_index = random_graph(30, 120, 8)
    ours = GraphAttention(8, 50, 1, 0.0, 0.0)
    theirs, rows = of_pyg(ours, 8, 50, 1), torch.tensor([3, 17, 4])
    a, b = codes.clone().requires_grad_(), codes.clone().requires_grad_()
    into = torch.zeros(30, dtype=torch.bool).index_fill(0, rows, True)
    out, expected = ours.widened(a, sorted_edges(edge_index, 30, into), rows), theirs(b, edge_index)[rows]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.weight.grad, theirs.lin.weight.grad, atol=1e-4, rtol=1e-4)


def test_words_of_papers_are_multiplied_as_numbers_are():
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(20, 200, generator=g) < 0.02).float()
    one, two = (torch.nn.Parameter(torch.randn(7, 200, generator=g.manual_seed(1))) for _ in range(2))
    out, expected = times(x, one), x @ two.T
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(one.grad, two.grad, atol=1e-4, rtol=1e-4)


def test_dropout_of_words_leaves_out_a_share_and_scales_the_rest():
    x = torch.zeros(400, 300)
    x[:, 5] = 1
    out = times(x, torch.eye(300), 0.25)
    assert out[:, 5].unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert 0.65 < float((out[:, 5] > 0).float().mean()) < 0.85


def test_gin_counts_a_node_twice_and_equals_pyg():
    x, edge_index = random_graph(7, 12)
    encoder = GNNEncoder(spec_of("gin", layers=1, norm="none")).eval()
    conv = encoder.layers[0].conv
    summed = torch.stack([2 * x[i] + x[edge_index[0, edge_index[1] == i]].sum(0) for i in range(7)])
    torch.testing.assert_close(encoder(x, edge_index), conv.nn(summed))
    loops = torch.cat([edge_index, torch.arange(7).expand(2, 7)], 1)
    theirs = GINConv(copy.deepcopy(conv.nn))  # which draws fresh weights
    theirs.load_state_dict(conv.state_dict())
    torch.testing.assert_close(encoder(x, edge_index), theirs(x, loops))


@pytest.mark.parametrize("kind", ["gat", "gin"])
@pytest.mark.parametrize("changes", [{}, {"residual": True, "norm": "layer"}, {"norm": "batch", "activation": "elu"}])
def test_permuting_nodes_permutes_embeddings(kind, changes):
    x, edge_index = random_graph(12, 30)
    encoder = GNNEncoder(spec_of(kind, **changes)).eval()
    order = torch.randperm(12)
    back = torch.argsort(order)
    torch.testing.assert_close(encoder(x[order], back[edge_index]), encoder(x, edge_index)[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gat", "gin"])
def test_graphs_in_one_batch_embed_as_each_by_itself(kind):
    (x1, e1), (x2, e2) = random_graph(6, 14, seed=1), random_graph(9, 20, seed=2)
    encoder = GNNEncoder(spec_of(kind)).eval()
    both = encoder(torch.cat([x1, x2]), torch.cat([e1, e2 + 6], 1))
    torch.testing.assert_close(both, torch.cat([encoder(x1, e1), encoder(x2, e2)]), atol=1e-5, rtol=1e-4)
    graph = torch.tensor([0] * 6 + [1] * 9)
    pooled = encoder.pooled(torch.cat([x1, x2]), torch.cat([e1, e2 + 6], 1), graph)
    torch.testing.assert_close(pooled[1], encoder(x2, e2).mean(0), atol=1e-5, rtol=1e-4)


def test_self_loops_of_the_user_change_nothing():
    x, edge_index = random_graph()
    encoder = GNNEncoder(spec_of()).eval()
    more = torch.cat([edge_index, torch.tensor([[2, 3], [2, 3]])], 1)
    torch.testing.assert_close(encoder(x, more), encoder(x, edge_index))


def test_every_setting_of_a_layer_changes_the_embedding():
    x, edge_index = random_graph()

    def out(**changes):
        torch.manual_seed(0)
        return GNNEncoder(spec_of(**changes)).train()(x, edge_index)

    plain = out()
    for change in (
        {"heads": 4}, {"in_drop": 0.0}, {"attention_drop": 0.6}, {"activation": "relu"}, {"norm": "layer"},
        {"residual": True}, {"layers": 3}, {"kind": "gin"},
    ):  # fmt: skip
        assert not torch.allclose(out(**change), plain), change


def test_rows_are_scaled_to_one_and_empty_ones_stay_zero():
    spec = GraphSpec(**{**spec_of().__dict__, "scaling": "row"})
    encoder = GNNEncoder(spec)
    scaled = encoder.normalize(torch.tensor([[1.0, 3, 0, 0, 0, 0], [0.0] * 6]))
    assert scaled.tolist() == [[0.25, 0.75, 0, 0, 0, 0], [0.0] * 6]


@pytest.mark.parametrize("kind", ["gat", "gin", "mlp"])
def test_a_saved_encoder_gives_the_same_embedding(kind, tmp_path):
    x, edge_index = random_graph()
    spec = GraphSpec(**{**spec_of(kind).__dict__, "scaling": "column", "names": ("a", "b", "c", "d", "e", "f")})
    if kind == "mlp":
        arguments = {"widths": [5, 7], "clusters": 3}
        spec = GraphSpec(**{**spec.__dict__, "architecture": "node_mlp", "arguments": arguments, "hops": 0})
    encoder = (NodeMLP if kind == "mlp" else GNNEncoder)(spec).eval()
    encoder.mean.copy_(torch.arange(6.0))
    encoder.std.fill_(2.0)
    save_encoder(tmp_path / "e.safetensors", encoder, {})
    again = load_encoder(tmp_path / "e.safetensors")
    assert again.spec == spec
    torch.testing.assert_close(again.nodes(x, edge_index), encoder.nodes(x, edge_index), rtol=0, atol=0)


def test_soft_labels_are_students_t_around_the_centres():
    arguments = {"widths": [4], "clusters": 3}
    spec = {**spec_of(dim=2).__dict__, "architecture": "node_mlp", "arguments": arguments}
    encoder = NodeMLP(GraphSpec(**spec))
    centres = torch.tensor([[0.0, 0], [3, 4], [-6, 8]])
    encoder.centres.data.copy_(centres)
    labels = encoder.soft_labels(centres).detach().numpy()
    expected = 1 / (1 + np.array([[0, 25, 100], [25, 0, 97], [100, 97, 0]]))
    np.testing.assert_allclose(labels, expected / expected.sum(1, keepdims=True), rtol=1e-5)
    assert labels.argmax(1).tolist() == [0, 1, 2]
