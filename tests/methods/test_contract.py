"""What every method must hold, run over all of them on their own default recipe, made small."""

import subprocess
import sys

import pytest
import torch

from geossl import recipe
from geossl.api.pretrain.run import prepare
from geossl.models.files import load_encoder, save_encoder
from tests.methods.small import values_of, write_teachers

METHODS = sorted(recipe.RECIPES)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A folder with small encoders that students imitate; ``TEACHERS`` in the values above."""
    folder = tmp_path_factory.mktemp("teachers")
    write_teachers(folder)
    return folder


@pytest.fixture(scope="module", params=METHODS)
def made(request, teachers):
    """A method and a batch, both fresh from the recipe."""
    loaded = recipe.load(request.param, [v.replace("TEACHERS", str(teachers)) for v in values_of(request.param)])

    def make():
        data, build = prepare(loaded)
        torch.manual_seed(0)
        method = build()
        return method, next(iter(data.train_dataloader()))

    return make


def total(method, batch):
    return torch.stack(list(method.losses(batch).values())).sum()


def test_losses_are_finite_and_gradients_reach_the_encoder_and_no_frozen_part(made):
    method, batch = made()
    losses = method.losses(batch)
    assert losses
    assert all(torch.isfinite(term) and term.ndim == 0 for term in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert sum(float(p.grad.abs().sum()) for p in method.encoder.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in method.parameters() if not p.requires_grad)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_thirty_steps_on_one_batch_lower_the_loss(made):
    method, batch = made()
    method.train()
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    first = float(total(method, batch).detach())
    for _ in range(30):
        optimizer.zero_grad()
        loss = total(method, batch)
        loss.backward()
        optimizer.step()
    assert float(total(method, batch).detach()) < first - 0.05 * abs(first)


def test_same_seed_gives_the_same_loss(made):
    one, two = (float(total(*made()).detach()) for _ in range(2))
    assert one == two


def test_the_saved_encoder_loads_equal(made, tmp_path):
    method, _ = made()
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, method.encoder, {"note": 1})
    again = load_encoder(path)
    assert again.spec == method.encoder.spec
    assert not again.training
    for name, tensor in method.encoder.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_no_encoder_needs_the_training_framework_to_load(teachers):
    """One process for all architectures, since each would spend its seconds on importing torch."""
    paths = [str(path) for path in sorted(teachers.glob("*.safetensors"))]
    code = (
        "import sys; from importlib import import_module; from geossl.models import files; "
        f"[files.load_encoder(path) for path in {paths}]; "
        "[files.architecture(name) for name in files.ARCHITECTURES]; "
        "sys.exit('lightning' in sys.modules or not files.ARCHITECTURES)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
