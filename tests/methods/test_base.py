import dataclasses
import math

import pytest

from geossl.methods.base import OptimConfig

OPTIM = OptimConfig("adamw", 1e-3, (0.9, 0.95), 0.05, "cosine", 4, 20)


def test_the_rate_warms_up_and_falls_along_a_cosine_to_its_end():
    assert [OPTIM.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert OPTIM.rate(12) == pytest.approx(0.5)
    assert OPTIM.rate(20) == 0
    ends = dataclasses.replace(OPTIM, final_share=0.001)
    assert ends.rate(20) == ends.rate(30) == pytest.approx(0.001)
    assert ends.rate(8) == pytest.approx(0.001 + 0.999 * (1 + math.cos(math.pi / 4)) / 2)


def test_first_steps_have_a_rate_of_their_own():
    first = dataclasses.replace(OPTIM, first_steps=2, first_lr=5e-4)
    assert [1e-3 * first.rate(step) for step in range(4)] == pytest.approx([5e-4, 5e-4, 7.5e-4, 1e-3])
