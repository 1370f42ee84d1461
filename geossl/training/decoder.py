"""Train a decoder on an encoder, frozen or not, on chips: pixels by sensor and ``labels`` (h w).

Labels are class numbers, 0 = not labelled, or amounts, NaN = not labelled.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Subset

from geossl.errors import InputError
from geossl.evaluation.features import device_of
from geossl.evaluation.scores import agreement, confusion_matrix, of_confusion
from geossl.methods.base import warmup_cosine
from geossl.models.encoder import DenseEncoder, DenseSpec, Items
from geossl.models.heads.segmenter import Segmenter, with_decoder
from geossl.training.checkpoints import Checkpoints, StopOnSignal, saved_step
from geossl.training.early_stopping import FinetuneConfig
from geossl.training.progress import TrainProgress, quiet

VALID_SHARE = 0.5  # of a patch's pixels, from which it is fed to the encoder: as in maps


@dataclass(frozen=True)
class DecoderConfig:
    """How a decoder is trained.

    Args:
        train_encoder: Also train the encoder, at a tenth of ``lr``.
        max_steps: Updates; fewer if the validation score stops rising.
        lr: Peak learning rate of AdamW; warm-up over the first tenth, then cosine.
        batch_size: Chips per update.
        chip_px: Side of a chip; whole patches.
        drop_sensor: Share of updates in which one of two sensors is left out, so that the model can do without it.
        check_every: Updates between two validations.
        patience: Validations without progress after which training stops.
    """

    train_encoder: bool = False
    max_steps: int = 600
    lr: float = 1e-3
    batch_size: int = 8
    chip_px: int = 96
    drop_sensor: float = 0.25
    check_every: int = 50
    patience: int = 6

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: If training is not possible with them.
        """
        for name in ("max_steps", "lr", "batch_size", "chip_px", "check_every", "patience"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}={getattr(self, name)} is not possible; it must be greater than 0")
        if not 0 <= self.drop_sensor < 1:
            raise InputError(f"drop_sensor={self.drop_sensor} is not possible; it is a share from 0 to below 1")


