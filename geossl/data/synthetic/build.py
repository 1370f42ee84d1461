"""Build a set of real and synthetic satellite images from scenes: the same places, split by place."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw

from geossl.data.labels.ground_truth import label_values
from geossl.data.labels.tags import class_names
from geossl.data.listing import TIFF, files_in
from geossl.data.sentinel.aligned import AlignedScenes, aligned_scenes
from geossl.data.sentinel.rasters import SAMPLE
from geossl.data.sentinel.samplers import Chip, GridChips, Rois, read, split_scenes
from geossl.data.synthetic.generators import GENERATORS, same_values
from geossl.data.synthetic.images import SPLIT_NAMES
from geossl.data.synthetic.perturbations import from_bytes, to_bytes
from geossl.errors import InputError, UnknownNameError
from geossl.sensors import OPTICAL, RADAR, SENSORS

RED_GREEN_BLUE = tuple(SENSORS[OPTICAL].bands.index(band) for band in SENSORS[OPTICAL].rgb)
WHITE = 0.35  # reflectance that is shown as 255
MOST_WHITE = 0.05  # share of saturated pixels beyond which a chip is left out
SHARES = {"train": 0.55, "calibration": 0.15, "test": 0.3}  # of a scene's width, from west to east
EXTRA = 2  # numbers that seed generators of a caller's own; those of geossl follow


@dataclass(frozen=True)
class Cut:
    """A chip: where it lies, what it shows, its pixels."""

    name: str
    content: str
    s1: Float[ndarray, "2 h w"]
    s2: Float[ndarray, "12 h w"]

    @property
    def image(self) -> Float[ndarray, "3 h w"]:
        """Red, green, blue as an 8-bit file holds them, 0 to 1."""
        return from_bytes(to_bytes(displayed(self.s2)))


Maker = Callable[[Sequence[Cut], np.random.Generator], list[Float[ndarray, "3 h w"]]]
Fit = Callable[[Sequence[Cut]], Maker]


def displayed(s2: Float[ndarray, "*b 12 h w"]) -> Float[ndarray, "*b 3 h w"]:
    """Reflectance as red, green, blue on a screen; its root, so that forest is not black."""
    return np.sqrt(np.clip(s2[..., list(RED_GREEN_BLUE), :, :] / WHITE, 0, 1))


def generate(
    out: str | Path,
    *,
    source: str | Path = "sample",
    generators: Sequence[str] = tuple(GENERATORS),
    extra: Mapping[str, Fit] | None = None,
    side_px: int = 32,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write real images and, of each, one by every generator, as 8-bit true-colour PNG.

    Scenes are cut into three strips from west to east, ``train``, ``calibration`` and ``test``; no image is made of
    pixels of another strip. Real and synthetic images have the same values in every band (exact histogram
    specification) and are written by the same line of code.

    Args:
        out: Folder; gets ``SPLIT/real/CONTENT/*.png``, ``SPLIT/GENERATOR/CONTENT/*.png``, ``generated.json`` and
            ``preview.png``. Content is the most frequent land cover, where the scenes have ``labels/``.
        source: ``sample`` or a folder with ``s1/`` and ``s2/``.
        generators: Among ``phase``, ``detail``, ``blend``, ``quilting``.
        extra: Further generators by name, each a function of the training strip's chips that returns the generator;
            for those that learn, such as in ``benchmarks/satellite_fakes.py``.
        side_px: Side of an image in pixels; a multiple of 8. Images of one split overlap by half.
        seed: Seeds everything drawn.
        progress: Called with a line of text before every longer step.

    Returns:
        The folder.

    Raises:
        UnknownNameError: If there is no such generator.
        InputError: If ``out`` exists, or the scenes hold no such images; nothing was written.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out} exists; name a new folder, or delete it")
    for name in generators:
        if name not in GENERATORS:
            raise UnknownNameError("generator", name, GENERATORS)
    if side_px % 8 or side_px < 16:
        raise InputError(f"side_px={side_px} must be a multiple of 8, at least 16")
    cuts = cuts_of(source, side_px)
    makers = {name: fit(cuts["train"]) for name, fit in (extra or {}).items()}
    makers |= {name: one_by_one(GENERATORS[name]) for name in generators}
    numbers = {name: EXTRA + i for i, name in enumerate(GENERATORS)} | {name: i for i, name in enumerate(extra or {})}
    temporary = out.with_name(out.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    for split, found in cuts.items():
        progress(f"{split}: {len(found)} real images, {len(found) * len(makers)} synthetic")
        write(temporary / split, "real", found, [c.image for c in found])
        for name, make in makers.items():
            rng = np.random.default_rng((seed, SPLIT_NAMES.index(split), numbers[name]))
            write(temporary / split, name, found, make(found, rng))
    metadata = {"source": str(source), "side_px": side_px, "seed": seed, "generators": list(makers), "white": WHITE}
    counts = {split: len(found) for split, found in cuts.items()}
    (temporary / "generated.json").write_text(json.dumps({**metadata, "real": counts}, indent=1))
    preview(temporary / "test", ("real", *makers), cuts["test"]).save(temporary / "preview.png")
    os.replace(temporary, out)
    return out


def cuts_of(source: str | Path, side_px: int) -> dict[str, list[Cut]]:
    """Chips of the three strips of scenes, by split.

    Raises:
        InputError: If a strip holds fewer than two.
    """
    scenes = aligned_scenes(source)
    labels = (SAMPLE if str(source) == "sample" else Path(source)) / "labels"
    cuts = {split: list(cut(scenes, roi, side_px, labels)) for split, roi in split_in_three(scenes).items()}
    for split, found in cuts.items():
        if len(found) < 2:
            raise InputError(
                f"the {split} strips of {source} hold {len(found)} usable images of {side_px} px; they need larger "
                "scenes, or a smaller side_px"
            )
    return cuts


def split_in_three(scenes: Sequence[AlignedScenes]) -> dict[str, Rois]:
    """Western, middle and eastern part of every scene, along pixel columns."""
    train, _ = split_scenes(scenes, 1 - SHARES["train"])
    both, test = split_scenes(scenes, SHARES["test"])
    middle = [[b.difference(t) for b, t in zip(*rows, strict=True)] for rows in zip(both, train, strict=True)]
    return {"train": train, "calibration": middle, "test": test}


def cut(scenes: Sequence[AlignedScenes], roi: Rois, side: int, labels: Path) -> Iterator[Cut]:
    """Chips of a strip that are valid everywhere and not mostly white."""
    names = class_names(files_in(labels, TIFF)) if labels.is_dir() else {}
    whole: dict[tuple[int, int], UInt8[ndarray, "_ _"]] = {}  # labels of every scene, read once
    for chip in GridChips(scenes, side, side // 2, roi=roi):
        pixels = read(scenes, chip)
        s2 = pixels[OPTICAL].numpy()
        if pixels["valid"].all() and (s2[list(RED_GREEN_BLUE)] > WHITE).any(axis=0).mean() <= MOST_WHITE:
            scene = Path(scenes[chip.scene].index.iloc[chip.row].reference.path).stem
            place = (chip.scene, chip.row)
            if names and place not in whole:
                whole[place] = label_values(labels, scenes[chip.scene].index.iloc[chip.row].reference.grid)
            content = cover(whole[place], chip, names) if names else "not labelled"
            yield Cut(f"{scene}_{chip.top:04d}_{chip.left:04d}", content, pixels[RADAR].numpy(), s2)


def cover(labels: UInt8[ndarray, "h w"], chip: Chip, names: dict[int, str]) -> str:
    """The most frequent land cover of a chip, from the labels of its scene."""
    values = labels[chip.top : chip.top + chip.size, chip.left : chip.left + chip.size]
    counts = np.bincount(values[values > 0], minlength=1)
    return names.get(int(counts.argmax()), "not labelled") if counts.sum() else "not labelled"


def one_by_one(make: Callable[..., Any]) -> Maker:
    """A generator that works image by image; its second image is any other of the split."""

    def made(cuts: Sequence[Cut], rng: np.random.Generator) -> list[Any]:
        others = (np.arange(len(cuts)) + rng.integers(1, len(cuts), len(cuts))) % len(cuts)
        return [make(c.image, cuts[o].image, rng) for c, o in zip(cuts, others, strict=True)]

    return made


def write(folder: Path, maker: str, cuts: Sequence[Cut], images: Sequence[Float[ndarray, "3 h w"]]) -> None:
    """Write images of a split and maker; all take the values of their real one, and go through the same writer."""
    for own, made in zip(cuts, images, strict=True):
        path = folder / maker / own.content / f"{own.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = to_bytes(same_values(made, own.image)).transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def preview(folder: Path, makers: Sequence[str], cuts: Sequence[Cut], rows: int = 8, zoom: int = 4) -> Image.Image:
    """A sheet to look at: one place per row, one maker per column, its name on top."""
    chosen = [cuts[i] for i in np.linspace(0, len(cuts) - 1, min(rows, len(cuts))).astype(int)]
    side = cuts[0].s2.shape[-1] * zoom
    sheet = Image.new("RGB", (len(makers) * (side + 4), len(chosen) * (side + 4) + 14), "white")
    pen = ImageDraw.Draw(sheet)
    for column, maker in enumerate(makers):
        pen.text((column * (side + 4), 1), maker, fill="black")
        for row, own in enumerate(chosen):
            with Image.open(folder / maker / own.content / f"{own.name}.png") as image:
                large = image.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (column * (side + 4), 14 + row * (side + 4)))
    return sheet
