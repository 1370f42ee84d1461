"""Encoders in terratorch's registry of backbones: import this module, then name ``geossl_encoder`` in a configuration.

``terratorch fit -c FILE.yaml --custom_modules_path FOLDER`` imports ``FOLDER/__init__.py`` first; that file needs one
line, ``import geossl.integrations.terratorch``. See ``examples/terratorch``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

from geossl.integrations.backbone import Backbone


@TERRATORCH_BACKBONE_REGISTRY.register  # type: ignore[untyped-decorator]
def geossl_encoder(
    bands: Sequence[str],
    encoder: str | Path = "croma_tiny",
    scale: float = 1.0,
    pretrained: bool = True,
    **_further: Any,
) -> Backbone:
    """An encoder of geossl as a backbone of ``EncoderDecoderFactory``; keys have ``backbone_`` before them there.

    Args:
        bands: As in ``Backbone``; terratorch's names are known.
        encoder: Name or file.
        scale: As in ``Backbone``. Set the data module's ``means`` to 0 and ``stds`` to 1.
        pretrained: False = fresh weights.
    """
    return Backbone(encoder, bands, scale=scale, pretrained=pretrained)
