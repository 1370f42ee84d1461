import numpy as np
import pytest
import torch
from torch_geometric.data import Data

import geossl
from geossl.api.evaluate import run as evaluating
from geossl.errors import InputError
from geossl.evaluation import adam
from geossl.evaluation.adam import AdamConfig, fit_adam, share_right
from geossl.evaluation.clustering import clustering_scores
from geossl.evaluation.heads import Samples
from geossl.models.encoder import GraphSpec
from geossl.models.encoders.gnn import GNNEncoder, NodeMLP
from tests.models.encoders.test_gnn import spec_of


def two_groups(count=120, seed=0):
    """Training, validation and test rows; one feature tells the two classes apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.normal(0, 1, (count, 4)).astype(np.float32)
    x[:, 0] += 4 * y
    return [Samples(x[i::3], y[i::3]) for i in range(3)]


def mlp_spec(clusters):
    return GraphSpec(
        name="s", architecture="node_mlp", arguments={"widths": [16], "clusters": clusters}, dim=4, source="",
        licence="", features=6, names=(), scaling="none", hops=0,
    )  # fmt: skip


def accuracy(classify, samples):
    return (classify(samples.x).argmax(1) == samples.y).mean()


def test_a_linear_layer_finds_what_is_linear():
    train, val, test = two_groups()
    classify, found = fit_adam(train, val, 2)
    assert accuracy(classify, test) > 0.9
    again, same = fit_adam(train, val, 2)
    assert same == found
    np.testing.assert_array_equal(again(test.x), classify(test.x))


def test_the_latest_of_equally_good_epochs_counts(monkeypatch):
    scores = iter([0.5, 0.7, 0.7, 0.6] * 2)
    monkeypatch.setattr(adam, "share_right", lambda *a: next(scores))
    train, val, test = two_groups()
    classify, found = fit_adam(train, val, 2, config=AdamConfig(epochs=4))
    assert found == {"val": 0.7, "epoch": 3.0}
    three, _ = fit_adam(train, val, 2, config=AdamConfig(epochs=3, keep_best=False))
    np.testing.assert_array_equal(classify(test.x), three(test.x))


def test_it_equals_the_plain_loop_of_the_paper():
    train, val, test = two_groups()
    torch.manual_seed(3)
    layer = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01, weight_decay=1e-4)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(torch.from_numpy(train.x)), torch.from_numpy(train.y)).backward()
        optimizer.step()
    classify, _ = fit_adam(train, val, 2, seed=3, config=AdamConfig(epochs=5, keep_best=False))
    wanted = layer(torch.from_numpy(test.x)).softmax(1).detach().numpy()
    np.testing.assert_allclose(classify(test.x), wanted, rtol=1e-6)


def test_several_labels_are_scored_by_micro_f1():
    logits, truth = torch.tensor([[1.0, -1], [1, 1]]), torch.tensor([[1.0, 0], [0, 1]])
    assert share_right(logits, truth) == pytest.approx(2 * 2 / (3 + 2))
    train, val, test = (Samples(part.x, np.stack([part.y, 1 - part.y], 1)) for part in two_groups())
    classify, found = fit_adam(train, val, 2)
    assert found["val"] > 0.9
    assert ((classify(test.x) >= 0.5) == test.y).mean() > 0.9


def test_evaluate_probes_the_nodes_of_a_graph(tmp_path):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 6, generator=g) + 2 * torch.eye(3, 6)[y]
    same = torch.randint(0, 30, (2, 200), generator=g) * 3
    edges = torch.cat([same + i for i in range(3)], 1)
    data = Data(x=x, edge_index=edges, y=y)
    for i, name in enumerate(("train", "val", "test")):
        data[f"{name}_mask"] = torch.arange(90) // 3 % 3 == i
    file = geossl.graphs.write(tmp_path / "g.npz", data)
    protocols = ("linear", "linear_adam")
    found = evaluating.evaluate(GNNEncoder(spec_of()), file, protocol=protocols, out=tmp_path / "r.html")
    assert found.scores["linear"].values["accuracy"] > 0.8
    assert found.scores["linear_adam"].values["accuracy"] > 0.6
    assert found.scores["linear"].confusion.sum() == 30  # the test nodes, and they alone
    torch.manual_seed(0)
    encoder = NodeMLP(mlp_spec(clusters=3))
    encoder.centres.data.copy_(encoder(x)[:3].detach())  # a node of each class
    found = evaluating.evaluate(encoder, file, protocol="clusters", out=tmp_path / "r.html").scores["clusters"]
    own = encoder.soft_labels(encoder(x)).argmax(dim=1).numpy()
    expected = clustering_scores(y.numpy(), own)
    assert found.values == pytest.approx({"accuracy": expected.pop("acc"), **expected})
    with pytest.raises(InputError, match="protocol clusters: .* has no clusters of its own; use kmeans"):
        evaluating.evaluate(GNNEncoder(spec_of()), file, protocol="clusters", out=tmp_path / "r.html")
    del data.y
    geossl.graphs.write(file, data)
    with pytest.raises(InputError, match="not every node has a class"):
        evaluating.evaluate(GNNEncoder(spec_of()), file, out=tmp_path / "r.html")
