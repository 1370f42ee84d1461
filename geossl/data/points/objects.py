"""Whole objects as point sets: a file per object, a folder per class, or one ``.npz``."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from geossl.data.arrays import check_there, class_numbers, read_npy, read_npz
from geossl.data.listing import files_in
from geossl.data.mapped import Mapped
from geossl.errors import InputError, MissingFileError
from geossl.models.encoder import Items

SUFFIXES = {".npy", ".xyz", ".txt"}
MOST_TEXT_BYTES = 2**29  # of one object; parsing takes several times as much memory


@dataclass(frozen=True)
class Objects:
    """Point sets of whole objects, and their classes where known.

    Args:
        clouds: Points (n 3) of every object; files are read when due.
        labels: Class number of every object; empty without classes.
        classes: Names of the classes.
        test: Whether an object belongs to the official test part.
    """

    clouds: Items
    labels: Int[ndarray, " n"]
    classes: tuple[str, ...]
    test: ndarray


def read_objects(source: str | Path) -> Objects:
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
    if path.suffix == ".npz":
        return npz_objects(path)
    if not os.path.isdir(path):
        raise MissingFileError(f"{str(source)[:200]!r} is neither a folder of point sets nor an .npz file")
    if (path / "shapenet_pc").is_dir() and (path / "ShapeNet-55").is_dir():
        return shapenet(path)
    files = files_in(path, SUFFIXES, deep=True)
    if not files:
        raise InputError(f"{path} holds no point sets ({', '.join(sorted(SUFFIXES))})")
    owners = [p.parent.name if p.parent != path and p.parent.name not in ("train", "test") else "" for p in files]
    classes = tuple(sorted(set(owners))) if all(owners) else ()
    labels = np.array([classes.index(o) for o in owners] if classes else [], dtype=np.int64)
    test = np.array(["test" in p.relative_to(path).parts[:-1] for p in files])
    read_object(files[0])  # a folder of something else is refused before work starts
    return Objects(Mapped(files, read_object), labels, classes, test)


def shapenet(root: Path) -> Objects:
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
    return Objects(Mapped(files, read_object), labels, classes, np.arange(len(files)) >= len(parts[0]))


def read_object(path: Path) -> Float[ndarray, "n 3"]:
    """Points of one file.

    Raises:
        InputError: If it is not a table of numbers.
    """
    return points_of(read_npy(path) if path.suffix.lower() == ".npy" else read_text(path), str(path))


def read_text(path: Path) -> ndarray:
    """Numbers of a text file, separated by spaces or commas."""
    check_there(path)
    if (size := path.stat().st_size) > MOST_TEXT_BYTES:
        raise InputError(f"{path} is {size >> 20} MB of text; save its points with numpy.save")
    try:
        with path.open(encoding="utf-8") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy: that a file is empty, which is refused below
            return np.loadtxt((line.replace(",", " ") for line in file), ndmin=2)
    except (ValueError, OSError):
        raise InputError(f"{path} cannot be read as a table of points; expected x y z per line") from None


def npz_objects(path: Path) -> Objects:
    """Objects of one file."""
    values = read_npz(path)
    parts = [name for name in ("train", "test") if f"x_{name}" in values]
    stems = [f"_{name}" for name in parts] or [""]
    if f"x{stems[0]}" not in values:
        raise InputError(f"{path} holds {', '.join(values) or 'nothing'}; expected x, or x_train and x_test")
    clouds = [points_of(cloud, f"{path}, object {i}") for s in stems for i, cloud in enumerate(values[f"x{s}"])]
    known = [class_numbers(path, values, f"y{s}") for s in stems if f"y{s}" in values]
    labels = np.concatenate([np.zeros(0, np.int64), *(y.ravel() for y in known)])
    if len(labels) not in (0, len(clouds)):
        raise InputError(f"{path} holds {len(clouds)} objects but {len(labels)} labels")
    names = [str(name) for name in np.atleast_1d(values.get("class_names", np.arange(labels.max(initial=-1) + 1)))]
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise InputError(
            f"{path}: labels reach from {labels.min()} to {labels.max()}, but there are {len(names)} names"
        )
    test = np.concatenate([np.full(len(values[f"x{s}"]), s == "_test") for s in stems])
    return Objects(clouds, labels, tuple(names) if len(labels) else (), test)


def points_of(values: ndarray, where: str) -> Float[ndarray, "n 3"]:
    """The first three columns of a table, if they are finite coordinates."""
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
    """Draw points of an object and scale them to the unit sphere; points repeat if it has fewer."""
    return unit_sphere(xyz[np.resize(rng.permutation(len(xyz)), points)])
