"""SCGC and SCGC*: cluster the nodes of a graph by their own features; the graph enters through the loss alone.

Paper: Kulatilleke, Portmann, Chandra, 2022, arXiv:2204.12656. Not the other method of that abbreviation (Liu et al.).
Batch: PyG ``Data`` with ``x`` (n c) and ``edge_index`` (2 e), both directions of every edge; of a sampled graph also
``core`` (n,), those that were drawn: both losses are theirs, the others are neighbours and negatives; of one without
holdout nodes ``everyone``, the whole, whose ``core`` are these: ``holdout_contrast`` of them says when to stop.
First an autoencoder learns the features, then k-means gives centres, then contrast and sharpening are trained together.
Differs from the authors' code: the autoencoder is trained here (there, weights are read from a pickle), labels play no
part (there, the epoch reported is the one that agrees best with them). Ours are the starts
``graph`` and ``auto``, and ``patience``.
"""

import copy
import logging
import warnings
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.data import Data

from geossl.errors import InputError, Note
from geossl.methods.base import OptimConfig, SSLMethod
from geossl.methods.parts.scgc_starts import code_centres, graph_centres, nearest
from geossl.methods.parts.scgc_walks import modularity, walk_weights
from geossl.models.encoders.gnn import NodeMLP, mlp

log = logging.getLogger("geossl")

SMALLEST = 0.001  # share of the nodes below which a cluster counts as empty
TRIAL = 40  # updates from either start before one is chosen; on made-up graphs more say no more
LONGEST = 10  # times the steps of a run, at which patience ends
AUTOENCODER_BATCH = 256  # nodes per update of the autoencoder, as published
BLOCK = 8192  # nodes encoded at a time for k-means


