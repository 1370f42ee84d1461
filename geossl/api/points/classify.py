"""Classes for the points of airborne scans: learned from classified scans, written back to LAS and LAZ."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray

from geossl.api.points.scans import DEVICE, Scans, block_settings, of_scans
from geossl.api.settings import checked_settings
from geossl.data.points.batches import augmented
from geossl.data.points.blocks import BlockSettings, block_of, cut_block, grown, inner, lattice_blocks
from geossl.data.points.las import NOISE, Scan, find_files, read_scan, survey, write_classes
from geossl.errors import InputError, WeightsError, possible
from geossl.evaluation.scores import class_iou, confusion_matrix, of_confusion
from geossl.inference.points import classes_of
from geossl.models.encoder import Encoder
from geossl.models.files import load_encoder, save_encoder
from geossl.models.heads.point_segmenter import PointSegmenter, point_segmenter_spec
from geossl.outputs import check_output, make_folder, write_text
from geossl.progress import Progress
from geossl.rules import check_values
from geossl.training.point_segmentation import UNLABELLED, Labelled, PointHeadConfig, train_head
from geossl.training.run_folder import versions

ASPRS = {
    2: "ground", 3: "low vegetation", 4: "medium vegetation", 5: "high vegetation", 6: "building", 9: "water",
    10: "rail", 11: "road", 13: "wire guard", 14: "wire", 15: "tower", 17: "bridge",
}  # fmt: skip
NEVER = (0, 1, *NOISE)  # not classified, or noise
LEAST_SHARE = 0.001  # of the points; rarer classes are not learned unless named
TEST_SHARE = 0.3


def finetune_points(
    laz: Scans,
    encoder: str | Path | Encoder,
    *,
    out: str | Path = "points.safetensors",
    classes: Mapping[str, Sequence[int]] | None = None,
    min_points: int = 64,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
    **training: Any,
) -> Path:
    """Learn point classes from classified scans, for ``classify_points``.

    Heights are above the ground that a filter of lowest points finds, whatever the encoder's ``ground``: class 2 is not
    known beforehand.
    Squares of two blocks are drawn for testing (30 %); points in them are neither learned from nor used to choose
    anything. Scores and the confusion matrix of these points go beside the model, as ``.json``.

    Args:
        laz: Scans whose points have LAS classes.
        encoder: Weight file or loaded encoder, pretrained on blocks of scans.
        out: ``.safetensors``.
        classes: Name -> LAS classes that count as it, the first of which is written by ``classify_points``. By default
            every class that 0.1 % of the points have, except 0, 1, 7 and 18.
        min_points: Blocks with fewer are left out.
        seed: Seeds the split, the head and the order of blocks.
        overwrite: Replace an earlier model and its scores.
        progress: Called after every part (steps); see ``geossl.progress``.
        training: Fields of ``PointHeadConfig``: ``train_encoder``, ``max_steps``, ``lr``, ``batch_size``.

    Returns:
        The model.

    Raises:
        InputError: If scans, classes and encoder do not fit; nothing was written.
    """
    out = check_output(out, (".safetensors",), overwrite=overwrite)
    check_output(out.with_suffix(".json"), (".json",), overwrite=overwrite)
    check_values(seed=seed, min_points=min_points)
    config = head_config(training)
    base = of_scans(encoder if isinstance(encoder, Encoder) else load_encoder(encoder))
    settings = without_classes(block_settings(base.spec, min_points))
    scan = read_scan([survey(path) for path in find_files(laz)], base.spec.features)
    groups = class_groups(scan, classes)
    labels = numbered(scan, list(groups.values()))
    test = test_points(scan, 2 * settings.block_m, seed)
    for name, number in zip(groups, range(len(groups)), strict=True):
        if not (labels[~test] == number).any():
            raise InputError(f"class {name!r} has no points to learn from; add scans, or leave it out with classes=")
    torch.manual_seed(seed)
    model = PointSegmenter(point_segmenter_spec(base.spec, list(groups), [codes[0] for codes in groups.values()]))
    model.to(DEVICE).encoder.load_state_dict(base.state_dict())
    learned = np.where(test, UNLABELLED, labels)
    train_head(model, lambda i: labelled_block(scan, learned, settings, (seed, i)), config, progress)
    counts = confusion_of(model, scan, np.where(test, labels, UNLABELLED), settings)
    metadata = {
        "classes": {name: list(map(int, codes)) for name, codes in groups.items()},
        "test": of_confusion(counts),
        "confusion": counts.tolist(),
        "points": {"train": int((learned >= 0).sum()), "test": int(counts.sum())},
        "versions": versions(),
    }
    save_encoder(out, model, metadata)
    write_text(out.with_suffix(".json"), json.dumps(metadata, indent=1))
    return out


def classify_points(
    laz: Scans,
    model: str | Path | Encoder,
    *,
    out: str | Path = "classified.laz",
    min_points: int = 64,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Give every point of scans a class, and write them as LAS or LAZ with everything else unchanged.

    The extra dimension ``confidence`` holds the probability of the class in percent; 0 = the point kept the class it
    had, because it is noise, withheld, or in a block with too few points.

    Args:
        laz: A LAS or LAZ file, a folder of them, a list, or ``sample`` (bundled). Neighbours are used at the rims.
        model: From ``finetune_points``.
        out: ``.laz`` or ``.las`` for one file; a folder, made if it is missing, for several.
        min_points: Blocks with fewer are left as they are.
        overwrite: Replace outputs.
        progress: Called after every part (files); see ``geossl.progress``.

    Returns:
        The files written.

    Raises:
        InputError: If files, model and output do not fit; nothing was written.
    """
    found = model if isinstance(model, Encoder) else load_encoder(model)
    if not isinstance(found, PointSegmenter):
        raise WeightsError(f"{found.spec.name!r} gives no classes of points; make a model with geossl.points.finetune")
    check_values(min_points=min_points)
    settings = without_classes(block_settings(found.to(DEVICE).eval().spec, min_points))
    files = [survey(path) for path in find_files(laz)]
    targets = outputs(possible(out), [file.path for file in files])
    for target in targets:
        check_output(target, (".las", ".laz"), overwrite=overwrite)
    codes = np.array(found.spec.arguments["codes"])
    for number, (file, target) in enumerate(zip(files, targets, strict=True)):
        scan = read_scan(files, found.spec.features, grown(file.bounds, settings.halo_m))
        classes, percent = np.zeros(file.count, np.uint8), np.zeros(file.count, np.uint8)
        for block in lattice_blocks(scan, grown(file.bounds, 1e-3), settings):
            ids = scan.inside(inner(block))
            ids = ids[scan.source[ids, 0] == number]
            if len(ids):
                best, chance = classes_of(found, block.points, block_of(scan, ids, *block.centre, settings).points)
                rows = scan.source[ids, 1]
                classes[rows], percent[rows] = codes[best], np.maximum(1, np.rint(100 * chance))
        write_classes(file.path, target, classes, percent)
        if progress:
            progress(number + 1, len(files), "files")
    return targets


