"""The novelty of every patch, in the same file and engine as an encoder."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from geossl.models.encoder import DenseModel, DenseSpec, Images, Kept
from geossl.models.encoders.score_autoencoder import PatchAutoencoder

LAYERS = ("score_norm", "energy", "p_value")


class NoveltyMap(DenseModel):
    """Gives ``LAYERS`` per patch, in the place of an embedding.

    Args:
        spec: That of a ``PatchAutoencoder`` with another architecture and dim; from ``novelty_map``.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = PatchAutoencoder(
            replace(spec, architecture="patch_autoencoder", dim=spec.arguments["hidden"][-1])
        )

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw k"]:
        """See DenseModel."""
        rows = self.encoder.vectors(images, kept)
        found = self.encoder.autoencoder.novelty(rows.flatten(0, 1))
        layers = torch.stack(found, dim=-1).unflatten(0, rows.shape[:2])
        return self.encoder.grid(layers.masked_fill(~torch.isfinite(rows).all(dim=-1, keepdim=True), torch.nan), images)


def novelty_map(encoder: PatchAutoencoder) -> NoveltyMap:
    """Wrap a trained and calibrated auto-encoder."""
    model = NoveltyMap(replace(encoder.spec, architecture="novelty_map", dim=len(LAYERS)))
    model.encoder.load_state_dict(encoder.state_dict())
    return model.eval()
