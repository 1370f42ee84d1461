"""Which tokens of an encoder are used: joint ones, those of one sensor, or those of all sensors side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt64
from numpy import ndarray

from geossl.data.labels.patches import PatchSamples
from geossl.errors import InputError, WeightsError
from geossl.evaluation.scores import agreement
from geossl.inference.engine.source import OnlySensors, Source
from geossl.models.encoder import DenseEncoder
from geossl.models.encoders.presto import MAX_DATES, PrestoEncoder
from geossl.models.files import EncoderFile
from geossl.models.kinds import require_image_encoder
from geossl.models.side_by_side import side_by_side
from geossl.sensors import SENSORS

JOINT, BOTH, BEST = "joint", "both", "best"
TOKENS = (JOINT, *SENSORS, BOTH)
TIES = (BOTH, JOINT)  # of equal scores, tokens that also work under clouds are taken


class Called(NamedTuple):
    """What a head predicted of validation patches, before it saw them.

    Attributes:
        priority: Of the patches, by which those of several heads are compared.
        y: Their classes or amounts.
        found: Classes or amounts they were given.
    """

    priority: UInt64[ndarray, " n"]
    y: Int[ndarray, " n"] | Float[ndarray, " n"]
    found: Int[ndarray, " n"] | Float[ndarray, " n"]


def with_tokens(
    encoder: str | Path | DenseEncoder, source: Source, tokens: str
) -> tuple[str | Path | DenseEncoder, Source]:
    """The encoder and the pixels that give the tokens asked for.

    Args:
        encoder: Name, file or encoder.
        source: Where pixels come from.
        tokens: One of ``TOKENS``.

    Raises:
        InputError: If the pixels or the encoder do not have the sensors.
    """
    check_tokens(tokens)
    encoder = of_months(encoder, getattr(source, "periods", ()))
    have = ", ".join(source.sensors)
    if tokens == JOINT:
        return encoder, source
    if tokens == BOTH:
        if len(source.sensors) < 2:
            raise InputError(f"--tokens both puts radar and optical side by side, but there are pixels of {have} only")
        return beside(encoder), source
    if tokens not in source.sensors:
        raise InputError(f"--tokens {tokens}: there are pixels of {have} only")
    return encoder, source if source.sensors == (tokens,) else OnlySensors(source, (tokens,))


def of_months(encoder: str | Path | DenseEncoder, periods: Sequence[str]) -> str | Path | DenseEncoder:
    """An encoder of series set to the months there are; any other as it is.

    Args:
        encoder: Name, file or encoder.
        periods: Names of the months, such as ``2021-03``; none of one image.

    Raises:
        InputError: If there are more or fewer than it can take.
    """
    if not periods:
        return encoder
    found = EncoderFile.open(encoder).encoder
    if not isinstance(found, PrestoEncoder):
        return encoder
    if not 2 <= len(periods) <= MAX_DATES:
        raise InputError(f"--date gives {len(periods)} months; {found.spec.name} takes 2 to {MAX_DATES}, best 12")
    month = int(periods[0][5:7])
    now = found.spec.arguments["month"], found.spec.dates
    return encoder if now == (month, len(periods)) else found.of_months(month, len(periods))


def check_tokens(tokens: str, *more: str) -> None:
    """Refuse another word.

    Raises:
        InputError: Lists those that are known.
    """
    if tokens not in (*TOKENS, *more):
        raise InputError(f"--tokens {tokens!r} is not known; use {', '.join((*more, *TOKENS))}")


def beside(encoder: str | Path | DenseEncoder) -> DenseEncoder:
    """The encoder with its sensors side by side.

    Raises:
        WeightsError: If it has one sensor only, or is a wrapped network or a program.
    """
    found = require_image_encoder(EncoderFile.open(encoder).encoder)
    if not found.is_rebuilt_from_spec:
        raise WeightsError(f"--tokens both needs an encoder of geossl's own; {found.spec.name} is wrapped or a program")
    return side_by_side(found)


def joined(samples: Mapping[str, PatchSamples], names: tuple[str, ...], sensors: tuple[str, ...]) -> PatchSamples:
    """Patches that all of ``names`` see, their vectors side by side; zeros for the other sensors.

    Args:
        samples: By sensor.
        names: Sensors that are taken.
        sensors: All of them, in the order of the encoder.
    """
    common = samples[names[0]].priority
    for name in names[1:]:
        common = np.intersect1d(common, samples[name].priority)
    kept = {name: samples[name].take(np.isin(samples[name].priority, common)) for name in names}
    first = kept[names[0]]
    width = {name: samples[name].x.shape[1] for name in samples}
    nothing = np.zeros((len(first.x), max(width.values())), first.x.dtype)
    x = np.concatenate([kept[name].x if name in kept else nothing for name in sensors], axis=1)
    return replace(first, x=x)


def compared(called: Mapping[str, Called]) -> dict[str, float]:
    """Balanced accuracy, or R2, of several heads on the validation patches that all of them have."""
    common = reduce(np.intersect1d, [one.priority for one in called.values()])
    scores = {}
    for name, one in called.items():
        rows = np.isin(one.priority, common)
        scores[name] = agreement(one.y[rows], one.found[rows])
    return scores


def best(scores: Mapping[str, float]) -> str:
    """The tokens with the highest score."""
    return max(scores, key=lambda name: (scores[name], TIES.index(name) if name in TIES else -1))


def verdict(scores: Mapping[str, float], chosen: str, kind: str = "balanced accuracy") -> str:
    """Scores, of some kind, and choice as a sentence."""
    title = {JOINT: "joint", BOTH: "side by side", **{name: f"{name} alone" for name in SENSORS}}
    texts = ", ".join(f"{title[name]} {score:.3f}" for name, score in scores.items())
    only = f"; places without valid {chosen} pixels stay empty, --tokens both fills them" if chosen in SENSORS else ""
    return f"maps use tokens {title[chosen]} ({kind} on validation blocks: {texts}){only}"
