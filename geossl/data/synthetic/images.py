"""Real and synthetic images with generator and content, from folders or ImagiNet's lists."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from rasterio.errors import RasterioError

from geossl.data.images.folders import read_image
from geossl.data.listing import IMAGES, files_in, folders_in
from geossl.errors import InputError, MissingFileError

SPLIT_NAMES = ("train", "calibration", "test")
CALIBRATION_SHARE = 0.2  # of the training images, where a folder has no calibration part
IMAGINET_CONTENTS = ("photos", "paintings", "faces", "uncategorized")
IMAGINET_GENERATORS = ("GAN", "Stable Diffusion", "Midjourney", "DALL-E 3")
CODES = re.compile(r",\d+,\d+,\d+,\d+\s*$")
IMAGINET_LISTS = {  # part -> names its list may have
    "train": ("train_annotations.txt", "train_all.txt", "train.txt"),
    "calibration": ("calibration_annotations.txt", "calibration.txt"),
    "test": ("test_annotations.txt", "test_all.txt", "test.txt"),
}


@dataclass(frozen=True)
class RealAndSynthetic:
    """Real and synthetic images.

    Args:
        paths: One file per image.
        generator: Number of its generator; -1 = real.
        content: Number of what it shows.
        generators: Names of the generators.
        contents: Names of the contents.
    """

    paths: tuple[Path, ...]
    generator: Int[ndarray, " n"]
    content: Int[ndarray, " n"]
    generators: tuple[str, ...]
    contents: tuple[str, ...]

    @property
    def origin(self) -> Int[ndarray, " n"]:
        """0 = real, 1 = synthetic."""
        return (self.generator >= 0).astype(np.int64)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, number: int) -> Float[ndarray, "c h w"]:
        """Pixels of an image, 0 to 1."""
        return read_bands(self.paths[number])

    def where(self, chosen: Bool[ndarray, " n"]) -> "RealAndSynthetic":
        """The chosen images."""
        rows = np.flatnonzero(chosen)
        paths = tuple(self.paths[i] for i in rows)
        return RealAndSynthetic(paths, self.generator[rows], self.content[rows], self.generators, self.contents)

    def without(self, names: Sequence[str]) -> "RealAndSynthetic":
        """Images of other generators; generators keep their numbers.

        Raises:
            InputError: If a name is not that of a generator.
        """
        if unknown := sorted(set(names) - set(self.generators)):
            raise InputError(f"generator {unknown[0]!r} is not among {', '.join(self.generators)}")
        left_out = [self.generators.index(name) for name in names]
        return self.where(~np.isin(self.generator, left_out))


def read_bands(path: Path) -> Float[ndarray, "c h w"]:
    """All bands of a file, 0 to 1: red, green, blue of 8-bit images; 16-bit GeoTIFF is reflectance x 10000.

    Raises:
        InputError: If the file cannot be read.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        return read_image(path)
    try:
        with rasterio.open(path) as file:
            values = file.read()
    except RasterioError:
        raise InputError(f"{path} cannot be read as a TIFF; delete it or write it again") from None
    if values.dtype == np.uint8:
        return values.astype(np.float32) / 255
    scale = 1.0 if np.issubdtype(values.dtype, np.floating) else 10000.0
    return np.clip(np.nan_to_num(values.astype(np.float32) / scale), 0, 1)


def real_and_synthetic(root: str | Path) -> dict[str, RealAndSynthetic]:
    """The splits ``train``, ``calibration`` and ``test`` of a data set, as far as it has them.

    Args:
        root: Folder in one of two layouts. *Folders*: ``PART/real/...`` and ``PART/GENERATOR/...``, or without PARTs;
            a folder below names the content (``train/real/forest/1.png``). *ImagiNet*: lists of
            ``path,origin,content,model,specific`` in ``annotations/`` or beside the images.

    Raises:
        MissingFileError, InputError: If the folder or a list cannot be used; names it and what was expected.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingFileError(
            f"folder {str(root)!r} does not exist; expected one with real/ and a folder per generator"
        )
    lists = imaginet_lists(root)
    if lists:
        return from_lists(root, lists)
    return from_folders(root)


def is_real_and_synthetic(root: str | Path) -> bool:
    """Whether a folder holds real and synthetic images: a folder ``real``, here or in a split, or ImagiNet's lists."""
    root = Path(root)
    if not os.path.isdir(root):  # a name too long for the system is not a folder either
        return False
    folders = [root, *(p for p in folders_in(root) if p.name.lower() in SPLIT_NAMES)]
    return any(p.name.lower() == "real" for f in folders for p in folders_in(f)) or bool(imaginet_lists(root))


