"""Land cover of the bundled scenes and water of one Sen1Floods11 chip: heads, decoders, and what needs neither.

Every classifier is judged per labelled 10 m pixel of the same test blocks of ground (heads give a whole 80 m patch one
class). Encoders: pretrained by `geossl pretrain croma`, the same one at random initialisation, and trained from there
with the decoder (from scratch). Seed i has its own pretraining (the i-th of --encoders), split, heads and decoders. The
bundled scenes' pixels, not their labels, were seen in pretraining; the water chip was not.

Run: for s in 0 1 2; do geossl pretrain croma train.seed=$s out=runs/croma$s; done
     python benchmarks/segment.py --encoders runs/croma?/encoder.safetensors [--floods FOLDER] [--out FOLDER]
--floods holds Spain_7370579_{S1,S2,Label}Hand.tif of Sen1Floods11. What --out holds already is not trained again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from geossl.api.finetune import decoders, heads
from geossl.api.finetune.task import Task
from geossl.data.labels.blocks import assign_blocks
from geossl.data.labels.chips import Ground
from geossl.data.labels.ground_truth import read_labels
from geossl.data.sentinel.aligned import SAMPLE
from geossl.data.sentinel.rasters import LocalRasters
from geossl.evaluation.heads import FITS, Samples, fit_forest, predict
from geossl.evaluation.scores import class_iou, confusion_matrix, of_images
from geossl.models.files import EncoderFile, load_encoder, save_encoder
from geossl.sensors import S2_BANDS
from geossl.training.decoder import DecoderConfig

SENSORS = ("s1", "s2", "s1+s2")
TRAINING = {"max_steps": 600, "batch_size": 4, "chip_px": 64, "check_every": 50, "lr": 3e-3}
MODELS = {  # name -> encoder, head, settings
    "CROMA, kNN": ("croma", "knn", {}),
    "CROMA, linear": ("croma", "linear", {}),
    "CROMA, forest": ("croma", "forest", {}),
    "random, linear": ("random", "linear", {}),
    "CROMA, linear-upsample": ("croma", "linear-upsample", DecoderConfig(**TRAINING)),
    "CROMA, U-Net": ("croma", "unet", DecoderConfig(**TRAINING)),
    "random, U-Net": ("random", "unet", DecoderConfig(**TRAINING)),
    "from scratch, U-Net": ("random", "unet", DecoderConfig(**TRAINING, train_encoder=True)),
}
PIXELS = 4000  # of the training part, for the forest on pixels


def random_encoder(like, path, seed):
    """The same encoder before it learned anything."""
    spec = load_encoder(like).spec
    torch.manual_seed(seed)
    save_encoder(path, type(load_encoder(like))(spec).eval(), {})
    return path


def cubes(labels, source, seed):
    """Bands, class and part of every labelled pixel that has both sensors; class 0 = not labelled; and its chip."""
    ground = Ground(labels, assign_blocks(labels, 8, 10.0, seed), 8, 10.0)
    boxes = ground.boxes(TRAINING["chip_px"])
    found = []
    for part, name in enumerate(("train", "val", "test")):
        for number, box in enumerate(boxes[name]):
            cube, truth = source.load(box), ground.labels_of(box, name)
            x = np.concatenate([cube["s1"].values, cube["s2"].values])
            here = (truth > 0) & np.isfinite(x).all(axis=0)
            n = int(here.sum())
            found.append((x[:, here].T, truth[here].astype(int) - 1, np.full(n, part), np.full(n, number)))
    return [np.concatenate(v) for v in zip(*found, strict=True)]


def baselines(labels, source, seed, is_water):
    """Scores of rules and of a forest on single pixels."""
    x, y, part, chip = cubes(labels, source, seed)
    test, k = part == 2, len(labels.names)
    bands = {name: x[:, 2 + i] for i, name in enumerate(S2_BANDS)} | {"VV": x[:, 0], "VH": x[:, 1]}
    called = {}
    if is_water:
        green, infrared = bands["B03"], bands["B08"]
        called["s1", "VV < -15 dB"] = (bands["VV"] < -15).astype(int)
        called["s2", "NDWI > 0"] = ((green - infrared) / (green + infrared) > 0).astype(int)
    called["", "commonest class"] = np.full(len(y), np.bincount(y[part == 0]).argmax())
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(part == 0))[:PIXELS]
    for name, columns in (("s1", slice(0, 2)), ("s2", slice(2, None)), ("s1+s2", slice(0, None))):
        forest = fit_forest(Samples(x[drawn, columns], y[drawn]), k, seed)
        found = np.zeros(len(y), int)
        found[test] = predict(forest, x[test, columns]).argmax(1)
        called[name, "forest on the bands of a pixel"] = found
    result = {}
    for (sensors, name), found in called.items():
        rows = [confusion_matrix(y[test & (chip == c)], found[test & (chip == c)], k) for c in np.unique(chip[test])]
        result.setdefault(name, {})[sensors or "s1+s2"] = of_images(np.stack(rows)).to_dict()
    return result


def judge(name, data, weights, folder, seed):
    """Scores by sensors of a head or decoder; embeddings of an encoder are kept for the next head."""
    encoder, head, settings = MODELS[name]
    labels, file = read_labels(data[0]), EncoderFile.open(weights[encoder])
    split = assign_blocks(labels, 8, 10.0, seed)
    kept = f"maps_{encoder}" if head in FITS else name.replace(", ", "_").replace(" ", "_")
    work = folder / f"{kept}_{seed}"
    work.mkdir(exist_ok=True)
    task = Task(labels, data[1], file, split, work, seed, reach=None, tokens="joint")
    fit = heads.fit_heads(head, task, None) if head in FITS else decoders.train(head, task, settings)
    return {key: found.to_dict() for key, found in fit[1].items()}


def one_seed(folder, seed, data, options):
    """Scores by classifier and sensors."""
    weights = {"croma": options.encoders[seed]}
    weights["random"] = random_encoder(options.encoders[seed], folder / f"random{seed}.safetensors", seed)
    scores = {} if options.only else baselines(read_labels(data[0]), data[1], seed, "flood" in folder.name)
    for name in [name for name in MODELS if options.only in name]:
        kept = folder / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}.json"
        if not kept.exists():
            kept.write_text(json.dumps(judge(name, data, weights, folder, seed)))
        scores[name] = json.loads(kept.read_text())
        print(folder.name, seed, name, {k: round(v["values"]["miou"], 3) for k, v in scores[name].items()}, flush=True)
    return scores


def cell(found, water):
    """Mean over seeds, and the mean 95 % interval of a seed; of water's IoU the mean and the range over seeds."""
    if water is not None:
        values = [class_iou(np.array(s["confusion"]))[water] for s in found]
        return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"
    low, high = np.mean([s["intervals"]["miou"] for s in found], axis=0)
    return f"{np.mean([s['values']['miou'] for s in found]):.3f} [{low:.3f}, {high:.3f}]"


