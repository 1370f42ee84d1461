"""What is fitted to what."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from geossl.api.finetune.holdout import LEVEL, Interval
from geossl.data.labels.blocks import BlockSplit
from geossl.data.labels.ground import Labels
from geossl.errors import InputError
from geossl.inference.engine.source import Source
from geossl.models.encoder import DenseEncoder
from geossl.models.files import EncoderFile
from geossl.models.heads.answers import Amount
from geossl.models.heads.reference import Reference
from geossl.models.kinds import require_image_encoder


@dataclass(frozen=True)
class Task:
    """What is fitted to what.

    Args:
        labels: What is known of the ground.
        source: Gives pixels; None where a finished map gives embeddings.
        file: The encoder's.
        split: Parts of the labelled ground.
        work: Folder for unfinished work.
        seed: Of heads and training.
        reach: Of attention in maps.
        tokens: Which are used, or ``best``.
        level: Share of amounts that lie within their interval.
        unit: Of amounts.
    """

    labels: Labels
    source: Source | None
    file: EncoderFile
    split: BlockSplit
    work: Path
    seed: int
    reach: int | None
    tokens: str
    level: float = LEVEL
    unit: str = ""

    @property
    def encoder(self) -> DenseEncoder:
        """The encoder, which says with which attention its maps are made."""
        found = copy.copy(require_image_encoder(self.file.encoder))
        found.spec = replace(found.spec, reach=self.reach)
        return found

    @property
    def pixels(self) -> Source:
        """Where pixels come from."""
        if self.source is None:
            raise InputError("decoders learn from pixels, which a map does not hold; leave --map out")
        return self.source

    @property
    def subsets(self) -> list[tuple[str, ...]]:
        """Sets of sensors an embedding may be made from, all of them first."""
        names = [name for name in self.pixels.sensors if name in self.encoder.spec.sensors]
        return [found for n in range(len(names), 0, -1) for found in combinations(names, n)]

    def amount(self, scale: tuple[float, float], trust: Mapping[str, "Trust"]) -> Amount | None:
        """The continuous target; None for classes.

        Args:
            scale: Mean and standard deviation of the training labels.
            trust: By sensors.
        """
        if not self.labels.is_continuous:
            return None
        intervals = {
            key: {"at": [*one.interval.at], "half": [*one.interval.half]} for key, one in trust.items() if one.interval
        }
        errors = {key: one.errors for key, one in trust.items()}
        return Amount(self.labels.target, self.unit or self.labels.unit, *scale, self.level, intervals, errors)


class Trust(NamedTuple):
    """How far answers can be believed, as ground says that was held out.

    Attributes:
        interval: Of amounts; None for classes.
        reference: Training vectors.
        errors: Mean errors of whole blocks, for means over an area; empty for classes.
        facts: For the report; JSON values.
    """

    interval: Interval | None
    reference: Reference
    errors: dict[str, float]
    facts: dict[str, Any]
