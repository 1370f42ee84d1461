"""``geossl.wrap``: any network of maps or tokens as an encoder."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geossl.errors import BandError, GridError, Note, WeightsError
from geossl.models.encoder import DenseSpec
from geossl.models.foreign.feature_map import FeatureMapEncoder, WrappedEncoder, arguments_of
from geossl.models.foreign.layout import laid_out, last_of, patch_of, place_effect
from geossl.sensors import SENSORS, SensorSpec

SIDE_PX = 224  # window of a network that does not say which images it takes
RIM = 4  # a window's rim is a quarter of its patches on each side, and is not kept
NOTED = 0.05  # effect of the place in a window from which it is said
DN = 10_000.0  # numbers per reflectance, without offset
UNITS = ("reflectance", "DN", "dB")
Numbers = float | Sequence[float] | None


def wrap(
    module: Callable[[Tensor], Any],
    *,
    bands: Sequence[str],
    unit: str = "reflectance",
    mean: Numbers = None,
    std: Numbers = None,
    patch_px: int | None = None,
    gsd_m: float = 10.0,
    window_px: int | None = None,
) -> WrappedEncoder:
    """Make an encoder of any network that gives a map or tokens; every verb takes it where it takes a name.

    ``geossl.embed_map("region.geojson", source, encoder=geossl.wrap(network, bands=("B04", "B03", "B02")))``

    Maps are made of windows, since nothing says that the network's vectors do not depend on the place in an image
    (positions, padding); the rim of a window, a quarter on each side, is not kept. A note says how much place matters.
    Pixels without data count as the band's mean.

    Args:
        module: A network, or any function, from standardised pixels (B, bands, H, W) to a map (B, C, h, w) or
            (B, h, w, C) or tokens (B, N, C), class and register tokens first; of a list of maps the last is taken. A
            network of timm with its classifier gives what comes before it.
        bands: Names in the network's order, such as ``B04`` or ``VV``; B10, which L2A files do not have, is 0.
        unit: Unit of ``mean`` and ``std``: ``reflectance`` (0 to 1), ``DN`` (reflectance times 10000) or, for bands of
            radar, ``dB``; bands of radar beside optical ones are in dB.
        mean: Subtracted, one number or one per band; by default, with ``std``, the published statistics of the bands.
        std: What is left is divided by it, likewise.
        patch_px: Pixels per vector and axis; by default found by a trial.
        gsd_m: Size of a pixel in metres that the network expects.
        window_px: Side of the images it is given; by default what the network says of itself, else 224.

    Returns:
        The encoder, in evaluation mode. It lives in this process; ``geossl.export(encoder, "model.pt2")`` writes it.

    Raises:
        BandError: If a band is not known, or statistics do not fit.
        GridError: If patch, window and output do not fit.
        WeightsError: If the module gives neither a map nor tokens.
    """
    if not callable(module):
        raise WeightsError(f"cannot wrap a {type(module).__name__}; expected a torch module or a function")
    for key, size in {"patch_px": patch_px or 1, "gsd_m": gsd_m, "window_px": window_px or 1}.items():
        if not 0 < size < math.inf:
            raise GridError(f"{key}={size} is not possible; expected a size above 0")
    sensors, order = sensors_of(bands, unit, mean, std)
    name = name_of(module)
    if isinstance(module, nn.Module):
        module.eval()
    side = window_px or side_of(module) or SIDE_PX
    run, found = tried(module, len(order), side, name)
    patch = patch_px or patch_of(found, side, name)
    if side % patch:
        raise GridError(f"window_px={side} is not a multiple of patch_px={patch}; give one, such as {8 * patch}")
    spec = DenseSpec(
        name=name,
        architecture="wrapped",
        arguments=arguments_of(order),
        dim=laid_out(found, (side // patch, side // patch), name).shape[-1],
        source="wrapped by geossl.wrap",
        licence="not stated",
        sensors=sensors,
        patch_px=patch,
        gsd_m=float(gsd_m),
        window_px=side,
        margin_px=rim(side, patch),
    )
    encoder = WrappedEncoder(spec, run).eval()
    note_place(encoder)
    return encoder


def rim(side_px: int, patch_px: int) -> int:
    """Pixels of a window's halo: a quarter of its patches on each side, none of very few."""
    return side_px // patch_px // RIM * patch_px


def note_place(encoder: FeatureMapEncoder) -> None:
    """Say how much a vector depends on where in its window the patch lies."""
    spec = encoder.spec
    margin = spec.margin_px // spec.patch_px
    share = place_effect(encoder.vectors, len(encoder.order), spec.window_px, margin)
    if share >= NOTED:
        kept = spec.window_px - 2 * spec.margin_px
        warnings.warn(
            f"{spec.name} depends on the place in its window: an even image's vectors differ {share:.0%} as much as "
            f"those of noise; maps are made of windows of {spec.window_px} px, of which the middle {kept} px are kept, "
            "and their borders may show",
            Note,
            stacklevel=3,
        )


