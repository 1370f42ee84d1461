"""Precision ``auto`` of a training run."""

import pytest
import torch

from geossl import recipe
from geossl.api.pretrain.run import decided
from geossl.outputs import write_text
from geossl.training.run_folder import RunFolder


@pytest.mark.parametrize(("has", "found"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_what_the_processor_computes_in_and_stays_that_of_a_run_that_was_begun(
    tmp_path, monkeypatch, has, found
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    folder = RunFolder(tmp_path / "run")
    asked = recipe.load("croma", ["train.precision=auto"])
    made = decided(asked, folder)
    assert made.train.precision == found
    folder.path.mkdir()
    write_text(folder.recipe, recipe.dump(made))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not has)
    assert decided(asked, folder).train.precision == found
    stated = recipe.load("croma", ["train.precision=16-mixed"])
    assert decided(stated, folder) is stated


def test_a_fused_step_is_that_of_a_plain_one_but_for_rounding():
    from geossl.methods.base import OptimConfig

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(3, 4)

    made = []
    for fused in (False, True):
        torch.manual_seed(0)
        module = Two()
        optimizer = OptimConfig("adamw", 1e-2, (0.9, 0.95), 0.05, "constant", 0, 9, fused=fused).build(module)
        for step in range(5):
            optimizer.zero_grad()
            (module.encoder(torch.full((2, 3), 1.0 + step)) ** 2).sum().backward()
            optimizer.step()
        made.append(module.encoder.weight.detach())
    torch.testing.assert_close(made[1], made[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(made[0], torch.zeros(4, 3))
