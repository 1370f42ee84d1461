"""Weights into an encoder: every tensor fits, or none is taken."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from geossl.errors import WeightsError
from geossl.models.encoder import Encoder


def load_strictly(encoder: Encoder, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Load a state dict that must match in keys, shapes and kinds of numbers, all of them finite.

    Raises:
        WeightsError: What does not match, and the first tensor of its kind.
    """
    own = encoder.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    kinds = sorted(k for k in own.keys() & state.keys() if own[k].is_floating_point() != state[k].is_floating_point())
    problems = {"lacks": missing, "has unexpected": extra, "has wrongly shaped": wrong, "has wrongly typed": kinds}
    for problem, keys in problems.items():
        if keys:
            raise WeightsError(
                f"{path} {problem} {len(keys)} tensors, first {keys[0]!r}; it is of another model or layout"
            )
    if bad := sorted(key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()):
        raise WeightsError(
            f"{path} holds NaN or infinite numbers in {len(bad)} tensors, first {bad[0]!r}; "
            "its training has diverged or the file is damaged: use an earlier checkpoint, or copy it again"
        )
    encoder.load_state_dict(dict(state))
