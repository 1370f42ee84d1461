"""What the encoders of ``geossl pretrain`` say of where they come from."""

from geossl.models.spec import Provenance


def pretrained(name: str, source: str, taught: str = "") -> Provenance:
    """Provenance of an encoder trained from a recipe.

    Args:
        name: Of the encoder.
        source: The recipe's ``data.source``.
        taught: What its teachers add, after a semicolon each.
    """
    return Provenance(name=name, source=f"geossl pretrain, {source}{taught}", licence="see the data's licence")
