import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from geossl.data.graphs.files import read_graph, scipy_csr, sparse, write_graph
from geossl.errors import InputError
from geossl.inference.graphs import graph_embeddings, node_embeddings
from geossl.models.encoder import GraphSpec
from geossl.models.encoders.gnn import GNNEncoder
from tests.models.encoders.test_gnn import random_graph, spec_of


def sparse_graph():
    return random_graph(300, 450, 6)


@pytest.mark.parametrize("kind", ["gat", "gin"])
@pytest.mark.parametrize("block", [7, 100])
def test_blocks_do_not_matter(kind, block):
    x, edge_index = sparse_graph()
    encoder = GNNEncoder(spec_of(kind))
    graph = Data(x=x, edge_index=edge_index)
    np.testing.assert_allclose(
        node_embeddings(encoder, graph, block), node_embeddings(encoder, graph), atol=1e-5, rtol=1e-4
    )


def test_a_hop_less_would_not_be_enough():
    x, edge_index = sparse_graph()
    encoder = GNNEncoder(spec_of("gat"))
    graph = Data(x=x, edge_index=edge_index)
    whole = node_embeddings(encoder, graph)
    encoder.spec = GraphSpec(**{**encoder.spec.__dict__, "hops": 1})
    assert np.abs(node_embeddings(encoder, graph, 7) - whole).max() > 1e-3


def test_features_kept_sparse_embed_the_same(tmp_path):
    x, edge_index = sparse_graph()
    x = x * (x > 1.5)
    encoder = GNNEncoder(spec_of("gat"))
    graph = read_graph(write_graph(tmp_path / "g.npz", Data(x=x, edge_index=edge_index)))
    assert graph.x.layout == torch.sparse_csr
    expected = node_embeddings(encoder, Data(x=x, edge_index=edge_index))
    for block in (7, 1000):
        np.testing.assert_allclose(node_embeddings(encoder, graph, block), expected, atol=1e-5, rtol=1e-4)


def test_other_features_than_those_trained_on_are_refused():
    x, edge_index = sparse_graph()
    encoder = GNNEncoder(GraphSpec(**{**spec_of().__dict__, "names": tuple("abcdef")}))
    with pytest.raises(InputError, match="has 5 features per node; g was trained on 6"):
        node_embeddings(encoder, Data(x=x[:, :5], edge_index=edge_index))
    with pytest.raises(
        InputError, match=r"feature 'b' \(1 of 6\) that g was trained on is not in the graph; it has a, c"
    ):
        node_embeddings(encoder, Data(x=x, edge_index=edge_index, names=tuple("acxdef")))


@pytest.mark.parametrize("is_sparse", [False, True])
def test_features_are_found_by_name_in_any_order_and_among_others(is_sparse):
    x, edge_index = sparse_graph()
    encoder = GNNEncoder(GraphSpec(**{**spec_of().__dict__, "names": tuple("abcdef")}))
    expected = node_embeddings(encoder, Data(x=x, edge_index=edge_index, names=tuple("abcdef")))
    other = torch.hstack([x[:, [2, 0, 1, 5]], torch.full((len(x), 1), 7.0), x[:, [4, 3]]])
    if is_sparse:
        other = sparse(scipy_csr(other))
    graph = Data(x=other, edge_index=edge_index, names=("c", "a", "b", "f", "more", "e", "d"))
    for block in (100, 1000):
        np.testing.assert_allclose(node_embeddings(encoder, graph, block), expected, atol=1e-5, rtol=1e-4)
    assert graph.x.shape[1] == 7


def test_graphs_are_pooled_the_same_however_many_at_a_time():
    x, edge_index = random_graph(30, 60, 6)
    owner = torch.arange(30) // 5
    keep = owner[edge_index[0]] == owner[edge_index[1]]
    graph = Data(x=x, edge_index=edge_index[:, keep], batch=owner)
    encoder = GNNEncoder(GraphSpec(**{**spec_of("gin", norm="batch").__dict__, "pool": "max"}))
    whole = graph_embeddings(encoder, graph)
    assert whole.shape == (6, 8)
    np.testing.assert_allclose(graph_embeddings(encoder, graph, 2), whole, atol=1e-5)
    single = encoder.nodes(x[5:10], graph.edge_index[:, owner[graph.edge_index[0]] == 1] - 5)
    np.testing.assert_allclose(whole[1], single.amax(0).detach(), atol=1e-5)
