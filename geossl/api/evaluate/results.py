"""Scores of an evaluation as they come in, and as rows of its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from geossl.evaluation.scores import Scores, mean_of


class Key(NamedTuple):
    """What a score belongs to; parts that do not apply are empty."""

    encoder: str
    sensors: str
    protocol: str
    perturbation: str = ""

    def __str__(self) -> str:
        """The key in one line."""
        return " / ".join(filter(None, self))


class Trial(NamedTuple):
    """One encoder on one set of sensors with one seed.

    Args:
        encoder: Its name in the report.
        sensors: ``s1+s2``; empty where the encoder takes no images.
        seed: Seed of the split and the heads.
    """

    encoder: str
    sensors: str
    seed: int

    def key(self, protocol: str, perturbation: str = "") -> Key:
        """What a score of this trial belongs to."""
        return Key(self.encoder, self.sensors, protocol, perturbation)

    def title(self, *words: str) -> str:
        """Words and what they are about, for progress."""
        return " ".join(filter(None, (*words, self.encoder, self.sensors)))


@dataclass(frozen=True)
class Results:
    """Scores by key, one per seed, the same by share of the labels, and the settings that were chosen."""

    runs: dict[Key, list[Scores]] = field(default_factory=dict)
    shares: dict[Key, dict[float, list[Scores]]] = field(default_factory=dict)
    chosen: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, key: Key, scores: Scores, setting: Mapping[str, Any]) -> None:
        """Add one run."""
        self.runs.setdefault(key, []).append(scores)
        if setting:
            self.chosen.setdefault(str(key), []).append(dict(setting))

    def add_share(self, key: Key, share: float, scores: Scores) -> None:
        """Add one run on a share of the labels."""
        self.shares.setdefault(key, {}).setdefault(share, []).append(scores)

    def scores(self) -> dict[str, Scores]:
        """Means over seeds by row of the report."""
        names = row_names(list(self.runs))
        return {names[key]: mean_of(runs) for key, runs in self.runs.items()}

    def curves(self) -> dict[str, dict[float, Scores]]:
        """Means over seeds by row and share of the labels, all labels last."""
        names = row_names(list(self.runs))
        return {
            names[key]: {share: mean_of(runs) for share, runs in line.items()} | {1.0: mean_of(self.runs[key])}
            for key, line in self.shares.items()
        }


def row_names(keys: Sequence[Key]) -> dict[Key, str]:
    """Names of rows, without the parts that all rows share; the protocol always stays."""
    shared = [len({key[i] for key in keys}) == 1 and i != 2 for i in range(4)]
    return {key: str(Key(*("" if s else part for part, s in zip(key, shared, strict=True)))) for key in keys}
