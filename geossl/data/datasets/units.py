"""Physical units of a whole data set's pixels: decided once by its numbers, with the rules for files and cubes."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geossl.errors import BandError, Note
from geossl.limits import CARRIES, CLEAN, CLOUDY, DN, unusable_decibel, unusable_reflectance
from geossl.sensors import SENSORS
from geossl.units import check_decibel, darkest, reflectance_scale

SAMPLES = 200  # images that are looked at
SAMPLE_PIXELS = 1000  # of each
ODD_SHARE = 0.3  # of images without a dark number, from which they may carry an offset that nobody took off


@dataclass(frozen=True)
class PixelUnit:
    """How numbers of one sensor become dB or reflectance.

    Args:
        sensor: ``s1`` or ``s2``.
        bands: Band names, in the order of the numbers.
        scale: Numbers per unit reflectance, 1 or 10000; 1 for dB.
        offset: 0 or -1000, as added to numbers x 10000; -0.1 is added to reflectance then.
    """

    sensor: str
    bands: tuple[str, ...]
    scale: float
    offset: float

    def physical(self, numbers: Float[ndarray, "c ..."]) -> Float[ndarray, "c ..."]:
        """Numbers in physical units, float32; NaN in all bands where a pixel cannot be the sensor's."""
        if SENSORS[self.sensor].is_radar:
            return np.where(unusable_decibel(numbers, self.bands), np.float32(np.nan), numbers)
        bad = unusable_reflectance(numbers, self.scale, self.offset, self.bands)
        if self.scale != 1 or self.offset:
            numbers = np.maximum(numbers + np.float32(self.offset * self.scale / DN), 0) / np.float32(self.scale)
        return np.where(bad, np.float32(np.nan), numbers)


def decide_unit(name: str, sensor: str, bands: Sequence[str], looks: Sequence[ndarray], kind: str) -> PixelUnit:
    """Decide how the pixels of a data set are read, by a sample of them; whether they carry +1000 is another question.

    Args:
        name: Name of the data set, for messages.
        sensor: ``s1`` or ``s2``.
        bands: Band names.
        looks: Some of its images, as ``thinned`` gives them.
        kind: NumPy's name of the numbers' type, e.g. ``uint16``.

    Raises:
        BandError: If the numbers cannot be dB or reflectance.
    """
    seen = np.concatenate(looks, axis=1) if looks else np.zeros((len(bands), 0), np.float32)
    if not seen.size:
        raise BandError(f"{name}: no pixel of {sensor} is valid in all bands; check its nodata")
    if SENSORS[sensor].is_radar:
        check_decibel(name, seen, bands)
        return PixelUnit(sensor, tuple(bands), 1.0, 0.0)
    return PixelUnit(sensor, tuple(bands), reflectance_scale(name, seen, kind, bands), 0.0)


def thinned(images: Iterable[ndarray]) -> list[Float[ndarray, "c n"]]:
    """Some of the usable pixels of every image, bands first, as stored."""
    looks = []
    for image in images:
        pixels = image.reshape(image.shape[0], -1)
        pixels = pixels[:, :: max(1, pixels.shape[1] // SAMPLE_PIXELS)].astype(np.float32)
        looks.append(pixels[:, np.isfinite(pixels).all(axis=0) & (pixels != 0).any(axis=0)])
    return looks


def stated_unit(
    name: str, sensor: str, bands: Sequence[str], images: Iterable[ndarray], kind: str, offset: float | None
) -> PixelUnit:
    """The same of arrays that share an offset, which the numbers confirm.

    Args:
        name: Name of the data set, for messages.
        sensor: ``s1`` or ``s2``.
        bands: Band names.
        images: Some of its images as stored, bands first.
        kind: NumPy's name of the numbers' type.
        offset: 0 or -1000, as added to numbers x 10000; None = nothing says it, so the numbers must show that it is 0.

    Raises:
        BandError: If the numbers cannot be dB or reflectance, or the offset is not known.
    """
    if offset not in (0, -1000, None):
        raise BandError(f"{name}: offset {offset:g} is not a known one; expected 0 or -1000")
    looks = thinned(images)
    unit = decide_unit(name, sensor, bands, looks, kind)
    if SENSORS[sensor].is_radar:
        return unit
    darks = [darkest(look, unit.scale) for look in looks]
    dark = darkest(np.concatenate(looks, axis=1), unit.scale)
    if offset is None and dark is not None and dark >= CARRIES:
        raise BandError(
            f"{name}: no number is dark (the first percentile is {dark * unit.scale / DN:.4g}), as if all carried the "
            "+1000 of processing baseline 04.00, and nothing says it; state it with --s2-offset 0 or -1000, or in the "
            "data"
        )
    check_offsets([(name, offset or 0.0, dark) for dark in darks])
    return replace(unit, offset=offset or 0.0)


def check_offsets(images: Sequence[tuple[str, float, float | None]]) -> None:
    """Hold offsets that are claimed against the numbers: dark ones prove that +1000 is not in them.

    Args:
        images: Name, offset and darkest percentile (DN) of each.

    Raises:
        BandError: If an image says -1000 and is dark.
    """
    known = [(name, offset, dark) for name, offset, dark in images if dark is not None]
    for name, _, dark in [image for image in known if image[1] and image[2] < CLEAN]:
        raise BandError(
            f"{name}: offset -1000 is claimed, but the darkest percentile of an image is {dark:.0f}, so it does not "
            "carry +1000; if it was taken off already, say 0"
        )
    odd = [name for name, offset, dark in known if not offset and CARRIES + 100 <= dark < CLOUDY]
    if len(odd) > ODD_SHARE * len(known):
        text = f"{odd[0]}: {len(odd)} of {len(known)} images looked at are nowhere dark, as if they carried the +1000 "
        warnings.warn(f"{text}of Sentinel-2, of which none is taken off", Note, stacklevel=4)


def spread_rows(count: int) -> list[int]:
    """Numbers of the images that are looked at, spread over all of a data set."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLES)).astype(int)).tolist() if count else []
