"""A point encoder with a head: points of a cloud in, a class for every place of it out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geossl.models.encoder import Encoder, EncoderSpec, PointEncoder, PointSpec
from geossl.models.files import fresh

HIDDEN = 256


def point_segmenter_spec(encoder: PointSpec, classes: Sequence[str], codes: Sequence[int]) -> PointSpec:
    """Spec of a segmenter.

    Args:
        encoder: Spec of the encoder inside.
        classes: Names.
        codes: Number of each in LAS files.
    """
    arguments = {"encoder": encoder.to_dict(), "classes": list(classes), "codes": list(codes)}
    name = f"{encoder.name}_segmenter"
    return replace(encoder, name=name, architecture="point_segmenter", arguments=arguments, dim=len(classes))


class PointSegmenter(Encoder):
    """Scores per class for each place of a cloud.

    Args:
        spec: From ``point_segmenter_spec``.
    """

    spec_type: ClassVar[type[EncoderSpec]] = PointSpec
    spec: PointSpec

    def __init__(self, spec: PointSpec) -> None:
        super().__init__()
        self.spec = spec
        encoder = fresh(spec.arguments["encoder"])
        assert isinstance(encoder, PointEncoder)
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(encoder.point_dim + spec.channels, HIDDEN),
            nn.LayerNorm(HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(HIDDEN, HIDDEN // 2),
            nn.LayerNorm(HIDDEN // 2),
            nn.ReLU(),
            nn.Linear(HIDDEN // 2, len(self.classes)),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the numbers."""
        return tuple(self.spec.arguments["classes"])

    def logits(self, points: Float[Tensor, "b n c"], queries: Float[Tensor, "b m c"]) -> Float[Tensor, "b m k"]:
        """Scores of every query, from its vector and its own numbers.

        Args:
            points: What the encoder sees.
            queries: Points to classify, these or others of the same cloud.
        """
        vectors = self.encoder.per_point(points, queries[..., :3])
        return self.head(torch.cat([vectors, queries.to(vectors)], dim=2))
