import dataclasses
import math
import re
import warnings

import lightning as L
import networkx as nx
import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch_geometric.data import Data

from geossl.data.graphs.batches import GraphBatches
from geossl.data.graphs.files import NodeRows
from geossl.errors import InputError, Note
from geossl.methods.base import OptimConfig
from geossl.methods.parts.scgc_starts import code_centres, graph_centres, nearest
from geossl.methods.parts.scgc_walks import modularity, walk_step, walk_weights
from geossl.methods.scgc import SCGC, Objective, Whole, contrast, sharpened
from geossl.models.encoder import GraphSpec
from geossl.models.encoders.gnn import NodeMLP
from tests.models.encoders.test_gnn import random_graph

CONTRACT = ["encoder.widths=[32]", "encoder.dim=4"]  # recipe values for test_contract.py

OPTIM = OptimConfig("adam", 1e-3, (0.9, 0.999), 0.0, "constant", 0, 50, decay_all=True)
PATH = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])  # 0 - 1 - 2


def method_of(features=6, clusters=3, widths=(16, 8), dim=4, seed=0, whole=None, **objective):
    torch.manual_seed(seed)
    spec = GraphSpec(
        name="s", architecture="node_mlp", arguments={"widths": list(widths), "clusters": clusters}, dim=dim, source="",
        licence="", features=features, names=(), scaling="none", hops=0,
    )  # fmt: skip
    return SCGC(NodeMLP(spec), OPTIM, Objective(**{"autoencoder_steps": 0, **objective}), whole, seed)


def batch_of(nodes=30, edges=90):
    x, edge_index = random_graph(nodes, edges)
    return Data(x=x, edge_index=edge_index)


def dense(pairs, weights, nodes):
    out = torch.zeros(nodes, nodes)
    out[pairs[0], pairs[1]] = weights
    return out


def test_walk_weights_equal_matrices_written_by_hand():
    step = torch.tensor([[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]])
    for order, accumulate, expected in (
        (1, False, step),
        (1, True, step),
        (2, False, step @ step),
        (2, True, step + step @ step),
    ):
        found = dense(*walk_weights(PATH, 3, order, accumulate), 3)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(found.sum(1), torch.full((3,), float(order if accumulate else 1)))


def test_a_node_alone_walks_to_itself():
    pairs, weights = walk_weights(PATH, 4, 3, accumulate=True)
    assert float(dense(pairs, weights, 4)[3, 3]) == 3
    assert float(dense(*walk_weights(PATH, 4, 3, accumulate=False), 4)[3, 3]) == 1


def test_contrast_of_two_nodes_by_hand():
    codes, edge = torch.eye(2), torch.tensor([[0, 1], [1, 0]])
    pairs, weights = walk_weights(edge, 2, 1, accumulate=False)
    # cosine 0 off the diagonal and 0 by definition on it: (1/2 e^0 + 1/2 e^0) / (e^0 + e^0)
    assert float(contrast(codes, pairs, weights, 1.0)) == pytest.approx(-math.log(1 / 2 + 1e-8), abs=1e-6)
    same = float(contrast(torch.ones(2, 2), pairs, weights, 1.0))
    assert same == pytest.approx(-math.log((1 / 2 + math.e / 2) / (1 + math.e) + 1e-8), abs=1e-6)


@pytest.mark.parametrize("block", [2, 3, 100])
def test_contrast_equals_a_double_loop_for_any_block(block):
    g = torch.Generator().manual_seed(0)
    codes = torch.randn(7, 3, generator=g, dtype=torch.float64, requires_grad=True)
    again = codes.detach().clone().requires_grad_()
    _, edge_index = random_graph(7, 12)
    pairs, weights = walk_weights(edge_index, 7, 2, accumulate=True)
    gamma, terms = dense(pairs, weights, 7), []
    for i in range(7):
        near, everyone = 0.0, 0.0
        for j in range(7):
            cosine = torch.cosine_similarity(again[i], again[j], dim=0) if i != j else torch.tensor(0.0)
            near, everyone = near + gamma[i, j] * (0.7 * cosine).exp(), everyone + (0.7 * cosine).exp()
        terms.append(-(near / everyone + 1e-8).log())
    expected, found = torch.stack(terms).mean(), contrast(codes, pairs, weights.double(), 0.7, block)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    expected.backward()
    found.backward()
    torch.testing.assert_close(codes.grad, again.grad, atol=1e-6, rtol=1e-6)


