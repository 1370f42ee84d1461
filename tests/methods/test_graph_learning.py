import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch_geometric.data import Data

from geossl.data.graphs.geometry import smoothed
from geossl.evaluation.clustering import clustering_scores
from geossl.methods.base import OptimConfig
from geossl.methods.graphmae import GraphMAE
from geossl.methods.scgc import SCGC
from geossl.models.encoder import GraphSpec
from geossl.models.encoders.gnn import GNNEncoder, NodeMLP
from tests.models.encoders.test_gnn import spec_of

pytestmark = pytest.mark.slow
SIDE = 40


def scene(seed):
    """A grid of parcels in blocks of six crops; features tell a crop only roughly."""
    rng = np.random.default_rng(seed)
    centres, crop_of = rng.uniform(0, SIDE, (30, 2)), rng.integers(0, 6, 30)
    row, column = np.divmod(np.arange(SIDE**2), SIDE)
    block = ((np.stack([row, column], 1)[:, None] - centres) ** 2).sum(2).argmin(1)
    y = crop_of[block]
    x = rng.normal(size=(6, 24))[y] + rng.normal(0, 2, (SIDE**2, 24))
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    ids = np.arange(SIDE**2).reshape(SIDE, SIDE)
    pairs = np.concatenate(
        [np.stack([a.ravel(), b.ravel()]) for a, b in ((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:]))], 1
    )
    edges = torch.from_numpy(np.concatenate([pairs, pairs[::-1]], 1).copy())
    return Data(x=torch.from_numpy(x), edge_index=edges), y


def accuracy(x, y):
    return 100 * clustering_scores(y, KMeans(6, n_init=20, random_state=0).fit_predict(x))["acc"]


def trained(method, batch, steps, losses):
    optimizer = method.optim.build(method)
    for step in range(steps):
        optimizer.zero_grad()
        sum(losses(step).values()).backward()
        optimizer.step()
    return method.encoder.eval()


@pytest.mark.parametrize("seed", [0, 1])
def test_graphmae_finds_crops_that_features_and_untrained_attention_do_not(seed):
    batch, y = scene(seed)
    torch.manual_seed(seed)
    encoder = GNNEncoder(spec_of("gat", features=24, dim=64, heads=4))
    with torch.no_grad():
        before = accuracy(encoder.eval()(batch.x, batch.edge_index).numpy(), y)
    optim = OptimConfig("adam", 1e-3, (0.9, 0.999), 0.0, "cosine", 0, 200, decay_all=True)
    method = GraphMAE(encoder.train(), optim, gamma=2.0, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    method.rng = lambda: rng  # outside of a run there is no step to draw from
    encoder = trained(method, batch, 200, lambda step: method.losses(batch))
    with torch.no_grad():
        after = accuracy(encoder(batch.x, batch.edge_index).numpy(), y)
    raw = accuracy(batch.x.numpy(), y)
    print(f"raw {raw:.1f}  untrained {before:.1f}  trained {after:.1f}")
    assert after >= raw + 10
    assert after >= before + 2


def scgc_accuracy(batch, y, seed):
    """SCGC* with weights of a seed."""
    torch.manual_seed(seed)
    spec = GraphSpec(
        name="s", architecture="node_mlp", arguments={"widths": [128, 128, 256], "clusters": 6}, dim=10, source="",
        licence="", features=24, names=(), scaling="none", hops=0,
    )  # fmt: skip
    optim = OptimConfig("adam", 1e-3, (0.9, 0.999), 0.0, "constant", 0, 310, decay_all=True)
    method = SCGC(NodeMLP(spec), optim, seed=seed)
    trained(method, batch, 210, lambda step: method.feature_losses(batch, step))
    method.start_clusters(batch)
    encoder = trained(method, batch, 100, lambda step: method.graph_losses(batch))
    with torch.no_grad():
        labels = encoder.soft_labels(encoder(batch.x)).argmax(1).numpy()
    return 100 * clustering_scores(y, labels)["acc"]


def averaged(batch):
    """Features of nodes and their neighbours, standardised."""
    batch = smoothed(batch, 1)
    batch.x = (batch.x - batch.x.mean(0)) / batch.x.std(0)
    return batch


def test_scgc_finds_crops_as_well_as_k_means_of_averaged_features():
    better = 0
    for seed in range(3):
        batch, y = scene(seed)
        batch = averaged(batch)
        found, means = [scgc_accuracy(batch, y, init) for init in (1, 2, 3)], accuracy(batch.x.numpy(), y)
        print(f"scene {seed}  means {means:.1f}  SCGC* {np.mean(found):.1f} +- {np.std(found):.1f}")
        assert np.mean(found) >= 92
        better += np.mean(found) >= means
    assert better >= 2


def test_edges_dealt_out_to_other_nodes_mislead_scgc():
    batch, y = scene(0)
    batch = averaged(batch)
    found, means = scgc_accuracy(batch, y, 1), accuracy(batch.x.numpy(), y)
    other = Data(x=batch.x, edge_index=torch.randperm(SIDE**2)[batch.edge_index])
    misled = scgc_accuracy(other, y, 1)
    print(f"means {means:.1f}  SCGC* {found:.1f}  with other edges {misled:.1f}")
    assert found >= means - 1
    assert misled <= means - 20
