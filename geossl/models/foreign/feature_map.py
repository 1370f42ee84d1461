"""Encoders around networks of others: pixels in physical units to the network's input, its output to patches."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geossl.errors import GridError, WeightsError
from geossl.models.encoder import DenseEncoder, DenseSpec, Images, Kept
from geossl.models.encoders.stacked import only_kept, stack
from geossl.models.foreign.layout import laid_out, last_of
from geossl.models.foreign.timm_models import timm_features, timm_model
from geossl.models.layers.normalize import Standardize

Module = Callable[[Tensor], Any]


class FeatureMapEncoder(DenseEncoder):
    """Standardised bands, stacked in the network's order, to a vector per patch.

    Pixels without data, patches that are not fed and sensors that are missing count as the band's mean; a network of
    others cannot leave patches out. A patch has a vector where any sensor is fed.

    Args:
        spec: ``arguments["bands"]`` is the network's order of all bands; one that no sensor has (B10 of Sentinel-2) is
            0. ``arguments["white"]``: pixels are clipped to 0 and this value first; None = not.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scales = nn.ModuleDict({name: Standardize(s.mean, s.std) for name, s in spec.sensors.items()})
        have = [band for sensor in spec.sensors.values() for band in sensor.bands]
        self.order = [have.index(band) if band in have else -1 for band in spec.arguments["bands"]]

    @abstractmethod
    def features(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """What the network gives for scaled pixels: a map, or tokens."""

    def stacked(self, images: Images) -> Float[Tensor, "b c h w"]:
        """Bands as the network takes them."""
        white = self.spec.arguments["white"]
        if white is not None:
            images = {name: x.clamp(0.0, float(white)) for name, x in images.items()}  # ONNX wants two of one type
        x = stack(images, self.spec, self.scales)
        if self.order == list(range(x.shape[1])):
            return x
        if -1 in self.order:
            x = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)  # the last channel is what -1 points at
        return x[:, self.order]

    def vectors(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b gh gw d"]:
        """A vector per patch.

        Raises:
            GridError: If the network does not take images of this size.
        """
        h, w = x.shape[-2:]
        patch, side = self.spec.patch_px, self.spec.window_px
        try:
            found = self.features(x)
        except (RuntimeError, AssertionError, ValueError) as error:
            if (h, w) == (side, side):
                raise
            raise GridError(
                f"{self.spec.name} does not take images of {h} x {w} px ({' '.join(str(error).split())[:80]}); "
                f"give it {side} x {side} px"
            ) from None
        return laid_out(found, (h // patch, w // patch), self.spec.name)

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """See DenseModel."""
        kept = kept or {}
        found = self.vectors(self.stacked({name: only_kept(x, kept.get(name)) for name, x in images.items()}))
        if all(name in kept for name in images):
            fed: Bool[Tensor, "b gh gw"] = torch.stack([kept[name] for name in images]).any(dim=0)
            found = torch.where(fed[..., None], found, torch.nan)
        return found

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """See DenseEncoder; the mean of the patches' vectors."""
        return self.tokens(images, kept).flatten(1, 2).nanmean(dim=1)


class WrappedEncoder(FeatureMapEncoder):
    """A Python object of the user's, from ``geossl.wrap``; no file holds it, so it lives in this process only.

    Args:
        spec: From ``geossl.wrap``.
        module: Gives maps or tokens for scaled pixels.
    """

    is_rebuilt_from_spec: ClassVar[bool] = False

    def __init__(self, spec: DenseSpec, module: Module | None = None) -> None:
        super().__init__(spec)
        if module is None:
            raise WeightsError(
                f"{spec.name} was wrapped by another Python process; write it with geossl.export(encoder, 'model.pt2') "
                "and use that file"
            )
        self.module = module

    def features(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """See FeatureMapEncoder."""
        return last_of(self.module(x), self.spec.name)

    @torch.inference_mode()
    def answer(self) -> Tensor:
        """What it gives for noise, in few digits: by this, code that has changed is told from what it was."""
        side = self.spec.window_px
        noise = torch.randn(1, len(self.order), side, side, generator=torch.Generator().manual_seed(0))
        device = next((p.device for p in self.parameters()), noise.device)
        return self.vectors(noise.to(device)).half()


class NetworkEncoder(FeatureMapEncoder):
    """A network of timm without its classifier, with any weights.

    Args:
        spec: ``arguments["model"]`` is timm's name.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__(spec)
        self.network = timm_model(str(spec.arguments["model"]), len(spec.arguments["bands"]), None)

    def features(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """See FeatureMapEncoder."""
        return timm_features(self.network, x)


def arguments_of(bands: Sequence[str], white: float | None = None, **more: Any) -> dict[str, Any]:
    """Arguments of a FeatureMapEncoder's spec."""
    return {"bands": list(bands), "white": white, **more}
