"""Images of any bands from GeoTIFFs, numbers as stored: windows of them, and batches for pretraining."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from jaxtyping import Float
from rasterio.errors import RasterioError
from rasterio.windows import Window
from torch import Tensor

from geossl.data.batches import ChipDataset, DrawnData
from geossl.data.listing import TIFF, files_in
from geossl.errors import BandError, InputError, MissingFileError, Note

MOST_BYTES = 2**33  # of one image as numbers


def unreadable(path: Path, error: RasterioError) -> InputError:
    """Error of a damaged file."""
    return InputError(f"{path} cannot be read ({' '.join(str(error).split())}); delete it or write it again")


def read_window(path: Path, window: Window | None = None) -> Float[Tensor, "c h w"]:
    """All bands of a file or a window of it; NaN where nodata, masked or not finite.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        with rasterio.open(path) as file:
            height, width = (file.height, file.width) if window is None else (window.height, window.width)
            if 4 * file.count * height * width > MOST_BYTES:
                raise InputError(f"{path} is {width} x {height} px of {file.count} bands; cut it into smaller images")
            values = file.read(window=window, masked=True)
    except RasterioError as error:
        raise unreadable(path, error) from None
    pixels = values.astype(np.float32).filled(np.nan)
    return torch.from_numpy(np.where(np.isfinite(pixels), pixels, np.float32(np.nan)))


class BandImages:
    """GeoTIFFs of a folder and its sub-folders in the order of their names, or one file; all of the same bands.

    Args:
        root: Folder or file.
        paths: Files to use; None = all of the folder.

    Attributes:
        paths: One file per image.
        sizes: Height and width of each image.
        bands: Number of bands, the same in all images.

    Raises:
        InputError: If there is nothing to read, a file is damaged or holds no plain numbers.
        BandError: If the numbers of bands differ.
    """

    def __init__(self, root: str | Path, paths: Sequence[Path] | None = None) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise MissingFileError(f"{str(root)!r} does not exist; expected a folder of GeoTIFFs")
        found = files_in(self.root, TIFF, deep=True) if self.root.is_dir() else [self.root]
        self.paths = sorted(paths or (p for p in found if p.suffix.lower() in TIFF))
        if not self.paths:
            raise InputError(f"{self.root} holds no GeoTIFF (*.tif, *.tiff)")
        self.sizes: list[tuple[int, int]] = []
        counts = []
        for path in self.paths:
            try:
                with rasterio.open(path) as file:
                    self.sizes.append(file.shape)
                    counts.append(file.count)
                    plain = not any(kind.startswith("complex") for kind in file.dtypes)
            except RasterioError as error:
                raise unreadable(path, error) from None
            if not plain:
                raise InputError(f"{path} holds complex numbers; write their magnitude, for instance in dB")
            if counts[-1] != counts[0]:
                raise BandError(
                    f"{path} has {counts[-1]} bands, {self.paths[0]} has {counts[0]}; expected the same in all images"
                )
        self.bands = counts[0]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)


class RandomWindows:
    """Square windows anywhere in the training part of any image, every place as likely; a ``ChipSource``.

    Args:
        images: Images to cut from.
        sizes: Least and greatest side in pixels.
        seed: Seeds places and sizes.
        holdout: Right (in maps, eastern) share of every image that is left out.

    Raises:
        InputError: If no image holds such a window; those that do not are left out with a note if others do.
    """

    def __init__(self, images: BandImages, sizes: tuple[int, int], seed: int, holdout: float) -> None:
        self.images, self.seed = images, seed
        self.low, self.high = sizes
        rooms = [(h, round(w * (1 - holdout))) for h, w in images.sizes]
        self.rooms = {i: room for i, room in enumerate(rooms) if min(room) >= self.low}
        if not self.rooms:
            raise InputError(
                f"no image of {images.root} holds a window of {self.low} px: the largest usable part is "
                f"{max(min(room) for room in rooms)} px across; lower data.chip_px or data.crop_px, or data.holdout"
            )
        if small := len(rooms) - len(self.rooms):
            text = f"{small} of {len(rooms)} images hold no window of {self.low} px and are left out"
            warnings.warn(text, Note, stacklevel=4)
        self.numbers = list(self.rooms)
        areas = np.array([h * w for h, w in self.rooms.values()], dtype=np.float64)
        self.share = np.cumsum(areas) / areas.sum()

    def read(self, number: int, attempt: int) -> dict[str, Tensor]:
        """Pixels of a draw: ``bands`` (c s s) and ``valid`` (s s)."""
        rng = np.random.default_rng((self.seed, number, attempt))
        image = self.numbers[int(np.searchsorted(self.share, rng.random(), side="right"))]
        h, w = self.rooms[image]
        side = int(rng.integers(self.low, min(self.high, h, w) + 1))
        top, left = int(rng.integers(h - side + 1)), int(rng.integers(w - side + 1))
        pixels = read_window(self.images.paths[image], Window(left, top, side, side))
        return {"bands": pixels, "valid": torch.isfinite(pixels).all(0)}


class BandChips(DrawnData):
    """``{"bands": b c s s, "valid": b s s}`` of GeoTIFFs, numbers as stored, NaN where not usable.

    Args:
        root: Folder or file; see ``BandImages``.
        chip_px: Side of a chip, in pixels.
        batch_size: Chips per batch and rank.
        steps: Batches in all; a resumed run gets those from ``start_step`` on.
        seed: Seeds places, sizes, turns and flips.
        holdout: Right share of every image that is left out.
        crop_px: Least and greatest side of a window before it is resized to ``chip_px``; None = ``chip_px``.
        workers: Loader processes.

    Raises:
        InputError: If the images cannot be used; says which and why.
    """

    def __init__(
        self,
        root: str | Path,
        chip_px: int,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        holdout: float = 0.0,
        crop_px: tuple[int, int] | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size, "images", steps, workers)
        self.root, self.chip_px, self.seed = root, chip_px, seed
        self.images = BandImages(root)
        self.source = RandomWindows(self.images, crop_px or (chip_px, chip_px), seed, holdout)

    @property
    def dataset(self) -> ChipDataset:
        """A window per draw number."""
        return ChipDataset(self.source, self.chip_px, self.seed)

    def survey(self, windows: int = 1000) -> Iterator[dict[str, Tensor]]:
        """Windows to take statistics from."""
        any_usable = False
        for number in range(windows):
            window = self.source.read(number, 0)
            any_usable = any_usable or bool(window["valid"].any())
            yield window
        if not any_usable:
            raise InputError(f"no pixel of {self.root} is usable in all {self.images.bands} bands; check their nodata")

    def describe(self) -> dict[str, Any]:
        """What was trained on, for an encoder's provenance."""
        return {"source": str(self.root), "images": len(self.images), "bands": self.images.bands}
