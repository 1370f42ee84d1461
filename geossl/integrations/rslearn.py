"""An encoder as rslearn's feature extractor: ``class_path: geossl.integrations.rslearn.Encoder``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rslearn.models.component import FeatureExtractor, FeatureMaps
from rslearn.train.model_context import ModelContext

from geossl.errors import BandError
from geossl.integrations.backbone import Backbone


class Encoder(FeatureExtractor):  # type: ignore[misc]
    """An encoder of geossl at the front of a ``SingleTaskModel`` or ``MultiTaskModel``; of one date.

    Args:
        bands: Bands of each input of the data module, by its key there (``sentinel2``, ``sentinel1``).
        encoder: Name or file.
        scale: As in ``Backbone``: 0.0001 for digital numbers. Leave normalising transforms out.
        pretrained: False = fresh weights.
    """

    def __init__(
        self,
        bands: Mapping[str, Sequence[str]],
        encoder: str | Path = "croma_tiny",
        scale: float = 1.0,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.inputs = tuple(bands)
        every = [band for names in bands.values() for band in names]
        self.backbone = Backbone(encoder, every, scale=scale, pretrained=pretrained)

    def forward(self, context: ModelContext) -> FeatureMaps:
        """The feature map of the images of a batch.

        Raises:
            BandError: If an input is not there, or as in ``Backbone``.
        """
        for key in self.inputs:
            if any(key not in one for one in context.inputs):
                raise BandError(f"there is no input {key!r}; expected {', '.join(self.inputs)}")
        images = [
            torch.cat([one[key].single_ts_to_chw_tensor() for key in self.inputs]).float() for one in context.inputs
        ]
        return FeatureMaps(self.backbone(torch.stack(images)))

    def get_backbone_channels(self) -> list[tuple[int, int]]:
        """Pixels per cell and numbers of the feature map."""
        return [(self.backbone.patch_size, self.backbone.out_channels[0])]
