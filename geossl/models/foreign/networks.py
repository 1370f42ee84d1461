"""Names of other libraries: ``timm:resnet18.a1_in1k``, ``torchgeo:ViTSmall16_Weights.SENTINEL2_ALL_DINO``.

``@random`` after the name gives the same network with random weights (seed 0), as a control and without a download.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import timm
import torch
from torch import Tensor, nn

from geossl.errors import Note, UnknownNameError, WeightsError
from geossl.models.encoder import DenseSpec
from geossl.models.foreign.feature_map import NetworkEncoder, arguments_of
from geossl.models.foreign.layout import patch_of
from geossl.models.foreign.timm_models import load_published, timm_features, timm_model
from geossl.models.foreign.wrap import SIDE_PX, note_place, rim, sensors_of, side_of
from geossl.sensors import OPTICAL, RADAR, SENSORS

RANDOM = "random"
BYTE = 255.0
RGB_SENSOR = OPTICAL  # what a network of RGB images sees in true colours


def split(name: str) -> tuple[str, bool]:
    """A name without ``@random``, and whether that was there.

    Raises:
        WeightsError: If something else follows the @.
    """
    name, at, kind = name.partition("@")
    if at and kind != RANDOM:
        raise WeightsError(f"{name}@{kind} is not known; only @{RANDOM}, for random weights, can follow the name")
    return name, bool(at)


def from_timm(name: str) -> NetworkEncoder:
    """A network of timm on Sentinel-2's true colours, stretched to 0..1 as RGB images are and scaled as timm states.

    Args:
        name: As timm spells it, with the tag of its weights; ``@random`` for random ones.

    Raises:
        UnknownNameError: If timm does not know it.
        WeightsError: If its weights cannot be downloaded.
    """
    name, is_random = split(name)
    model = known_network(name, 3)
    sensor = SENSORS[RGB_SENSOR]
    stated: Any = model.pretrained_cfg
    mean, std = ([sensor.white * float(v) for v in stated[key]] for key in ("mean", "std"))
    source = f"timm {timm.__version__}: {name}" + (", random weights" if is_random else "")
    state = None if is_random else timm_weights(name)
    found = built(f"timm_{name}", name, (sensor.rgb, "reflectance", mean, std), sensor.white, source, state)
    if not is_random:
        found.spec = replace(found.spec, licence=str(stated.get("license") or "not stated"))
    return found


def known_network(name: str, channels: int) -> Any:
    """A network of timm with random weights, seed 0.

    Raises:
        UnknownNameError: If timm does not know it, or its tag.
    """
    torch.manual_seed(0)
    try:
        return timm_model(name, channels, None)
    except RuntimeError:  # an unknown tag
        raise UnknownNameError("timm weights", name, timm.list_pretrained(f"{name.split('.')[0]}.*")) from None


def timm_weights(name: str) -> dict[str, Tensor]:
    """Published weights, from timm's cache or Hugging Face.

    Raises:
        WeightsError: If they cannot be had.
    """
    make = partial(timm.create_model, name, pretrained=True, num_classes=0)
    return downloaded(make, f"timm:{name}", "timm's cache")


def downloaded(make: Callable[[], nn.Module], name: str, cache: str) -> dict[str, Tensor]:
    """State of a network that is made with its published weights.

    Args:
        make: Makes it.
        name: What users call it.
        cache: What to copy where there is no internet.

    Raises:
        WeightsError: If they cannot be had.
    """
    try:
        return make().state_dict()
    except Exception as error:  # what a client raises depends on how the network is down
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise WeightsError(
            f"cannot download weights of {name} ({reason}); on a machine without internet, copy {cache}, or "
            f"use {name}@{RANDOM} for random ones"
        ) from None


def from_torchgeo(name: str) -> NetworkEncoder:
    """Weights of torchgeo on Sentinel-1 or -2, with the bands and the scaling that torchgeo states.

    Args:
        name: Full name in torchgeo's enumeration, such as ``ViTSmall16_Weights.SENTINEL2_ALL_DINO``.

    Raises:
        UnknownNameError: If torchgeo has no such weights.
        WeightsError: If they are not of a network of timm on Sentinel-1 or -2, or cannot be downloaded.
    """
    name, is_random = split(name)
    weights = torchgeo_weights(name)
    meta = weights.meta
    bands = tuple(esa_name(band) for band in meta.get("bands", ()))
    if meta.get("in_chans") == 2:
        bands = SENSORS[RADAR].bands  # some weights of radar list optical bands
    known = {*SENSORS[RADAR].bands, *SENSORS[OPTICAL].bands, "B10"}
    if "SENTINEL" not in name or len(bands) != meta.get("in_chans") or not set(bands) <= known:
        taken = ", ".join(bands) or "bands it does not state"
        raise WeightsError(f"torchgeo:{name} takes {taken}; only weights of Sentinel-1 and -2 can be used")
    network = str(meta.get("model", ""))
    if not timm.is_model(network):
        raise WeightsError(f"torchgeo:{name} is of {network or 'a model'}, not of a network of timm; use geossl.wrap")
    mean, std = stated_scaling(weights.transforms, len(bands), name)
    unit = "dB" if bands == SENSORS[RADAR].bands else "DN"
    if "B10" in bands:
        text = f"torchgeo:{name} gets 0 for B10, which L2A files lack; what this costs was not measured"
        warnings.warn(text, Note, stacklevel=2)
    source = f"torchgeo {name}" + (", random weights" if is_random else f", {weights.url}")
    state = None if is_random else torchgeo_state(weights, name)
    label = f"torchgeo_{name.split('.')[1].lower()}"
    return built(label, network, (bands, unit, mean, std), None, source, state)


def torchgeo_weights(name: str) -> Any:
    """An entry of torchgeo's enumerations."""
    models: Any = import_module("torchgeo.models")  # only where asked for: encoders run without torchgeo
    try:
        return models.get_weight(name)
    except (ValueError, KeyError, AttributeError):
        kinds = [getattr(models, kind) for kind in dir(models) if kind.endswith("_Weights")]
        known = [str(weight) for kind in kinds for weight in kind if "SENTINEL" in weight.name]
        raise UnknownNameError("torchgeo weights", name, known) from None