def summary(model: Path) -> str:
    """Scores of a model on its test squares, for printing."""
    metadata = json.loads(model.with_suffix(".json").read_text())
    test, counts = metadata["test"], np.array(metadata["confusion"])
    lines = [f"held-out points {metadata['points']['test']}  accuracy {test['accuracy']:.3f}  mIoU {test['miou']:.3f}"]
    width = max(map(len, metadata["classes"]))
    for name, share, truth in zip(metadata["classes"], class_iou(counts), counts.sum(axis=1), strict=True):
        lines.append(f"  {name:<{width}} IoU {share:.3f}  points {truth}")
    return "\n".join(lines)


def without_classes(settings: BlockSettings) -> BlockSettings:
    """Heights that do not use the ground class, which is what is asked for."""
    return replace(settings, ground="none" if settings.ground == "none" else "lowest")


def outputs(out: Path, sources: Sequence[Path]) -> list[Path]:
    """Where each file goes.

    Raises:
        InputError: If ``out`` is of the wrong kind, or would replace an input.
    """
    if out.suffix.lower() in (".las", ".laz"):
        if len(sources) > 1:
            raise InputError(f"out={str(out)!r} is one file, but there are {len(sources)} scans; give a folder")
        targets = [check_output(out, (".las", ".laz"))]
    elif (os.path.exists(out) and not out.is_dir()) or out.suffix:
        raise InputError(f"out={str(out)!r} must end in .laz or .las, or be a folder")
    else:
        targets = [out / path.name for path in sources]
        if len(set(targets)) < len(targets):
            raise InputError("two scans have the same file name; classify them one by one")
    taken = {path.resolve() for path in sources} & {path.resolve() for path in targets}
    if taken:
        raise InputError(f"out={str(out)!r} would replace {taken.pop()}, which is read; choose another out")
    make_folder(targets[0].parent)
    return targets


