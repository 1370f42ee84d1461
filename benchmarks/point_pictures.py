"""What a run of the point_cmae recipe sees: a block rebuilt from its visible patches, an embedding raster, classes.

Writes rebuilt.png (input, visible and rebuilt points of two blocks, from the side), embedding.tif and .png,
classified.laz and classes.png (truth and found, from above and from the side) of the last bundled tile; the model of
classes learns from the other three. Printed: its scores on the last tile, and how well hidden patches are rebuilt.

Run: python benchmarks/point_pictures.py --run runs/point_cmae --out DIR [--steps 300]
"""

import argparse
from itertools import islice
from pathlib import Path

import laspy
import matplotlib as mpl
import numpy as np
import torch

import geossl
from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.data.points.blocks import BlockSettings, lattice_blocks
from geossl.data.points.las import find_files, read_scan, survey
from geossl.evaluation.scores import class_iou, confusion_matrix, of_confusion
from geossl.methods.point_cmae import chamfer

mpl.use("Agg")
from matplotlib import pyplot as plt

CLASSES = {"ground": [2], "vegetation": [3, 4, 5], "building": [6]}
COLOURS = {2: "#b08050", 3: "#a0d060", 4: "#60b040", 5: "#1a8a2a", 6: "#d03030"}


@torch.inference_mode()
def errors(module, points):
    """Chamfer distance of hidden patches: rebuilt, copied from the nearest visible one, all points at the centre."""
    groups = module.encoder.group(points)
    tokens = module.encoder.embed(groups.patches)
    visible = module.draw(len(points), torch.Generator().manual_seed(0))[0]
    patches, _ = module.reconstruct(0, tokens, groups.centres, visible)
    hidden = torch.ones(tokens.shape[:2], dtype=torch.bool).scatter(1, visible, False)
    apart = torch.cdist(groups.centres, groups.centres).masked_fill(hidden[:, None], torch.inf)
    local = groups.patches[..., :3]
    copied = gather_patches(local, apart.argmin(dim=2))
    return [float(chamfer(x[hidden], local[hidden])) for x in (patches, copied, torch.zeros_like(local))]


def gather_patches(patches, ids):
    """A patch for each patch."""
    return patches.gather(1, ids[..., None, None].expand_as(patches))


@torch.inference_mode()
def rebuilt(module, points):
    """Visible points and rebuilt ones of a block, in half sides."""
    groups = module.encoder.group(points)
    tokens = module.encoder.embed(groups.patches)
    visible = module.draw(1, torch.Generator().manual_seed(0))[0]
    patches, _ = module.reconstruct(0, tokens, groups.centres, visible)
    hidden = torch.ones(tokens.shape[:2], dtype=torch.bool).scatter(1, visible, False)
    true = groups.patches[..., :3] + groups.centres[:, :, None]
    return true[~hidden].flatten(0, 1).numpy(), (patches + groups.centres[:, :, None])[hidden].flatten(0, 1).numpy()


def picture_of_blocks(module, spec, path):
    """Two blocks with relief, from the side."""
    files = [survey(file) for file in find_files("sample")[-1:]]
    scan = read_scan(files, spec.features)
    settings = BlockSettings(spec.block_m, spec.points, spec.voxel_m, spec.ground, 500)
    blocks = sorted(lattice_blocks(scan, scan.bounds, settings), key=lambda b: -np.ptp(b.points[:, 2]))
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), sharex=True, sharey="row")
    for row, block in zip(axes, (blocks[3], blocks[len(blocks) // 2]), strict=True):
        shown, made = rebuilt(module, torch.from_numpy(block.points[None]))
        named = (("input", block.points), ("visible (40 %)", shown), ("visible grey, rebuilt red", made))
        for axis, (title, points) in zip(row, named, strict=True):
            if points is made:
                axis.scatter(shown[:, 0] * block.scale_m, shown[:, 2] * block.scale_m, s=4, c="#999999")
            colour = "#c03030" if points is made else "#204080"
            axis.scatter(points[:, 0] * block.scale_m, points[:, 2] * block.scale_m, s=4, c=colour)
            axis.set_title(title)
            axis.set_xlabel("metres")
        row[0].set_ylabel("metres above ground")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def picture_of_classes(truth, found, path):
    """Both from above, and from the side along a strip of 6 m."""
    x, y, z = np.asarray(truth.x), np.asarray(truth.y), np.asarray(truth.z)
    strip = np.abs(y - y.mean()) < 3
    figure, axes = plt.subplots(2, 2, figsize=(13, 9))
    for column, (name, file) in enumerate((("LAS classes of the file", truth), ("found", found))):
        colours = np.array([COLOURS.get(int(c), "#000000") for c in np.asarray(file.classification)])
        axes[0, column].scatter(x, y, s=1, c=colours)
        axes[0, column].set_aspect("equal")
        axes[0, column].set_title(name)
        axes[1, column].scatter(x[strip], z[strip], s=2, c=colours[strip])
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = recipes.load(args.run / "recipe.yaml")
    data, build = pretraining.prepare(recipe)
    module = build().eval()
    module.load_state_dict(torch.load(args.run / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    data.dataset.seed += 1  # other draws than in training, of the same ground
    batches = islice(data.train_dataloader(), 4)
    found = np.mean([errors(module, batch["points"]) for batch in batches], axis=0)
    print("| Chamfer distance of hidden patches | square metres |\n|---|---|")
    for name, value in zip(
        ("rebuilt", "nearest visible patch, copied", "all points at the centre"), found, strict=True
    ):
        print(f"| {name} | {value * (module.encoder.spec.block_m / 2) ** 2:.2f} |")
    print()
    picture_of_blocks(module, module.encoder.spec, args.out / "rebuilt.png")
    geossl.points.embed("sample", module.encoder, out=args.out / "embedding.tif", cell_m=3.0, overwrite=True)
    *first, last = find_files("sample")
    settings = {"classes": CLASSES, "max_steps": args.steps, "overwrite": True}
    model = geossl.points.finetune(first, module.encoder, out=args.out / "points.safetensors", **settings)
    (made,) = geossl.points.classify(last, model, out=args.out / "classified.laz", overwrite=True)
    truth, found = laspy.read(last), laspy.read(made)
    picture_of_classes(truth, found, args.out / "classes.png")
    numbers = np.full(256, -1)
    for number, codes in enumerate(CLASSES.values()):
        numbers[codes] = number
    known = (numbers[np.asarray(truth.classification)] >= 0) & (np.asarray(found.confidence) > 0)
    pair = (numbers[np.asarray(file.classification)[known]] for file in (truth, found))
    counts = confusion_matrix(*pair, len(CLASSES))
    print("| tile | points | accuracy | mIoU | " + " | ".join(f"IoU {name}" for name in CLASSES) + " |")
    print("|---|---|---|---|" + "---|" * len(CLASSES))
    scores, each = of_confusion(counts), " | ".join(f"{v:.3f}" for v in class_iou(counts))
    print(f"| {last.name} | {counts.sum()} | {scores['accuracy']:.3f} | {scores['miou']:.3f} | {each} |")


if __name__ == "__main__":
    main()
