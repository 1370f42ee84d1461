"""An encoder with a calibrated classifier of whole images: real or generated, or which generator."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geossl.models.encoder import DenseEncoder, DenseSpec, Encoder, EncoderSpec, Images
from geossl.models.files import fresh


def detector_spec(encoder: DenseSpec, classes: Sequence[str], side_px: int, hidden: int, dropout: float) -> EncoderSpec:
    """Spec of an image classifier.

    Args:
        encoder: Spec of an encoder of images.
        classes: Names; two give one logit, that of the second.
        side_px: Side of the images it is calibrated on.
        hidden: Width of the classifier.
        dropout: Dropout while it is fitted.
    """
    return EncoderSpec(
        name=f"{encoder.name}_detector",
        architecture="detector",
        arguments={
            "encoder": encoder.to_dict(),
            "classes": list(classes),
            "side_px": side_px,
            "hidden": hidden,
            "dropout": dropout,
        },
        dim=len(classes),
        source=encoder.source,
        licence=encoder.licence,
    )


class ImageClassifier(Encoder):
    """Probability per class of an image.

    The classifier is batch normalisation, a hidden layer, dropout and logits, as ImagiNet's; its logits are scaled and
    shifted to become probabilities (Platt).

    Args:
        spec: From ``detector_spec``.
    """

    slope: Tensor
    offset: Tensor

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        a = spec.arguments
        encoder = fresh(a["encoder"])
        if not isinstance(encoder, DenseEncoder):
            raise ValueError(f"an image classifier needs an encoder of images, not {a['encoder']['architecture']!r}")
        self.encoder = encoder
        self.classes = tuple(a["classes"])
        logits = 1 if len(self.classes) == 2 else len(self.classes)
        self.head = nn.Sequential(
            nn.BatchNorm1d(encoder.spec.dim),
            nn.Linear(encoder.spec.dim, int(a["hidden"])),
            nn.ReLU(),
            nn.Dropout(float(a["dropout"])),
            nn.Linear(int(a["hidden"]), logits),
        )
        self.register_buffer("slope", torch.ones(1))
        self.register_buffer("offset", torch.zeros(logits))

    def logits(self, images: Images) -> Float[Tensor, "b k"]:
        """Before Platt's scaling; one column for two classes."""
        return self.head(self.encoder.pooled(images))

    def probabilities(self, images: Images) -> Float[Tensor, "b k"]:
        """Per class, adding up to one."""
        scaled = self.slope * self.logits(images) + self.offset
        if scaled.shape[1] > 1:
            return scaled.softmax(dim=1)
        share = scaled.sigmoid()
        return torch.cat([1 - share, share], dim=1)
