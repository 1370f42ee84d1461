"""Build a set of real and generated satellite pictures from scenes: the same places, split by place."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw

from geossl.api.pretrain.scenes import measured_sensors
from geossl.data.labels.ground_truth import class_names, label_values
from geossl.data.sentinel.aligned import SAMPLE, AlignedSentinel, aligned_scenes
from geossl.data.sentinel.batches import SentinelChips
from geossl.data.sentinel.chips import read
from geossl.data.sentinel.samplers import Chip, GridChips, Rois, split_scenes
from geossl.data.synthetic.generators import GENERATORS, same_values
from geossl.data.synthetic.images import SPLIT_NAMES
from geossl.data.synthetic.perturbations import from_bytes, to_bytes
from geossl.errors import InputError, Note, UnknownNameError
from geossl.sensors import S1, S2, S2_BANDS
from geossl.training.generators import filled_in, fit_autoencoder, fit_croma

LEARNED = ("autoencoder", "croma")
NAMES = (*LEARNED, *GENERATORS)
RED_GREEN_BLUE = tuple(S2_BANDS.index(band) for band in ("B04", "B03", "B02"))
WHITE = 0.35  # reflectance that is shown as 255
MOST_WHITE = 0.05  # share of saturated pixels beyond which a chip is left out
SHARES = {"train": 0.55, "calibration": 0.15, "test": 0.3}  # of a scene's width, from west to east
STEPS = {"autoencoder": 600, "croma": 500}  # updates


@dataclass(frozen=True)
class Cut:
    """A chip of a part: where it lies, what it shows, its pixels."""

    name: str
    content: str
    s1: Float[ndarray, "2 h w"]
    s2: Float[ndarray, "12 h w"]

    @property
    def picture(self) -> Float[ndarray, "3 h w"]:
        """Red, green, blue as an 8-bit file holds them, 0 to 1."""
        return from_bytes(to_bytes(displayed(self.s2)))


def displayed(s2: Float[ndarray, "*b 12 h w"]) -> Float[ndarray, "*b 3 h w"]:
    """Reflectance as red, green, blue on a screen; its root, so that forest is not black."""
    return np.sqrt(np.clip(s2[..., list(RED_GREEN_BLUE), :, :] / WHITE, 0, 1))


def generate(
    out: str | Path,
    *,
    source: str | Path = "sample",
    generators: Sequence[str] = NAMES,
    side_px: int = 32,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write real pictures and, of each, one by every generator, as 8-bit true-colour PNG.

    Scenes are cut into three strips from west to east, ``train``, ``calibration`` and ``test``; learned generators are
    fitted on the first alone, and no picture is made of pixels of another strip. Real and generated pictures have the
    same values in every band (exact histogram specification) and are written by the same line of code.

    Args:
        out: Folder; gets ``PART/real/CONTENT/*.png``, ``PART/GENERATOR/CONTENT/*.png`` and ``generated.json``. Content
            is the most frequent land cover, where the scenes have ``labels/``.
        source: ``sample`` or a folder with ``s1/`` and ``s2/``.
        generators: Among ``autoencoder``, ``croma``, ``phase``, ``detail``, ``blend``, ``quilting``.
        side_px: Side of a picture; a multiple of 8. Pictures of one part overlap by half.
        seed: Of everything drawn.
        progress: Told what is done.

    Returns:
        The folder.

    Raises:
        InputError: If ``out`` is there already, or the scenes hold no such pictures; nothing was written.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out} exists; name a new folder, or delete it")
    for name in generators:
        if name not in NAMES:
            raise UnknownNameError("generator", name, NAMES)
    if side_px % 8 or side_px < 16:
        raise InputError(f"side_px={side_px} must be a multiple of 8, at least 16")
    scenes = aligned_scenes(source)
    strips = split_in_three(scenes)
    labels = (SAMPLE if str(source) == "sample" else Path(source)) / "labels"
    cuts = {part: list(cut(scenes, roi, side_px, labels)) for part, roi in strips.items()}
    for part, found in cuts.items():
        if len(found) < 2:
            raise InputError(
                f"the {part} strips of {source} hold {len(found)} usable pictures of {side_px} px; they need larger "
                "scenes, or a smaller side_px"
            )
    makers = fitted(generators, cuts["train"], source, side_px, seed, progress)
    temporary = out.with_name(out.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    for part, found in cuts.items():
        progress(f"{part}: {len(found)} real pictures, {len(found) * len(generators)} generated")
        write(temporary / part, "real", found, [c.picture for c in found])
        for name in generators:
            rng = np.random.default_rng((seed, SPLIT_NAMES.index(part), NAMES.index(name)))
            write(temporary / part, name, found, makers[name](found, rng))
    metadata = {"source": str(source), "side_px": side_px, "seed": seed, "generators": list(generators), "steps": STEPS}
    counts = {part: len(found) for part, found in cuts.items()}
    (temporary / "generated.json").write_text(json.dumps({**metadata, "real": counts, "white": WHITE}, indent=1))
    preview(temporary / "test", ("real", *generators), cuts["test"]).save(temporary / "preview.png")
    os.replace(temporary, out)
    return out


def split_in_three(scenes: Sequence[AlignedSentinel]) -> dict[str, Rois]:
    """Western, middle and eastern part of every scene, along pixel columns."""
    train, _ = split_scenes(scenes, 1 - SHARES["train"])
    both, test = split_scenes(scenes, SHARES["test"])
    middle = [[b.difference(t) for b, t in zip(*rows, strict=True)] for rows in zip(both, train, strict=True)]
    return {"train": train, "calibration": middle, "test": test}


def cut(scenes: Sequence[AlignedSentinel], roi: Rois, side: int, labels: Path) -> Iterator[Cut]:
    """Chips of a part that are usable everywhere and not mostly white."""
    names = class_names(sorted(labels.glob("*.tif"))) if labels.is_dir() else {}
    for chip in GridChips(scenes, side, side // 2, roi=roi):
        pixels = read(scenes, chip)
        s2 = pixels["s2"].numpy()
        if pixels["valid"].all() and (s2[list(RED_GREEN_BLUE)] > WHITE).any(axis=0).mean() <= MOST_WHITE:
            scene = Path(scenes[chip.scene].index.iloc[chip.row].s2.path).stem
            content = cover(scenes, chip, labels, names)
            yield Cut(f"{scene}_{chip.top:04d}_{chip.left:04d}", content, pixels["s1"].numpy(), s2)


def cover(scenes: Sequence[AlignedSentinel], chip: Chip, labels: Path, names: dict[int, str]) -> str:
    """The most frequent land cover of a chip."""
    if not names:
        return "not labelled"
    values = label_values(labels, scenes[chip.scene].geobox(chip.row, chip.top, chip.left, chip.size))
    counts = np.bincount(values[values > 0], minlength=1)
    return names.get(int(counts.argmax()), "not labelled") if counts.sum() else "not labelled"


Maker = Callable[[Sequence[Cut], np.random.Generator], list[Float[ndarray, "3 h w"]]]


def fitted(
    generators: Sequence[str],
    train: Sequence[Cut],
    source: str | Path,
    side: int,
    seed: int,
    progress: Callable[[str], None],
) -> dict[str, Maker]:
    """What makes pictures, by name; learned ones are fitted here, on the training part."""
    makers: dict[str, Maker] = {name: simple(GENERATORS[name]) for name in generators if name in GENERATORS}
    if "autoencoder" in generators:
        progress(f"autoencoder: {STEPS['autoencoder']} updates")
        pictures = torch.from_numpy(np.stack([c.picture for c in train]))
        model = fit_autoencoder(pictures, STEPS["autoencoder"], seed)
        makers["autoencoder"] = lambda cuts, rng: list(
            model(torch.from_numpy(np.stack([c.picture for c in cuts]))).numpy()
        )
    if "croma" in generators:
        progress(f"croma: {STEPS['croma']} updates")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)  # scenes too small for a chip are known to be left out
            data = SentinelChips(source, side, 32, STEPS["croma"], seed=seed, holdout=1 - SHARES["train"])
        method = fit_croma(measured_sensors({"s1": S1, "s2": S2}, data), data.train_dataloader(), STEPS["croma"], seed)

        def rebuilt(cuts: Sequence[Cut], rng: np.random.Generator) -> list[Any]:
            s1, s2 = (torch.from_numpy(np.stack([getattr(c, name) for c in cuts])) for name in ("s1", "s2"))
            return list(displayed(filled_in(method, s1, s2, int(rng.integers(2**31))).numpy()))

        makers["croma"] = rebuilt
    return makers


def simple(make: Callable[..., Any]) -> Maker:
    """A generator that works picture by picture; its second picture is any other of the part."""

    def made(cuts: Sequence[Cut], rng: np.random.Generator) -> list[Any]:
        others = (np.arange(len(cuts)) + rng.integers(1, len(cuts), len(cuts))) % len(cuts)
        return [make(c.picture, cuts[o].picture, rng) for c, o in zip(cuts, others, strict=True)]

    return made


def write(folder: Path, maker: str, cuts: Sequence[Cut], pictures: Sequence[Float[ndarray, "3 h w"]]) -> None:
    """Pictures of a part and maker; all take the values of their real one, and go through the same writer."""
    for own, made in zip(cuts, pictures, strict=True):
        path = folder / maker / own.content / f"{own.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = to_bytes(same_values(made, own.picture)).transpose(1, 2, 0)
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
