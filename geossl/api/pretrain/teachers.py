"""From the teacher section of a recipe to a frozen network."""

import logging
import urllib.error
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchgeo import models as torchgeo_models

from geossl.errors import BandError, MissingFileError, Note, UnknownNameError, WeightsError
from geossl.evaluation.attention import normalized_mutual_information
from geossl.methods.hybrid_distill import relation_logits
from geossl.models.download import ENCODERS
from geossl.models.encoders.stacked import choose_bands
from geossl.models.files import load_encoder
from geossl.models.foreign.timm_models import read_tensors, timm_model
from geossl.models.kinds import require_one_date
from geossl.models.teachers import LAST, EncoderTeacher, TimmTeacher
from geossl.models.teachers import Teacher as Frozen
from geossl.recipe import load
from geossl.recipe.images import Teacher
from geossl.sensors import OPTICAL, PAIR, RADAR, RGB, S1, S2, SENSORS, SensorSpec, with_partners

log = logging.getLogger("geossl")

ALIKE = 0.05  # share of the features' variance that lies between patches, below which a teacher is noted
UNIFORM = 0.01  # normalised mutual information of query and key, likewise
S1_MEAN_STD = ((-12.59, -20.26), (5.26, 5.91))  # dB; SSL4EO-S12, as torchgeo's weights of radar expect


def make_missing(teacher: Teacher | None, sensors: Iterable[str]) -> None:
    """Pretrain a teacher that does not exist yet, if its section names a recipe that makes it; once, and resumable.

    Args:
        teacher: The teacher section of a recipe.
        sensors: Sensors of the data.

    Raises:
        BandError: If the teacher would see none of them.
        MissingFileError: If the recipe makes files of other names.
    """
    if teacher is None or teacher.recipe is None or teacher.name in ENCODERS or Path(teacher.name).is_file():
        return
    takes = set(getattr(load(teacher.recipe).encoder, "sensors", PAIR))  # type: ignore[attr-defined]
    if not takes & set(sensors):
        name = ", ".join(sensors)
        raise BandError(
            f"teacher {teacher.name} is missing, and recipe {teacher.recipe} makes one of {', '.join(sorted(takes))}, "
            f"but the data has {name}; pretrain one on such images, for instance with geossl pretrain mae "
            f"data.source=FOLDER 'encoder.sensors={{{name}: all}}', and give its file as the teacher's name"
        )
    if Path(teacher.name).name != "encoder.safetensors":
        raise MissingFileError(
            f"teacher file {teacher.name!r} does not exist, and recipe {teacher.recipe} makes one called "
            "FOLDER/encoder.safetensors; give such a name, or an encoder that is there"
        )
    from geossl.api.pretrain import run as pretraining  # lazy: only a missing teacher is pretrained

    folder = Path(teacher.name).parent
    log.info("teacher %s does not exist: pretraining it with recipe %s", teacher.name, teacher.recipe)
    pretraining.pretrain(teacher.recipe, out=str(folder), resume=True)


def frozen(teacher: Teacher, sensors: Mapping[str, SensorSpec], layers: Sequence[int] = LAST) -> Frozen:
    """The network a section names.

    Args:
        teacher: The teacher section of a recipe.
        sensors: Sensors of the data, with their statistics.
        layers: Blocks whose features are imitated.

    Raises:
        InputError: If it is not known, cannot be loaded, or the data lacks the sensors it sees.
    """
    if teacher.kind == "geossl":
        return EncoderTeacher(require_one_date(load_encoder(teacher.name)), teacher.sensors, layers)
    if teacher.kind == "timm":
        return timm_teacher(teacher, sensors, layers)
    return torchgeo_teacher(teacher, layers)


def timm_teacher(teacher: Teacher, sensors: Mapping[str, SensorSpec], layers: Sequence[int]) -> TimmTeacher:
    """A timm network on RGB images, or on true colours of Sentinel-2 or of any bands, stretched."""
    model = timm_model(teacher.name, 3, str(teacher.weights))
    metadata: Any = model.pretrained_cfg
    if "bands" in sensors:
        colours = choose_bands("bands", tuple(str(b) for b in teacher.bands or ()), sensors["bands"])
        spec = stretched(colours, metadata["mean"], metadata["std"])
        return TimmTeacher(model, teacher.name, metadata.get("license") or "not stated", "bands", spec, layers=layers)
    is_rgb = "rgb" in sensors
    sensor, known, bands, scale = ("rgb", RGB, RGB.bands, 1.0) if is_rgb else true_colours(sensors)
    mean, std = (tuple(scale * float(v) for v in metadata[key]) for key in ("mean", "std"))
    spec = SensorSpec(bands, known.unit, known.level, mean, std)
    return TimmTeacher(model, teacher.name, metadata.get("license") or "not stated", sensor, spec, (0.0, scale), layers)


