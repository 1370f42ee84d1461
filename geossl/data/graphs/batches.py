"""Batches of a graph for pretraining: the whole of it, some of its graphs, or nodes with sampled neighbours."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Int
from numpy import ndarray
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch.utils.data import DataLoader
from torch_geometric.data import Data

from geossl.data.batches import StepBatches, TrainingData
from geossl.data.graphs.files import dense_rows
from geossl.errors import InputError

ENOUGH = 2**62  # draws; a run never gets there
TOGETHER = 32  # nodes near each other that are drawn together, since they share their neighbours


class GraphBatches(TrainingData):
    """PyG ``Data`` with ``x``, ``edge_index``, and of sampled nodes ``core`` (n,): the nodes that were drawn.

    Args:
        graph: Graph as ``read_graph`` gives it; its features may be sparse, a batch's are dense.
        steps: Batches in all.
        batch_graphs: So many of its graphs per batch; all are drawn once, the last batch being short, before any is
            drawn again.
        batch_nodes: Or so many nodes, likewise, with neighbours around them; drawn in small groups near each other.
        neighbours: At most so many per node and hop; those of a node with fewer are all there.
        hops: Steps along edges.
        seed: Seeds the draws.
        holdout: Share of the nodes left out of the whole graph, with all their edges.

    Neither ``batch_graphs`` nor ``batch_nodes``: every batch is the whole graph, made dense once. Where nodes are held
    out, what is left of it; ``everyone`` is then the whole, with ``core`` (n,), the nodes held out.

    Raises:
        InputError: If there are no graphs to draw, or the whole does not fit.
    """

    def __init__(
        self,
        graph: Data,
        steps: int,
        *,
        batch_graphs: int | None = None,
        batch_nodes: int | None = None,
        neighbours: int = 10,
        hops: int = 2,
        seed: int = 0,
        holdout: float = 0.0,
    ) -> None:
        nodes = graph.num_nodes
        if batch_graphs and batch_nodes:
            raise InputError("data.batch_graphs and data.batch_nodes are both set; choose one")
        if holdout and (batch_graphs or batch_nodes):
            raise InputError(f"data.holdout={holdout} needs the whole graph in a batch; leave data.batch_* out")
        if batch_graphs and graph.get("batch") is None:
            raise InputError(f"data.batch_graphs={batch_graphs} needs many graphs; this is one: use data.batch_nodes")
        super().__init__(batch_graphs or batch_nodes or nodes, "graphs" if batch_graphs else "nodes", steps)
        self.graph, self.seed = graph, seed
        self.metadata: dict[str, Any] = {}  # JSON values that ``describe`` adds
        self.by_graph, self.by_node = bool(batch_graphs), bool(batch_nodes)
        self.neighbours, self.hops, self.holdout = neighbours, hops, holdout
        source, target = graph.edge_index.numpy()
        ones = np.ones(len(source), dtype=np.int8)
        self.incoming = sp.csr_matrix((ones, (target, source)), shape=(nodes, nodes))
        if self.by_graph:
            order = np.argsort(graph.batch.numpy(), kind="stable")
            self.members = np.split(order, np.cumsum(np.bincount(graph.batch.numpy()))[:-1])
        if self.by_node:
            self.nearby = reverse_cuthill_mckee(self.incoming, symmetric_mode=True).astype(np.int64)
        self.whole: Data | None = None

    def train_dataloader(self) -> DataLoader[Data]:
        """Batches from ``start_step`` on; every rank its own draws."""
        size = self.batch_size if self.by_graph or self.by_node else 1
        draws = StepBatches(size, self.start_step, self.steps, *self.ranks)
        return DataLoader(range(ENOUGH), batch_sampler=draws, collate_fn=self.batch)  # type: ignore[arg-type]

    def batch(self, draws: list[int]) -> Data:
        """The batch of given draw numbers."""
        if self.by_graph:
            return self.part(np.concatenate([self.members[i] for i in self.drawn_graphs(draws[0])]))
        if self.by_node:
            seeds = np.unique(self.nearby[self.drawn(draws, self.graph.num_nodes, TOGETHER)])
            nodes = around(
                self.incoming, seeds, self.hops, self.neighbours, np.random.default_rng((self.seed, draws[0]))
            )
            part = self.part(nodes)
            part.core = torch.arange(len(nodes)) < len(seeds)
            return part
        if self.whole is None:
            self.whole = Data(x=dense_rows(self.graph.x), edge_index=self.graph.edge_index)
            if self.holdout:
                self.whole = self.without_some(self.whole)
        return self.whole

    def without_some(self, everyone: Data) -> Data:
        """The graph without the nodes held out; the same for a seed, however often a run is resumed."""
        order = np.random.default_rng(self.seed).permutation(self.graph.num_nodes)
        count = max(1, int(self.holdout * len(order)))
        part = self.part(np.sort(order[count:]))
        everyone.core = torch.zeros(len(order), dtype=torch.bool).index_fill(0, torch.from_numpy(order[:count]), True)
        part.everyone = everyone
        return part

    def drawn_graphs(self, first: int) -> Int[ndarray, " b"]:
        """Graphs of the batch that begins with a draw; never two rounds in one, so that no graph is there twice."""
        size, count = self.batch_size, len(self.members)
        epoch, part = divmod(first // size, -(-count // size))
        return np.random.default_rng((self.seed, epoch)).permutation(count)[part * size : (part + 1) * size]

    def drawn(self, draws: list[int], items: int, together: int = 1) -> Int[ndarray, " b"]:
        """Items of given draws: every item once, group by group in an order of its own, before any comes again."""
        epochs, places = np.divmod(np.array(draws), items)
        orders = {}
        for epoch in np.unique(epochs):
            rank = np.random.default_rng((self.seed, int(epoch))).permutation(-(-items // together))
            orders[epoch] = np.argsort(rank[np.arange(items) // together], kind="stable")
        return np.array([orders[e][p] for e, p in zip(epochs, places, strict=True)])

    def part(self, nodes: Int[ndarray, " m"]) -> Data:
        """Some nodes and the edges between them."""
        edges = sp.coo_matrix(self.incoming[nodes][:, nodes])
        edge_index = torch.from_numpy(np.stack([edges.col, edges.row]).astype(np.int64))
        return Data(x=dense_rows(self.graph.x, nodes), edge_index=edge_index)

    def describe(self) -> dict[str, Any]:
        """See TrainingData."""
        return {"nodes": self.graph.num_nodes, "edges": self.graph.edge_index.shape[1] // 2, **self.metadata}


def around(
    incoming: sp.csr_matrix, seeds: Int[ndarray, " s"], hops: int, most: int, rng: np.random.Generator
) -> Int[ndarray, " n"]:
    """Nodes within some hops of the seeds, which come first; of many neighbours of a node only some are followed.

    Source: Hamilton, Ying, Leskovec, NeurIPS 2017 (neighbour sampling).
    """
    found, frontier = seeds, seeds
    for _ in range(hops):
        starts, counts = incoming.indptr[frontier], np.diff(incoming.indptr)[frontier]
        few, many = counts <= most, counts > most
        spans = np.repeat(starts[few] - np.cumsum(counts[few]) + counts[few], counts[few])
        all_of_few = spans + np.arange(counts[few].sum())
        some_of_many = starts[many][:, None] + (rng.random((many.sum(), most)) * counts[many][:, None]).astype(np.int64)
        near = incoming.indices[np.concatenate([all_of_few, some_of_many.ravel()])]
        frontier = np.setdiff1d(near, found)
        found = np.concatenate([found, frontier])
    return found
