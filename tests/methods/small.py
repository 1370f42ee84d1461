"""What the tests over all methods share: recipe values that make a step small, and teachers for students."""

from importlib import import_module
from pathlib import Path

import torch

from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.files import save_encoder
from geossl.models.spec import ImageGeometry
from geossl.sensors import S2


def values_of(method: str) -> list[str]:
    """``CONTRACT`` of a method's own test file: recipe values that make a step take a fraction of a second."""
    return import_module(f"tests.methods.test_{method}").CONTRACT


def write_teachers(folder: Path) -> None:
    """Small encoders that students imitate; the folder is ``TEACHERS`` in the values above."""
    torch.manual_seed(0)
    vit = vit_spec("nano", {"s2": S2}, ImageGeometry(window_px=48), patch_px=8, dim=32)
    save_encoder(folder / "croma.safetensors", CROMAEncoder(croma_spec("tiny", dim=32, depth=2, heads=8)), {})
    save_encoder(folder / "vit.safetensors", ViT(vit), {})
