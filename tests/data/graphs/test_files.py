import functools
import operator

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch_geometric.data import Data, InMemoryDataset

from geossl.data.graphs.batches import GraphBatches, around
from geossl.data.graphs.edges import knn_edges
from geossl.data.graphs.files import dense_rows, read_graph, write_graph
from geossl.errors import InputError, MissingFileError
from tests.models.encoders.test_gnn import random_graph


def words(nodes=50, seed=0):
    x, edge_index = random_graph(nodes, 200, 40, seed)
    data = Data(x=(x > 1.5).float(), edge_index=edge_index, y=torch.arange(nodes) % 3)
    for i, split in enumerate(("train", "val", "test")):
        data[f"{split}_mask"] = torch.arange(nodes) % 3 == i
    return data


def test_a_graph_survives_being_written(tmp_path):
    graph = words()
    graph.names = tuple(f"w{i}" for i in range(40))
    again = read_graph(write_graph(tmp_path / "g.npz", graph))
    assert again.x.layout == torch.sparse_csr
    assert torch.equal(dense_rows(again.x), graph.x)
    assert torch.equal(dense_rows(again.x, np.array([7, 3])), graph.x[[7, 3]])
    assert torch.equal(again.edge_index, graph.edge_index)
    assert torch.equal(again.y, graph.y)
    assert torch.equal(again.val_mask, graph.val_mask)
    assert again.names == graph.names
    dense = read_graph(write_graph(tmp_path / "d.npz", Data(x=torch.randn(4, 3), edge_index=graph.edge_index[:, :0])))
    assert dense.x.layout == torch.strided


def test_edges_are_made_plain():
    graph = read_graph(Data(x=torch.ones(3, 1), edge_index=torch.tensor([[0, 0, 1, 2], [1, 1, 1, 1]])))
    assert graph.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]


class Small(InMemoryDataset):
    def __init__(self, graphs):
        super().__init__()
        self.data, self.slices = self.collate(graphs)


def test_a_data_set_of_one_graph_and_of_many():
    one = read_graph(Small([words()]))
    assert torch.equal(one.train_mask, words().train_mask)
    graphs = [
        Data(x=torch.full((n, 2), float(n)), edge_index=torch.tensor([[0, 1], [1, 0]]), y=torch.tensor([n]))
        for n in (2, 3)
    ]
    many = read_graph(Small(graphs))
    assert many.batch.tolist() == [0, 0, 1, 1, 1]
    assert many.graph_y.tolist() == [2, 3]
    assert many.edge_index.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]


def test_graphs_without_features_get_their_degrees(tmp_path):
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    graph = read_graph(Small([Data(edge_index=edges, num_nodes=3, y=torch.tensor([i])) for i in range(2)]))
    assert graph.x[:3].tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]
    again = read_graph(write_graph(tmp_path / "g.npz", graph))
    assert torch.equal(again.batch, graph.batch)
    assert torch.equal(again.graph_y, graph.graph_y)


def test_text_as_of_sdcn_is_read(tmp_path):
    np.savetxt(tmp_path / "acm.txt", [[1, 0], [0, 1], [1, 1]])
    np.savetxt(tmp_path / "acm_graph.txt", [[0, 1], [2, 1]], fmt="%d")
    np.savetxt(tmp_path / "acm_label.txt", [0, 1, 1], fmt="%d")
    graph = read_graph(tmp_path)
    assert graph.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert graph.y.tolist() == [0, 1, 1]
    (tmp_path / "acm.txt").write_text("a b\n")
    with pytest.raises(InputError, match="cannot be read as tables of numbers"):
        read_graph(tmp_path)


def test_the_text_files_of_sdcn_name_how_many_neighbours_a_graph_has(tmp_path):
    np.savetxt(tmp_path / "usps.txt", [[0.0], [1.0], [9.0]])
    np.savetxt(tmp_path / "usps_label.txt", [0, 0, 1], fmt="%d")
    with pytest.raises(InputError, match=r"holds usps_label.txt, usps.txt; expected one NAME.txt .* NAME_graph.txt"):
        read_graph(tmp_path)
    assert read_graph(tmp_path, "knn:1").edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    np.savetxt(tmp_path / "usps3_graph.txt", [[0, 2]], fmt="%d")
    assert read_graph(tmp_path).edge_index.tolist() == [[0, 2], [2, 0]]
    assert read_graph(tmp_path).y.tolist() == [0, 0, 1]


