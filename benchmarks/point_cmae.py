"""Does Point-CMAE learn, and what does its second mask bring? Against Point-MAE and random weights, frozen features.

The task was fixed before any of the methods ran: every object is turned at random in 3-D, cut by a random plane (12 %
of its points gone), shaken (noise of 2 % of its radius), and thinned to 256 points; size is removed. A linear SVM on
frozen features (C of three by cross-validation on the training part) is judged on the test part, by balanced accuracy.
Few-shot: some classes, ten or twenty labelled samples of each from the training part, twenty to judge from the test
part, linear SVM, ten episodes.
Fine-tuning (--finetune): encoder and a linear layer trained together, learning rate and epoch chosen on a fifth of the
training part; the same for weights as initialised.
Sets: --shapes, an .npz with x_train, y_train, x_test, y_test, class_names (ModelNet10: research use only, not in this
repository), and --cylinders, an .npz with x, y, file_index (pieces of an airborne scan; files 0 and 1 train, 2 and 3
test). Of the scan's pieces there are few, so there is a second judgement, in which every piece is judged: by an SVM
that learned from the other three files.
Methods see the training part only. Token cosine: mean cosine between the features of different patches of a test
object, in the decoder (where the constraint acts) and in the encoder; near 1, they all say the same.

Run: python benchmarks/point_cmae.py --shapes FILE --cylinders FILE [--seeds 3] [--steps 250] [--more] [--finetune]
     [--out DIR]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score

from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.data.datasets.base import ClassificationDataset
from geossl.data.points.batches import rotation
from geossl.data.points.objects import unit_sphere
from geossl.evaluation.baselines import untrained
from geossl.evaluation.heads import Samples
from geossl.evaluation.scores import single_label
from geossl.evaluation.svm import few_shot, svm_accuracy, svm_labels
from geossl.methods.point_cmae import token_cosine
from geossl.training.classifier import Subset, finetune_encoder
from geossl.training.early_stopping import FinetuneConfig

POINTS, NOISE, CUT = 256, 0.02, 0.12
SETTINGS = [
    "encoder.features=[]", "encoder.groups=24", f"data.points={POINTS}", "data.block_m=null", "data.turn=all",
    "data.thin=0", "data.batch_size=16", "data.scale=[0.667,1.5]", "data.scale_axes=true", "data.jitter=0",
]  # fmt: skip
VARIANTS = {  # name -> factor on the steps, recipe values
    "Point-MAE": (1.0, ["objective.masks=1"]),
    "Point-CMAE, aligned": (1.0, ["objective.contrast=aligned"]),
    "Point-CMAE, all pairs (released code)": (1.0, ["objective.contrast=all_pairs"]),
}
MORE = {
    "two masks, no constraint": (1.0, ["objective.contrast=none"]),
    "Point-MAE, 1.4 times the steps (equal time)": (1.4, ["objective.masks=1"]),
}


def hard(cloud, rng):
    """An object as the task shows it."""
    xyz = unit_sphere(cloud.astype(float)) @ rotation(rng, "all")
    along = xyz @ rotation(rng, "all")[0]
    xyz = xyz[along <= np.quantile(along, 1 - CUT)]
    xyz = xyz[np.resize(rng.permutation(len(xyz)), POINTS)]
    return unit_sphere(xyz + rng.normal(0, NOISE, xyz.shape))


def parts_of(path, kind):
    """(clouds, labels, file) of the training and the test part, made hard; the same for every seed and method."""
    file = np.load(path)
    if kind == "shapes":
        parts = [(file[f"x_{name}"], file[f"y_{name}"], None) for name in ("train", "test")]
    else:
        first = file["file_index"] < 2
        parts = [(file["x"][rows], file["y"][rows], file["file_index"][rows]) for rows in (first, ~first)]
    rng = np.random.default_rng(0)
    return [(np.stack([hard(cloud, rng) for cloud in x]), y.astype(int), files) for x, y, files in parts]


@torch.inference_mode()
def vectors(encoder, clouds):
    """Frozen features of all clouds."""
    return np.concatenate([encoder.pooled(part).numpy() for part in torch.from_numpy(clouds).split(64)])


@torch.inference_mode()
def diversity(module, clouds):
    """Mean cosine between the tokens of a cloud, in decoder and encoder."""
    found = []
    for part in torch.from_numpy(clouds).split(64):
        module.losses({"points": part})
        found.append(
            [float(module.logged_scalars["token_cosine"]), float(token_cosine(module.encoder.tokens(part)[0]))]
        )
    return np.mean(found, axis=0)


def loaded(recipe, checkpoint=None):
    """The recipe's method with fresh weights, or with those of a checkpoint."""
    _, build = pretraining.prepare(recipe)
    torch.manual_seed(recipe.train.seed)
    module = build()
    if checkpoint:
        module.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    return module.eval()


def episodes_of(kind):
    """Numbers of classes and of labelled samples of each."""
    return [(ways, shots) for ways in ((5, 10) if kind == "shapes" else (3,)) for shots in (10, 20)]


def every_file(x, y, files):
    """Balanced accuracy over all pieces, each judged by an SVM that learned from the other files."""
    found = np.empty_like(y)
    for file in np.unique(files):
        away = files == file
        found[away] = svm_labels(x[~away], y[~away], x[away])
    return balanced_accuracy_score(y, found)


