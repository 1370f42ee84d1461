"""What neighbouring pixels of radar say of its unit: speckle has the same spread in dB wherever it is.

Limits are set by 31 files of five sources (TerraMesh, BigEarthNet, Sen1Floods11, SEN12MS-CR, and others), cut into 655
squares of 64 px: VV differs by 1.1 to 2.7 dB from pixel to pixel, and the median of VH is at most -12.6 dB.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geossl.errors import Note
from geossl.sensors import S1_BANDS

MIDDLE_PX = 256  # side of the part that is looked at
APART_PX = 2  # neighbours in a row may be one pixel, resampled
LEAST_PAIRS = 1000
HALF_DB, BRIGHT_VH = 1.2, -12.0  # less spread, and brighter: 593 of 655 squares as amplitudes, none as they are
TWICE_DB, DARK_VV = 2.75, -14.0  # more spread, and darker


def note_speckle(name: str, values: Float[ndarray, "c h w"], bands: Sequence[str]) -> None:
    """Say that radar looks like 10*log10 of amplitudes, or 20*log10 of power; other numbers cannot tell.

    Args:
        name: Name of the file, cube or scene, for messages.
        values: dB on the pixels of the sensor, not thinned; NaN where there is none.
        bands: Their names.
    """
    if tuple(bands) != S1_BANDS:
        return
    height, width = values.shape[1:]
    top, left = max(0, (height - MIDDLE_PX) // 2), max(0, (width - MIDDLE_PX) // 2)
    part = values[:, top : top + MIDDLE_PX, left : left + MIDDLE_PX]
    steps = np.abs(part[0, :, APART_PX:] - part[0, :, :-APART_PX])
    steps = steps[np.isfinite(steps)]
    if len(steps) < LEAST_PAIRS:
        return
    spread = float(np.median(steps)) / 0.6745 / np.sqrt(2)  # standard deviation of a pixel
    vv, vh = (float(np.nanmedian(band)) for band in part)
    if spread < HALF_DB and vh > BRIGHT_VH:
        text = "10*log10 of amplitudes, half of what they are; amplitudes take 20*log10"
    elif spread > TWICE_DB and vv < DARK_VV:
        text = "20*log10 of power, twice what they are; power takes 10*log10"
    else:
        return
    text = f"{name}: medians VV {vv:.1f} and VH {vh:.1f} dB, {spread:.1f} dB between neighbours, look like {text}"
    warnings.warn(text, Note, stacklevel=3)
