"""Plain pictures: folders of PNG, JPEG, WebP or TIFF files, with a class per folder or without."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from geossl.errors import InputError, MissingFileError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


def read_picture(path: Path) -> Float[ndarray, "3 h w"]:
    """Red, green, blue of a file, 0 to 1.

    Raises:
        InputError: If the file cannot be read as a picture.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    except (UnidentifiedImageError, OSError, ValueError):
        also = "; GeoTIFFs of any bands need encoder.sensors={bands: all}" if path.suffix.lower()[:4] == ".tif" else ""
        raise InputError(
            f"{path} cannot be read as a picture; delete it or save it again as PNG or JPEG{also}"
        ) from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) / 255


class ImageFolder(Dataset[Float[Tensor, "3 h w"]]):
    """Pictures of a folder in the order of their names; item ``i`` is red, green and blue of one, 0 to 1.

    Args:
        root: Holds pictures, or a folder of them per class.
        labelled: Whether the folders are classes.

    Attributes:
        paths: One per picture.
        classes: Names of the class folders, sorted; empty without classes.
        labels: Number of the class of every picture; empty without classes.

    Raises:
        InputError: If there is nothing to read.
    """

    def __init__(self, root: str | Path, labelled: bool = False) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise MissingFileError(f"folder {str(root)!r} does not exist; expected one with pictures")
        found = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in SUFFIXES)
        if labelled:
            found = [p for p in found if p.parent != self.root]
        if not found:
            kind = "a folder of pictures per class" if labelled else "pictures"
            raise InputError(f"{self.root} does not hold {kind} ({', '.join(sorted(SUFFIXES))})")
        self.paths: list[Path] = found
        owners = [p.relative_to(self.root).parts[0] for p in found] if labelled else []
        self.classes: list[str] = sorted(set(owners))
        self.labels: Int[ndarray, " n"] = np.array([self.classes.index(o) for o in owners], dtype=np.int64)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def __getitem__(self, number: int) -> Float[Tensor, "3 h w"]:
        """One picture."""
        return torch.from_numpy(read_picture(self.paths[number]))
