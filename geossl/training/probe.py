"""A kNN probe on labelled patches, followed while an encoder is pretrained."""

from pathlib import Path
from typing import cast

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int

from geossl.data.labels.ground_truth import LabelledChips
from geossl.evaluation.knn import knn_accuracy, linear_accuracy
from geossl.models.encoder import DenseEncoder
from geossl.models.encoders.stacked import pick
from geossl.outputs import write_text

NEIGHBOURS = 20  # of the kNN probe before and after a run


@torch.inference_mode()
def labelled_embeddings(
    encoder: DenseEncoder, chips: LabelledChips, batch_size: int = 64
) -> tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
    """Embeddings and classes of all labelled patches that have an embedding."""
    was_training = encoder.training
    device = next(encoder.parameters()).device
    encoder.eval()
    rows = []
    for start in range(0, len(chips.labels), batch_size):
        pixels = {name: x[start : start + batch_size] for name, x in chips.images.items()}
        batch = {name: x.to(device) for name, x in pick(pixels, encoder.spec.sensors).items()}
        rows.append(encoder.tokens(batch).float().cpu())
    encoder.train(was_training)
    x, y = torch.cat(rows).flatten(0, 2).numpy(), chips.labels.flatten().numpy().astype(np.int64)
    valid = (y > 0) & np.isfinite(x).all(axis=1)
    return x[valid], y[valid]


def holdout_scores(encoder: DenseEncoder, train: LabelledChips, test: LabelledChips) -> dict[str, float]:
    """Balanced accuracy of a kNN and a linear probe on held-out patches."""
    parts = (*labelled_embeddings(encoder, train), *labelled_embeddings(encoder, test))
    return {"knn": knn_accuracy(*parts, NEIGHBOURS), "linear": linear_accuracy(*parts)}


class OnlineProbe(L.Callback):
    """Write the balanced accuracy of a kNN probe every few steps.

    Args:
        train: Labelled chips that vote; from the part the encoder is trained on.
        test: Labelled chips that are predicted; from the part that is held out.
        path: CSV file, one row per probe.
        every: Steps between two probes.
        neighbours: Votes per patch.
    """

    def __init__(self, train: LabelledChips, test: LabelledChips, path: Path, every: int, neighbours: int) -> None:
        self.train, self.test, self.path = train, test, path
        self.every, self.neighbours = every, neighbours
        self.latest: dict[str, float] = {}  # for whoever shows progress

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        """Probe when due and at the end."""
        step = trainer.global_step
        if not trainer.is_global_zero or (step % self.every and step != trainer.max_steps):
            return
        encoder = cast(DenseEncoder, module.encoder)
        score = knn_accuracy(
            *labelled_embeddings(encoder, self.train), *labelled_embeddings(encoder, self.test), self.neighbours
        )
        rows = self.path.read_text().splitlines() if self.path.exists() else ["step,knn_balanced_accuracy"]
        rows = [rows[0], *(row for row in rows[1:] if int(row.split(",")[0]) < step), f"{step},{score!r}"]
        write_text(self.path, "\n".join(rows) + "\n")
        self.latest["knn"] = score
