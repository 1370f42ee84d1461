"""A class per pixel from an encoder's patch tokens: a decoder is trained, the encoder frozen or trained with it."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from geossl.errors import InputError
from geossl.evaluation.features import device_of, stacked
from geossl.evaluation.metrics import confusion_matrix, of_confusion
from geossl.models.decoders import DECODERS
from geossl.models.encoder import DenseEncoder
from geossl.models.normalize import ClippedRange
from geossl.training.early_stopping import FinetuneConfig, Mark, best_of, train_until_best

Chips = Sequence[Mapping[str, Tensor]]  # sensor to pixels (c h w), and labels (h w), 0 = not labelled


class PixelClassifier(nn.Module):
    """An encoder and a decoder of its tokens.

    Args:
        encoder: Frozen, or trained as well.
        decoder: Key of ``DECODERS``.
        sensors: Those it sees.
        classes: Number of classes.
    """

    def __init__(self, encoder: DenseEncoder, decoder: str, sensors: Sequence[str], classes: int) -> None:
        super().__init__()
        spec = encoder.spec
        self.encoder, self.classes, self.sensors = encoder, classes, tuple(sensors)
        self.ranges = nn.ModuleDict(
            {name: ClippedRange(spec.sensors[name].mean, spec.sensors[name].std) for name in sensors}
        )
        arguments = {"dim": spec.dim, "bands": sum(len(spec.sensors[name].bands) for name in sensors)}
        arguments |= {"classes": classes, **({"patch_px": spec.patch_px} if decoder == "unet" else {})}
        self.norm = nn.LayerNorm(spec.dim, elementwise_affine=False)
        self.decoder = DECODERS[decoder](**arguments)

    def forward(self, images: Mapping[str, Float[Tensor, "b _ h w"]]) -> Float[Tensor, "b k h w"]:
        """Logits."""
        trained = any(p.requires_grad for p in self.encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            tokens = self.encoder.tokens(images)
        pixels = torch.cat([self.ranges[name](images[name]) for name in self.sensors], dim=1)
        return self.decoder(self.norm(tokens).movedim(-1, 1), pixels)

    @torch.no_grad()
    def confusions(self, chips: Chips) -> Int[np.ndarray, "n k k"]:
        """How often class ``row`` was called ``column``, chip by chip."""
        self.eval()
        device, found = device_of(self.encoder), []
        for i in range(len(chips)):
            chip = chips[i]
            called = self(stacked([chip], device))[0].argmax(dim=0).cpu()
            known = chip["labels"] > 0
            found.append(confusion_matrix((chip["labels"][known] - 1).numpy(), called[known].numpy(), self.classes))
        return np.stack(found)


def train_decoder(
    encoder: DenseEncoder,
    decoder: str,
    sensors: Sequence[str],
    parts: tuple[Chips, Chips],
    classes: int,
    config: FinetuneConfig,
    seed: int,
    train_encoder: bool = False,
) -> tuple[PixelClassifier, dict[str, Any]]:
    """Train a decoder, with a copy of the encoder if asked, and keep its best state on the validation chips.

    Args:
        encoder: Left as it is.
        decoder: Key of ``DECODERS``.
        sensors: Those the chips have.
        parts: Training and validation chips.
        classes: Number of classes.
        config: How.
        seed: Of fresh weights, order, turns and flips.
        train_encoder: Also train the encoder, at a tenth of the decoder's rate.

    Returns:
        The model and what was chosen: ``lr``, ``epoch``, validation mIoU.

    Raises:
        InputError: If a part has no chips.
    """
    train, val = parts
    if not len(train) or not len(val):
        raise InputError(f"{len(train)} training and {len(val)} validation chips; a decoder needs some of each")

    def build() -> PixelClassifier:
        torch.manual_seed(seed)
        model = PixelClassifier(copy.deepcopy(encoder), decoder, sensors, classes).to(device_of(encoder))
        model.encoder.requires_grad_(train_encoder)
        return model

    def fit(model: PixelClassifier, lr: float) -> tuple[Mark, int]:
        groups: list[dict[str, Any]] = [{"params": [*model.decoder.parameters()], "lr": 10 * lr}]
        if train_encoder:
            groups.append({"params": [*model.encoder.parameters()], "lr": lr})
        size = min(config.batch_size, len(train))

        def losses(rng: np.random.Generator) -> Iterator[Float[Tensor, ""]]:
            model.encoder.train(train_encoder)
            order = rng.permutation(len(train))
            for start in range(0, len(train) // size * size, size):
                yield pixel_loss(model, [train[int(i)] for i in order[start : start + size]], rng)

        def mark() -> Mark:
            return of_confusion(model.confusions(val).sum(0))["miou"], 0.0

        return train_until_best(model, groups, losses, mark, config, len(train) // size, seed)

    return best_of(config, build, fit)


def pixel_loss(model: PixelClassifier, chips: Chips, rng: np.random.Generator) -> Float[Tensor, ""]:
    """Cross-entropy over labelled pixels of chips turned and flipped at random; zero where nothing is labelled."""
    quarters, flip = int(rng.integers(4)), bool(rng.integers(2))
    turned = [
        {name: torch.rot90(x.flip(-1) if flip else x, quarters, dims=(-2, -1)) for name, x in chip.items()}
        for chip in chips
    ]
    device = device_of(model.encoder)
    labels = torch.stack([chip["labels"] for chip in turned]).to(device)
    loss = F.cross_entropy(model(stacked(turned, device)), labels - 1, ignore_index=-1, reduction="sum")
    return loss / (labels > 0).sum().clamp(min=1)
