"""What the verbs for laser scans share: which files, which encoders, how blocks are cut."""

from collections.abc import Sequence
from pathlib import Path

import torch

from geossl.data.points.blocks import BlockSettings
from geossl.errors import InputError, WeightsError
from geossl.models.encoder import Encoder, PointEncoder, PointSpec
from geossl.models.kinds import require

Scans = str | Path | Sequence[str | Path]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def of_scans(encoder: Encoder) -> PointEncoder:
    """The encoder, if it was trained on blocks of airborne scans.

    Raises:
        WeightsError: If not.
    """
    found = require(PointEncoder, encoder)
    if found.spec.block_m is None:
        name = f"{found.spec.name!r} ({found.spec.architecture})"
        raise WeightsError(f"{name} was trained on whole objects; scans need one trained with data.block_m set")
    return found.to(DEVICE).eval()


def block_settings(spec: PointSpec, min_points: int) -> BlockSettings:
    """How blocks are cut for an encoder."""
    assert spec.block_m is not None
    if min_points < 1:
        raise InputError(f"min_points={min_points} must be 1 or more")
    return BlockSettings(spec.block_m, spec.points, spec.voxel_m, spec.ground, min_points)
