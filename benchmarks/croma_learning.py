"""Is learning real? The demo recipe's encoder against the same one at random initialisation and raw band means.

Three questions, per seed, mean and standard deviation at the end:
1. Land cover (ESRI classes of the bundled scenes) per 80 m patch, joint tokens: probes are fitted on the western
   three quarters of the scenes and judged on the eastern quarter, which pretraining never saw.
2. EuroSAT (--eurosat FILE, 13-band npz with keys x, y, bands), ten classes, optical tokens averaged over an image:
   images of other places and another processing level (L1C); five folds.
3. The held-out part again: radar -> optical retrieval, and rebuilding of masked patches.

Run: python benchmarks/croma_learning.py [--seeds 3] [--eurosat FILE] [--out runs/learning] [--set train.max_steps=100]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.evaluation.knn import knn_accuracy, linear_accuracy, retrieval_top1
from geossl.methods.croma import normalized_patches
from geossl.methods.losses import masked_mse
from geossl.models.layers.masking import random_kept_ids
from geossl.models.layers.patches import patchify
from geossl.sensors import S2_BANDS
from geossl.training.probe import labelled_embeddings


def band_means(images):
    """Mean of each 8 px patch: what a user has without an encoder."""
    return F.avg_pool2d(torch.cat(list(images.values()), dim=1), 8).permute(0, 2, 3, 1)


def method_of(recipe, checkpoint=None):
    """The recipe's method with fresh weights, or with those of a checkpoint."""
    data, build = pretraining.prepare(recipe)
    torch.manual_seed(recipe.train.seed)
    module = build()
    if checkpoint:
        module.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    return module.eval(), data


def scores(train_x, train_y, test_x, test_y, neighbours=20):
    """(linear, kNN), both on features standardised by the training part: band means need it, encoders do not mind."""
    scaler = StandardScaler().fit(train_x)
    split = (scaler.transform(train_x), train_y, scaler.transform(test_x), test_y)
    return linear_accuracy(*split, c=0.1), knn_accuracy(*split, neighbours=neighbours)


def eurosat_images(path):
    """Reflectance in the encoder's band order, and classes."""
    file = np.load(path)
    order = [list(file["bands"]).index(band) for band in S2_BANDS]
    return torch.from_numpy(file["x"][:, order].astype(np.float32) / 10000), file["y"].astype(int)


def cross_validated(features, labels):
    """Five stratified folds."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(features, labels)
    return np.mean([scores(features[a], labels[a], features[b], labels[b], 5) for a, b in folds], axis=0)


def labelled_band_means(chips):
    """Band means and classes of labelled patches."""
    x, y = band_means(chips.images).flatten(0, 2).numpy(), chips.labels.flatten().numpy().astype(int)
    return x[y > 0], y[y > 0]


@torch.inference_mode()
def held_out(module, chips):
    """Retrieval and reconstruction on chips that pretraining never saw."""
    images = module.encoder.normalize(chips.images)
    out = module.encoder(images["s1"], images["s2"])
    z1, z2 = module.project_s1(out.s1_gap).numpy(), module.project_s2(out.s2_gap).numpy()
    b, n = len(z1), images["s1"].shape[-1] ** 2 // 64
    noise = torch.rand(2, b, n, generator=torch.Generator().manual_seed(0))
    ids = [random_kept_ids(x, int(n * 0.25)) for x in noise]
    everywhere = torch.ones(b, n, dtype=torch.bool)
    losses = module.losses_of(images["s1"], images["s2"], *ids, everywhere)
    targets = normalized_patches(patchify(images["s1"], 8), patchify(images["s2"], 8), separate=False)
    rows = {"retrieval, radar -> optical, top-1": retrieval_top1(z1, z2), f"chance among {b} chips": 1 / b}
    for name, target, kept in (("s1", targets[0], ids[0]), ("s2", targets[1], ids[1])):
        asked = everywhere.scatter(1, kept, False)
        rows[f"rebuild {name}, error"] = float(losses[f"reconstruct_{name}"])
        rows[f"rebuild {name}, error of the patch mean"] = float(masked_mse(torch.zeros_like(target), target, asked))
    return rows


@torch.inference_mode()
def one_seed(recipe, eurosat):
    """All numbers of one seed."""
    with torch.inference_mode(False):
        done = Path(recipe.out, "encoder.safetensors").exists()
        run = Path(recipe.out) if done else pretraining.pretrain(recipe)
    rows = {}
    for name, checkpoint in (("random", None), ("pretrained", run / "checkpoints/last.ckpt")):
        module, data = method_of(recipe, checkpoint)
        train, test = data.labelled_chips()
        split = (*labelled_embeddings(module.encoder, train), *labelled_embeddings(module.encoder, test))
        rows[f"land cover, {name}"] = scores(*split)
        if eurosat:
            images, labels = eurosat_images(eurosat)
            tokens = module.encoder.tokens({"s2": images}).mean((1, 2)).numpy()
            rows[f"EuroSAT, {name}"] = cross_validated(tokens, labels)
    rows["land cover, band means"] = scores(*labelled_band_means(train), *labelled_band_means(test))
    if eurosat:
        rows["EuroSAT, band means"] = cross_validated(images.mean((2, 3)).numpy(), labels)
    return rows, held_out(module, test)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--eurosat", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    runs = []
    for seed in range(args.seeds):
        changes = [*args.set, f"train.seed={seed}", f"out={args.out}/seed{seed}", "resume=true"]
        runs.append(one_seed(recipes.load("croma", changes), args.eurosat))
    print(f"\n{args.seeds} seeds, mean +- std; balanced accuracy\n\n| probe | linear | kNN |\n|---|---|---|")
    for name in sorted(runs[0][0]):
        mean, std = (f(np.array([rows[name] for rows, _ in runs]), axis=0) for f in (np.mean, np.std))
        print(f"| {name} | {mean[0]:.3f} +- {std[0]:.3f} | {mean[1]:.3f} +- {std[1]:.3f} |")
    print("\n| held-out chips | value |\n|---|---|")
    for name in runs[0][1]:
        values = [row[name] for _, row in runs]
        print(f"| {name} | {np.mean(values):.3f} +- {np.std(values):.3f} |")


if __name__ == "__main__":
    main()
