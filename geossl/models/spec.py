"""What the specs of all architectures say in the same words: what an encoder sees, and where its weights come from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from geossl.models.encoder import DenseSpec
from geossl.sensors import SensorSpec


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Name, origin and licence of weights.

    Args:
        name: Short name; the architecture's and the size's by default.
        source: Paper, URL or run the weights come from.
        licence: SPDX identifier of the weights.
    """

    name: str = ""
    source: str = "not stated"
    licence: str = "not stated"

    def stated(self, name: str) -> dict[str, Any]:
        """Fields of an ``EncoderSpec``; ``name`` is used where none was given."""
        return {**asdict(self), "name": self.name or name}


UNSTATED = Provenance()


@dataclass(frozen=True, kw_only=True)
class ImageGeometry:
    """The images an encoder is trained on and the windows of its maps.

    Args:
        window_px: Side of the square the encoder sees in map inference.
        margin_px: Halo of a window in pixels, whose embeddings are not kept.
        gsd_m: Ground sampling distance of a pixel in metres.
        chip_px: Side of the training images; the window's by default.
    """

    window_px: int
    margin_px: int = 0
    gsd_m: float = 10.0
    chip_px: int | None = None

    def patches(self, patch_px: int) -> int:
        """Patches per side of a training image: what positions in an image count."""
        return (self.chip_px or self.window_px) // patch_px


def months_of(spec: DenseSpec) -> dict[str, Any]:
    """Arguments by which an encoder of series says its months, for the spec of a model around it; else nothing."""
    return {name: spec.arguments[name] for name in ("dates", "month") if spec.dates > 1}


def dense_spec(
    architecture: str,
    arguments: Mapping[str, Any],
    sensors: Mapping[str, SensorSpec],
    geometry: ImageGeometry,
    provenance: Mapping[str, Any],
    *,
    dim: int,
    patch_px: int,
    reach: int | None = None,
) -> DenseSpec:
    """Spec of an image encoder; arguments as in ``DenseSpec``, ``ImageGeometry`` and ``Provenance.stated``."""
    return DenseSpec(
        architecture=architecture,
        arguments=arguments,
        sensors=sensors,
        dim=dim,
        patch_px=patch_px,
        gsd_m=geometry.gsd_m,
        window_px=geometry.window_px,
        margin_px=geometry.margin_px,
        reach=reach,
        **provenance,
    )
