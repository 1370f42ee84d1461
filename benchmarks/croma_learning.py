"""Is learning real? The demo recipe's encoder against the same one at random initialisation and raw band means.

Three questions, per seed, mean and standard deviation at the end:
1. Land cover (ESRI classes of the bundled scenes) per 80 m patch: linear and kNN read-out, balanced accuracy. Folds are
   blocks of columns of the scene with five classes; the encoder saw these pixels in pretraining, never their labels.
2. EuroSAT (--eurosat FILE, 13-band npz with keys x, y, bands): images the encoder never saw, optical sensor only.
3. Held-out eastern part of every scene: radar -> optical retrieval, and rebuilding of masked patches.

Run: python benchmarks/croma_learning.py [--seeds 3] [--eurosat eurosat_ms_13band.npz] [--set train.max_steps=100 ...]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from odc.geo.geobox import GeoBox
from sklearn.model_selection import StratifiedKFold

from geossl import recipe as recipes
from geossl.api import pretraining
from geossl.data.bands import S2_BANDS
from geossl.data.labels import majority, read_labels
from geossl.data.sentinel import SAMPLE
from geossl.evaluation.online import LabelledChips
from geossl.evaluation.probe import knn_accuracy, linear_accuracy, retrieval_top1
from geossl.methods.croma import masked_mse, normalized_patches
from geossl.models.masking import random_kept_ids
from geossl.models.patches import patchify

SCENE = "433D_629L_3_1"  # water, trees, crops, built, rangeland


def band_means(images):
    """Mean of each 8 px patch: what a user has without an encoder."""
    stacked = torch.cat([torch.as_tensor(x) for x in images.values()], dim=1)
    return F.avg_pool2d(stacked, 8).permute(0, 2, 3, 1)


def trained_method(recipe, folder, steps):
    """Pretrain, or with steps=0 only initialise; the whole method, so that the losses can be asked for, too."""
    data = pretraining.chips(recipe)
    torch.manual_seed(recipe.train.seed)
    module = pretraining.build(recipe, data)
    if steps:
        state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        module.load_state_dict(state)
    return module.eval(), data


def whole_scene(data):
    """All pixels of the scene with five classes, and the class of every patch."""
    for scenes in data.scenes:
        for row in range(len(scenes.index)):
            if SCENE in scenes.index.iloc[row].s2.path:
                pixels = scenes.chip(row, 0, 0, 224)
                box = GeoBox((224, 224), scenes.index.iloc[row].affine, scenes.wkt)
                labels = majority(read_labels(SAMPLE / "labels", box), 8)
                return LabelledChips({k: pixels[k][None] for k in ("s1", "s2")}, torch.from_numpy(labels)[None])
    raise SystemExit(f"scene {SCENE} is not among the bundled ones")


def land_cover(features, labels):
    """Leave one block of columns out, in turn; rows of (linear, kNN)."""
    gh, gw, _ = features.shape
    blocks = np.arange(gw) * 4 // gw
    predicted = []
    for block in range(4):
        test = np.broadcast_to(blocks == block, (gh, gw)) & (labels > 0)
        train = np.broadcast_to(blocks != block, (gh, gw)) & (labels > 0)
        known = np.isin(labels, np.unique(labels[train])) & test
        split = (features[train], labels[train], features[known], labels[known])
        predicted.append((linear_accuracy(*split, c=0.1), knn_accuracy(*split)))
    return np.mean(predicted, axis=0)


def eurosat_images(path):
    """Reflectance in the encoder's band order; L1C here, where the encoder learned on L2A."""
    file = np.load(path)
    order = [list(file["bands"]).index(band) for band in S2_BANDS]
    return {"s2": torch.from_numpy(file["x"][:, order].astype(np.float32) / 10000)}, file["y"].astype(int)


def cross_validated(features, labels):
    """Five stratified folds; (linear, kNN with 5 votes)."""
    scores = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(features, labels):
        split = (features[train], labels[train], features[test], labels[test])
        scores.append((linear_accuracy(*split, c=0.1), knn_accuracy(*split, neighbours=5)))
    return np.mean(scores, axis=0)


