"""Whole objects as point sets: a file per object, a folder per class, or one ``.npz``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from geossl.errors import InputError, MissingFileError

SUFFIXES = {".npy", ".xyz", ".txt"}


@dataclass(frozen=True)
class Shapes:
    """Objects, and their classes where known.

    Args:
        clouds: x, y, z per point of each; files are read when asked for.
        labels: Class number of each; empty without classes.
        classes: Names.
        test: Which belong to the official test part.
    """

    clouds: Sequence[Float[ndarray, "_ 3"]]
    labels: Int[ndarray, " n"]
    classes: tuple[str, ...]
    test: ndarray


class ShapeFiles(Sequence[Float[ndarray, "_ 3"]]):
    """Objects of files, read when asked for: a set may be larger than memory.

    Args:
        paths: One object each.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        """Points of one."""
        return read_shape(self.paths[i])


class CloudTensors(Sequence[Tensor]):
    """The same as tensors.

    Args:
        clouds: Points of objects.
    """

    def __init__(self, clouds: Sequence[Float[ndarray, "_ 3"]]) -> None:
        self.clouds = clouds

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.clouds)

    def __getitem__(self, i: Any) -> Any:
        """Points of one."""
        return torch.from_numpy(self.clouds[i])


def read_shapes(source: str | Path) -> Shapes:
    """Read objects.

    Args:
        source: ``.npz`` with ``x`` (objects, points, 3) and, if known, ``y`` and ``class_names``; or ``x_train``,
            ``y_train``, ``x_test``, ``y_test``. Or a folder of ``.npy``, ``.xyz`` or ``.txt`` files, one object each
            with x, y, z in the first columns; sub-folders are classes, ``train`` and ``test`` above them a split. Or
            ShapeNet-55 as it is given out, ``shapenet_pc/`` and ``ShapeNet-55/{train,test}.txt``.

    Raises:
        InputError: If there is nothing to read, or it is not what was expected.
    """
    path = Path(source)
    if path.suffix == ".npz" and path.is_file():
        return npz_shapes(path)
    if not path.is_dir():
        raise MissingFileError(f"{str(source)!r} is no folder of point sets and no .npz file")
    if (path / "shapenet_pc").is_dir() and (path / "ShapeNet-55").is_dir():
        return shapenet(path)
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{path} holds no point sets ({', '.join(sorted(SUFFIXES))})")
    owners = [p.parent.name if p.parent != path and p.parent.name not in ("train", "test") else "" for p in files]
    classes = tuple(sorted(set(owners))) if all(owners) else ()
    labels = np.array([classes.index(o) for o in owners] if classes else [], dtype=np.int64)
    test = np.array(["test" in p.relative_to(path).parts[:-1] for p in files])
    read_shape(files[0])  # a folder of something else is said before work starts
    return Shapes(ShapeFiles(files), labels, classes, test)


def shapenet(root: Path) -> Shapes:
    """ShapeNet-55: files named ``SYNSET-MODEL.npy`` in one folder, and a list of them for each part."""
    parts = []
    for part in ("train", "test"):
        path = root / "ShapeNet-55" / f"{part}.txt"
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist; it lists the files of that part, one name per line")
        parts.append(path.read_text(encoding="utf-8").split())
    names = [name for part in parts for name in part]
    files = [root / "shapenet_pc" / name for name in names]
    if not names or not files[0].is_file():
        raise MissingFileError(f"{root / 'shapenet_pc'} does not hold the files of {root / 'ShapeNet-55'}")
    owners = [name.split("-")[0] for name in names]
    classes = tuple(sorted(set(owners)))
    labels = np.array([classes.index(owner) for owner in owners], dtype=np.int64)
    return Shapes(ShapeFiles(files), labels, classes, np.arange(len(files)) >= len(parts[0]))


def read_shape(path: Path) -> Float[ndarray, "n 3"]:
    """Points of one file.

    Raises:
        InputError: If it is not a table of numbers.
    """
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else read_text(path)
    except (ValueError, OSError):
        raise InputError(f"{path} cannot be read as a table of points; expected x y z per line") from None
    return checked(values, str(path))


def read_text(path: Path) -> ndarray:
    """Numbers of a text file, separated by spaces or commas."""
    with path.open(encoding="utf-8") as file:
        return np.loadtxt((line.replace(",", " ") for line in file), ndmin=2)


def npz_shapes(path: Path) -> Shapes:
    """Objects of one file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, BadZipFile):
        raise InputError(f"{path} is damaged, or holds Python objects, which are not read") from None
    parts = [name for name in ("train", "test") if f"x_{name}" in values]
    stems = [f"_{name}" for name in parts] or [""]
    if f"x{stems[0]}" not in values:
        raise InputError(f"{path} holds {', '.join(values) or 'nothing'}; expected x, or x_train and x_test")
    clouds = [checked(cloud, f"{path}, object {i}") for s in stems for i, cloud in enumerate(values[f"x{s}"])]
    labels = np.concatenate([values.get(f"y{s}", np.zeros(0)) for s in stems]).astype(np.int64)
    if len(labels) not in (0, len(clouds)):
        raise InputError(f"{path} holds {len(clouds)} objects but {len(labels)} labels")
    names = [str(name) for name in values.get("class_names", range(int(labels.max(initial=-1)) + 1))]
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise InputError(
            f"{path}: labels reach from {labels.min()} to {labels.max()}, but there are {len(names)} names"
        )
    test = np.concatenate([np.full(len(values[f"x{s}"]), s == "_test") for s in stems])
    return Shapes(clouds, labels, tuple(names) if len(labels) else (), test)


def checked(values: ndarray, where: str) -> Float[ndarray, "n 3"]:
    """The first three columns, if they are places."""
    if values.ndim != 2 or values.shape[1] < 3 or not len(values) or values.dtype.kind not in "fiu":
        raise InputError(f"{where} has shape {values.shape} of {values.dtype}; expected one row of x, y, z per point")
    xyz = values[:, :3].astype(np.float64)
    if not np.isfinite(xyz).all():
        raise InputError(f"{where} has coordinates that are not finite; remove those points")
    return xyz


def unit_sphere(xyz: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
    """Centred at the mean, its farthest point at distance 1."""
    moved = xyz - xyz.mean(axis=0)
    return (moved / max(np.linalg.norm(moved, axis=1).max(), 1e-12)).astype(np.float32)


def drawn(xyz: Float[ndarray, "n 3"], points: int, rng: np.random.Generator) -> Float[ndarray, "m 3"]:
    """So many points of an object, scaled to the unit sphere; repeated if it has fewer."""
    return unit_sphere(xyz[np.resize(rng.permutation(len(xyz)), points)])
