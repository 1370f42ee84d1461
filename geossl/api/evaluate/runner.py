"""What runs the protocols of an evaluation: it holds settings and results, and fits the probes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from numpy import ndarray

from geossl.api.evaluate.results import Results, Trial
from geossl.api.evaluate.settings import EPISODE, Settings
from geossl.data.datasets.base import label_share
from geossl.evaluation.baselines import BandStatistics, untrained
from geossl.evaluation.heads import Samples
from geossl.evaluation.probes import FeatureSplit, probe
from geossl.evaluation.svm import few_shot
from geossl.models.encoder import DenseEncoder, Encoder
from geossl.models.heads.projection import ProjectedEncoder


class EvaluatedEncoder(NamedTuple):
    """The encoder under evaluation, or a baseline.

    Args:
        name: Name in the report.
        encoder: Gives the encoder for a seed; the same one for all seeds if ``is_fixed``.
        is_fixed: Whether vectors need to be computed only once.
    """

    name: str
    encoder: Callable[[int], Encoder]
    is_fixed: bool


def with_baselines(encoder: Encoder, baselines: bool) -> list[EvaluatedEncoder]:
    """The encoder and, if wanted, what it must beat."""
    found = [EvaluatedEncoder(encoder.spec.name, lambda seed: encoder, True)]
    if baselines:
        whole = encoder.encoder if isinstance(encoder, ProjectedEncoder) else encoder
        if whole.is_rebuilt_from_spec:  # a program or wrapped network has no fresh weights
            found.append(EvaluatedEncoder("untrained", lambda seed: untrained(whole, seed), False))
        if isinstance(encoder, DenseEncoder):
            statistics = BandStatistics(encoder.spec)
            found.append(EvaluatedEncoder("band statistics", lambda seed: statistics, True))
    return found


class Runner(ABC):
    """Runs the protocols on one kind of data set.

    Args:
        encoders: The encoder under evaluation first, then what it is compared with.
        settings: What is run.
        classes: Number of classes.

    Attributes:
        results: Scores so far.
        metadata: What a reader of the report should know of the splits; JSON values.
    """

    def __init__(self, encoders: Sequence[EvaluatedEncoder], settings: Settings, classes: int) -> None:
        self.encoders, self.settings, self.classes = encoders, settings, classes
        self.results = Results()
        self.metadata: dict[str, Any] = {}

    @abstractmethod
    def run(self) -> None:
        """Run every protocol with every encoder, set of sensors and seed."""

    def probe(self, trial: Trial, kinds: list[str], split: FeatureSplit, changed: Mapping[str, ndarray]) -> None:
        """Fit and score probes on one split of frozen vectors, and on shares of its labels.

        Args:
            trial: What the vectors are of.
            kinds: Probes and few-shot episodes.
            split: Vectors and labels.
            changed: Vectors of the test part under perturbations, by name.
        """
        neighbours, seed = self.settings.neighbours, trial.seed
        for kind in kinds:
            if episode := EPISODE.fullmatch(kind):
                ways, shots = map(int, episode.groups())
                self.results.add(trial.key(kind), few_shot(split.known, split.test, ways, shots, seed=seed), {})
                continue
            scores, setting = probe(kind, split, self.classes, seed, neighbours=neighbours, changed=changed)
            for name, value in scores.items():
                self.results.add(trial.key(kind, name), value, {} if name else setting)
            for share in self.settings.shares if kind not in ("kmeans", "svm_folds") else ():
                less = FeatureSplit(of_share(split.train, share, seed), of_share(split.val, share, seed), split.test)
                few, _ = probe(kind, less, self.classes, seed, neighbours=neighbours)
                self.results.add_share(trial.key(kind), share, few[""])


def of_share(samples: Samples, share: float, seed: int) -> Samples:
    """A share of the labelled samples, class by class."""
    return samples.take(label_share(samples.y, share, seed))
