"""SSL4EO-S12: 251,079 places, four seasons, 264 px pairs of Sentinel-1 GRD and Sentinel-2 L2A.

Layout: ``s1/<place>/<scene>/{VV,VH}.tif`` (dB) and ``s2a/<place>/<scene>/{B1, ..., B12}.tif`` (bands at their own
resolution). Paper: Wang et al., GRSM 2023, arXiv:2211.07044. The collection predates processing
baseline 04.00, so no offset.
"""

import re
from pathlib import Path

import numpy as np
import rasterio
import torch
from jaxtyping import Float
from numpy import ndarray
from rasterio.enums import Resampling

from geossl.data.listing import folders_in
from geossl.errors import InputError, MissingFileError, RunError
from geossl.sensors import S1_BANDS, S2_BANDS


def file_name(band: str) -> str:
    """``B1.tif`` for B01: this data set writes band numbers without a zero."""
    return f"{band[0]}{band[1:].lstrip('0')}.tif" if band.startswith("B") else f"{band}.tif"


class SSL4EO:
    """Random place, season and crop per draw.

    The n-th scene of a place by date is the same season for both sensors. Names would not do: S1A comes before S1B.

    Args:
        root: Folder with ``s1/`` and ``s2a/``.
        crop_px: Least and greatest side of the square crop.
        seed: Seed.

    Raises:
        MissingFileError: If a folder is not there.
        InputError: If a place has not the same number of scenes of both sensors.
    """

    def __init__(self, root: str | Path, crop_px: tuple[int, int], seed: int = 0) -> None:
        self.root, self.crop_px, self.seed = Path(root), crop_px, seed
        self.places = [p.name for p in folders_in(self.root / "s2a")] if self.is_layout(root) else []
        if not self.places:
            raise MissingFileError(
                f"data.source={str(root)!r} is not an SSL4EO-S12 folder; it needs s1/<place>/ and s2a/<place>/"
            )
        self.scenes(self.places[0])

    @staticmethod
    def is_layout(root: str | Path) -> bool:
        """Whether a folder looks like the data set."""
        return (Path(root) / "s1").is_dir() and (Path(root) / "s2a").is_dir()

    def scenes(self, place: str) -> list[tuple[Path, Path]]:
        """Pairs of scene folders, by season."""
        folders = [self.root / sensor / place for sensor in ("s1", "s2a")]
        s1, s2 = (sorted(folders_in(f), key=moment) if f.is_dir() else [] for f in folders)
        if not s1 or len(s1) != len(s2):
            raise InputError(
                f"{self.root}: place {place} has {len(s1)} Sentinel-1 and {len(s2)} Sentinel-2 scenes; expected pairs"
            )
        return list(zip(s1, s2, strict=True))

    def read(self, number: int, attempt: int) -> dict[str, torch.Tensor]:
        """The pixels of a draw."""
        rng = np.random.default_rng((self.seed, number, attempt))
        scenes = self.scenes(self.places[int(rng.integers(len(self.places)))])
        folder1, folder2 = scenes[int(rng.integers(len(scenes)))]
        side = side_of(folder2 / file_name("B02"))
        size = int(rng.integers(self.crop_px[0], self.crop_px[1] + 1))
        if size > side:
            raise RunError(f"{folder2} is {side} px wide, smaller than a crop of {size} px; lower data.crop_px")
        top, left = (int(rng.integers(0, side - size + 1)) for _ in range(2))
        crop = (slice(None), slice(top, top + size), slice(left, left + size))
        s1 = np.ascontiguousarray(stack(folder1, S1_BANDS, side)[crop])
        s2 = stack(folder2, S2_BANDS, side)[crop] / np.float32(10000)
        valid = np.isfinite(s1).all(axis=0) & np.isfinite(s2).all(axis=0)
        return {"s1": torch.from_numpy(s1), "s2": torch.from_numpy(s2), "valid": torch.from_numpy(valid)}


def moment(folder: Path) -> str:
    """When a scene was taken, from its name: ``YYYYMMDD`` and, where there is one, the time of day."""
    found = re.search(r"20\d{6}(T\d{6})?", folder.name)
    if not found:
        raise InputError(f"{folder} has no date in its name, such as 20200607T054109; seasons are paired by date")
    return found[0]


def stack(folder: Path, bands: tuple[str, ...], side: int) -> Float[ndarray, "c side side"]:
    """Bands of one scene on its 10 m grid, bilinear where coarser; NaN where no band has data."""
    layers = []
    for path in (folder / file_name(band) for band in bands):
        try:
            with rasterio.open(path) as file:
                layers.append(file.read(1, out_shape=(side, side), resampling=Resampling.bilinear).astype(np.float32))
        except rasterio.errors.RasterioIOError as error:
            raise RunError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
    data = np.stack(layers)
    data[:, (data == 0).all(axis=0) | ~np.isfinite(data).all(axis=0)] = np.nan
    return data


def side_of(path: Path) -> int:
    """Shorter side of an image in pixels."""
    try:
        with rasterio.open(path) as file:
            return min(file.shape)
    except rasterio.errors.RasterioIOError as error:
        raise RunError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
