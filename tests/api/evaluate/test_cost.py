import pytest
import torch
from torch import nn

from geossl.api.evaluate import cost
from geossl.api.evaluate.cost import cost_of, joules
from geossl.models.encoders.croma import CROMAEncoder, croma_spec


@pytest.fixture
def encoder():
    return CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=4)).eval()


def test_operations_are_of_one_image_and_do_not_depend_on_the_batch(encoder):
    items = [{"s2": torch.rand(12, 16, 16)} for _ in range(3)]
    one, three = cost_of(encoder, items[:1]), cost_of(encoder, items)
    assert one.gflop == three.gflop
    linear = nn.Linear(12 * 64, 32)  # the patches' first layer alone, four patches
    assert one.gflop > 2 * 4 * linear.weight.numel() / 1e9
    assert (three.batch_size, three.device, three.wh_per_1000 is None) == (3, "cpu", joules() is None)
    assert three.parameters_m == pytest.approx(sum(x.numel() for x in encoder.parameters()) / 1e6, abs=1e-6)
    assert three.memory_gb > 0.1
    assert "images/s (cpu, 3 at a time)" in str(three)


def test_energy_is_told_where_the_machine_counts_it(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "COUNTER", tmp_path)
    assert joules() is None
    counted = iter(range(0, 10**12, 360_000_000))  # 360 J between two looks
    monkeypatch.setattr(cost, "joules", lambda: next(counted) / 1e6 + 1)
    monkeypatch.setattr(cost, "LEAST_S", 0.0)
    found = cost_of(encoder, [{"s2": torch.rand(12, 16, 16)}] * 2)
    assert found.wh_per_1000 == pytest.approx(360 / 3600 / 4 * 1000)  # two batches of two
    assert "Wh per 1000 images" in str(found)
    (tmp_path / "energy_uj").write_text("12000000\n")
    monkeypatch.undo()
    monkeypatch.setattr(cost, "COUNTER", tmp_path)
    assert joules() == 12