def from_folders(root: Path) -> dict[str, RealAndSynthetic]:
    """Parts of a layout of folders; a single set without parts is all ``test``."""
    tops = {p.name.lower(): p for p in folders_in(root)}
    parts = {name: tops[name] for name in SPLIT_NAMES if name in tops}
    rows = []
    for part, folder in (parts or {"test": root}).items():
        makers = {p.name: p for p in folders_in(folder)}
        if not any(name.lower() == "real" for name in makers):
            raise InputError(
                f"{folder} has no folder real/; expected real/ and a folder per generator, such as {folder}/gan"
            )
        for name, maker in makers.items():
            for path in files_in(maker, IMAGES, deep=True):
                below = path.relative_to(maker).parts[:-1]
                rows.append((part, "" if name.lower() == "real" else name, below[0] if below else "all", path))
    found = gathered(rows)
    for part, images in found.items():
        for origin, what in ((0, "real"), (1, "generated")):
            if not (images.origin == origin).any():
                raise InputError(f"{parts.get(part, root)} holds no {what} images ({', '.join(sorted(IMAGES))})")
    return with_calibration(found)


def gathered(rows: Sequence[tuple[str, str, str, Path]]) -> dict[str, RealAndSynthetic]:
    """Parts with common numbers, from (part, generator or "", content, path)."""
    generators = tuple(sorted({row[1] for row in rows} - {""}))
    contents = tuple(sorted({row[2] for row in rows}))
    found = {}
    for part in SPLIT_NAMES:
        own = [row for row in rows if row[0] == part]
        if own:
            found[part] = RealAndSynthetic(
                tuple(row[3] for row in own),
                np.array([generators.index(row[1]) if row[1] else -1 for row in own], dtype=np.int64),
                np.array([contents.index(row[2]) for row in own], dtype=np.int64),
                generators,
                contents,
            )
    return found


def with_calibration(parts: dict[str, RealAndSynthetic]) -> dict[str, RealAndSynthetic]:
    """Cut a calibration part from the training part where there is none, by image, every class alike."""
    if "calibration" in parts or "train" not in parts:
        return parts
    train = parts["train"]
    rng, taken = np.random.default_rng(0), np.zeros(len(train), bool)
    for value in np.unique(train.generator):
        rows = rng.permutation(np.flatnonzero(train.generator == value))
        taken[rows[: max(1, round(CALIBRATION_SHARE * len(rows)))]] = True
    return {**parts, "train": train.where(~taken), "calibration": train.where(taken)}


def imaginet_lists(root: Path) -> dict[str, Path]:
    """Lists found, by part; a file of such a name that does not end its first line in four codes is something else."""
    found = {}
    for part, names in IMAGINET_LISTS.items():
        for path in (folder / name for folder in (root / "annotations", root) for name in names):
            if part not in found and path.is_file() and CODES.search(first_line(path)):
                found[part] = path
    return found


def first_line(path: Path) -> str:
    """Of a text file, shortened."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline(1000)


def from_lists(root: Path, lists: dict[str, Path]) -> dict[str, RealAndSynthetic]:
    """Parts of ImagiNet; what is in the calibration list is taken out of the training part."""
    rows = {part: parsed(path, root) for part, path in lists.items()}
    held = {row[0] for row in rows.get("calibration", [])}
    if "train" in rows:
        rows["train"] = [row for row in rows["train"] if row[0] not in held]
    found = {
        part: RealAndSynthetic(
            tuple(row[0] for row in own),
            np.array([row[1] for row in own], dtype=np.int64),
            np.array([row[2] for row in own], dtype=np.int64),
            IMAGINET_GENERATORS,
            IMAGINET_CONTENTS,
        )
        for part, own in rows.items()
        if own
    }
    for images in found.values():
        if not images.paths[0].is_file():
            raise MissingFileError(
                f"{images.paths[0]} is listed in {root} but does not exist; download the images, too"
            )
    return with_calibration(found)


def parsed(path: Path, root: Path) -> list[tuple[Path, int, int]]:
    """Path, generator (-1 = real) and content per line; fields count from the right, since file names may hold commas.

    Source: ImagiNet's annotation files: origin 0 real, 1 synthetic; content 0 to 3; model 0 to 3, 4 = real.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        fields = line.rsplit(",", 4)
        codes = [field.strip() for field in fields[1:]]
        real = codes[:1] == ["0"]
        known = (("0", "1"), ("0", "1", "2", "3"), ("4",) if real else ("0", "1", "2", "3"))
        if len(codes) != 4 or any(code not in allowed for code, allowed in zip(codes, known, strict=False)):
            raise InputError(
                f"{path} line {number}: {line!r} is not path,origin,content,model,specific with origin 0 (and model 4) "
                "or 1 (and model 0 to 3) and content 0 to 3"
            )
        rows.append((root / fields[0].removeprefix("./").lstrip("/"), -1 if real else int(codes[2]), int(codes[1])))
    return rows