def test_nearest_nodes_equal_a_loop_over_distances():
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    distance = ((x[:, None] - x[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    expected = {(i, j) for i in range(40) for j in np.argsort(distance[i])[:3]}
    for features in (x, sp.csr_matrix(x)):
        assert set(zip(*knn_edges(features, "knn:3").tolist(), strict=True)) == expected


def test_a_twin_is_the_nearest_node_and_never_the_node_itself():
    assert knn_edges(np.array([[1.0], [1.0], [5.0]]), "knn:1").tolist()[1][:2] == [1, 0]


def test_shared_words_count_once_and_over_the_words_of_both(monkeypatch):
    monkeypatch.setattr("geossl.data.graphs.edges.BLOCK", 2)
    x = np.array([[1, 0, 0, 0], [7, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1]], dtype=np.float32)
    has = (x > 0) / (x > 0).sum(1, keepdims=True)
    alike = has @ has.T
    np.fill_diagonal(alike, -1)
    assert knn_edges(x, "knn:1:words").tolist() == [[0, 1, 2, 3], alike.argmax(1).tolist()]
    assert alike.argmax(1).tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize("edges", ["knn", "knn:0", "knn:50", "knn:x", "knn:3:cosine", "rook", "distance:3"])
def test_edges_that_cannot_be_made_are_refused(edges):
    with pytest.raises(InputError, match=f"edges='{edges}' (is not understood|needs at least 1 neighbour)"):
        read_graph(words(), edges)


def test_edges_from_features_replace_those_of_the_source(tmp_path):
    graph = words()
    graph.x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    again = read_graph(write_graph(tmp_path / "g.npz", graph), "knn:4")
    assert torch.equal(again.edge_index, read_graph(Data(x=graph.x), "knn:4").edge_index)
    assert not torch.equal(again.edge_index, graph.edge_index)
    assert int(torch.bincount(again.edge_index[0]).min()) >= 4
    with pytest.raises(InputError, match="would join the many graphs of Small"):
        read_graph(Small([words(), words()]), "knn:3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "has no x; a graph needs both"),
        (
            {"edge_index": None},
            "has no edge_index; a graph needs both; or make edges of its features: data.edges=knn:5",
        ),
        (
            {"batch": torch.arange(50) // 25, "graph_y": torch.arange(3)},
            "graph_y of the graph has 3 values for 2 graphs",
        ),
        ({"names": ("a", "b")}, "names of the graph has 2 values for 40 features"),
        ({"batch": torch.arange(50) * 2}, "must number its graphs 0, 1, 2"),
        ({"x": torch.ones(50)}, "expected nodes by features"),
        ({"edge_index": torch.tensor([[0, 99], [1, 2]])}, "names nodes 0 to 99; it has 50"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.int64)}, "expected 2 by edges"),
        ({"x": torch.full((50, 2), torch.nan)}, "holds NaN or infinite"),
        ({"y": torch.ones(7)}, "y of the graph has 7 values for 50 nodes"),
    ],
)
def test_what_is_no_graph_is_refused(change, message):
    graph = words()
    for key, value in change.items():
        graph[key] = value
    with pytest.raises(InputError, match=message):
        read_graph(graph)


def test_files_that_are_no_graphs_are_refused(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        read_graph(tmp_path / "none.npz")
    (tmp_path / "g.pt").write_bytes(b"x")
    with pytest.raises(InputError, match="is not a graph file; expected .npz"):
        read_graph(tmp_path / "g.pt")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object), edge_index=np.zeros((2, 0)))
    with pytest.raises(InputError, match="is damaged, is not an .npz file"):
        read_graph(tmp_path / "pickled.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="holds a; expected x"):
        read_graph(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"must end in \.npz"):
        write_graph(tmp_path / "g.csv", words())


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.array([["a"], ["b"]]), "edge_index": np.zeros((2, 0), int)},
        {"x": np.ones((2, 1)), "edge_index": np.array([[0.5], [1.0]])},
        {"x": np.ones((2, 1)), "edge_index": np.zeros((2, 0), int), "train_idx": np.array([9])},
        {"x": np.ones((2, 1)), "edge_index": np.zeros((2, 0), int), "y": np.array(["a", "b"])},
        {"x_data": np.ones(1), "edge_index": np.zeros((2, 0), int)},
        {"x_data": np.ones(1), "x_indices": np.array([7]), "x_indptr": np.array([0, 1]), "x_shape": np.array([1, 3]),
         "edge_index": np.zeros((2, 0), int)},
    ],
)  # fmt: skip
def test_arrays_that_make_no_graph_are_told_in_one_line(arrays, tmp_path):
    np.savez(tmp_path / "g.npz", **arrays)
    with pytest.raises(InputError, match="holds arrays that do not make a graph|y holds <U1") as caught:
        read_graph(tmp_path / "g.npz")
    assert "\n" not in str(caught.value)


def test_the_whole_graph_is_one_batch_made_once():
    data = GraphBatches(read_graph(words()), 3)
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    assert batches[0] is batches[2]
    assert torch.equal(batches[0].x, words().x)
    assert data.describe()["nodes"] == 50


def test_nodes_held_out_are_left_out_with_all_their_edges():
    graph = read_graph(words())
    batch = next(iter(GraphBatches(graph, 3, holdout=0.2, seed=1).train_dataloader()))
    everyone = batch.everyone
    assert torch.equal(everyone.x, graph.x)
    assert torch.equal(everyone.edge_index, graph.edge_index)
    assert int(everyone.core.sum()) == 10
    shown = (~everyone.core).nonzero().flatten()
    assert torch.equal(batch.x, graph.x[shown])
    kept = ~everyone.core[graph.edge_index].any(dim=0)
    assert set(map(tuple, shown[batch.edge_index].T.tolist())) == set(map(tuple, graph.edge_index[:, kept].T.tolist()))
    again = next(iter(GraphBatches(graph, 3, holdout=0.2, seed=1).train_dataloader()))
    assert torch.equal(again.everyone.core, everyone.core)
    other = next(iter(GraphBatches(graph, 3, holdout=0.2, seed=2).train_dataloader()))
    assert not torch.equal(other.everyone.core, everyone.core)
    few = next(iter(GraphBatches(graph, 3, holdout=0.001).train_dataloader()))
    assert int(few.everyone.core.sum()) == 1
    with pytest.raises(InputError, match=r"data.holdout=0.2 needs the whole graph"):
        GraphBatches(graph, 3, holdout=0.2, batch_nodes=8)


