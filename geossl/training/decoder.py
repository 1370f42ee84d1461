"""Train a decoder on an encoder, frozen or not, on chips with a class per pixel."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from geossl.evaluation.metrics import confusion_matrix, of_confusion
from geossl.models.segmenter import Segmenter


@dataclass(frozen=True)
class DecoderConfig:
    """How a decoder is trained.

    Args:
        train_encoder: Also train the encoder, at a tenth of ``lr``.
        max_steps: Updates; fewer if the validation part is no longer classified better.
        lr: Of AdamW, warmed up over the first tenth, then cosine.
        batch_size: Chips per update.
        chip_px: Side of a chip; whole patches.
        drop_sensor: Share of updates in which one of two sensors is left out, so that the model can do without it.
        check_every: Updates between two looks at the validation part.
        patience: Looks without progress after which training stops.
    """

    train_encoder: bool = False
    max_steps: int = 600
    lr: float = 1e-3
    batch_size: int = 8
    chip_px: int = 96
    drop_sensor: float = 0.25
    check_every: int = 50
    patience: int = 6


class DecoderTraining(L.LightningModule):
    """Cross-entropy over labelled pixels; keeps the state in which the validation part was classified best.

    Args:
        model: Encoder and fresh decoder.
        config: How.
        seed: Of turns, flips and left-out sensors; a resumed run draws the same.
    """

    def __init__(self, model: Segmenter, config: DecoderConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.best_score, self.best_step = -1.0, 0
        self.best_state: dict[str, Tensor] = {}
        self.checks: Int[np.ndarray, "k k"] = np.zeros((len(model.classes),) * 2, np.int64)

    def trained(self) -> list[dict[str, Any]]:
        """Parameter groups."""
        groups = [{"params": list(self.model.tops.parameters()), "lr": self.config.lr}]
        if self.config.train_encoder:
            groups.append({"params": list(self.model.encoder.parameters()), "lr": self.config.lr / 10})
        return groups

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        steps = self.config.max_steps
        optimizer = torch.optim.AdamW(self.trained(), weight_decay=0.01)

        def rate(step: int) -> float:
            warm = max(1, steps // 10)
            return (
                (step + 1) / warm if step < warm else 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm)))
            )

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
        """One update on turned and flipped chips."""
        rng = np.random.default_rng((self.seed, self.global_step))
        batch = turned(batch, int(rng.integers(4)), bool(rng.integers(2)))
        names = [name for name in batch if name != "labels"]
        if len(names) > 1 and rng.random() < self.config.drop_sensor:
            names.remove(str(rng.choice(names)))
        loss = F.cross_entropy(self.logits({name: batch[name] for name in names}), batch["labels"] - 1, ignore_index=-1)
        return {"loss": loss, "cross_entropy": loss.detach()}

    def logits(self, images: Mapping[str, Float[Tensor, "b _ h w"]]) -> Float[Tensor, "b k h w"]:
        """Through the encoder, which is left alone unless it is trained."""
        with torch.set_grad_enabled(self.config.train_encoder and torch.is_grad_enabled()):
            if not self.config.train_encoder:
                self.model.encoder.eval()
            tokens = self.model.encoder.tokens(images)
        return self.model.logits(tokens, images)

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self.checks = np.zeros_like(self.checks)

    def validation_step(self, batch: Mapping[str, Tensor], index: int) -> None:
        """Count what is right."""
        self.checks = self.checks + counted(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        """Keep the best state; stop when nothing gets better."""
        score = of_confusion(self.checks)["miou"]
        if score > self.best_score:
            self.best_score, self.best_step = score, self.global_step
            self.best_state = {name: x.detach().cpu().clone() for name, x in self.model.state_dict().items()}
        elif self.global_step - self.best_step >= self.config.patience * self.config.check_every:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The best state belongs to a run that goes on."""
        checkpoint["best"] = {"score": self.best_score, "step": self.best_step, "state": self.best_state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        best = checkpoint["best"]
        self.best_score, self.best_step, self.best_state = best["score"], best["step"], best["state"]


def turned(batch: Mapping[str, Tensor], quarters: int, flip: bool) -> dict[str, Tensor]:
    """Turn by quarters and flip, pixels and labels alike."""
    return {name: torch.rot90(x.flip(-1) if flip else x, quarters, dims=(-2, -1)) for name, x in batch.items()}


@torch.inference_mode()
def counted(
    model: Segmenter, batch: Mapping[str, Tensor], sensors: Iterable[str] | None = None
) -> Int[np.ndarray, "k k"]:
    """Confusion of a batch's labelled pixels, from all or only some sensors."""
    training = model.training
    model.eval()
    images = {name: x for name, x in batch.items() if name != "labels" and (sensors is None or name in sensors)}
    found = model.probabilities(images).nan_to_num(0).argmax(dim=1)
    model.train(training)
    known = batch["labels"] > 0
    return confusion_matrix((batch["labels"][known] - 1).cpu().numpy(), found[known].cpu().numpy(), len(model.classes))
