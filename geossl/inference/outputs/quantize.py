"""Embeddings as int8 with a scale per patch: a quarter of the size, cosine above 0.9999 for even dimensions."""

import numpy as np
from jaxtyping import Float, Int8

NODATA = -128


def quantize(x: Float[np.ndarray, "d h w"]) -> tuple[Int8[np.ndarray, "d h w"], Float[np.ndarray, "h w"]]:
    """``q = clip(round_half_even(x / s), -127, 127)`` with ``s = max|x| / 127`` per patch; nodata is -128 and NaN.

    The inverse is ``x = q * s``; ``geossl.open`` applies it.
    """
    scale = (np.abs(x).max(axis=0) / 127).astype(np.float32)
    safe = np.where(scale > 0, scale, 1)
    numbers = np.clip(np.rint(x / safe), -127, 127)
    return np.where(np.isnan(scale), NODATA, numbers).astype(np.int8), scale


def quantize_bands(x: Float[np.ndarray, "d h w"], scales: Float[np.ndarray, " d"]) -> Int8[np.ndarray, "d h w"]:
    """The same with given scales, one per dimension; what lies beyond 127 steps is cut off there."""
    numbers = np.clip(np.rint(x / scales[:, None, None]), -127, 127)
    return np.where(np.isnan(x), NODATA, numbers).astype(np.int8)
