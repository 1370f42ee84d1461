"""Backbones of terratorch by name: ``terratorch:prithvi_eo_v2_300``, ``terratorch:terramind_v1_base@random``.

Bands and scaling are those that the library states with its weights: for Prithvi (HLS, six bands, 30 m) and TerraMind
(Sentinel-2 L2A and Sentinel-1 GRD, 10 m). Its other backbones state none and are refused. terratorch is an extra.
"""

import warnings
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geossl.errors import UnknownNameError, WeightsError, needs
from geossl.models.encoder import DenseSpec
from geossl.models.foreign.feature_map import FeatureMapEncoder, arguments_of
from geossl.models.foreign.layout import last_of, patch_of
from geossl.models.foreign.networks import downloaded, split
from geossl.models.foreign.wrap import note_place, rim, sensors_of
from geossl.sensors import S1_BANDS, S2_BANDS

HLS = {  # bands of HLS as terratorch names them, where they are not those of geossl.integrations.backbone
    "BLUE": "B02", "GREEN": "B03", "RED": "B04", "NIR_NARROW": "B8A", "SWIR_1": "B11", "SWIR_2": "B12",
}  # fmt: skip
MODALITIES = {"S2L2A": ("untok_sen2l2a@224", S2_BANDS), "S1GRD": ("untok_sen1grd@224", S1_BANDS)}
TERRAMIND = "terratorch.models.backbones.terramind.model.terramind_register"
PRITHVI = "terratorch.models.backbones.prithvi_vit"


class Stated(NamedTuple):
    """What terratorch states of a backbone.

    Args:
        bands: In the network's order.
        mean: Per band, in digital numbers (reflectance times 10,000) or dB.
        std: Likewise.
        gsd_m: Pixel size of the training data in metres.
        modalities: Of TerraMind; empty = one image of all bands.
    """

    bands: tuple[str, ...]
    mean: list[float]
    std: list[float]
    gsd_m: float
    modalities: tuple[str, ...] = ()


class TerratorchEncoder(FeatureMapEncoder):
    """A backbone of terratorch, with any weights.

    Args:
        spec: ``arguments["model"]`` is its name in the registry, ``arguments["modalities"]`` as in ``Stated``.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__(spec)
        self.modalities = {name: len(MODALITIES[name][1]) for name in spec.arguments["modalities"]}
        self.network = backbone(str(spec.arguments["model"]), tuple(self.modalities), False)

    def features(self, x: Tensor) -> Tensor:
        """See FeatureMapEncoder."""
        return network_features(self.network, self.modalities, x, self.spec.name)


def network_features(network: nn.Module, modalities: dict[str, int], x: Tensor, name: str) -> Tensor:
    """Tokens of the last layer."""
    if not modalities:
        return last_of(network(x), name)
    return last_of(network(dict(zip(modalities, x.split([*modalities.values()], dim=1), strict=True))), name)


def registry() -> Any:
    """Backbones of terratorch by name.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what its imports say of themselves
            return import_module("terratorch.registry").TERRATORCH_BACKBONE_REGISTRY
    except ImportError:
        raise needs("terratorch") from None


def backbone(name: str, modalities: tuple[str, ...], pretrained: bool) -> nn.Module:
    """A network of the registry; random weights are those of seed 0."""
    torch.manual_seed(0)
    chosen = {"modalities": [*modalities]} if modalities else {}
    with warnings.catch_warnings(), torch.device("cpu"):  # TerraMind cannot be built without memory (meta)
        warnings.simplefilter("ignore")
        found: nn.Module = registry().build(name, pretrained=pretrained, **chosen)
    return found


def stated(name: str) -> Stated:
    """Bands and scaling of a backbone.

    Raises:
        UnknownNameError: If there is no such backbone.
        WeightsError: If terratorch does not state them.
    """
    known = sorted(registry())
    if name not in known:
        raise UnknownNameError("terratorch backbone", name, known)
    prithvi: Any = import_module(PRITHVI)
    if name in prithvi.prithvi_cfgs:
        own = prithvi.prithvi_cfgs[name]
        bands = tuple(HLS.get(str(band.value), str(band.value)) for band in own["bands"])
        return Stated(bands, [*own["mean"]], [*own["std"]], 30.0)
    if name.startswith("terramind_v1_") and not name.endswith("_tim"):
        register: Any = import_module(TERRAMIND)
        tables = (register.v1_pretraining_mean, register.v1_pretraining_std)
        mean, std = ([v for key, _ in MODALITIES.values() for v in table[key]] for table in tables)
        return Stated((*S2_BANDS, *S1_BANDS), mean, std, 10.0, tuple(MODALITIES))
    raise WeightsError(
        f"terratorch:{name}: terratorch does not state its bands and scaling; known are those of prithvi_eo_... and "
        "terramind_v1_...; give what you know of it to geossl.wrap"
    )


def from_terratorch(name: str) -> TerratorchEncoder:
    """A backbone of terratorch on the bands, and with the scaling, that it states.

    Args:
        name: As in its registry of backbones; ``@random`` for random weights, seed 0.

    Raises:
        MissingExtraError: If terratorch is not installed.
        UnknownNameError: If there is no such backbone.
        WeightsError: If it does not state its bands, or the weights cannot be downloaded.
    """
    name, is_random = split(name)
    own = stated(name)
    sensors, order = sensors_of(own.bands, "DN", own.mean, own.std)
    label, side = f"terratorch_{name}", 224
    network = backbone(name, own.modalities, False).eval()
    counts = {key: len(MODALITIES[key][1]) for key in own.modalities}
    with torch.inference_mode():
        found = network_features(network, counts, torch.zeros(1, len(order), side, side), label)
    patch = patch_of(found, side, label)
    version = str(getattr(import_module("terratorch"), "__version__", "")).strip()
    spec = DenseSpec(
        name=label,
        architecture="terratorch",
        arguments=arguments_of(order, None, model=name, modalities=[*own.modalities]),
        dim=found.shape[2] if found.ndim == 3 else found.shape[1],
        source=f"terratorch {version}: {name}" + (", random weights" if is_random else ""),
        licence="not stated",
        sensors=sensors,
        patch_px=patch,
        gsd_m=own.gsd_m,
        window_px=side,
        margin_px=rim(side, patch),
    )
    encoder = TerratorchEncoder(spec).eval()
    if not is_random:
        encoder.network.load_state_dict(published(name, own.modalities))
    note_place(encoder)
    return encoder


def published(name: str, modalities: tuple[str, ...]) -> dict[str, Tensor]:
    """Published weights, from the cache of Hugging Face or from there.

    Raises:
        WeightsError: If they cannot be had.
    """
    return downloaded(partial(backbone, name, modalities, True), f"terratorch:{name}", "the cache of Hugging Face")