def table(seeds, water=None):
    """Markdown: a row per classifier, a column per set of sensors."""
    print("| | radar | optical | both |\n|---|---|---|---|")
    for name in seeds[0]:
        cells = [cell([s[name][k] for s in seeds], water) if k in seeds[0][name] else "" for k in SENSORS]
        print(f"| {name} | {' | '.join(cells)} |")


def main():
    """Both data sets, if both are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", type=Path, nargs="+", required=True)
    parser.add_argument("--floods", type=Path)
    parser.add_argument("--only", default="", help="models whose name holds this")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--out", type=Path, default=Path("runs/segment"))
    options = parser.parse_args()
    sets = {"land_cover": (SAMPLE / "labels", LocalRasters({"s1": [SAMPLE / "s1"], "s2": [SAMPLE / "s2"]}))}
    if options.floods:
        s1, s2, labels = (options.floods / f"Spain_7370579_{name}Hand.tif" for name in ("S1", "S2", "Label"))
        sets["floods"] = (labels, LocalRasters({"s1": [s1], "s2": [s2]}, 0))
    found = {name: [] for name in sets}
    for seed in range(len(options.encoders)) if options.seed is None else [options.seed]:
        for name, data in sets.items():
            (options.out / name).mkdir(parents=True, exist_ok=True)
            found[name].append(one_seed(options.out / name, seed, data, options))
    for name, seeds in found.items():
        print(f"\n{name}: mIoU")
        table(seeds)
        if name == "floods":
            print("\nfloods: IoU of water")
            table(seeds, water=1)


if __name__ == "__main__":
    main()