@torch.inference_mode()
def held_out(module, chips):
    """Retrieval top-1 and reconstruction errors on chips of the held-out part."""
    encoder = module.encoder
    images = encoder.normalize(chips.images)
    out = encoder(images["s1"], images["s2"])
    z1, z2 = module.project_s1(out.s1_gap).numpy(), module.project_s2(out.s2_gap).numpy()
    b, _, h, w = images["s1"].shape
    n = h * w // 64
    noise = torch.rand(2, b, n, generator=torch.Generator().manual_seed(0))
    ids1, ids2 = (random_kept_ids(x, int(n * 0.25)) for x in noise)
    everywhere = torch.ones(b, n, dtype=torch.bool)
    losses = module.losses_of(images["s1"], images["s2"], ids1, ids2, everywhere)
    target1, target2 = normalized_patches(patchify(images["s1"], 8), patchify(images["s2"], 8), separate=False)
    mean2 = target2.unflatten(-1, (12, 64)).mean(-1, keepdim=True).expand(-1, -1, -1, 64).flatten(-2)
    mean1 = target1.unflatten(-1, (2, 64)).mean(-1, keepdim=True).expand(-1, -1, -1, 64).flatten(-2)
    asked1, asked2 = everywhere.scatter(1, ids1, False), everywhere.scatter(1, ids2, False)
    zero = torch.zeros(())
    return {
        "retrieval S1 -> S2 top-1": retrieval_top1(z1, z2),
        "retrieval chance": 1 / b,
        "rebuild S1 error": float(losses["rebuild_s1"]),
        "rebuild S1 error, predicting the patch mean": float(masked_mse(zero.expand_as(target1), target1, asked1)),
        "rebuild S1 error, knowing each band's true patch mean": float(masked_mse(mean1, target1, asked1)),
        "rebuild S2 error": float(losses["rebuild_s2"]),
        "rebuild S2 error, predicting the patch mean": float(masked_mse(zero.expand_as(target2), target2, asked2)),
        "rebuild S2 error, knowing each band's true patch mean": float(masked_mse(mean2, target2, asked2)),
    }


def one_seed(recipe, eurosat, run=None):
    """All numbers of one seed."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe.model_copy(update={"out": f"{folder}/run"})
        run = run or pretraining.pretrain(recipe)
        for name, steps in (("random", 0), ("pretrained", 1)):
            module, data = trained_method(recipe, Path(run), steps)
            scene = whole_scene(data)
            with torch.inference_mode():
                tokens = module.encoder.tokens(scene.images)[0].numpy()
                rows[f"land cover, {name}"] = land_cover(tokens, scene.labels[0].numpy())
                if eurosat:
                    images, labels = eurosat_images(eurosat)
                    rows[f"EuroSAT, {name}"] = cross_validated(module.encoder.pooled(images).numpy(), labels)
        rows["land cover, band means"] = land_cover(band_means(scene.images)[0].numpy(), scene.labels[0].numpy())
        if eurosat:
            rows["EuroSAT, band means"] = cross_validated(images["s2"].mean((2, 3)).numpy(), labels)
        return rows, held_out(module, LabelledChips(*data.labelled_chips()[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--eurosat", type=Path)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    runs = [one_seed(recipes.load("croma", [*args.set, f"train.seed={s}"]), args.eurosat) for s in range(args.seeds)]
    print(f"\n{args.seeds} seeds, mean +- std; balanced accuracy\n\n| read-out | linear | kNN |\n|---|---|---|")
    for name in sorted(runs[0][0]):
        mean, std = (f(np.array([rows[name] for rows, _ in runs]), axis=0) for f in (np.mean, np.std))
        print(f"| {name} | {mean[0]:.3f} +- {std[0]:.3f} | {mean[1]:.3f} +- {std[1]:.3f} |")
    print("\n| held-out chips | value |\n|---|---|")
    for name in runs[0][1]:
        values = [row[name] for _, row in runs]
        print(f"| {name} | {np.mean(values):.3f} +- {np.std(values):.3f} |")


if __name__ == "__main__":
    main()