@runtime_checkable
class Rows(Protocol):
    """Features of nodes by number: a tensor (n c), or what reads as one."""

    def __len__(self) -> int:
        """Number of nodes."""

    def __getitem__(self, rows: Int[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Features of some nodes."""


class Whole(NamedTuple):
    """A graph of which batches hold a part; ``edge_index`` (2 e) has both directions."""

    x: Rows
    edge_index: Tensor


def contrast(
    codes: Float[Tensor, "n d"],
    pairs: Int[Tensor, "2 p"],
    weights: Float[Tensor, " p"],
    tau: float,
    block: int = 8192,
    core: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Neighbours against all nodes, over unit vectors.

    Args:
        codes: One per node.
        pairs: From ``walk_weights``; every node with itself among them.
        weights: Weights of the pairs.
        tau: Factor on the cosine (an inverse temperature); a node's cosine with itself counts as 0.
        block: Nodes compared with all others at a time. With more nodes than that their exponentials are computed
            again for the gradient instead of kept: memory is ``block`` times n floats, and the value is the same.
        core: Nodes that are compared with all; None: all are.

    Source: the paper's contrastive loss, as its code has it.
    """
    unit = F.normalize(codes, dim=1)
    i, j = pairs
    cosine = (unit[i] * unit[j]).sum(dim=1).masked_fill(i == j, 0)
    near = torch.zeros_like(unit[:, 0]).index_add(0, i, weights * (tau * cosine).exp())

    def all_of(rows: Tensor) -> Tensor:
        with_self = (tau * rows @ unit.T).exp().sum(dim=1)
        return with_self - (tau * rows.square().sum(dim=1)).exp() + 1

    if len(unit) <= block:
        everyone = all_of(unit)
    else:
        parts = [checkpoint(all_of, rows, use_reentrant=False) for rows in unit.split(block)]
        everyone = torch.cat(parts)
    terms = -(near / everyone + 1e-8).log()
    return terms.mean() if core is None else terms[core].mean()


def sharpened(labels: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """The target soft labels are pulled to: squared, and divided by cluster size. Source: DEC, equation 3."""
    weight = labels.square() / labels.sum(dim=0)
    return (weight / weight.sum(dim=1, keepdim=True)).detach()


@dataclass(frozen=True)
class Objective:
    """What is optimised, and when it ends; keys of the recipe's ``objective`` section.

    Args:
        autoencoder_steps: Updates of ``AUTOENCODER_BATCH`` nodes on features alone before the graph comes in.
        autoencoder_lr: Their learning rate; 1e-3 on every data set of the paper, whatever the rate afterwards.
        reconstruct: Reconstruct the features afterwards as well (SCGC; False in SCGC*).
        accumulate: Sum walks of all lengths (SCGC*) instead of taking the longest (SCGC).
        order: Greatest number of steps along edges.
        tau: Factor on the cosine.
        alpha: Weight of the contrast.
        beta: Weight of the sharpening.
        start: Where centres start: ``codes`` (``code_centres``, as published), ``graph`` (``graph_centres``), or
            ``auto``: of both the one after ``TRIAL`` updates from which the clusters have the greater modularity,
            ``codes`` where they are level. Ours, chosen on graphs made up for it: benchmarks/scgc_start.py.
        patience: With holdout nodes: train until their contrast has not fallen for so many updates, past the last step
            of the run if need be, and export the weights with the least. None = train as long as the run says.
    """

    autoencoder_steps: int = 400
    autoencoder_lr: float = 1e-3
    reconstruct: bool = False
    accumulate: bool = True
    order: int = 1
    tau: float = 0.25
    alpha: float = 1.0
    beta: float = 0.1
    start: str = "codes"
    patience: int | None = None


class SCGC(SSLMethod):
    """Contrastive graph clustering; ``reconstruct`` and ``accumulate`` make SCGC or SCGC* of it.

    Args:
        encoder: MLP with cluster centres.
        optim: Optimiser and schedule; its rate holds once the graph has come in.
        objective: Weights and the rest.
        whole: The graph, where batches hold a part of it: autoencoder and k-means always see all nodes.
        seed: Seeds batches and k-means.
    """

    least: Tensor  # contrast of the holdout nodes, and after how many updates it was

    def __init__(
        self,
        encoder: NodeMLP,
        optim: OptimConfig,
        objective: Objective | None = None,
        whole: Whole | None = None,
        seed: int = 0,
    ) -> None:
        o = objective or Objective()
        super().__init__(encoder, replace(optim, first_steps=o.autoencoder_steps, first_lr=o.autoencoder_lr), seed)
        self.objective = o
        self.encoder: NodeMLP
        spec = encoder.spec
        self.decoder = mlp([spec.dim, *reversed(spec.arguments["widths"]), spec.features])
        self.whole = whole
        self.register_buffer("least", torch.tensor([torch.inf, 0.0]))
        self.best = None if o.patience is None else copy.deepcopy(encoder).requires_grad_(False)

    @property
    def has_idle_parameters(self) -> bool:
        """Centres in the first phase, the decoder in the second, unless it reconstructs."""
        return True

    def losses(self, batch: Data) -> dict[str, Float[Tensor, ""]]:
        """``contrast``, ``cluster`` and ``reconstruct``; the first two are 0 while the autoencoder is trained."""
        if self.global_step < self.objective.autoencoder_steps:
            return self.feature_losses(batch, self.global_step)
        if self.global_step == self.objective.autoencoder_steps:
            self.start_clusters(batch)
        return self.graph_losses(batch)

    def feature_losses(self, batch: Data, step: int) -> dict[str, Float[Tensor, ""]]:
        """Loss terms of an update of the autoencoder."""
        nodes: Rows = (self.whole or batch.get("everyone", batch)).x
        x = self.encoder.normalize(nodes[self.autoencoder_rows(len(nodes), step)].to(batch.x.device))
        zero = x.new_zeros(())
        self.logged_scalars |= {
            "smallest_cluster": zero,
            "modularity": zero,
        }  # both phases give metrics.csv the same columns
        if "everyone" in batch:
            self.logged_scalars["holdout"] = zero
        return {"contrast": zero, "cluster": zero, "reconstruct": F.mse_loss(self.decoder(self.encoder(x)), x)}

    def autoencoder_rows(self, nodes: int, step: int) -> Int[Tensor, " b"]:
        """Nodes of an update: every epoch a new order, the same whenever the run is resumed."""
        size = min(AUTOENCODER_BATCH, nodes)
        epoch, part = divmod(step, -(-nodes // size))
        rng = np.random.default_rng((self.seed, epoch))
        return torch.from_numpy(rng.permutation(nodes)[part * size : (part + 1) * size])

    def start_clusters(self, batch: Data) -> None:
        """Centres among the codes of all nodes, that of the largest cluster first; the optimiser starts afresh.

        Raises:
            InputError: If there are fewer nodes than clusters.
        """
        count, graph = len(self.encoder.centres), self.whole or batch
        nodes = len(graph.x)
        if nodes < count:
            raise InputError(f"objective.clusters={count} is more than the {nodes} nodes of the graph")
        rows = torch.arange(nodes).split(BLOCK)
        with torch.no_grad():
            parts = [self.encoder(self.encoder.normalize(graph.x[r].to(batch.x.device))) for r in rows]
        codes = torch.cat(parts).cpu().numpy()
        centres = self.centres_of(codes, graph.edge_index.cpu(), batch)
        order = torch.bincount(nearest(codes, centres), minlength=count).argsort(descending=True, stable=True)
        self.encoder.centres.data.copy_(torch.from_numpy(centres)[order])
        if self._trainer is not None:  # moments of tiny reconstruction gradients would make the first updates leap
            self._trainer.optimizers[0].state.clear()

    def centres_of(
        self, codes: Float[ndarray, "n d"], edge_index: Int[Tensor, "2 e"], batch: Data
    ) -> Float[ndarray, "k d"]:
        """Centres by the start that is asked for."""
        count, start = len(self.encoder.centres), self.objective.start if edge_index.shape[1] else "codes"
        found = {}
        if start != "graph":
            found["codes"] = code_centres(codes, count, self.seed)
        if start != "codes":
            found["graph"] = graph_centres(codes, edge_index, count, self.seed)
        if len(found) == 1:
            return next(iter(found.values()))
        reached = {name: self.trial(centres, batch) for name, centres in found.items()}
        best = max(reached, key=lambda name: reached[name])  # the first of equals
        text = ", ".join(f"{name} {value:.3f}" for name, value in reached.items())
        if self.global_rank == 0:
            log.info("centres   %s, by modularity after %d trial updates: %s", best, TRIAL, text)
        return found[best]

    def trial(self, centres: Float[ndarray, "k d"], batch: Data) -> float:
        """Modularity of the clusters after some updates from centres, on copies: nothing is left of them."""
        encoder, decoder = copy.deepcopy(self.encoder), copy.deepcopy(self.decoder)
        parts = nn.ModuleList([encoder, decoder])
        encoder.centres.data.copy_(torch.from_numpy(centres))
        optimizer = self.optim.build(cast(SSLMethod, parts))
        for group in optimizer.param_groups:
            group["lr"] = max(self.optim.lr, self.objective.autoencoder_lr)  # a slow rate would show little
        for _ in range(TRIAL):
            optimizer.zero_grad()
            torch.stack(list(self.graph_terms(batch, encoder, decoder)[0].values())).sum().backward()
            optimizer.step()
        with torch.no_grad():
            labels = encoder.soft_labels(encoder(encoder.normalize(batch.x)))
        return float(modularity(labels.argmax(dim=1), batch.edge_index))

    def graph_losses(self, batch: Data) -> dict[str, Float[Tensor, ""]]:
        """Loss terms of an update on the graph."""
        if "everyone" in batch:
            self.logged_scalars["holdout"] = self.holdout_contrast(batch.everyone)
        terms, codes, labels = self.graph_terms(batch, self.encoder, self.decoder)
        self.logged_scalars["smallest_cluster"] = self.smallest(labels)
        with torch.no_grad():
            found = labels if len(labels) == len(codes) else self.encoder.soft_labels(codes)
            self.logged_scalars["modularity"] = modularity(found.argmax(dim=1), batch.edge_index)
        return terms

    def graph_terms(
        self, batch: Data, encoder: NodeMLP, decoder: nn.Module
    ) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "n d"], Float[Tensor, "m k"]]:
        """Loss terms of given weights, with codes of all nodes and soft labels of those that count."""
        pairs, weights = self.walks(batch)
        x = encoder.normalize(batch.x)
        codes = encoder(x)
        core = batch.get("core")
        labels = encoder.soft_labels(codes if core is None else codes[core])
        terms = {
            "contrast": self.objective.alpha * contrast(codes, pairs, weights, self.objective.tau, core=core),
            "cluster": self.objective.beta * F.kl_div(labels.log(), sharpened(labels), reduction="batchmean"),
        }
        terms["reconstruct"] = F.mse_loss(decoder(codes), x) if self.objective.reconstruct else codes.new_zeros(())
        return terms, codes, labels

    def walks(self, graph: Data) -> tuple[Int[Tensor, "2 p"], Float[Tensor, " p"]]:
        """``walk_weights``, kept with the graph: the whole one is the same for every update."""
        if "walks" not in graph:
            graph.walks = walk_weights(graph.edge_index, len(graph.x), self.objective.order, self.objective.accumulate)
        pairs, weights = graph.walks  # a list after a move to another device
        return pairs, weights

    @torch.no_grad()
    def holdout_contrast(self, everyone: Data) -> Float[Tensor, ""]:
        """Contrast of the holdout nodes before an update; remembers when it was least.

        The encoder needs no edges, so it gives codes to nodes it has not seen. What it learns of the graph's structure
        holds for them, what it learns by heart of single edges does not: from there on their contrast rises.
        """
        pairs, weights = self.walks(everyone)
        codes = self.encoder(self.encoder.normalize(everyone.x))
        found = contrast(codes, pairs, weights, self.objective.tau, core=everyone.core)
        step = self.global_step
        if found < self.least[0] or step == self.objective.autoencoder_steps + 1:  # a run needs one update at least
            self.least = torch.stack([found, found.new_tensor(float(step))])
            if self.best is not None:
                self.best.load_state_dict(self.encoder.state_dict())
        self.stop_or_extend()
        return found

    def stop_or_extend(self) -> None:
        """With ``patience``, end the run once the contrast rises, or extend it; note at the end when it was least."""
        step, best, patience = self.global_step, int(self.least[1]), self.objective.patience
        trainer: Any = self._trainer
        last = self.optim.max_steps if trainer is None else trainer.max_steps
        settled = patience is not None and step - best >= patience
        if settled and trainer is not None:
            trainer.should_stop = True
        if step != last - 1 and not settled:
            return
        if patience is not None and not settled and trainer is not None and last < LONGEST * self.optim.max_steps:
            trainer.fit_loop.epoch_loop.max_steps += patience
            return
        text = f"contrast of the holdout nodes was least after {best} of {step + 1} updates"
        advice = f"to train on all of them so long: train.max_steps={best} data.holdout=0"
        if self.best is not None:
            advice = "these weights are exported"
        elif best == step:
            advice = "it may fall further: raise train.max_steps, or set objective.patience=20, which extends the run"
        warnings.warn(f"{text}; {advice}", Note, stacklevel=2)

    def finish(self) -> None:
        """Take the weights at which the contrast of the holdout nodes was least, if ``patience`` kept them."""
        if self.best is not None and self.least[0].isfinite():
            self.encoder.load_state_dict(self.best.state_dict())

    def smallest(self, labels: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        """Share of nodes in the smallest cluster; warns at the end of training if it is next to nothing."""
        shares = torch.bincount(labels.argmax(dim=1), minlength=labels.shape[1]) / len(labels)
        if self.global_step == self.optim.max_steps - 1 and shares.min() < SMALLEST:
            text = f"cluster {int(shares.argmin())} holds {100 * float(shares.min()):.2g} % of the nodes"
            warnings.warn(f"{text}; lower objective.beta or objective.clusters", Note, stacklevel=2)
        return shares.min().detach()