class DecoderTraining(L.LightningModule):
    """Cross-entropy over labelled pixels; of amounts Huber loss in standard deviations of the training labels.

    Args:
        model: Encoder and fresh decoder.
        config: Its settings.
        seed: Seeds turns, flips and left-out sensors; a resumed run draws the same.
    """

    def __init__(self, model: Segmenter, config: DecoderConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.learned: nn.Module = model if config.train_encoder else model.tops
        self.model.encoder.requires_grad_(config.train_encoder)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        steps, lr = self.config.max_steps, self.config.lr
        groups = [{"params": list(self.model.tops.parameters()), "lr": lr}]
        if self.config.train_encoder:
            groups.append({"params": list(self.model.encoder.parameters()), "lr": lr / 10})
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        warmup_steps = max(1, steps // 10)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup_steps, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
        """One update from turned and flipped chips, now and then without one of the sensors."""
        rng = np.random.default_rng((self.seed, self.global_step))
        batch = turned(batch, int(rng.integers(4)), bool(rng.integers(2)))
        labels, images = batch.pop("labels"), batch
        if len(images) > 1 and rng.random() < self.config.drop_sensor:
            del images[str(rng.choice(list(images)))]
        kept = fed_patches(images, self.model.encoder.spec)
        self.model.encoder.train(self.config.train_encoder)
        with torch.set_grad_enabled(self.config.train_encoder):
            tokens = self.model.encoder.tokens(images, kept)
        patch = self.model.spec.patch_px
        known = torch.isfinite(tokens).all(dim=-1).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        if self.model.amount is not None:
            amounts = (labels - self.model.amount.mean) / self.model.amount.std
            known &= torch.isfinite(amounts)
            errors = F.huber_loss(self.model.logits(tokens, images)[:, 0][known], amounts[known], reduction="sum")
            loss = errors / known.sum().clamp(min=1)
            return {"loss": loss, "huber": loss.detach()}
        target = torch.where(known, labels, 0) - 1  # -1 = not labelled, or nothing to tell it by
        loss = F.cross_entropy(self.model.logits(tokens, images), target, ignore_index=-1, reduction="sum")
        loss = loss / (target >= 0).sum().clamp(min=1)
        return {"loss": loss, "cross_entropy": loss.detach()}


class KeepBest(L.Callback):
    """Keeps the state that was best on validation chips, by mIoU or R2; stops when nothing gets better.

    Args:
        chips: The validation split.
        every: Steps between two validations.
        patience: Validations without progress after which training stops.
    """

    def __init__(self, chips: Items, every: int, patience: int) -> None:
        self.chips, self.every, self.patience = chips, every, patience
        self.best: dict[str, Any] = {"score": -math.inf, "step": 0, "state": {}, "is_over": False}

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        """Validate every ``every`` steps."""
        step = trainer.global_step
        if step % self.every and step < trainer.max_steps:
            return
        assert isinstance(module, DecoderTraining)
        score = validated(module.model, self.chips)
        if score > self.best["score"]:
            state = {name: x.detach().cpu().clone() for name, x in module.learned.state_dict().items()}
            self.best |= {"score": score, "step": step, "state": state}
        self.best["is_over"] = step - self.best["step"] >= self.patience * self.every or step == trainer.max_steps
        trainer.should_stop = trainer.should_stop or self.best["is_over"]

    def state_dict(self) -> dict[str, Any]:
        """Keep the best state in the checkpoint."""
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best state."""
        self.best = dict(state_dict)


def fit(module: DecoderTraining, train: Items, val: Items, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train; ``module`` holds the best state in the end.

    Args:
        module: Model and settings.
        train: Chips to learn from.
        val: Chips by which the best state is known.
        checkpoint: Where an interrupted training resumes.

    Returns:
        ``score`` (validation mIoU or R2) and ``step`` of the best state, which is ``state``.

    Raises:
        KeyboardInterrupt: If it was stopped before its end.
    """
    config, start = module.config, 0
    best = KeepBest(val, config.check_every, config.patience)
    if checkpoint and checkpoint.exists():
        start = saved_step(checkpoint, module, config.max_steps)
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu").get("callbacks", {})
        if best.state_key not in saved:
            raise InputError(f"{checkpoint} is not a checkpoint of a decoder; delete it to begin again")
        best.load_state_dict(saved[best.state_key])
    if not best.best["is_over"]:
        count = config.max_steps * config.batch_size
        draws = np.random.default_rng(module.seed).integers(0, len(train), count)
        stop = StopOnSignal()
        chain: list[L.Callback] = [stop, best, TrainProgress(config.batch_size, "chips", {})]
        if checkpoint:
            chain.append(Checkpoints(checkpoint, config.check_every))  # last: it holds what the others found
        quiet()
        trainer = L.Trainer(
            max_steps=config.max_steps,
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=chain,
        )
        draws = np.roll(draws, -start * config.batch_size)  # as long as the whole run, see StepBatches
        drawn = Subset(cast("Dataset[Any]", train), draws.tolist())
        loader = DataLoader(drawn, config.batch_size)
        trainer.fit(module, loader, ckpt_path=checkpoint if start else None, weights_only=True)
        if stop.stopped and not best.best["is_over"]:
            raise KeyboardInterrupt(f"stopped at step {trainer.global_step}; the same command resumes it")
    module.learned.load_state_dict(best.best["state"])
    return best.best


def train_decoder(
    encoder: DenseEncoder,
    kind: str,
    sensors: Sequence[str],
    classes: Sequence[str],
    parts: tuple[Items, Items],
    config: FinetuneConfig,
    seed: int,
    train_encoder: bool = False,
) -> tuple[Segmenter, dict[str, Any]]:
    """Train a decoder with every learning rate and keep the state that was best on the validation chips.

    Args:
        encoder: Left as it is.
        kind: Key of ``DECODERS``.
        sensors: Sensors of the chips.
        classes: Class names.
        parts: Training and validation chips.
        config: Learning rates, epochs, patience; the decoder learns ten times as fast as the encoder.
        seed: Seeds weights, order, turns and flips.
        train_encoder: Also train a copy of the encoder.

    Returns:
        The model and what was chosen: ``lr`` (of the encoder), ``step``, ``val_score`` (mIoU).

    Raises:
        InputError: If a part has no chips.
    """
    train, val = parts
    counts = [len(part) for part in parts]
    if not all(counts):
        raise InputError(f"{counts[0]} training and {counts[1]} validation chips; a decoder needs some of each")
    size = min(config.batch_size, counts[0])
    updates = counts[0] // size
    chosen: tuple[Segmenter, dict[str, Any]] | None = None
    for lr in config.lrs:
        torch.manual_seed(seed)
        model = with_decoder(encoder, kind, sensors, classes).to(device_of(encoder))
        settings = DecoderConfig(
            train_encoder=train_encoder,
            max_steps=config.epochs * updates,
            lr=config.head_rate * lr,
            batch_size=size,
            drop_sensor=0.0,
            check_every=updates,
            patience=config.patience,
        )
        best = fit(DecoderTraining(model, settings, seed), train, val)
        if chosen is None or best["score"] > chosen[1]["val_score"]:
            chosen = model, {"lr": lr, "step": best["step"], "val_score": best["score"]}
    assert chosen is not None
    return chosen[0].eval(), chosen[1]


def turned(batch: Mapping[str, Tensor], quarters: int, flip: bool) -> dict[str, Tensor]:
    """Turn by quarters and flip, pixels and labels alike."""
    return {name: torch.rot90(x.flip(-1) if flip else x, quarters, dims=(-2, -1)) for name, x in batch.items()}


def fed_patches(images: Mapping[str, Float[Tensor, "b _ h w"]], spec: DenseSpec) -> dict[str, Bool[Tensor, "b gh gw"]]:
    """Patches of which at least half the pixels are valid in all bands that the encoder needs."""
    seen = {name: x[:, spec.needed(name)] for name, x in images.items()}
    finite = {name: torch.isfinite(x).all(dim=1, keepdim=True).float() for name, x in seen.items()}
    return {name: F.avg_pool2d(x, spec.patch_px)[:, 0] >= VALID_SHARE for name, x in finite.items()}


def validated(model: Segmenter, chips: Items) -> float:
    """The score by which states are compared: mIoU, or R2 of amounts."""
    if model.amount is None:
        return float(of_confusion(confusions(model, chips).sum(axis=0))["miou"])
    truth, found, _ = predictions(model, chips)
    return agreement(truth, found)


@torch.no_grad()
def predictions(
    model: Segmenter, chips: Items, sensors: Sequence[str] | None = None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """True and predicted amounts of labelled pixels, and the number of their chip; see ``confusions``."""
    model.eval()
    device, found = next(model.parameters()).device, []
    for i in range(len(chips)):
        chip = {name: x[None].to(device) for name, x in chips[i].items()}
        labels = chip.pop("labels")
        images = {name: x for name, x in chip.items() if sensors is None or name in sensors}
        guess = model.probabilities(images, fed_patches(images, model.encoder.spec))[:, 0]
        known = torch.isfinite(labels) & torch.isfinite(guess)
        pair = (v[known].double().cpu().numpy() for v in (labels, guess))
        found.append((*pair, np.full(int(known.sum()), i)))
    truth, guessed, number = (np.concatenate(v) for v in zip(*found, strict=True))
    return truth, guessed, number


@torch.no_grad()
def confusions(model: Segmenter, chips: Items, sensors: Sequence[str] | None = None) -> Int[np.ndarray, "n k k"]:
    """How often class ``row`` was called ``column``, chip by chip, from all or only some sensors.

    Labelled pixels without a token, where neither sensor has data, are not counted.
    """
    model.eval()
    device, classes, found = next(model.parameters()).device, len(model.classes), []
    for i in range(len(chips)):
        chip = {name: x[None].to(device) for name, x in chips[i].items()}
        labels = chip.pop("labels")
        images = {name: x for name, x in chip.items() if sensors is None or name in sensors}
        chances = model.probabilities(images, fed_patches(images, model.encoder.spec))
        known = (labels > 0) & torch.isfinite(chances).all(dim=1)
        called = chances.nan_to_num(0).argmax(dim=1)
        found.append(confusion_matrix((labels[known] - 1).cpu().numpy(), called[known].cpu().numpy(), classes))
    return np.stack(found)
