"""One step of every method in two processes against one process with the whole batch: losses and gradients.

Every process has a half of the batch and a generator of its own. The single process gets the same random numbers: the
draws of both, side by side. Batch norms are in evaluation mode, since every process normalises by its own batch.
"""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import Batch, Data

from geossl import recipe
from geossl.api.pretrain.run import prepare
from tests.methods import test_selfcon
from tests.methods.small import values_of, write_teachers
from tests.processes import start

ROWS = 6  # of the whole batch; no other axis is a multiple of it
CASES = {  # name: recipe, and values beside those of the contract tests
    "croma": ("croma", []),
    "cross_video_mae": ("cross_video_mae", ["objective.gaps=0"]),
    "graphmae": ("graphmae", []),
    "hybrid_distill": ("hybrid_distill", []),
    "hybrid_distill, relations alone": ("hybrid_distill", ["objective.feature_weight=0"]),
    "mr_mae, without a teacher": ("mr_mae", ["objective.mimic_weight=0"]),
    "mr_mae": ("mr_mae", []),
    "point_cmae": ("point_cmae", []),
    "regularized_ae": ("regularized_ae", []),
    "scgc": ("scgc", ["objective.autoencoder_steps=0", "objective.start=graph"]),
    "scgc, features alone": ("scgc", []),
    "selfcon": ("selfcon", []),
}
GRAPHS = ("graphmae", "scgc")


class Ours(torch.Generator):
    """A generator per process, whose draws stand side by side; the axis is that of the batch."""

    def __init__(self):
        super().__init__()
        self.ranks = [torch.Generator().manual_seed(rank) for rank in (0, 1)]

    def draw(self, function, shape):
        axis = next(i for i, n in enumerate(shape) if n and n % ROWS == 0)
        half = [n // 2 if i == axis else n for i, n in enumerate(shape)]
        return torch.cat([function(*half, generator=g) for g in self.ranks], dim=axis)

    def order(self, nodes):
        """Nodes of both halves in turns, so that a share of them is a share of each."""
        one, two = (torch.randperm(nodes // 2, generator=g) for g in self.ranks)
        return torch.stack([one, two + nodes // 2], dim=1).flatten()


def both_draws(patch):
    """Let torch draw from ``Ours`` where a generator is given."""
    for name in ("rand", "randn"):
        plain = getattr(torch, name)

        def drawn(*shape, generator=None, plain=plain, **other):
            shape = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
            if isinstance(generator, Ours):
                return generator.draw(plain, shape)
            return plain(*shape, generator=generator, **other)

        patch.setattr(torch, name, drawn)
    order = torch.randperm
    patch.setattr(
        torch,
        "randperm",
        lambda n, generator=None, **other: (
            generator.order(n) if isinstance(generator, Ours) else order(n, generator=generator, **other)
        ),
    )
    number = torch.randint

    def drawn_number(*a, generator=None, **other):
        if not isinstance(generator, Ours):
            return number(*a, generator=generator, **other)
        first, _ = (number(*a, generator=g) for g in generator.ranks)  # both move on
        return first

    patch.setattr(torch, "randint", drawn_number)


def built(name, folder):
    """Method and batches: of the whole, and of each process."""
    method_name, values = CASES[name]
    if method_name == "selfcon":  # three images each, of which one and two are generated
        method, batch = test_selfcon.method().eval(), test_selfcon.batch()
        return method, batch, [{key: x.chunk(2)[rank] for key, x in batch.items()} for rank in (0, 1)]
    contract = values_of(method_name)
    size = [] if method_name in GRAPHS else [f"data.batch_size={ROWS}"]
    values = [v.replace("TEACHERS", str(folder)) for v in [*contract, *size, *values]]
    data, build = prepare(recipe.load(method_name, values))
    torch.manual_seed(0)
    method = build().eval()
    batch = next(iter(data.train_dataloader()))
    if method_name == "scgc":  # batches are the whole graph, in every process
        return method, batch, [batch, batch]
    if method_name == "graphmae":
        g = torch.Generator().manual_seed(0)
        ring = torch.stack([torch.arange(80), torch.arange(80).roll(1)])
        parts = [
            Data(x=torch.randn(80, batch.x.shape[1], generator=g), edge_index=torch.cat([ring, ring.flip(0)], dim=1))
            for _ in (0, 1)
        ]
        whole = Batch.from_data_list(parts)
        return method, Data(x=whole.x, edge_index=whole.edge_index), parts
    if not isinstance(batch, dict):
        return method, batch, [batch.chunk(2)[rank] for rank in (0, 1)]
    batch = {
        key: x.nan_to_num(0.1) if x.is_floating_point() else x for key, x in batch.items()
    }  # as many patches and dates in every process
    if "valid" in batch:
        batch["valid"] = torch.ones_like(batch["valid"])
    return method, batch, [{key: x.chunk(2)[rank] for key, x in batch.items()} for rank in (0, 1)]


def kept(name, folder):
    """The same method and batches, as the fixture left them."""
    return torch.load(folder / f"{name}.pt", weights_only=False)


class Step(nn.Module):
    """The sum of the losses as a forward pass, which is what data parallel training wraps."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch):
        return torch.stack(list(self.method.losses(batch).values())).sum()


def gradients(method):
    return {name: None if p.grad is None else p.grad.numpy() for name, p in method.named_parameters()}


def of_rank(rank, folder):
    """Every case in one of two processes; results go to files."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for name in CASES:
        method, _, halves = kept(name, folder)
        method.rng = lambda: torch.Generator().manual_seed(rank)
        type(method).global_rank = property(lambda _: rank)  # which a trainer says
        step = DistributedDataParallel(Step(method), find_unused_parameters=method.has_idle_parameters)
        loss = step(copy.copy(halves[rank]))
        loss.backward()
        torch.save((float(loss.detach()), gradients(method)), folder / f"{name}_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small teachers, every method with its batches, and what both processes found."""
    found = tmp_path_factory.mktemp("ranks")
    write_teachers(found)
    for name in CASES:
        torch.save(built(name, found), found / f"{name}.pt")
    for process in [start(of_rank, rank, found) for rank in (0, 1)]:
        process.join()
        assert process.exitcode == 0
    return found


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_loss_and_the_gradient_of_one(name, folder, monkeypatch):
    method, batch, _ = kept(name, folder)
    both = Ours()
    if not name.startswith("scgc"):
        both_draws(monkeypatch)
        method.rng = lambda: both
    loss = Step(method)(copy.copy(batch))
    loss.backward()
    (one, first), (two, second) = (torch.load(folder / f"{name}_{rank}.pt", weights_only=False) for rank in (0, 1))
    assert (one + two) / 2 == pytest.approx(float(loss.detach()), rel=1e-4)
    own = gradients(method)
    idle = [key for key, p in method.named_parameters() if p.requires_grad and own[key] is None]
    assert not idle or method.has_idle_parameters, idle[:3]  # announced, as data parallel training waits for all
    largest = max(float(np.abs(g).max()) for g in own.values() if g is not None)
    assert largest > 0
    for key, gradient in own.items():
        np.testing.assert_array_equal(
            0 if first[key] is None else first[key], 0 if second[key] is None else second[key]
        )
        if gradient is not None and np.abs(gradient).max() > 0:
            np.testing.assert_allclose(first[key], gradient, rtol=2e-3, atol=2e-5 * largest, err_msg=key)
