import numpy as np
import pytest
import torch
from torch_geometric.data import Data

import geossl
from geossl.api.evaluate import run as evaluating
from geossl.errors import InputError
from geossl.evaluation import graphs as nodes
from geossl.evaluation.graphs import probe_nodes, right, svm_graphs
from geossl.models.encoders.gnn import GNNEncoder
from tests.models.encoders.test_gnn import spec_of


def two_groups(count=120, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.normal(0, 1, (count, 4)).astype(np.float32)
    x[:, 0] += 4 * y
    part = np.arange(count) % 3
    return x, y, part == 0, part == 1, part == 2


def test_a_linear_layer_finds_what_is_linear():
    found = probe_nodes(*two_groups())
    assert found["test"] > 0.9
    assert probe_nodes(*two_groups()) == found


def test_test_labels_choose_nothing():
    x, y, train, val, test = two_groups()
    swapped = np.where(test, 1 - y, y)
    one, two = probe_nodes(x, y, train, val, test), probe_nodes(x, swapped, train, val, test)
    assert (one["epoch"], one["val"]) == (two["epoch"], two["val"])
    assert two["test"] == pytest.approx(1 - one["test"])


def test_the_latest_of_equally_good_epochs_counts(monkeypatch):
    scores = iter([0.5, 0.1, 0.7, 0.2, 0.7, 0.3, 0.6, 0.4])
    monkeypatch.setattr(nodes, "right", lambda *a: next(scores))
    assert probe_nodes(*two_groups(), epochs=4) == {"test": 0.3, "val": 0.7, "epoch": 3.0, "last": 0.4}


def test_several_labels_are_judged_by_micro_f1():
    logits, truth = torch.tensor([[1.0, -1], [1, 1]]), torch.tensor([[1.0, 0], [0, 1]])
    assert right(logits, truth) == pytest.approx(2 * 2 / (3 + 2))
    x, y, *parts = two_groups()
    found = probe_nodes(x, np.stack([y, 1 - y], 1), *parts)
    assert found["test"] > 0.9


def test_graphs_are_told_apart_by_a_support_vector_machine():
    x, y, *_ = two_groups(60)
    assert svm_graphs(x, y, folds=3) > 0.9
    assert 0.2 < svm_graphs(x, np.random.default_rng(1).permutation(y), folds=3) < 0.8


def test_evaluate_judges_the_nodes_of_a_graph(tmp_path):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 6, generator=g) + 2 * torch.eye(3, 6)[y]
    same = torch.randint(0, 30, (2, 200), generator=g) * 3
    edges = torch.cat([same + i for i in range(3)], 1)
    data = Data(x=x, edge_index=edges, y=y)
    for i, name in enumerate(("train", "val", "test")):
        data[f"{name}_mask"] = torch.arange(90) // 3 % 3 == i
    file = geossl.write_graph(tmp_path / "g.npz", data)
    found = evaluating.evaluate(GNNEncoder(spec_of()), file, out=tmp_path / "r.html")
    assert found.scores["linear"].values["accuracy"] > 0.8
    assert found.scores["linear"].confusion.sum() == 30  # the test nodes, and they alone
    del data.y
    geossl.write_graph(file, data)
    with pytest.raises(InputError, match="not every node has a class"):
        evaluating.evaluate(GNNEncoder(spec_of()), file, out=tmp_path / "r.html")