def test_a_resumed_run_gets_the_batches_it_would_have_got():
    graph = read_graph(words())
    whole = GraphBatches(graph, 6, batch_nodes=8, neighbours=3, seed=1)
    rest = GraphBatches(graph, 6, batch_nodes=8, neighbours=3, seed=1)
    rest.start_step = 4
    one, two = list(whole.train_dataloader()), list(rest.train_dataloader())
    assert len(two) == 2
    assert torch.equal(one[4].x, two[0].x)
    assert torch.equal(one[5].edge_index, two[1].edge_index)
    assert int(one[0].core.sum()) == 8


def test_every_node_is_drawn_once_before_any_comes_again():
    data = GraphBatches(read_graph(words()), 9, batch_nodes=5)
    for together in (1, 7):
        first = np.concatenate([data.drawn(list(range(i, i + 5)), 50, together) for i in range(0, 50, 5)])
        assert sorted(first) == list(range(50))
        assert not np.array_equal(first, data.drawn(list(range(50, 100)), 50, together))
    groups = np.array_split(data.drawn(list(range(50)), 49, 7)[:49], 7)
    assert all((np.diff(group) == 1).all() for group in groups)


def test_batches_of_graphs_hold_whole_graphs():
    graphs = [
        Data(x=torch.full((n, 1), float(n)), edge_index=torch.tensor([[0, n - 1], [n - 1, 0]])) for n in (2, 3, 4)
    ]
    data = GraphBatches(read_graph(Small(graphs)), 5, batch_graphs=2)
    for batch in data.train_dataloader():
        sizes = batch.x.flatten().unique().tolist()
        assert sum(sizes) == len(batch.x)
        assert batch.edge_index.shape[1] == 2 * len(sizes)
    with pytest.raises(InputError, match="needs many graphs"):
        GraphBatches(read_graph(words()), 5, batch_graphs=2)


def test_no_batch_holds_a_graph_twice_across_two_rounds():
    """Rings of three: were one there twice, its nodes would have four neighbours instead of two."""
    ring = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])
    graphs = [Data(x=torch.full((3, 1), float(n)), edge_index=ring) for n in range(5)]
    data = GraphBatches(read_graph(Small(graphs)), 9, batch_graphs=2)
    batches = [sorted(batch.x.flatten().unique().int().tolist()) for batch in data.train_dataloader()]
    assert [len(batch) for batch in batches] == [2, 2, 1] * 3  # as published: the last of a round is short
    for start in range(0, 9, 3):
        assert sorted(functools.reduce(operator.iadd, batches[start : start + 3], [])) == list(range(5))
    assert len({str(batches[start : start + 3]) for start in range(0, 9, 3)}) == 3
    for batch in data.train_dataloader():
        assert torch.bincount(batch.edge_index[1]).unique().tolist() == [2]


def test_sampled_neighbours_are_neighbours_and_all_of_them_where_few():
    data = GraphBatches(read_graph(words()), 1, batch_nodes=4)
    seeds = np.array([3, 11])
    near = data.incoming
    full = around(near, seeds, 2, 10**6, np.random.default_rng(0))
    expected = set(seeds)
    for _ in range(2):
        expected |= {int(j) for i in expected for j in near[int(i)].indices}
    assert set(full.tolist()) == {int(i) for i in expected}
    assert full[:2].tolist() == [3, 11]
    some = around(near, seeds, 1, 2, np.random.default_rng(0))
    assert set(some.tolist()) <= set(full.tolist())
    assert len(some) <= 2 + 2 * 2


def test_classes_kept_as_floats_or_as_a_column_are_written_as_whole_numbers(tmp_path):
    graph = words()
    column = Data(x=graph.x, edge_index=graph.edge_index, y=graph.y[:, None].float())
    again = read_graph(write_graph(tmp_path / "g.npz", column))
    assert torch.equal(again.y, graph.y)
    column.y = torch.linspace(0, 1, 50)
    with pytest.raises(InputError, match="y of the graph does not hold whole numbers"):
        write_graph(tmp_path / "h.npz", column)
    assert not (tmp_path / "h.npz").exists()


def test_features_of_any_layout_are_the_same(tmp_path):
    graph = words()
    for i, x in enumerate((graph.x.to_sparse(), graph.x.clone().requires_grad_())):
        again = read_graph(write_graph(tmp_path / f"{i}.npz", Data(x=x, edge_index=graph.edge_index)))
        assert torch.equal(dense_rows(again.x), graph.x)