def head_config(training: Mapping[str, Any]) -> PointHeadConfig:
    """Checked settings of the training."""
    return PointHeadConfig(**checked_settings(training, PointHeadConfig.__dataclass_fields__, "points.finetune"))


def class_groups(scan: Scan, classes: Mapping[str, Sequence[int]] | None) -> dict[str, Sequence[int]]:
    """Name -> LAS classes.

    Raises:
        InputError: If there are fewer than two, or a code is named twice or is none.
    """
    if classes is None:
        codes, counts = np.unique(scan.classes, return_counts=True)
        kept = [int(c) for c, n in zip(codes, counts, strict=True) if n >= LEAST_SHARE * len(scan.classes)]
        classes = {ASPRS.get(code, f"class {code}"): [code] for code in kept if code not in NEVER}
    named = [code for group in classes.values() for code in group]
    if len(classes) < 2:
        raise InputError(
            f"the scans hold {', '.join(classes) or 'no class'} besides unclassified points; two are needed"
        )
    if len(set(named)) < len(named) or not all(0 <= code <= 255 for code in named) or not all(classes.values()):
        raise InputError(f"classes={dict(classes)} must name every LAS class (0 to 255) once")
    return dict(classes)


def numbered(scan: Scan, groups: Sequence[Sequence[int]]) -> Int[ndarray, " n"]:
    """Class number of every point, -1 where it has none of the classes."""
    table = np.full(256, UNLABELLED)
    for number, codes in enumerate(groups):
        table[list(codes)] = number
    return table[scan.classes]


def test_points(scan: Scan, side_m: float, seed: int) -> ndarray:
    """Which points lie in squares drawn for testing."""
    squares = np.floor(scan.xyz[:, :2] / side_m).astype(np.int64)
    names, square = np.unique(squares, axis=0, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"the scans cover one square of {side_m:g} m; give more ground, so that some can be held out")
    order = np.random.default_rng(seed).permutation(len(names))
    drawn = np.zeros(len(names), bool)
    drawn[order[: max(1, round(TEST_SHARE * len(names)))]] = True
    return drawn[square.ravel()]


def labelled_block(scan: Scan, labels: Int[ndarray, " n"], settings: BlockSettings, seed: tuple[int, int]) -> Labelled:
    """A random block around a labelled point, turned, with the classes of its points.

    Raises:
        InputError: If no block has points enough.
    """
    rng = np.random.default_rng(seed)
    places = np.flatnonzero(labels != UNLABELLED)
    for _ in range(100):
        x, y = scan.xyz[rng.choice(places), :2]
        block = cut_block(scan, x, y, settings, rng)
        if block is not None:
            points = augmented(block.points, rng, "z", (0.95, 1.05), False, 0.0, 0.0)
            return points, labels[block.ids].astype(np.int64)
    raise InputError(f"no block of {settings.block_m:g} m has min_points={settings.min_points} points; lower it")


def confusion_of(
    model: PointSegmenter, scan: Scan, labels: Int[ndarray, " n"], settings: BlockSettings
) -> Int[ndarray, "k k"]:
    """Confusion of the labelled points, each classified as ``classify_points`` would."""
    counts = np.zeros((len(model.classes),) * 2, np.int64)
    for block in lattice_blocks(scan, grown(scan.bounds, 1e-3), settings):
        ids = scan.inside(inner(block))
        ids = ids[labels[ids] != UNLABELLED]
        if len(ids):
            found, _ = classes_of(model, block.points, block_of(scan, ids, *block.centre, settings).points)
            counts += confusion_matrix(labels[ids], found, len(model.classes))
    return counts
