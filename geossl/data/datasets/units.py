"""Physical units of a whole data set's pixels: decided once by its numbers, with the rules for files and cubes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geossl.errors import BandError
from geossl.limits import DN, unusable_decibel, unusable_reflectance
from geossl.sensors import SENSORS
from geossl.units import check_decibel, reflectance_scale

SAMPLES = 200  # images that are looked at
SAMPLE_PIXELS = 1000  # of each


@dataclass(frozen=True)
class PixelUnit:
    """How numbers of one sensor become dB or reflectance.

    Args:
        sensor: ``s1`` or ``s2``.
        bands: Band names, in the order of the numbers.
        scale: Numbers per unit reflectance, 1 or 10000; 1 for dB.
        offset: Added to numbers x 10000, 0 or -1000.
    """

    sensor: str
    bands: tuple[str, ...]
    scale: float
    offset: float

    def physical(self, numbers: Float[ndarray, "c ..."]) -> Float[ndarray, "c ..."]:
        """Numbers in physical units, float32; NaN in all bands where a pixel cannot be the sensor's."""
        if SENSORS[self.sensor].is_radar:
            return np.where(unusable_decibel(numbers), np.float32(np.nan), numbers)
        bad = unusable_reflectance(numbers, self.scale, self.offset, self.bands)
        if self.scale != 1:
            numbers = np.maximum(numbers + np.float32(self.offset), 0) / np.float32(DN)
        return np.where(bad, np.float32(np.nan), numbers)


def decide_unit(
    name: str, sensor: str, bands: Sequence[str], images: Iterable[ndarray], kind: str, offset: float = 0.0
) -> PixelUnit:
    """Decide how the pixels of a data set are read, by a sample of them.

    Args:
        name: Name of the data set, for messages.
        sensor: ``s1`` or ``s2``.
        bands: Band names.
        images: Some of its images as stored, bands first.
        kind: NumPy's name of the numbers' type, e.g. ``uint16``.
        offset: Stated offset of numbers x 10000.

    Raises:
        BandError: If the numbers cannot be dB or reflectance, or the offset is not known.
    """
    if offset not in (0, -1000):
        raise BandError(f"{name}: offset {offset:g} is not a known one; expected 0 or -1000")
    looks = []
    for image in images:
        pixels = image.reshape(image.shape[0], -1)
        pixels = pixels[:, :: max(1, pixels.shape[1] // SAMPLE_PIXELS)].astype(np.float32)
        looks.append(pixels[:, np.isfinite(pixels).all(axis=0) & (pixels != 0).any(axis=0)])
    seen = np.concatenate(looks, axis=1) if looks else np.zeros((len(bands), 0), np.float32)
    if not seen.size:
        raise BandError(f"{name}: no pixel of {sensor} is valid in all bands; check its nodata")
    if SENSORS[sensor].is_radar:
        check_decibel(name, seen, bands)
        return PixelUnit(sensor, tuple(bands), 1.0, 0.0)
    scale = reflectance_scale(name, seen, kind, bands)
    return PixelUnit(sensor, tuple(bands), scale, 0.0 if scale == 1 else offset)


def spread_rows(count: int) -> list[int]:
    """Numbers of the images that are looked at, spread over all of a data set."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLES)).astype(int)).tolist() if count else []
