"""Evaluate encoders on chips with a class per pixel: probes of patches, and decoders to pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from geossl.api.evaluate.inputs import EncoderImages, band_orders
from geossl.api.evaluate.results import Trial
from geossl.api.evaluate.runner import EvaluatedEncoder, Runner
from geossl.api.evaluate.settings import Settings
from geossl.data.datasets.base import MapParts, SegmentationDataset
from geossl.data.labels.ground_truth import majority
from geossl.data.labels.tasks import patch_means
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import InputError
from geossl.evaluation.features import patch_features
from geossl.evaluation.heads import Samples
from geossl.evaluation.probes import AMOUNT_PROBES, FeatureSplit
from geossl.evaluation.scores import of_images
from geossl.models.encoder import DenseEncoder, Items
from geossl.models.heads.decoders import DECODERS
from geossl.models.kinds import require_image_encoder
from geossl.training.decoder import confusions, train_decoder


class KnownPixels(Sequence[dict[str, Tensor]]):
    """Chips labelled only where every sensor of the data set has data, so that all sets of sensors share their pixels.

    Args:
        items: Chips with all sensors.
        images: The same chips as the encoder takes them.
    """

    def __init__(self, items: Items, images: EncoderImages) -> None:
        self.items, self.images = items, images

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        """Images and labels of one chip."""
        item, image = self.items[i], dict(self.images[i])
        pixels = [x for name, x in item.items() if name != "labels"]
        known = torch.stack([torch.isfinite(x).all(dim=0) for x in pixels]).all(dim=0)
        labels = torch.where(known, item["labels"], torch.nan if item["labels"].is_floating_point() else 0)
        side = next(x.shape[-2:] for name, x in image.items() if name != "labels")
        if labels.shape != side:
            labels = F.interpolate(labels[None, None].float(), side, mode="nearest")[0, 0].to(labels.dtype)
        return image | {"labels": labels}


class SegmentationRunner(Runner):
    """Runs probes on tokens, decoders on the frozen encoder, and fine-tuning with a decoder.

    Args:
        data: Chips and labels.
        encoders: The encoder under evaluation first, then what it is compared with; all give a token per patch.
        settings: What is run.
    """

    def __init__(self, data: SegmentationDataset, encoders: Sequence[EvaluatedEncoder], settings: Settings) -> None:
        super().__init__(encoders, settings, len(data.classes))
        self.data, self.spec = data, require_image_encoder(encoders[0].encoder(0)).spec

    def run(self) -> None:
        """See Runner."""
        counts = []
        for seed in range(self.settings.seeds):
            parts = self.data.parts(self.settings.split, seed)
            counts.append([len(part) for part in parts])
            for sensors in self.settings.sensors or (None,):
                orders = band_orders(self.data.name, self.data.sensors, self.spec, sensors)
                chips = MapParts(*(self.as_taken(part, orders) for part in parts))
                for encoder in self.encoders:
                    trial = Trial(encoder.name, "+".join(orders), seed)
                    self.patches(require_image_encoder(encoder.encoder(seed)), chips, trial)
                    self.pixels(require_image_encoder(encoder.encoder(seed)), chips, trial)
        self.metadata |= {"train_val_test_chips": counts, "patch_px": self.spec.patch_px}

    def as_taken(self, part: Items, orders: dict[str, list[int]]) -> KnownPixels:
        """Chips of a part as the encoder takes them."""
        return KnownPixels(part, EncoderImages(part, orders, self.spec.patch_px, self.settings.image_px))

    def patches(self, encoder: DenseEncoder, chips: MapParts, trial: Trial) -> None:
        """Probe the tokens of patches that are at least half labelled, with their commonest class or mean amount."""
        probes = [kind for kind in self.settings.probes if self.classes or kind in AMOUNT_PROBES]
        if not probes:
            return
        samples: list[Samples] = []
        chip = np.zeros(0, np.int64)
        for name, part in zip(SPLIT_NAMES, chips, strict=True):
            title = trial.title("embed", name)
            store = self.settings.stored(encoder, f"{self.data.name} {title} {trial.seed}", part)
            progress, size = self.settings.named(title), max(1, self.settings.batch_size // 4)
            x = patch_features(encoder, part, batch_size=size, progress=progress, store=store)
            if self.classes:
                y = patch_classes(part, encoder.spec.patch_px)
                samples.append(Samples(x[y > 0], y[y > 0] - 1))
            else:
                amount, chip = patch_amounts(part, encoder.spec.patch_px)
                known = np.isfinite(amount)
                chip = chip[known]
                samples.append(Samples(x[known], amount[known]))
        if not all(len(part.y) for part in samples):
            raise InputError(
                f"{self.data.name}: {', '.join(str(len(part.y)) for part in samples)} labelled patches in training, "
                "validation and test; each needs some: label larger areas"
            )
        train, val, test = samples
        self.probe(trial, probes, FeatureSplit(train, val, test, block=None if self.classes else chip), {})

    def pixels(self, encoder: DenseEncoder, chips: MapParts, trial: Trial) -> None:
        """Train decoders on the frozen encoder, and the larger one with it; not on plain band statistics."""
        if not self.classes or not any(True for _ in encoder.parameters()):
            return
        kinds = [(kind, False) for kind in DECODERS] if "segmentation" in self.settings.protocols else []
        kinds += [("unet", True)] if "finetune" in self.settings.protocols else []
        for kind, train_encoder in kinds:
            name = f"{kind}, fine-tuned" if train_encoder else f"{kind}, frozen"
            self.settings.progress(trial.seed, self.settings.seeds, trial.title("decoder", kind))
            parts, sensors = (chips.train, chips.val), trial.sensors.split("+")
            model, setting = train_decoder(
                encoder, kind, sensors, self.data.classes, parts, self.settings.finetune, trial.seed, train_encoder
            )
            self.results.add(trial.key(name), of_images(confusions(model, chips.test)), setting)


def patch_classes(chips: Items, patch_px: int) -> Int[ndarray, " n"]:
    """Commonest class of every patch, 0 where most of it is not labelled; in the order of ``patch_features``."""
    grids = [majority(chips[i]["labels"].numpy().astype(np.uint8), patch_px) for i in range(len(chips))]
    return np.concatenate([grid.ravel() for grid in grids]).astype(np.int64) if grids else np.zeros(0, np.int64)


def patch_amounts(chips: Items, patch_px: int) -> tuple[Float[ndarray, " n"], Int[ndarray, " n"]]:
    """Mean amount of every patch, NaN where less than half of it is labelled, and the number of its chip."""
    amounts, numbers = [np.zeros(0)], [np.zeros(0, np.int64)]
    for i in range(len(chips)):
        mean, count = patch_means(chips[i]["labels"].numpy(), patch_px)
        amounts.append(np.where(2 * count >= patch_px**2, mean, np.nan).ravel())
        numbers.append(np.full(mean.size, i))
    return np.concatenate(amounts), np.concatenate(numbers)
