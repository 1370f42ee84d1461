"""Evaluate encoders on rows with a label each: images, clips, point clouds, nodes, graphs."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch.utils.data import Subset

from geossl.api.evaluate.inputs import EncoderClips, EncoderImages, band_orders
from geossl.api.evaluate.results import Trial
from geossl.api.evaluate.runner import EvaluatedEncoder, Runner
from geossl.api.evaluate.settings import Settings
from geossl.data.datasets.base import ClassificationDataset
from geossl.errors import InputError
from geossl.evaluation.features import Change, device_of, features
from geossl.evaluation.heads import Samples
from geossl.evaluation.probes import AMOUNT_PROBES, FeatureSplit, clustered, without_miou
from geossl.evaluation.scores import Scores, multi_label, single_label
from geossl.models.encoder import DenseEncoder, Encoder, Items, SeriesEncoder
from geossl.training.classifier import finetune_encoder

Part = Int[ndarray, " n"]


@runtime_checkable
class HasClusters(Protocol):
    """An encoder that finds clusters of its own: SCGC's."""

    def soft_labels(self, codes: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, "n k"]:
        """Probability per cluster."""


class ClassificationRunner(Runner):
    """Runs probes and fine-tuning.

    Args:
        data: Rows and labels.
        encoders: The encoder under evaluation first, then what it is compared with.
        settings: What is run.
    """

    def __init__(self, data: ClassificationDataset, encoders: Sequence[EvaluatedEncoder], settings: Settings) -> None:
        super().__init__(encoders, settings, len(data.classes))
        self.data = data
        self.parts = [data.parts(settings.split, seed) for seed in range(settings.seeds)]
        tested = np.any([part == 2 for part in self.parts], axis=0)
        self.tested: Part = np.flatnonzero(tested)  # by any seed

    def run(self) -> None:
        """See Runner."""
        near = self.data.warn_of_leaks(self.settings.split, self.parts[0])
        for sensors in self.settings.sensors or (None,):
            items = items_for(self.data, self.encoders[0].encoder(0), sensors, self.settings.image_px)
            for encoder in self.encoders:
                self.run_encoder(encoder, items)
        self.metadata |= {
            "split": self.data.how(self.settings.split),
            "train_val_test": [[int((part == i).sum()) for i in range(3)] for part in self.parts],
            "test_within_5_km_of_training": near,
        }

    def run_encoder(self, evaluated: EvaluatedEncoder, items: Items) -> None:
        """Run every seed of one encoder on one set of sensors."""
        sensors = "+".join(items.orders) if isinstance(items, EncoderImages) else ""
        probes = [kind for kind in self.settings.probes if not (kind == "kmeans" and self.data.is_multi)]
        probes = [kind for kind in probes if self.classes or kind in AMOUNT_PROBES]
        vectors: dict[str, ndarray] = {}
        blocks = self.data.blocks if not self.classes else None
        for seed, part in enumerate(self.parts):
            trial, encoder = Trial(evaluated.name, sensors, seed), evaluated.encoder(seed)
            if probes and not (vectors and evaluated.is_fixed):
                vectors = self.embed(encoder, items, trial)
            if probes:
                train, val, test = (Samples(vectors[""][part == i], self.data.labels[part == i]) for i in range(3))
                tests = {name: x[part == 2] for name, x in vectors.items() if name}
                block = None if blocks is None else blocks[part == 2]
                self.probe(trial, probes, FeatureSplit(train, val, test, block=block), tests)
            if "clusters" in self.settings.protocols and self.classes and evaluated is self.encoders[0]:
                self.results.add(trial.key("clusters", ""), self.clusters(encoder, items, trial), {})
            if "finetune" in self.settings.protocols and self.classes:
                self.settings.progress(seed, len(self.parts), trial.title("finetune"))
                self.finetune(encoder, items, part, trial)

    def embed(self, encoder: Encoder, items: Items, trial: Trial) -> dict[str, ndarray]:
        """Vectors of all rows, under ``""``, and under every perturbation, by name."""
        progress = self.settings.named(trial.title("embed"))
        store = self.settings.stored(encoder, self.data.name, items)
        x = features(encoder, items, batch_size=self.settings.batch_size, progress=progress, store=store)
        if len(x) != len(self.data.labels):
            raise InputError(
                f"{self.data.name} has {len(self.data.labels)} labels, but the encoder gives {len(x)} vectors"
            )
        return {"": x, **{name: self.perturbed(encoder, items, x, name) for name in self.settings.perturbations}}

    def clusters(self, encoder: Encoder, items: Items, trial: Trial) -> Scores:
        """Agreement of the encoder's own clusters with the classes of all rows, in the scores SCGC reports."""
        if not isinstance(encoder, HasClusters):
            raise InputError(f"--protocol clusters: {encoder.spec.name} has no clusters of its own; use kmeans")
        x = torch.from_numpy(self.embed(encoder, items, trial)[""])
        with torch.inference_mode():
            found = encoder.soft_labels(x.to(device_of(encoder))).argmax(dim=1).cpu().numpy()
        return clustered(self.data.labels, found, self.classes)

    def perturbed(self, encoder: Encoder, items: Items, x: Float[ndarray, "n d"], name: str) -> Float[ndarray, "n d"]:
        """Vectors under a perturbation where a test part of any seed has the row; the others unchanged."""
        change, size = self.settings.perturbations[name], self.settings.batch_size
        if len(items) != len(x):  # an item holds many rows: perturb all of them
            return features(encoder, items, batch_size=size, change=change)
        out, some = x.copy(), subset(items, self.tested)
        store = self.settings.stored(encoder, str(len(items)), some, name)
        out[self.tested] = features(encoder, some, batch_size=size, change=renumbered(change, self.tested), store=store)
        return out

    def finetune(self, encoder: Encoder, items: Items, part: Part, trial: Trial) -> None:
        """Fine-tune a copy and score it, clean and under perturbations."""
        labels, multi = self.data.labels, self.data.is_multi
        if len(items) != len(labels):
            raise InputError(f"{self.data.name} has several labels per item; --protocol finetune needs one each")
        if not any(True for _ in encoder.parameters()):
            return  # nothing to train
        config, test = self.settings.finetune, np.flatnonzero(part == 2)
        model, setting = finetune_encoder(encoder, items, labels, part, self.classes, config, trial.seed)
        score = multi_label if multi else single_label
        changes: dict[str, Change | None] = {"": None, **self.settings.perturbations}
        for name, change in changes.items():
            moved = None if change is None else renumbered(change, test)
            probabilities = model.chances(subset(items, test), np.arange(len(test)), multi, moved)
            scores = without_miou(score(labels[test], probabilities))
            self.results.add(trial.key("finetune", name), scores, {} if name else setting)


def items_for(
    data: ClassificationDataset, encoder: Encoder, sensors: Sequence[str] | None, image_px: int | None
) -> Items:
    """Items as the encoder takes them."""
    if isinstance(encoder, SeriesEncoder):
        return EncoderClips(data, encoder, image_px)
    if not isinstance(encoder, DenseEncoder):
        return data.items
    if not data.sensors:
        raise InputError(f"{data.name} holds no images; {encoder.spec.name} ({encoder.spec.architecture}) needs images")
    orders = band_orders(data.name, data.sensors, encoder.spec, sensors)
    return EncoderImages(data.items, orders, encoder.spec.patch_px, image_px)


def subset(items: Items, rows: Part) -> Items:
    """Some of the items."""
    return Subset(items, rows.tolist())  # type: ignore[arg-type]


def renumbered(change: Change, rows: Part) -> Change:
    """A perturbation of some items, called with their numbers among all."""
    return lambda item, i: change(item, int(rows[i]))
