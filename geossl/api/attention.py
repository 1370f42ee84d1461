"""Look at the attention of encoders."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from geossl.evaluation.attention import AttentionProfile, plot_profiles, profile
from geossl.models.encoders.vit import ViT
from geossl.models.files import load_encoder
from geossl.outputs import check_output

Model = str | Path | nn.Module


def attention_profile(
    models: Model | Mapping[str, Model],
    images: Mapping[str, Tensor] | Tensor,
    *,
    picture: str | Path | None = None,
    batch_size: int = 16,
) -> dict[str, AttentionProfile]:
    """Average attention distance and normalised mutual information, per layer and head.

    Args:
        models: An encoder (name, file or loaded; a ``vit``), a timm VisionTransformer, or several by name.
        images: Pixels by sensor in physical units, all of one size; for a timm network a tensor as it was trained on.
        picture: Where to draw all of them beside each other (``.png``), with attention maps.
        batch_size: Images at a time; does not change values.

    Returns:
        By name: ``distance_px``, ``distance_m``, ``nmi`` (layers, heads), ``spread_px`` (layers), ``seen``.

    Raises:
        WeightsError: If a network has no global attention between patches.
    """
    named = models if isinstance(models, Mapping) else {"encoder": models}
    if picture is not None:
        check_output(picture, (".png",), option="picture")
    found = {}
    for name, model in named.items():
        network = model if isinstance(model, nn.Module) else load_encoder(model)
        patch_px, gsd_m = getattr(getattr(network, "patch_embed", None), "patch_size", (1,))[0], None
        if isinstance(network, ViT):
            patch_px = network.spec.patch_px
            gsd_m = None if "rgb" in network.spec.sensors else network.spec.gsd_m
        found[name] = profile(network, images, patch_px=patch_px, gsd_m=gsd_m, batch_size=batch_size)
    if picture is not None:
        plot_profiles(found, picture)
    return found