def test_tau_multiplies_so_that_zero_leaves_the_weights_alone():
    codes, (pairs, weights) = torch.randn(3, 2), walk_weights(PATH, 3, 2, accumulate=True)
    assert float(contrast(codes, pairs, weights, 0.0)) == pytest.approx(-math.log(2 / 3), abs=1e-5)


def test_lengths_of_codes_do_not_matter_and_zero_codes_are_finite():
    codes, (pairs, weights) = torch.randn(3, 2), walk_weights(PATH, 3, 1, accumulate=False)
    one, two = contrast(codes, pairs, weights, 1.0), contrast(3 * codes, pairs, weights, 1.0)
    torch.testing.assert_close(one, two)
    codes = torch.zeros(3, 2, requires_grad=True)
    contrast(codes, pairs, weights, 1.0).backward()
    assert torch.isfinite(codes.grad).all()


def test_a_step_pulls_neighbours_together_and_pushes_others_away():
    x, edge_index = random_graph(20, 30)
    codes = torch.nn.functional.normalize(x[:, :4], dim=1).requires_grad_()
    pairs, weights = walk_weights(edge_index, 20, 1, accumulate=False)
    near = torch.zeros(20, 20, dtype=torch.bool).index_put((edge_index[0], edge_index[1]), torch.tensor(True))
    other = ~near & ~torch.eye(20, dtype=torch.bool)

    def gap(z):
        cosine = torch.cosine_similarity(z[:, None], z[None], dim=2)
        return float(cosine[near].mean() - cosine[other].mean())

    contrast(codes, pairs, weights, 1.0).backward()
    assert gap((codes - 5 * codes.grad).detach()) > gap(codes.detach()) + 0.01


def test_targets_are_sharper_and_carry_no_gradient():
    labels = torch.tensor([[0.7, 0.3], [0.3, 0.7]], requires_grad=True)
    target = sharpened(labels)
    expected = 0.49 / (0.49 + 0.09)
    torch.testing.assert_close(target, torch.tensor([[expected, 1 - expected], [1 - expected, expected]]))
    assert not target.requires_grad
    certain = torch.eye(3)[[0, 1, 2, 2]]
    torch.testing.assert_close(sharpened(certain), certain)


def test_targets_of_equal_clusters_are_surer_than_the_labels():
    labels = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(100):  # rows to one, columns to equal shares
        labels = labels / labels.sum(0) * 50 / 4
        labels = labels / labels.sum(1, keepdim=True)
    assert (sharpened(labels).max(1).values >= labels.max(1).values - 1e-6).all()


def test_the_cluster_term_is_the_mean_divergence_from_the_target():
    method, batch = method_of(beta=1.0), batch_of()
    found = float(method.graph_losses(batch)["cluster"])
    labels = method.encoder.soft_labels(method.encoder(batch.x)).detach()
    expected = scipy.stats.entropy(sharpened(labels).numpy(), labels.numpy(), axis=1).mean()
    assert found == pytest.approx(expected, rel=1e-4)
    assert found > 0


def test_the_star_does_without_decoder_once_the_graph_is_in():
    batch = batch_of()
    star, plain = method_of(reconstruct=False), method_of(reconstruct=True, accumulate=False)
    one, two = star.graph_losses(batch), plain.graph_losses(batch_of())
    torch.testing.assert_close(one["contrast"], two["contrast"])  # equal for one step along edges
    assert float(one["reconstruct"].detach()) == 0 < float(two["reconstruct"].detach())
    sum(one.values()).backward()
    assert all(p.grad is None for p in star.decoder.parameters())
    sum(two.values()).backward()
    assert all(p.grad is not None for p in plain.decoder.parameters())


def test_the_star_trains_half_the_parameters_as_published():
    method = method_of(features=1870, clusters=3, widths=(500, 500, 2000), dim=10)
    assert sum(p.numel() for p in method.encoder.parameters()) == 2_208_010 + 3 * 10
    assert sum(p.numel() for p in method.decoder.parameters()) == 2_209_870


