"""Going on from the bundled encoder against starting afresh: one recipe, as many updates, the same held-out ground.

Every run trains with the recipe ``croma`` on the bundled scenes, once from fresh weights and once with
``encoder.init=croma_tiny`` (rates as the recipe has them; or, with --arms, the weights' own at a tenth of that or at
four times, which is that of fresh weights), in one thread. Its eastern quarter, which no run sees, is
judged per 80 m patch: most frequent class of the bundled land-cover labels, which cover three of the seven scenes;
the same places were kept out of the training of ``croma_tiny``. Heads (logistic regression, penalty chosen within the
training part) learn from patches of the western 19 of 28 columns, the last 7 columns are judged. Balanced accuracy,
mean over seeds; brackets are the middle 95 % over draws of 2 x 2 patches, the same for every row. Rows without updates
are the two starting points. Finished runs are kept beside --out, and judged again without training.

Run: python benchmarks/from_weights.py [--steps 1000] [--seeds 0 1] [--arms ...] [--out runs/from_weights]
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from tasks.land_cover import CLASSES, majority
from tasks.pixels import REFLECTANCE, layer, read
from tasks.rows import EncoderRow, views
from tasks.scoring import block_numbers, chosen_linear, mean_of, of_classes
from tasks.table import cell, difference

import geossl
from geossl.evaluation.baselines import untrained
from geossl.models.encoders.croma import CROMAEncoder
from geossl.models.files import load_encoder

SAMPLE = Path(geossl.__file__).parent / "data/sample"
ARMS = {
    "from scratch": {},
    "from croma_tiny": {"encoder__init": "croma_tiny"},
    "from croma_tiny, a tenth of the rate": {"encoder__init": "croma_tiny", "encoder__init_lr": 0.025},
    "from croma_tiny, four times the rate": {"encoder__init": "croma_tiny", "encoder__init_lr": 1.0},
}
WEST, EAST, BLOCK = 19, 21, 2  # columns that are learned from, the first that is judged, patches per side of a block


def trained(folder, arm, changes, seed, steps):
    """Encoder of a run, and the processor seconds it took; trains if it is not there yet."""
    out = folder / f"{arm.replace(',', '').replace(' ', '_')}_{steps}_{seed}"
    note = out / "processor.json"
    if not note.is_file():
        start = time.process_time()
        settings = {"train__max_steps": steps, "train__seed": seed, "probe__every_steps": 0, **changes}
        geossl.pretrain("croma", out=str(out), **settings)
        note.write_text(json.dumps(time.process_time() - start))
    return load_encoder(out / "encoder.safetensors"), json.loads(note.read_text())


def tiles():
    """Images of the labelled scenes, and a class per patch."""
    images, labels = [], []
    for path in sorted((SAMPLE / "labels").glob("*.tif")):
        name = path.stem.rpartition("_")[0]
        (s1,), (s2,) = ([*(SAMPLE / sensor).glob(f"{name}_*.tif")] for sensor in ("s1", "s2"))
        with rasterio.open(s2) as file:
            offset = float(file.tags().get("BOA_ADD_OFFSET", 0))
        images.append({"s1": read(s1, 1.0), "s2": read(s2, REFLECTANCE, offset=offset)})
        labels.append(majority(layer(path)))
    return images, np.stack(labels)


def places(shape):
    """Column of every patch, block it is drawn with, and strip that penalties are chosen by."""
    count, gh, gw = shape
    column = np.broadcast_to(np.arange(gw), shape)
    blocks = np.arange(count)[:, None, None] * 1000 + block_numbers(gh, gw, BLOCK)
    strips = np.broadcast_to(np.arange(gh)[:, None] // (gh // 4), shape)
    return column, blocks, strips


def scored(found, labels):
    """Balanced accuracy on held-out columns, by what tokens are made from; ``found`` holds those of every scene."""
    column, blocks, strips = places(labels.shape)
    learned, judged = (labels > 0) & (column < WEST), (labels > 0) & (column >= EAST)
    judged &= np.isin(labels, labels[learned])
    out = {}
    for view in found[0]:
        x = np.concatenate([tokens[view] for tokens in found])
        guess = chosen_linear(x[learned], labels[learned], strips[learned], x[judged], CLASSES).argmax(axis=1)
        out[view] = of_classes(labels[judged], guess, CLASSES, blocks[judged])["balanced"]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS)[:2], help="train only these")
    parser.add_argument("--out", type=Path, default=Path("runs/from_weights"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {arm: [trained(args.out, arm, ARMS[arm], seed, args.steps) for seed in args.seeds] for arm in args.arms}
    if "from scratch" not in runs or len(runs) < 2:
        return
    images, labels = tiles()
    spec = runs["from scratch"][0][0].spec
    rows = {
        "fresh weights, no updates": [untrained(CROMAEncoder(spec), seed) for seed in args.seeds],
        "croma_tiny, no updates": [load_encoder("croma_tiny")],
        **{f"{arm}, {args.steps} updates": [encoder for encoder, _ in found] for arm, found in runs.items()},
    }
    scores = {
        name: [scored([views(EncoderRow(encoder), image) for image in images], labels) for encoder in encoders]
        for name, encoders in rows.items()
    }
    kinds = list(scores["croma_tiny, no updates"][0])
    title = " | ".join(kind.replace("|", "\\|") for kind in kinds)
    print(f"| | processor minutes | {title} |\n{'|---' * (2 + len(kinds))}|")
    means = {}
    for name, found in scores.items():
        for kind in kinds:
            values = [one[kind] for one in found]
            means[name, kind] = mean_of(values), [value.value for value in values]
        spent = [seconds / 60 for _, seconds in runs.get(name.rpartition(", ")[0], [])]
        minutes = f"{np.mean(spent):.1f}" if spent else ""
        print(f"| {name} | {minutes} | {' | '.join(cell(means[name, kind]) for kind in kinds)} |")
    *others, ours = [name for name in scores if "from croma_tiny, a" not in name and "four times" not in name]
    pairs = [(ours, other) for other in others] + [(name, ours) for name in scores if name not in (ours, *others)]
    for one, other in pairs:
        cells = " | ".join(difference(means[one, kind], means[other, kind]) for kind in kinds)
        print(f"| {one} less {other} | | {cells} |")


if __name__ == "__main__":
    main()
