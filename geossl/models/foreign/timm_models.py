"""Networks of timm by name, without their classifiers, and weight files as tensors by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from geossl.errors import MissingFileError, UnknownNameError, WeightsError

NO_WEIGHTS = ("norm.", "fc_norm.", "head.", "fc.", "classifier.")  # a file may lack or have more of these


def stride_of(model: nn.Module) -> int | None:
    """Pixels per feature and axis; None for a network that takes one size of image only."""
    embed: Any = getattr(model, "patch_embed", None)
    if getattr(model, "dynamic_img_size", False):
        return int(embed.patch_size[0])
    if getattr(embed, "img_size", None) is not None:
        return None
    return int(model.feature_info[-1]["reduction"])  # type: ignore[index]


def timm_features(model: Any, x: Float[Tensor, "b c h w"]) -> Tensor:
    """Features after the last norm: tokens (b n d), class and register tokens first, or a map (b d h w)."""
    found = model.forward_features(x)
    is_last = found.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC"
    return found.permute(0, 3, 1, 2) if is_last else found


def timm_model(name: str, channels: int, weights: str | Path | Mapping[str, Tensor] | None) -> nn.Module:
    """A network of timm without its classifier.

    Args:
        name: As timm spells it, e.g. ``vit_small_patch16_224``.
        channels: Channels of its input.
        weights: A ``.safetensors`` or ``.pth`` file, or tensors by name; None = random, as a control.

    Raises:
        UnknownNameError: If timm does not know it.
        MissingFileError: If there is no such file.
        WeightsError: If the weights are of another network, damaged or unsafe.
    """
    if not timm.is_model(name.split(".")[0]):
        raise UnknownNameError("timm model", name, timm.list_models())
    settings: dict[str, Any] = {"pretrained": False, "num_classes": 0, "in_chans": channels}
    try:
        model = timm.create_model(name, dynamic_img_size=True, **settings)
    except TypeError:  # only plain transformers take images of any size by this switch
        model = timm.create_model(name, **settings)
    if weights is not None:
        load_published(model, weights if isinstance(weights, Mapping) else read_tensors(Path(weights)), name)
    return model


def load_published(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load weights that may lack, or have, a classifier and the last norm.

    Raises:
        WeightsError: If others are missing or left over.
    """
    missing, unexpected = lenient(model, state, name)
    wrong = [key for key in [*missing, *unexpected] if not key.startswith(NO_WEIGHTS)]
    if wrong:
        raise WeightsError(f"the weights are not those of {name}: {len(wrong)} tensors do not match, e.g. {wrong[0]}")


def lenient(model: nn.Module, state: Mapping[str, Tensor], name: str) -> tuple[list[str], list[str]]:
    """Load, and give the names that are missing or too many."""
    try:
        found = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise WeightsError(f"the weights are not those of {name}: {detail}") from None
    return list(found.missing_keys), list(found.unexpected_keys)


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name of a weight file, without running anything it might hold."""
    if not path.is_file():
        raise MissingFileError(f"weight file {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # what a reader of a damaged file raises depends on its bytes
        raise WeightsError(f"{path} is damaged, holds more than tensors or is not a weight file") from None
    for key in ("state_dict", "model", "teacher"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        raise WeightsError(f"{path} holds no tensors by name")
    return {key.removeprefix("module."): value for key, value in values.items()}