def true_colours(sensors: Mapping[str, SensorSpec]) -> tuple[str, SensorSpec, tuple[str, ...], float]:
    """The sensor a network of RGB images sees, its bands in true colours, and the value that is white.

    Raises:
        BandError: If no sensor has colours.
    """
    for name in with_partners(name for name in sensors if name in SENSORS):
        if len(SENSORS[name].rgb) == 3:
            return name, SENSORS[name].spec, SENSORS[name].rgb, SENSORS[name].white
    raise BandError(f"a timm network sees true colours, which {', '.join(sensors)} does not have")


def stretched(colours: SensorSpec, mean: Sequence[float], std: Sequence[float]) -> SensorSpec:
    """Statistics that make mean +- 2 standard deviations of a band look like 0 to 1 to a network of RGB images."""
    low = [m - 2 * s for m, s in zip(colours.mean, colours.std, strict=True)]
    width = [4 * s for s in colours.std]
    means = tuple(lo + m * w for lo, m, w in zip(low, mean, width, strict=True))
    return replace(colours, mean=means, std=tuple(s * w for s, w in zip(std, width, strict=True)))


def torchgeo_teacher(teacher: Teacher, layers: Sequence[int]) -> TimmTeacher:
    """Weights of torchgeo on Sentinel-2 (DN / 10000 = reflectance) or Sentinel-1.

    Raises:
        UnknownNameError: If torchgeo has no such weights.
        WeightsError: If they are for other bands, or cannot be downloaded.
    """
    try:
        weights = torchgeo_models.get_weight(teacher.name)
    except ValueError:
        raise UnknownNameError("torchgeo weights", teacher.name, known_weights()) from None
    channels = int(weights.meta["in_chans"])
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if channels == 2:  # some radar weights list optical bands
        known, bands, (mean, std), sensor = S1, S1.bands, S1_MEAN_STD, RADAR
    else:
        known, bands, sensor = S2, tuple(weights.meta["bands"]), OPTICAL
        mean, std = (0.0,) * channels, (1.0,) * channels
    absent = [band for band in bands if band not in known.bands]
    if len(bands) != channels or set(absent) - {"B10"}:
        raise WeightsError(f"{teacher.name} takes {', '.join(bands)}; only weights of Sentinel-1 and -2 can teach here")
    if absent:
        note = f"teacher {teacher.name} gets 0 for B10 and L2A for L1C; what this shift costs was not measured"
        warnings.warn(note, Note, stacklevel=2)
    if teacher.weights is not None:
        state = read_tensors(Path(teacher.weights))
    else:
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise WeightsError(
                f"cannot download {weights.url} ({getattr(error, 'reason', error)}); on a machine without internet, "
                "copy the file and give its path as weights"
            ) from None
    spec = SensorSpec(bands, known.unit, str(weights.meta["dataset"]), mean, std)
    model = timm_model(weights.meta["model"], channels, state)
    return TimmTeacher(model, teacher.name, "see torchgeo", sensor, spec, layers=layers)


def known_weights() -> list[str]:
    """Full names of torchgeo's weights of Sentinel-1 and -2 transformers and ResNets."""
    kinds = [getattr(torchgeo_models, name) for name in dir(torchgeo_models) if name.endswith("_Weights")]
    return [str(weight) for kind in kinds for weight in kind if "SENTINEL" in weight.name]


def note_alike(teacher: Frozen, images: Mapping[str, Tensor], grid: tuple[int, int]) -> None:
    """Warn of a teacher whose normalised features hardly differ between patches: a constant would imitate it."""
    for layer, found in zip(teacher.layers, teacher.features_of_layers(images, grid), strict=True):
        tokens = torch.nn.functional.layer_norm(found, found.shape[-1:]).flatten(0, 1)
        share = float((tokens - tokens.mean(dim=0)).square().mean())
        if share < ALIKE:
            warnings.warn(
                f"features of teacher {teacher.name} (layer {layer}) are nearly the same for all patches: of their "
                f"variance, {share:.1%} is between patches of the first images; it has little to teach",
                Note,
                stacklevel=2,
            )


def note_uniform(teacher: Frozen, images: Mapping[str, Tensor], grid: tuple[int, int], layer: int) -> None:
    """Warn of a teacher with uniform attention in a block: there is nothing to learn from its relations."""
    q, k, _ = teacher.relations(images, grid, layer)
    shared = float(normalized_mutual_information(relation_logits(q, k).softmax(dim=-1)).mean())
    if shared < UNIFORM:
        warnings.warn(
            f"attention of teacher {teacher.name} in layer {layer} is nearly uniform: the mutual information of query "
            f"and key is {shared:.4f} (0 = all alike); its relations have little to teach",
            Note,
            stacklevel=2,
        )


def tell(teacher: Frozen, grid: tuple[int, int], patch_px: int) -> None:
    """Log how features are aligned with the student's patches."""
    how = teacher.alignment(grid, patch_px)
    log.info("teacher %s, %d numbers per patch: %s", teacher.name, teacher.dim, how)
