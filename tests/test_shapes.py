"""Annotations of geossl are checked while tests run: see ``tests/shapes.py``, which ``pyproject.toml`` names."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from geossl.models.layers.patches import patchify
from tests.shapes import checked


@jaxtyped(typechecker=checked)
def widened(x: Float[Tensor, "b d"], times: int, *, kind: str = "right") -> Float[Tensor, "b {times}*d"]:
    if kind == "right":
        return x.repeat(1, times)
    return x.repeat(times, 1) if kind == "turned" else None


def test_arguments_and_results_that_fit_pass():
    assert widened(torch.zeros(2, 3), 4).shape == (2, 12)
    assert widened(torch.zeros(5, 1), times=1).shape == (5, 1)


@pytest.mark.parametrize(
    ("arguments", "named", "word"),
    [
        ((torch.zeros(3), 2), {}, "checking the parameters"),
        ((torch.zeros(2, 3).int(), 2), {}, "checking the parameters"),
        ((torch.zeros(2, 3), "2"), {}, "checking the parameters"),
        ((torch.zeros(2, 3), 2), {"kind": 1}, "checking the parameters"),
        ((torch.zeros(2, 3), 2), {"kind": "turned"}, "checking the return value"),  # (4, 3), not (2, 6)
        ((torch.zeros(2, 3), 2), {"kind": "none"}, "checking the return value"),
    ],
)
def test_others_are_refused(arguments, named, word):
    with pytest.raises(TypeCheckError, match=word):
        widened(*arguments, **named)


def test_the_package_is_checked():
    with pytest.raises(TypeCheckError, match="checking the parameters of geossl.models.layers.patches.patchify"):
        patchify(torch.zeros(3, 8, 8), 8)
