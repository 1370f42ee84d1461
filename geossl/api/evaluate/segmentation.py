"""The protocols of an evaluation on chips with a class per pixel: read-outs of patches, and decoders to pixels."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geossl.api.evaluate.inputs import EncoderImages, band_orders
from geossl.api.evaluate.protocols import EvaluatedEncoder, Results, Settings, evaluate_heads, is_head
from geossl.data.datasets.base import MapParts, SegmentationDataset
from geossl.data.labels.ground_truth import majority
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import InputError
from geossl.evaluation.features import patch_features
from geossl.evaluation.heads import Samples
from geossl.evaluation.probes import Split
from geossl.evaluation.scores import of_images
from geossl.models.encoder import DenseEncoder
from geossl.models.files import dense
from geossl.models.heads.decoders import DECODERS
from geossl.training.decoder import confusions, train_decoder


class KnownPixels(Sequence[dict[str, Tensor]]):
    """Chips whose labels are kept only where every sensor of the data set has data, whichever of them is judged.

    Args:
        items: Chips with all sensors.
        images: The same as the encoder takes them.
    """

    def __init__(self, items: Sequence[Any], images: EncoderImages) -> None:
        self.items, self.images = items, images

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        """One of them."""
        item, image = self.items[i], dict(self.images[i])
        pixels = [x for name, x in item.items() if name != "labels"]
        known = torch.stack([torch.isfinite(x).all(dim=0) for x in pixels]).all(dim=0)
        labels = torch.where(known, item["labels"], 0)
        side = next(x.shape[-2:] for name, x in image.items() if name != "labels")
        if labels.shape != side:
            labels = F.interpolate(labels[None, None].float(), side, mode="nearest")[0, 0].long()
        return image | {"labels": labels}


def evaluate_maps(
    data: SegmentationDataset, subjects: Sequence[EvaluatedEncoder], settings: Settings
) -> tuple[Results, dict[str, Any]]:
    """All protocols on chips with a class per pixel; findings, and facts on the parts."""
    found = Results({}, {}, {})
    first = dense(subjects[0].encoder(0))
    counts = []
    for seed in range(settings.seeds):
        parts = data.parts(settings.split, seed)
        counts.append([len(part) for part in parts])
        for sensors in settings.sensors or (None,):
            orders = band_orders(data.name, data.sensors, first.spec, sensors)
            chips = MapParts(
                *(
                    KnownPixels(part, EncoderImages(part, orders, first.spec.patch_px, settings.image_px))
                    for part in parts
                )
            )
            for subject in subjects:
                who = (subject.name, "+".join(orders))
                evaluate_patches(data, dense(subject.encoder(seed)), chips, who, seed, settings, found)
                evaluate_pixels(data, dense(subject.encoder(seed)), chips, who, seed, settings, found)
    return found, {"train_val_test_chips": counts, "patch_px": first.spec.patch_px}


def evaluate_patches(
    data: SegmentationDataset,
    encoder: DenseEncoder,
    chips: MapParts,
    who: tuple[str, str],
    seed: int,
    settings: Settings,
    found: Results,
) -> None:
    """Read-outs of the tokens of patches that are at least half labelled, with their commonest class."""
    heads = [kind for kind in settings.protocols if is_head(kind)]
    if not heads:
        return
    samples: list[Samples] = []
    for part in chips:
        what = " ".join(filter(None, ("embed", SPLIT_NAMES[len(samples)], *who)))
        where = settings.kept(encoder, f"{data.name} {what} {seed}", part)
        tell = partial(settings.say, what)
        size = max(1, settings.batch_size // 4)
        x = patch_features(encoder, part, batch_size=size, progress=tell, store=where)
        y = patch_classes(part, encoder.spec.patch_px)
        samples.append(Samples(x[y > 0], y[y > 0] - 1))
    if not all(len(part.y) for part in samples):
        raise InputError(
            f"{data.name}: {', '.join(str(len(part.y)) for part in samples)} labelled patches in training, validation "
            "and test; each needs some: label larger areas"
        )
    evaluate_heads(heads, Split(*samples), {}, who, len(data.classes), seed, settings, found)


def patch_classes(chips: Sequence[Any], patch_px: int) -> np.ndarray:
    """Commonest class of every patch, 0 where most of it is not labelled; in the order of ``patch_features``."""
    grids = [majority(chips[i]["labels"].numpy().astype(np.uint8), patch_px) for i in range(len(chips))]
    return np.concatenate([grid.ravel() for grid in grids]).astype(np.int64) if grids else np.zeros(0, np.int64)


def evaluate_pixels(
    data: SegmentationDataset,
    encoder: DenseEncoder,
    chips: MapParts,
    who: tuple[str, str],
    seed: int,
    settings: Settings,
    found: Results,
) -> None:
    """Decoders on the frozen encoder, and the larger one trained with it; not on plain statistics of bands."""
    if not any(True for _ in encoder.parameters()):
        return
    wanted = [(kind, False) for kind in DECODERS] if "segmentation" in settings.protocols else []
    wanted += [("unet", True)] if "finetune" in settings.protocols else []
    for kind, train_encoder in wanted:
        name = f"{kind}, fine-tuned" if train_encoder else f"{kind}, frozen"
        settings.say(" ".join(filter(None, ("decoder", kind, *who))), seed, settings.seeds)
        sensors = who[1].split("+")
        model, setting = train_decoder(
            encoder, kind, sensors, data.classes, (chips.train, chips.val), settings.tune, seed, train_encoder
        )
        found.note((*who, name, ""), of_images(confusions(model, chips.test)), setting)