def test_labels_play_no_part():
    with_labels, without = batch_of(), batch_of()
    with_labels.y = torch.arange(30) % 3
    one, two = method_of().graph_losses(with_labels), method_of().graph_losses(without)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_permuting_nodes_permutes_labels_and_keeps_the_losses():
    method, batch = method_of(order=2), batch_of()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    moved = Data(x=batch.x[order], edge_index=torch.argsort(order)[batch.edge_index])
    one, two = method.graph_losses(batch), method.graph_losses(moved)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)
    encoder = method.encoder
    labels = encoder.soft_labels(encoder(batch.x))
    torch.testing.assert_close(encoder.soft_labels(encoder(moved.x)), labels[order])
    torch.testing.assert_close(encoder.soft_labels(encoder(batch.x[3:5])), labels[3:5])  # no edge is needed


def test_published_centres_are_those_of_k_means_with_the_largest_cluster_first():
    method, batch = method_of(start="codes"), batch_of(60, 100)
    batch.x[:40] += 5
    batch.x[40:55] -= 5
    method.start_clusters(batch)
    codes = method.encoder(batch.x).detach().numpy()
    found = KMeans(3, n_init=20, random_state=0).fit(codes)
    order = np.argsort(-np.bincount(found.labels_), kind="stable")
    np.testing.assert_allclose(method.encoder.centres.detach().numpy(), found.cluster_centers_[order], rtol=1e-5)
    nearest = method.encoder.soft_labels(method.encoder(batch.x)).argmax(1)
    sizes = torch.bincount(nearest, minlength=3).tolist()
    assert sizes == sorted(sizes, reverse=True)


def test_clusters_are_numbered_the_same_in_whatever_order_k_means_finds_them(monkeypatch):
    method, batch = method_of(start="codes"), batch_of(60, 100)
    method.start_clusters(batch)
    centres = method.encoder.centres.detach().clone()

    class Turned(KMeans):
        def fit(self, x):
            super().fit(x)
            self.cluster_centers_, self.labels_ = self.cluster_centers_[[2, 0, 1]], np.array([1, 2, 0])[self.labels_]
            return self

    monkeypatch.setattr("geossl.methods.parts.scgc_starts.KMeans", Turned)
    method.start_clusters(batch)
    assert (
        len(set(np.bincount(KMeans(3, n_init=20, random_state=0).fit(method.encoder(batch.x).detach()).labels_))) == 3
    )
    torch.testing.assert_close(method.encoder.centres.detach(), centres)


def test_k_means_of_very_many_nodes_looks_at_a_draw_of_them(monkeypatch):
    monkeypatch.setattr("geossl.methods.parts.scgc_starts.MOST", 40)
    monkeypatch.setattr("geossl.methods.scgc.BLOCK", 7)
    method, batch = method_of(start="codes"), batch_of(60, 100)
    method.start_clusters(batch)
    drawn = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:40]
    found = KMeans(3, n_init=20, random_state=0).fit(method.encoder(batch.x[drawn]).detach().numpy())
    sizes = np.bincount(found.predict(method.encoder(batch.x).detach().numpy()), minlength=3)
    order = np.argsort(-sizes, kind="stable")
    np.testing.assert_allclose(method.encoder.centres.detach().numpy(), found.cluster_centers_[order], rtol=1e-4)


def two_towns(nodes=200, seed=0):
    """Codes in four heaps, edges inside two towns: a heap's place on the first axis has nothing to do with its town."""
    rng = np.random.default_rng(seed)
    town, other = np.arange(nodes) % 2, rng.permutation(np.arange(nodes) % 2)
    codes = np.stack([4.0 * other, 2.0 * town], axis=1) + rng.normal(0, 0.5, (nodes, 2))
    pairs = rng.integers(0, nodes, (2, 20 * nodes))
    pairs = pairs[:, (town[pairs[0]] == town[pairs[1]]) & (pairs[0] != pairs[1])]
    edges = np.unique(np.concatenate([pairs, pairs[::-1]], axis=1), axis=1)
    return codes.astype(np.float32), torch.from_numpy(edges), town


def agreement(codes, centres, truth):
    return adjusted_rand_score(truth, nearest(codes, centres))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_edges_show_the_clusters_that_codes_alone_hide(seed):
    codes, edges, town = two_towns(seed=seed)
    assert agreement(codes, code_centres(codes, 2, seed), town) < 0.05  # the heaps are wider apart than the towns
    centres = graph_centres(codes, edges, 2, seed)
    assert agreement(codes, centres, town) > 0.5
    own = np.stack([codes[town == k].mean(axis=0) for k in (0, 1)])
    np.testing.assert_allclose(centres[centres[:, 1].argsort()], own, atol=0.3)


