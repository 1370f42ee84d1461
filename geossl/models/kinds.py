"""Kinds of encoders, and the one way to refuse an encoder of another kind."""

from typing import TypeVar

from geossl.errors import WeightsError
from geossl.models.encoder import DenseEncoder, DenseModel, Encoder, GraphEncoder, PointEncoder, SeriesEncoder

Kind = TypeVar("Kind", bound=Encoder)
KINDS: dict[type[Encoder], tuple[str, str]] = {  # interface -> what it takes, and a method that pretrains one
    DenseModel: ("images", "croma"),
    SeriesEncoder: ("image series", "cross_video_mae"),
    PointEncoder: ("point clouds", "point_cmae"),
    GraphEncoder: ("graphs", "graphmae"),
}


def require(kind: type[Kind], encoder: Encoder) -> Kind:
    """The encoder, if it is of a kind.

    Args:
        kind: A key of ``KINDS``.
        encoder: Of any kind.

    Raises:
        WeightsError: If it is of another kind; says what it takes, and how to get one that fits.
    """
    if isinstance(encoder, kind):
        return encoder
    takes, method = KINDS[kind]
    own = next((words for other, (words, _) in KINDS.items() if isinstance(encoder, other)), "other data")
    name = f"{encoder.spec.name!r} ({encoder.spec.architecture})"
    raise WeightsError(f"{name} takes {own}, not {takes}; pretrain one that does, such as by geossl pretrain {method}")


def require_image_encoder(encoder: Encoder) -> DenseEncoder:
    """The encoder, if its vectors are embeddings of images.

    Raises:
        WeightsError: If it embeds something else, or classifies.
    """
    found = require(DenseModel, encoder)
    if isinstance(found, DenseEncoder):
        return found
    raise WeightsError(f"{found.spec.name!r} gives classes, not embeddings; use it with segment --model")


def require_one_date(encoder: Encoder) -> DenseEncoder:
    """The encoder, if it embeds images of one date.

    Raises:
        WeightsError: If it takes several, or embeds something else.
    """
    found = require_image_encoder(encoder)
    if found.spec.dates == 1:
        return found
    raise WeightsError(
        f"{found.spec.name} takes {found.spec.dates} months of a place, and these are images of one date"
    )
