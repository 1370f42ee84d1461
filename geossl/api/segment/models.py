"""What names or measures the cells of a map: a model that ``finetune`` wrote."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geossl.errors import InputError, Note
from geossl.inference.engine.source import OnlySensors, Source
from geossl.inference.outputs import class_maps as rasters
from geossl.inference.outputs.description import store_attributes
from geossl.inference.outputs.raster import ALL, usual_time
from geossl.inference.totals import Errors
from geossl.models.files import EncoderFile
from geossl.models.heads.answers import CLASS_LAYERS, TRUST_LAYER, Amount, Answer
from geossl.models.heads.segmenter import Segmenter
from geossl.models.heads.segmenter import layers_of as layers_of_spec
from geossl.rules import listed

TIMES = "times"  # argument of a model that learned from dates side by side: their names


@dataclass(frozen=True)
class Classifier:
    """What names or measures the cells of a map.

    Args:
        heads: By sensors, for embedding maps; None where the map holds classes already.
        legend: Names and colours.
        metadata: What it was made with.
        layers: What it gives per cell.
        amount: What its numbers are; None for classes.
        errors: Of held-out labels, for totals of amounts.
    """

    heads: Mapping[str, Answer] | None
    legend: rasters.Legend
    metadata: Mapping[str, Any]
    layers: tuple[str, ...] = CLASS_LAYERS
    amount: Amount | None = None
    errors: Errors | None = None

    @property
    def has_trust(self) -> bool:
        """Whether it says where it must not be trusted."""
        return TRUST_LAYER in self.layers


def read_model(path: Path) -> Segmenter:
    """A model that gives classes."""
    found = EncoderFile.open(path).encoder
    if not isinstance(found, Segmenter):
        raise InputError(f"--model {path} is an encoder, not a classifier; fit one with geossl finetune")
    return found


def of_model(model: Segmenter, is_map: bool) -> Classifier:
    """A model as classifier: its heads for an embedding map, nothing more for what it has answered itself."""
    arguments = model.spec.arguments
    legend = rasters.Legend(arguments["classes"], arguments["colours"])
    metadata = {"model": model.spec.name, "encoder_sha256": arguments["encoder_sha256"]}
    known = layers_of_spec(arguments), model.amount, errors_of(model)
    if not is_map:
        return Classifier(None, legend, metadata, *known)
    if "any" in model.tops:
        raise InputError(f"{model.spec.name} answers per pixel; it needs --s1 and --s2, or --date, instead of --map")
    return Classifier({name: model.answer(name) for name in model.tops}, legend, metadata, *known)


def wanted_time(map: Path | None, model: Segmenter | None, time: str | None) -> str | None:
    """Which date of a map a model or k-means is asked about: the one named, or all of them side by side.

    Args:
        map: The map; None = pixels.
        model: What answers; None = k-means.
        time: The date asked for.

    Raises:
        InputError: If a model learned from other dates than there are.
    """
    learned = () if model is None else tuple(model.spec.arguments.get(TIMES, ()))
    if not learned:
        return time if model is not None or map is None else usual_time(map, time)
    names = () if map is None else tuple(store_attributes(map).get("geossl:periods", ()))
    if [name[5:7] for name in names] != [name[5:7] for name in learned] or time not in (None, ALL):
        has = f"{map} has {listed(names) or 'one image'}" if time is None else f"--time {time} is one"
        known = f"--model learned from {len(learned)} dates side by side, {listed(learned)}"
        raise InputError(f"{known}; {has}: give a --map of such dates")
    return ALL


def errors_of(model: Segmenter) -> Errors | None:
    """Errors of held-out labels, of the head with most sensors."""
    if model.amount is None:
        return None
    key = max(model.tops, key=lambda name: name.count("+"))
    kept, blocks_of_ground = model.reference(key), model.amount.errors[key]
    if kept is None:
        return None
    places, errors = (v.cpu().numpy().astype(float) for v in (kept.places, kept.errors))
    blocks = kept.blocks.cpu().numpy().astype(int)
    return Errors(places, errors, blocks, blocks_of_ground["block_m"], blocks_of_ground["block_sd"])


def known_sensors(source: Source, model: Segmenter) -> Source:
    """A source without sensors the model was not fitted with.

    Raises:
        InputError: If nothing is left, or the model cannot do with what is left.
    """
    names = tuple(name for name in source.sensors if name in model.spec.sensors)
    heads = [name for name in model.tops if name != "any"]
    if not names or (heads and "+".join(sorted(names)) not in heads):
        known = " or ".join(heads) or ", ".join(model.spec.sensors)
        raise InputError(f"--model was fitted on {known} and cannot do with {', '.join(source.sensors)}; give those")
    if names == source.sensors:
        return source
    left = ", ".join(name for name in source.sensors if name not in names)
    warnings.warn(f"--model was fitted on {', '.join(names)} alone; {left} is not used", Note, stacklevel=3)
    return OnlySensors(source, names)