def name_of(module: Any) -> str:
    """Short name of a network."""
    known = getattr(module, "pretrained_cfg", None)
    name = known.get("architecture") if isinstance(known, Mapping) else None
    return str(name or getattr(module, "__name__", None) or type(module).__name__)


def side_of(module: Any) -> int | None:
    """Side of the images a network says it was made for."""
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    known = getattr(module, "pretrained_cfg", None)
    if size is None and isinstance(known, Mapping):
        size = known.get("input_size")
    if size is None:
        size = getattr(module, "image_size", None)  # torchvision's transformers
    return None if size is None else int(size[-1] if isinstance(size, list | tuple) else size)


@torch.inference_mode()
def tried(module: Any, bands: int, side: int, name: str) -> tuple[Callable[[Tensor], Any], Tensor]:
    """What gives maps or tokens, and what it gives for an image of zeros.

    Raises:
        WeightsError: If the network does not run, or has a vector per image only.
    """
    ways = [module, module.forward_features] if hasattr(module, "forward_features") else [module]
    device = next((p.device for p in module.parameters()), None) if isinstance(module, nn.Module) else None
    found = None
    for run in ways:
        try:
            found = last_of(run(torch.zeros(1, bands, side, side, device=device)), name)
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            if isinstance(error, WeightsError):
                raise
            reason = " ".join(str(error).split())[:120]
            raise WeightsError(
                f"{name} does not run on (1, {bands}, {side}, {side}) ({reason}); give its bands and window_px"
            ) from None
        if found.ndim > 2:
            return run if run is module else Features(module), found
    assert found is not None
    raise WeightsError(
        f"{name} gives {tuple(found.shape)}, a vector per image; expected a map or tokens: wrap what comes before its "
        "pooling, such as torch.nn.Sequential(*list(network.children())[:-2])"
    )


class Features(nn.Module):
    """A network of timm up to its pooling."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """What comes before pooling and classifier."""
        return self.network.forward_features(x)  # type: ignore[operator]


def sensors_of(
    bands: Sequence[str], unit: str, mean: Numbers, std: Numbers
) -> tuple[dict[str, SensorSpec], tuple[str, ...]]:
    """Input by sensor, and all bands in the network's order.

    Raises:
        BandError: If a band is not known or given twice, or statistics do not fit.
    """
    order = (bands,) if isinstance(bands, str) else tuple(bands)
    owner = {band: next((key for key, s in SENSORS.items() if band in s.bands), "") for band in order}
    if unknown := [band for band in order if not owner[band] and band != "B10"]:
        known = "; ".join(f"{key}: {', '.join(s.bands)}" for key, s in SENSORS.items())
        raise BandError(f"bands={list(order)}: {unknown[0]!r} is not known; known are {known}")
    if not any(owner.values()) or len(owner) < len(order):
        raise BandError(f"bands={list(order)}: expected every band once, and one besides B10")
    if unit not in UNITS:
        raise BandError(f"unit={unit!r} is not known; use {', '.join(UNITS)}")
    optical = [band for band in order if owner[band] and not SENSORS[owner[band]].is_radar]
    if unit == "dB" and optical:
        raise BandError(f"unit='dB' does not fit {optical[0]}; use reflectance, or DN")
    if (mean is None) != (std is None):
        raise BandError("mean and std come together; give both, or neither for the published statistics of the bands")
    means, stds = per_band(mean, order, "mean"), per_band(std, order, "std")
    found = {}
    for key in dict.fromkeys(filter(None, owner.values())):
        sensor = SENSORS[key]
        scale = DN if unit == "DN" and not sensor.is_radar else 1.0
        mine = [band for band in order if owner[band] == key]
        known_at = [sensor.bands.index(band) for band in mine]
        at = [order.index(band) for band in mine]
        try:
            found[key] = SensorSpec(
                tuple(mine),
                sensor.unit,
                sensor.spec.level,
                tuple(sensor.spec.mean[i] for i in known_at) if means is None else tuple(means[i] / scale for i in at),
                tuple(sensor.spec.std[i] for i in known_at) if stds is None else tuple(stds[i] / scale for i in at),
            )
        except ValueError as error:
            raise BandError(f"mean and std of {', '.join(mine)}: {error}") from None
    return {key: found[key] for key in SENSORS if key in found}, order


def per_band(values: Numbers, bands: Sequence[str], what: str) -> list[float] | None:
    """One number per band.

    Raises:
        BandError: If there are more or fewer.
    """
    if values is None:
        return None
    found = [float(values)] * len(bands) if isinstance(values, int | float) else [float(v) for v in values]
    if len(found) != len(bands):
        raise BandError(f"{what} has {len(found)} numbers for {len(bands)} bands; give one, or one per band")
    return found
