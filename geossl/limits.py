"""What numbers of a pixel can be: limits of reflectance and of backscatter, and the fill values beyond them.

Limits are set by real Sentinel scenes: of 300 from five continents and 3600 squares of 64 px in them, the brightest
band's 99th percentile lies between 0.022 (sea) and 1.6 (cloud), single pixels reach 2.8 (saturated), radar in dB lies
between -57 and 26.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

DN = 10000.0  # numbers per unit reflectance, as ESA stores it
LEAST_DB, MOST_DB = -60.0, 50.0  # radar beyond these is a fill value, not backscatter
FILL_DB = (-100.0, 60.0)  # beyond these a fill value is sure enough to ask that it is declared
LEAST_REFLECTANCE, MOST_REFLECTANCE = -0.2, 5.0  # of a pixel; beyond these it is a fill value or wrapped around
BRIGHTEST = 2.5  # 99th percentile of the brightest band; clouds stay below 1.7
GREENEST, GREEN_SHARE = 0.9, 0.02  # B08 of pixels whose red is not half as bright, and how many; real squares 0.006
DARKEST_LAND, DARKEST_WATER = 0.1, 0.015  # and what whole numbers must reach that nothing says the scale of
DARKEST = 0.005  # and those of reflectance, or of a stated scale
NEGATIVE = -0.05  # 10th percentile of a band; none of 239 real files is below 0 there
MISSING_BESIDE = 0.05  # reflectance of a neighbouring band beside which 0 is a band without data, not a dark one
CARRIES, CLEAN = 900, 500  # darkest percentile, DN: from the one on +1000 may be there, below the other it is not
CLOUDY = 2000  # darkest percentile of a scene under clouds or snow, which +1000 alone does not make
WRAPPED = (64536, 65534)  # what 16-bit numbers of 0 to 998 become when 1000 is taken off them
MAX_INT16 = 32767
VISIBLE = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09")  # in order of wavelength


def unusable_decibel(
    values: Float[ndarray, "c ..."], bands: Sequence[str] = (), ends: tuple[ndarray, ndarray] | None = None
) -> Bool[ndarray, "..."]:
    """Pixels whose numbers, in dB, are not backscatter in some band; NaN is one.

    ``ends`` are the least and greatest number of every pixel, where they are known. A VH of exactly 0 above a VV below
    it is fill; a VV of 0 may be a bright target that was cut off there.
    """
    least, most = ends or (np.minimum.reduce(values), np.maximum.reduce(values))
    with np.errstate(invalid="ignore"):
        bad: Bool[ndarray, ...] = np.logical_not((least > LEAST_DB) & (most < MOST_DB))
        if "VV" in bands and "VH" in bands:
            bad |= (values[list(bands).index("VH")] == 0) & (values[list(bands).index("VV")] < 0)
    return bad


def unusable_reflectance(
    values: Float[ndarray, "c ..."],
    scale: float,
    offset: float | int,
    bands: Sequence[str],
    ends: tuple[ndarray, ndarray] | None = None,
) -> Bool[ndarray, "..."]:
    """Pixels whose numbers are not reflectance in some band; NaN is one.

    Fill values that nothing declares (-9999, -32768, 32767, 65535, one negative number in all bands), numbers wrapped
    around, and bands without data at the edge of a swath: a 0 while the numbers still carry +1000, or a 0 beside
    bands that see something. A lone 0 in B11 or B12 is a dark pixel.

    Args:
        values: Numbers as stored; bands first.
        scale: Numbers per unit reflectance.
        offset: Offset in DN, 0 or -1000, that is still to be added.
        bands: Their names.
        ends: Least and greatest number of every pixel, where they are known.
    """
    shift = offset * scale / DN
    least, most = ends or (np.minimum.reduce(values), np.maximum.reduce(values))  # both NaN where a band is
    with np.errstate(invalid="ignore"):
        low, high = LEAST_REFLECTANCE * scale - shift, MOST_REFLECTANCE * scale - shift
        bad: Bool[ndarray, ...] = np.logical_not((least >= min(low, LEAST_REFLECTANCE * scale)) & (most <= high))
        if len(values) > 1:
            bad |= (least == most) & ((least <= 0) | ((scale > 1) & (least == MAX_INT16)))
    if not (least > 0).all() and (values == 0).any():
        bad |= (values == 0).any(axis=0) if offset else missing_bands(values, MISSING_BESIDE * scale, bands)
    return bad


def fill_in(values: Float[ndarray, "c ..."], bands: Sequence[str], unit: str) -> Bool[ndarray, "..."]:
    """Pixels of a cube in physical units that hold fill which nothing declares; what is missing already is none.

    Args:
        values: dB, or reflectance without offset; bands first.
        bands: Their names.
        unit: ``dB`` or ``reflectance``.
    """
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        if unit == "dB":
            found: Bool[ndarray, ...] = (known & ((values <= LEAST_DB) | (values >= MOST_DB))).any(axis=0)
            if "VV" in bands and "VH" in bands:
                found |= (values[list(bands).index("VH")] == 0) & (values[list(bands).index("VV")] < 0)
            return found
        found = (known & ((values < LEAST_REFLECTANCE) | (values > MOST_REFLECTANCE))).any(axis=0)
        return found | ((values[0] < 0) & (values == values[0]).all(axis=0) & (len(values) > 1))


def missing_bands(values: Float[ndarray, "c ..."], bright: float, bands: Sequence[str]) -> Bool[ndarray, "..."]:
    """Pixels with a 0 in a visible or infrared band whose neighbour in wavelength is bright."""
    order = [bands.index(name) for name in VISIBLE if name in bands]
    missing: Bool[ndarray, ...] = np.zeros(values.shape[1:], dtype=bool)
    for one, other in pairwise(order):
        missing |= (values[one] == 0) & (values[other] > bright)
        missing |= (values[other] == 0) & (values[one] > bright)
    swir = [bands.index(name) for name in ("B11", "B12") if name in bands]
    near = [bands.index(name) for name in ("B08", "B8A") if name in bands]
    if len(swir) == 2 and near:  # water is 0 in both and dark in the near infrared, too
        missing |= (values[swir] == 0).all(axis=0) & (values[near] > 2 * bright).any(axis=0)
    return missing