def judged(kind, module, train, test):
    """SVM accuracy, that over all files (NaN of shapes), token cosines and few-shot accuracies of one method."""
    (a, one, first), (b, two, second) = ((vectors(module.encoder, x), y, files) for x, y, files in (train, test))
    known, asked = Samples(a, one), Samples(b, two)
    few = [few_shot(known, asked, *episode).values["accuracy"] for episode in episodes_of(kind)]
    whole = [np.concatenate(pair) for pair in ((a, b), (one, two), (first, second))] if kind == "cylinders" else None
    every = every_file(*whole) if whole else np.nan
    return svm_accuracy(a, one, b, two), every, *diversity(module, test[0]), *few


def finetuned(encoder, train, test, seed):
    """Balanced accuracy on the test part."""
    items = [torch.from_numpy(cloud) for x, *_ in (train, test) for cloud in x]
    labels = np.concatenate([train[1], test[1]])
    part = np.repeat([0, 2], [len(train[1]), len(test[1])])
    parts = ClassificationDataset("clouds", items, labels, tuple(map(str, np.unique(labels))), part=part).parts(
        "official", seed
    )
    config = FinetuneConfig(epochs=15, batch_size=32, patience=15)
    model, chosen = finetune_encoder(encoder, items, labels, parts, labels.max() + 1, config, seed)
    rows = np.flatnonzero(parts == 2)
    chances = model.chances(Subset(items, rows), np.arange(len(rows)), False)
    return single_label(labels[rows], chances).values["balanced_accuracy"], chosen


def rows_of(kind, path, args):
    """All numbers of one data set: name -> one row per seed."""
    train, test = parts_of(path, kind)
    source = args.out / f"{kind}.npz"
    if not source.exists():
        np.savez(source, x=train[0].astype(np.float32))
    rows, tuned = {}, {}
    for seed in range(args.first, args.seeds):
        for name, (factor, values) in (VARIANTS | (MORE if args.more else {})).items():
            if args.only not in (None, name):
                continue
            stem = name.replace(" ", "_").replace(",", "").split("_(")[0]
            changes = [*values, f"data.source={source}", f"train.max_steps={int(factor * args.steps)}"]
            changes += [f"train.seed={seed}", f"out={args.out}/{kind}/{stem}/{seed}", "resume=true", *args.set]
            recipe = recipes.load("point_cmae", [*SETTINGS, *changes])
            if name == "Point-MAE":
                fresh = loaded(recipe)
                rows.setdefault("random weights", []).append(judged(kind, fresh, train, test))
                if args.finetune:
                    fresh = untrained(fresh.encoder, seed)
                    tuned.setdefault("random weights", []).append(finetuned(fresh, train, test, seed))
            if not Path(recipe.out, "encoder.safetensors").exists():
                pretraining.pretrain(recipe)
            module = loaded(recipe, Path(recipe.out, "checkpoints/last.ckpt"))
            rows.setdefault(name, []).append(judged(kind, module, train, test))
            print(kind, seed, name, rows[name][-1], flush=True)
            if args.finetune:
                tuned.setdefault(name, []).append(finetuned(module.encoder, train, test, seed))
                print(kind, seed, name, "fine-tuned", tuned[name][-1], flush=True)
    return rows, tuned


def spread(values):
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.3f} +- {np.std(values):.3f}"


def show(kind, steps, rows, tuned):
    """Tables."""
    few = [f"{ways} classes, {shots} samples" for ways, shots in episodes_of(kind)]
    head = [
        f"{kind}, {steps} steps",
        "SVM, mean +- std",
        "seeds",
        "every file, mean +- std",
        *few,
        "token cosine, decoder",
    ]
    print("\n| " + " | ".join([*head, "encoder"]) + " |\n|" + "---|" * (len(head) + 1))
    for name, found in rows.items():
        accuracy, every, decoder, encoder, *episodes = np.array(found).T
        cells = [name, spread(accuracy), " ".join(f"{a:.3f}" for a in accuracy), spread(every), *map(spread, episodes)]
        print("| " + " | ".join([*cells, f"{decoder.mean():.2f}", f"{encoder.mean():.2f}"]) + " |")
    if tuned:
        print(f"\n| {kind}, fine-tuned | mean +- std | seeds |\n|---|---|---|")
    for name, found in tuned.items():
        accuracy = np.array([score for score, _ in found])
        print(f"| {name} | {spread(accuracy)} | {' '.join(f'{a:.3f}' for a in accuracy)} |")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=Path)
    parser.add_argument("--cylinders", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=list(VARIANTS | MORE), help="one of the variants")
    parser.add_argument("--first", type=int, default=0, help="first seed, to spread runs over machines")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--more", action="store_true", help="two further variants")
    parser.add_argument("--set", nargs="*", default=[], help="recipe values for all variants, such as train.lr=3.0e-4")
    parser.add_argument("--finetune", action="store_true", help="also fine-tune the variants")
    parser.add_argument("--out", type=Path, default=Path("runs/points"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for kind, path in (("shapes", args.shapes), ("cylinders", args.cylinders)):
        if path is None:
            continue
        show(kind, args.steps, *rows_of(kind, path, args))


if __name__ == "__main__":
    main()