def test_the_start_of_greatest_modularity_is_kept():
    codes, edges, _ = two_towns()
    step, found = walk_step(edges, len(codes)).toarray(), {}
    near = step @ step @ codes
    for start in range(20):
        labels = KMeans(4, n_init=1, random_state=start).fit(near).labels_
        centres = np.stack([codes[labels == k].mean(axis=0) for k in range(4)])
        of_nodes = ((codes[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        graph = nx.Graph(edges.T.tolist())
        parts = [set(np.flatnonzero(of_nodes == k).tolist()) & set(graph) for k in range(4)]
        found.setdefault(round(nx.community.modularity(graph, parts), 6), centres)  # of equals the first
    assert len(found) > 3  # starts differ, so there is something to choose
    kept, expected = graph_centres(codes, edges, 4, 0), found[max(found)]
    np.testing.assert_allclose(kept[kept[:, 0].argsort()], expected[expected[:, 0].argsort()], rtol=1e-5)


@pytest.mark.parametrize("reconstruct", [False, True])
def test_a_trial_chooses_the_start_and_leaves_nothing_but_the_choice(reconstruct, monkeypatch, caplog):
    codes, edges, _ = two_towns()
    batch = Data(x=torch.from_numpy(codes), edge_index=edges)
    made = {kind: method_of(features=2, start=kind, reconstruct=reconstruct) for kind in ("auto", "codes", "graph")}
    reached, trial = [], SCGC.trial
    monkeypatch.setattr(SCGC, "trial", lambda self, *a: reached.append(trial(self, *a)) or reached[-1])
    before = {name: p.clone() for name, p in made["auto"].state_dict().items() if name != "encoder.centres"}
    with caplog.at_level("INFO", "geossl"):
        made["auto"].start_clusters(batch)
    assert re.search(r"centres   (codes|graph), by modularity after 40 trial updates: codes 0\.\d+, graph", caplog.text)
    made["codes"].start_clusters(batch)
    made["graph"].start_clusters(batch)
    after = made["auto"].state_dict()
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert all(p.grad is None for p in made["auto"].parameters())
    assert reached[0] != reached[1]
    chosen = "graph" if reached[1] > reached[0] else "codes"
    assert torch.equal(after["encoder.centres"], made[chosen].encoder.centres)


def test_a_trial_is_the_first_updates_of_the_run():
    codes, edges, _ = two_towns()
    method, batch = method_of(features=2), Data(x=torch.from_numpy(codes), edge_index=edges)
    centres = code_centres(method.encoder(batch.x).detach().numpy(), 3, 0)
    found = method.trial(centres, batch)
    method.encoder.centres.data.copy_(torch.from_numpy(centres))
    optimizer = method.optim.build(method)
    for _ in range(40):
        optimizer.zero_grad()
        sum(method.graph_losses(batch).values()).backward()
        optimizer.step()
    labels = method.encoder.soft_labels(method.encoder(batch.x)).argmax(1)
    assert found == pytest.approx(float(modularity(labels, edges)), abs=1e-6)


def test_without_edges_both_starts_are_the_same():
    batch = batch_of(60, 100)
    batch.edge_index = batch.edge_index[:, :0]
    one, two = method_of(start="graph"), method_of(start="codes")
    one.start_clusters(batch)
    two.start_clusters(batch)
    assert torch.equal(one.encoder.centres, two.encoder.centres)


def test_codes_that_are_all_the_same_still_give_centres():
    codes, edges, _ = two_towns()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-means says that it found fewer clusters
        assert np.isfinite(graph_centres(np.ones_like(codes), edges, 3, 0)).all()


def test_a_sampled_batch_is_judged_by_the_nodes_drawn():
    graph = batch_of(40, 60)
    data = GraphBatches(graph, 4, batch_nodes=10, neighbours=40, hops=2)
    part = data.batch(list(range(10)))
    assert int(part.core.sum()) == 10 < len(part.x)
    method = method_of(order=2, alpha=1.0)
    found = method.graph_losses(part)
    pairs, weights = walk_weights(part.edge_index, len(part.x), 2, accumulate=True)
    codes = method.encoder(part.x)
    unit = torch.nn.functional.normalize(codes, dim=1)
    powers = (0.25 * (unit @ unit.T).fill_diagonal_(0)).exp()
    gamma = dense(pairs, weights, len(part.x))
    terms = -((gamma * powers).sum(1) / powers.sum(1) + 1e-8).log()
    torch.testing.assert_close(found["contrast"], terms[:10].mean())
    labels = method.encoder.soft_labels(codes[:10]).detach()
    expected = scipy.stats.entropy(sharpened(labels).numpy(), labels.numpy(), axis=1).mean()
    assert float(found["cluster"].detach()) == pytest.approx(0.1 * expected, rel=1e-3)


def test_nodes_held_out_are_contrasted_with_everyone():
    everyone = batch_of(40, 60)
    everyone.core = torch.arange(40) % 5 == 0
    method = method_of(order=2)
    found = method.holdout_contrast(everyone)
    unit = torch.nn.functional.normalize(method.encoder(everyone.x), dim=1)
    powers = (0.25 * (unit @ unit.T).fill_diagonal_(0)).exp()
    gamma = dense(*walk_weights(everyone.edge_index, 40, 2, accumulate=True), 40)
    terms = -((gamma * powers).sum(1) / powers.sum(1) + 1e-8).log()
    torch.testing.assert_close(found, terms[everyone.core].mean().detach())
    assert not found.requires_grad


def test_sampling_all_nodes_equals_the_whole_graph():
    graph = batch_of(40, 60)
    data = GraphBatches(graph, 4, batch_nodes=40, neighbours=40, hops=2)
    whole, sampled = (
        method_of(order=2, reconstruct=True),
        method_of(order=2, reconstruct=True, whole=Whole(NodeRows(graph.x), graph.edge_index)),
    )
    part = data.batch(list(range(40)))
    for step in range(3):
        one, two = (m.feature_losses(b, step)["reconstruct"] for m, b in ((whole, graph), (sampled, part)))
        torch.testing.assert_close(one, two)
    whole.start_clusters(graph)
    sampled.start_clusters(part)
    torch.testing.assert_close(whole.encoder.centres, sampled.encoder.centres)
    one, two = whole.graph_losses(graph), sampled.graph_losses(part)
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_a_small_batch_still_starts_from_the_centres_of_all_nodes():
    graph = batch_of(60, 100)
    data = GraphBatches(graph, 4, batch_nodes=5, neighbours=2, hops=1)
    whole, sampled = method_of(), method_of(whole=Whole(NodeRows(graph.x), graph.edge_index))
    whole.start_clusters(graph)
    sampled.start_clusters(data.batch(list(range(5))))
    torch.testing.assert_close(whole.encoder.centres, sampled.encoder.centres)


def test_the_autoencoder_sees_every_node_once_per_epoch(monkeypatch):
    monkeypatch.setattr("geossl.methods.scgc.AUTOENCODER_BATCH", 8)
    method = method_of()
    rows = torch.cat([method.autoencoder_rows(30, step) for step in range(4)])
    assert sorted(rows.tolist()) == list(range(30))
    assert not torch.equal(method.autoencoder_rows(30, 4), rows[:8])
    assert torch.equal(method.autoencoder_rows(30, 4), method.autoencoder_rows(30, 4))


def test_more_clusters_than_nodes_are_refused():
    with pytest.raises(InputError, match="objective.clusters=40 is more than the 30 nodes"):
        method_of(clusters=40).start_clusters(batch_of())


def test_an_empty_cluster_is_told_at_the_end(monkeypatch):
    method, batch = method_of(clusters=2), batch_of()
    method.encoder.centres.data[1] = 1e4
    method.graph_losses(batch)
    monkeypatch.setattr(type(method), "global_step", OPTIM.max_steps - 1)
    with pytest.warns(Note, match=r"cluster 1 holds 0 % of the nodes; lower objective.beta or objective.clusters"):
        method.graph_losses(batch)


@pytest.mark.parametrize(
    ("setting", "value", "term"),
    [("order", 3, "contrast"), ("tau", 2.0, "contrast"), ("alpha", 2.0, "contrast"), ("beta", 1.0, "cluster"),
     ("reconstruct", True, "reconstruct")],
)  # fmt: skip
def test_every_setting_changes_a_term(setting, value, term):
    plain, changed = (method_of(**c).graph_losses(batch_of())[term] for c in ({}, {setting: value}))
    assert not torch.equal(plain, changed)


def test_the_sum_of_walks_differs_from_the_longest():
    one, two = (method_of(order=2, accumulate=a).graph_losses(batch_of())["contrast"] for a in (True, False))
    assert not torch.equal(one, two)


def test_modularity_is_that_of_networkx():
    rng = np.random.default_rng(0)
    graph = nx.gnm_random_graph(40, 90, seed=0)
    labels = rng.integers(0, 4, 40)
    edges = torch.tensor([(a, b) for a, b in graph.edges] + [(b, a) for a, b in graph.edges]).T
    theirs = nx.community.modularity(graph, [set(np.flatnonzero(labels == k).tolist()) for k in range(4)])
    assert float(modularity(torch.from_numpy(labels), edges)) == pytest.approx(theirs, abs=1e-6)
    assert float(modularity(torch.from_numpy(labels), edges[:, :0])) == 0


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_rare_walks_count_at_every_order(order):
    nodes = 300  # a star: two steps between leaves have probability 1 / 600
    edges = torch.stack([torch.arange(1, nodes), torch.zeros(nodes - 1, dtype=torch.int64)])
    edge_index = torch.cat([edges, edges.flip(0)], dim=1)
    step = torch.eye(nodes, dtype=torch.float64).index_put((edge_index[0], edge_index[1]), torch.ones(1).double())
    step = step / step.sum(1, keepdim=True)
    powers = [torch.linalg.matrix_power(step, k) for k in range(1, order + 1)]
    for accumulate, expected in ((False, powers[-1]), (True, torch.stack(powers).sum(0))):
        found = dense(*walk_weights(edge_index, nodes, order, accumulate), nodes)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-9)


def test_the_autoencoder_has_a_rate_of_its_own():
    method = method_of(autoencoder_steps=3, autoencoder_lr=1e-2)
    assert [method.optim.lr * method.optim.rate(step) for step in range(5)] == pytest.approx([1e-2] * 3 + [1e-3] * 2)


def fitted(monkeypatch, contrasts, patience, max_steps):
    """A run whose holdout nodes have the given contrasts, one per update; how long it took, and what it noted."""
    x, edge_index = random_graph(40, 90)
    data = GraphBatches(Data(x=x, edge_index=edge_index), max_steps, holdout=0.25)
    method = method_of(patience=patience)
    method.optim = dataclasses.replace(method.optim, max_steps=max_steps)
    real, states = contrast, []

    def told(codes, pairs, weights, tau, **kwargs):
        if torch.is_grad_enabled():
            return real(codes, pairs, weights, tau, **kwargs)
        states.append({k: v.clone() for k, v in method.encoder.state_dict().items()})
        return torch.tensor(contrasts[min(len(states), len(contrasts)) - 1])

    monkeypatch.setattr("geossl.methods.scgc.contrast", told)
    trainer = L.Trainer(
        max_steps=max_steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, accelerator="cpu",
    )  # fmt: skip
    with pytest.warns(Note) as notes:
        trainer.fit(method, datamodule=data)
    method.finish()
    return method, trainer.global_step, states, [str(n.message) for n in notes if n.category is Note]


def test_patience_ends_a_run_and_exports_the_least(monkeypatch):
    method, steps, states, notes = fitted(monkeypatch, [9.0, 5.0, 4.0, 3.0, 6.0, 7.0], 3, 50)
    assert steps == 7  # least after 3 updates, seen to rise after 4, 5 and 6
    assert all(torch.equal(v, states[3][k]) for k, v in method.encoder.state_dict().items())
    assert "least after 3 of 7 updates; these weights are exported" in notes[-1]


def test_patience_extends_a_run_that_still_gets_better(monkeypatch):
    falling = [10.0 - 0.5 * i for i in range(9)]
    method, steps, states, _ = fitted(monkeypatch, [*falling, 9.0], 3, 5)
    assert steps == 12
    assert all(torch.equal(v, states[8][k]) for k, v in method.encoder.state_dict().items())


def test_without_patience_a_run_ends_where_it_should(monkeypatch):
    method, steps, states, notes = fitted(monkeypatch, [9.0, 8.0, 7.0, 6.0, 5.0], None, 5)
    assert steps == 5
    assert not all(torch.equal(v, states[4][k]) for k, v in method.encoder.state_dict().items())
    assert "objective.patience=20" in notes[-1]
