"""RGB images: folders of PNG, JPEG, WebP or TIFF files, with a class per folder or without."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.listing import IMAGES, TIFF, files_in
from geossl.errors import InputError, MissingFileError

MOST_PIXELS = 2**26  # 8192 x 8192: 800 MB as numbers
DEEP = ("I", "F")  # Pillow's modes of more than 8 bits start so; converting cuts their values at 255
REDUCED_TAG, REDUCED = 254, 5  # TIFF: this page is a smaller copy, or a mask, of the first one


def read_image(path: Path) -> Float[ndarray, "3 h w"]:
    """Red, green, blue of a file, 0 to 1, upright as its EXIF data says.

    Raises:
        InputError: If the file cannot be read as an RGB image of 8 bits, or is too large.
    """
    hint = "; GeoTIFFs of any bands need encoder.sensors={bands: all}" if path.suffix.lower() in TIFF else ""
    try:
        with Image.open(path) as image:
            check_image(path, image, hint)
            upright = ImageOps.exif_transpose(image)
            pixels = np.asarray(upright.convert("RGB"), dtype=np.float32)
    except InputError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError, MemoryError):
        raise InputError(
            f"{path} cannot be read as an image; delete it or save it again as PNG or JPEG{hint}"
        ) from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) / 255


def check_image(path: Path, image: Image.Image, hint: str) -> None:
    """Refuse images that are too large, deeper than 8 bits, or several in one file; only headers are read."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise InputError(f"{path} is {width} x {height} px; expected at most {MOST_PIXELS} pixels: cut it into parts")
    if image.mode.startswith(DEEP):
        raise InputError(
            f"{path} holds more than 8 bits per pixel (mode {image.mode}); expected 0 to 255: scale it, for instance "
            f"gdal_translate -ot Byte -scale{hint}"
        )
    for page in range(1, getattr(image, "n_frames", 1)):
        image.seek(page)
        if not int(getattr(image, "tag_v2", {}).get(REDUCED_TAG, 0)) & REDUCED:
            raise InputError(f"{path} holds several images; save each in a file of its own")
    image.seek(0)


class ImageFolder(Dataset[Float[Tensor, "3 h w"]]):
    """Images of a folder in the order of their names; item ``i`` is red, green and blue of one, 0 to 1.

    Args:
        root: Holds images, or a folder of images per class.
        labelled: Whether the folders are classes.

    Attributes:
        paths: One file per image.
        classes: Names of the class folders, sorted; empty without classes.
        labels: Number of the class of every image; empty without classes.

    Raises:
        InputError: If there is nothing to read.
    """

    def __init__(self, root: str | Path, labelled: bool = False) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise MissingFileError(f"folder {str(root)!r} does not exist; expected one with images")
        found = files_in(self.root, IMAGES, deep=True)
        if labelled:
            found = [p for p in found if p.parent != self.root]
        if not found:
            kind = "a folder of images per class" if labelled else "images"
            raise InputError(f"{self.root} does not hold {kind} ({', '.join(sorted(IMAGES))})")
        self.paths: list[Path] = found
        owners = [p.relative_to(self.root).parts[0] for p in found] if labelled else []
        self.classes: list[str] = sorted(set(owners))
        self.labels: Int[ndarray, " n"] = np.array([self.classes.index(o) for o in owners], dtype=np.int64)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, number: int) -> Float[Tensor, "3 h w"]:
        """Pixels of one image."""
        return torch.from_numpy(read_image(self.paths[number]))