def torchgeo_state(weights: Any, name: str) -> dict[str, Tensor]:
    """Weights by name; torchgeo checks the hash in the file's name.

    Raises:
        WeightsError: If they cannot be had.
    """
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # what a client raises depends on how the network is down
        raise WeightsError(
            f"cannot download {weights.url} ({getattr(error, 'reason', error)}); on a machine without internet, copy "
            f"torch's cache of hub checkpoints, or use torchgeo:{name}@{RANDOM} for random weights"
        ) from None


def esa_name(band: str) -> str:
    """A band's name as ESA writes it: ``B1`` is ``B01``."""
    digits = band.upper().removeprefix("B")
    return f"B{int(digits):02d}" if digits.isdigit() else band.upper()


def stated_scaling(transforms: Any, bands: int, name: str) -> tuple[list[float], list[float]]:
    """Mean and std per band of what the library does to pixels; resizing and cropping are left out.

    Raises:
        WeightsError: If it does more than that.
    """
    mean, std = [0.0] * bands, [1.0] * bands
    for step in transforms.children():
        kind = type(step).__name__
        if kind == "Normalize" and {BYTE, 1 / BYTE} & {float(v) for v in step.std}:
            raise WeightsError(f"torchgeo:{name} takes 8-bit images, not reflectance; use geossl.wrap")
        if kind == "Normalize":
            lows, widths = ((list(v) * bands)[:bands] if len(v) == 1 else list(v) for v in (step.mean, step.std))
            mean = [m + float(low) * s for m, s, low in zip(mean, std, lows, strict=True)]
            std = [s * float(width) for s, width in zip(std, widths, strict=True)]
        elif kind not in ("Resize", "CenterCrop", "Identity"):
            raise WeightsError(f"torchgeo:{name} scales pixels by {kind}, which is not known here; use geossl.wrap")
    return mean, std


def built(
    label: str,
    network: str,
    pixels: tuple[tuple[str, ...], str, list[float], list[float]],
    white: float | None,
    source: str,
    state: dict[str, Tensor] | None,
) -> NetworkEncoder:
    """An encoder of a network of timm.

    Args:
        label: Name of the encoder.
        network: Name in timm.
        pixels: Bands, unit, mean and std as in ``geossl.wrap``.
        white: Value that pixels are clipped to; None = not.
        source: Where the weights come from.
        state: Weights; None = random, seed 0.

    Raises:
        WeightsError: If the weights are of another network.
    """
    sensors, order = sensors_of(*pixels)
    model = known_network(network, len(order))
    side = side_of(model) or SIDE_PX
    with torch.inference_mode():
        found = timm_features(model.eval(), torch.zeros(1, len(order), side, side))
    patch = patch_of(found, side, label)
    spec = DenseSpec(
        name=label,
        architecture="network",
        arguments=arguments_of(order, white, model=network),
        dim=found.shape[2] if found.ndim == 3 else found.shape[1],
        source=source,
        licence="not stated",
        sensors=sensors,
        patch_px=patch,
        gsd_m=10.0,
        window_px=side,
        margin_px=rim(side, patch),
    )
    torch.manual_seed(0)
    encoder = NetworkEncoder(spec).eval()
    if state is not None:
        load_published(encoder.network, state, network)
    note_place(encoder)
    return encoder
