"""From the teacher section of a recipe to a frozen network."""

import sys
import urllib.error
import warnings
from pathlib import Path
from typing import Any

from torchgeo import models as torchgeo_models

from geossl.api import pretraining
from geossl.errors import Note, UnknownNameError, WeightsError
from geossl.models.download import ENCODERS
from geossl.models.encoder import SensorSpec
from geossl.models.files import dense, load_encoder
from geossl.models.stacked import INPUTS, RGB
from geossl.models.teachers import EncoderTeacher, TimmTeacher, read_tensors, timm_model
from geossl.models.teachers import Teacher as Frozen
from geossl.recipe.images import Teacher

TRUE_COLOUR = ("B04", "B03", "B02")
BRIGHTEST = 0.3  # reflectance that becomes 1 for networks of pictures
S1_MEAN_STD = ((-12.59, -20.26), (5.26, 5.91))  # dB; SSL4EO-S12, as torchgeo's weights of radar expect


def make_missing(teacher: Teacher | None) -> None:
    """Pretrain a teacher that is not there, if its section names the recipe that makes it; once, and resumable."""
    if teacher is None or teacher.recipe is None or teacher.name in ENCODERS or Path(teacher.name).is_file():
        return
    folder = Path(teacher.name).parent
    print(f"teacher {teacher.name} is not there: pretraining it with recipe {teacher.recipe}", file=sys.stderr)
    pretraining.pretrain(teacher.recipe, out=str(folder), resume=True)


def frozen(teacher: Teacher, sensors: tuple[str, ...]) -> Frozen:
    """The network a section names.

    Args:
        teacher: Of a recipe.
        sensors: What the data has.

    Raises:
        InputError: If it is not known or cannot be loaded, or the data does not have what it takes.
    """
    if teacher.kind == "geossl":
        return EncoderTeacher(dense(load_encoder(teacher.name)), teacher.sensors)
    if teacher.kind == "timm":
        return timm_teacher(teacher, sensors)
    return torchgeo_teacher(teacher)


def timm_teacher(teacher: Teacher, sensors: tuple[str, ...]) -> TimmTeacher:
    """A network of pictures: on pictures, or on true colours of Sentinel-2, stretched with fixed limits."""
    model = timm_model(teacher.name, 3, str(teacher.weights))
    facts: Any = model.pretrained_cfg
    sensor, bands, scale = ("rgb", RGB.bands, 1.0) if "rgb" in sensors else ("s2", TRUE_COLOUR, BRIGHTEST)
    mean, std = (tuple(scale * float(v) for v in facts[key]) for key in ("mean", "std"))
    spec = SensorSpec(bands, INPUTS[sensor].unit, INPUTS[sensor].level, mean, std)
    return TimmTeacher(model, teacher.name, facts.get("license") or "not stated", sensor, spec, (0.0, scale))


def torchgeo_teacher(teacher: Teacher) -> TimmTeacher:
    """A network of torchgeo on Sentinel-2 (DN / 10000 = reflectance) or Sentinel-1.

    Raises:
        UnknownNameError: If torchgeo does not know the weights.
        WeightsError: If they are of other bands, or cannot be had.
    """
    try:
        weights = torchgeo_models.get_weight(teacher.name)
    except ValueError:
        raise UnknownNameError("torchgeo weights", teacher.name, known_weights()) from None
    channels = int(weights.meta["in_chans"])
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if channels == 2:  # some radar weights list optical bands
        bands, (mean, std), sensor = INPUTS["s1"].bands, S1_MEAN_STD, "s1"
    else:
        bands, sensor = tuple(weights.meta["bands"]), "s2"
        mean, std = (0.0,) * channels, (1.0,) * channels
    absent = [band for band in bands if band not in INPUTS[sensor].bands]
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
    spec = SensorSpec(bands, INPUTS[sensor].unit, str(weights.meta["dataset"]), mean, std)
    return TimmTeacher(timm_model(weights.meta["model"], channels, state), teacher.name, "see torchgeo", sensor, spec)


def known_weights() -> list[str]:
    """Full names of torchgeo's weights of Sentinel-1 and -2 transformers and ResNets."""
    kinds = [getattr(torchgeo_models, name) for name in dir(torchgeo_models) if name.endswith("_Weights")]
    return [str(weight) for kind in kinds for weight in kind if "SENTINEL" in weight.name]


def tell(teacher: Frozen, grid: tuple[int, int], patch_px: int) -> None:
    """Say how features come onto the student's patches."""
    print(
        f"teacher {teacher.name}, {teacher.dim} numbers per patch: {teacher.alignment(grid, patch_px)}", file=sys.stderr
    )
