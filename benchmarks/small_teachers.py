"""Shared by mr_mae.py and hybrid_distill.py: EuroSAT images, small honest teachers, short training, probes.

Good teachers cannot be bundled, so two small ones are trained here, on the training images alone: one with their
labels (cross-entropy), one without (masked autoencoder). Both have the student's architecture. Test images are looked
at by the probes only.
"""

import zipfile
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from geossl.data.batches import StepBatches
from geossl.data.images.batches import Crops
from geossl.data.images.folders import ImageFolder
from geossl.evaluation.knn import knn_accuracy, linear_accuracy
from geossl.methods.base import OptimConfig, SSLMethod
from geossl.methods.mr_mae import MRMAE
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.files import load_encoder, provenance, save_encoder
from geossl.models.layers.mae_decoder import DecoderShape
from geossl.models.spec import ImageGeometry
from geossl.sensors import RGB
from geossl.training.progress import quiet

SHAPE = {"dim": 96, "depth": 4, "heads": 4}
DECODER = {"decoder": DecoderShape(64, 1, 4)}
TEACHER_BATCH = 32
SHARE = (0.3, 1.0)  # of a picture's area in a crop


def arguments(parser):
    """What both benchmarks ask."""
    parser.add_argument("--train", type=Path, required=True, help="zip or folder of pictures, a folder per class")
    parser.add_argument("--test", type=Path, required=True, help="the same, other pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for teachers and students; kept between runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--teacher-steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=16)
    return parser


def student(seed):
    """A fresh ViT: 64 x 64 px, patches of 8 px."""
    torch.manual_seed(seed)
    return ViT(vit_spec("nano", {"rgb": RGB}, ImageGeometry(window_px=64), patch_px=8, **SHAPE))


def optim(steps, lr=1e-3):
    """AdamW, a tenth of the steps warm-up, cosine."""
    return OptimConfig("adamw", lr, (0.9, 0.95), 0.05, "cosine", steps // 10, steps)


class InMemory:
    """Pictures, decoded once."""

    def __init__(self, path, out):
        if path.suffix == ".zip":
            folder = out / path.stem
            if not folder.exists():
                zipfile.ZipFile(path).extractall(folder)
            path = folder
        folder = ImageFolder(path, labelled=True)
        self.classes, self.labels = folder.classes, folder.labels
        self.pixels = torch.stack([folder[i] for i in range(len(folder))])

    def __len__(self):
        """Number of pictures."""
        return len(self.pixels)

    def __getitem__(self, number):
        """One picture."""
        return self.pixels[number]


class Labelled(Crops):
    """Crops with the class of their picture."""

    def __getitem__(self, number):
        """A crop of a draw."""
        crop = super().__getitem__(number)
        return {**crop, "label": int(self.images.labels[self.order[number % len(self.images)]])}


class Supervised(SSLMethod):
    """Cross-entropy on the mean token: how a teacher with labels is made here."""

    def __init__(self, encoder, optim, classes, seed=0):
        super().__init__(encoder, optim, seed)
        self.head = nn.Linear(encoder.spec.dim, classes)

    def losses(self, batch):
        """One term."""
        tokens = self.encoder(self.encoder.normalize({"rgb": batch["rgb"]}))
        return {"entropy": F.cross_entropy(self.head(tokens.mean(1)), batch["label"], label_smoothing=0.1)}


def trained(module, pictures, args, seed, path, *, teacher=False, kind=Crops, scores=None):
    """Train, measure and keep an encoder; what ``path`` holds already is not made again.

    Returns:
        The encoder, and what ``scores(module)`` said of it when it was made.
    """
    if not path.exists():
        quiet()
        steps = args.teacher_steps if teacher else args.steps
        draws = StepBatches(TEACHER_BATCH if teacher else args.batch_size, 0, steps, 0, 1)
        loader = DataLoader(kind(pictures, 64, SHARE, seed), batch_sampler=draws)
        names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = L.Trainer(max_steps=steps, accelerator="cpu", gradient_clip_val=3.0, **dict.fromkeys(names, False))
        trainer.fit(module, loader)
        found = scores(module.eval()) if scores else {}
        save_encoder(path, module.encoder, {"scores": found})
        print(f"  {path.stem}: { ({name: round(x, 3) for name, x in found.items()}) }", flush=True)
    return load_encoder(path), provenance(path)["scores"]


def measured(encoder, path, scores):
    """What ``scores(encoder)`` says, kept beside the weights so that it is asked once."""
    if not path.exists():
        save_encoder(path, encoder, {"scores": scores(encoder)})
    return provenance(path)["scores"]


def teachers(pictures, args):
    """The supervised and the masked teacher."""
    args.out.mkdir(parents=True, exist_ok=True)
    steps = args.teacher_steps
    labels = Supervised(student(100), optim(steps), len(pictures.classes), seed=100)
    masked = MRMAE(student(101), optim(steps), mimic_weight=0, seed=101, **DECODER)
    return (
        trained(labels, pictures, args, 100, args.out / "teacher_supervised.safetensors", teacher=True, kind=Labelled)[
            0
        ],
        trained(masked, pictures, args, 101, args.out / "teacher_mae.safetensors", teacher=True)[0],
    )


@torch.inference_mode()
def embed(encoder, pixels):
    """Mean tokens of whole pictures."""
    parts = [encoder.pooled({"rgb": part}).numpy() for part in pixels.split(250)]
    return np.concatenate(parts)


def readout(encoder, train, test):
    """Balanced accuracy on the test images, linear and kNN, fitted on every fourth training picture; test vectors."""
    a, b = embed(encoder, train.pixels[::4]), embed(encoder, test.pixels)
    mean, std = a.mean(0), a.std(0) + 1e-6
    split = ((a - mean) / std, train.labels[::4], (b - mean) / std, test.labels)
    return {"linear": linear_accuracy(*split, c=0.1), "knn": knn_accuracy(*split)}, b


def similarity(one, two):
    """Linear CKA of two sets of vectors of the same pictures; 1 = alike up to rotation and scale."""
    x, y = (v - v.mean(0) for v in (one, two))
    return float(np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def spread(values, digits=3):
    """Mean and standard deviation."""
    return f"{np.mean(values):.{digits}f} +- {np.std(values):.{digits}f}"
