"""Pixels by band name in physical units, from the files of the data folder."""

from dataclasses import dataclass

import numpy as np
import rasterio
import torch

PATCH = 8  # pixels of 10 m: everything is judged per 80 m patch


@dataclass(frozen=True)
class Pixels:
    """Images of one sensor; NaN where a pixel is not usable.

    Args:
        bands: ESA names.
        values: ``(b, c, h, w)`` float32, reflectance or dB.
    """

    bands: tuple
    values: np.ndarray

    def of(self, bands):
        """Bands in the order asked for, as a tensor; NaN where the files do not have one."""
        missing = np.full_like(self.values[:, 0], np.nan)
        layers = [self.values[:, self.bands.index(band)] if band in self.bands else missing for band in bands]
        return torch.from_numpy(np.stack(layers, axis=1))

    def take(self, rows):
        """Some of the images."""
        return Pixels(self.bands, self.values[rows])


def read(path, scale, names=None, *, offset=0.0):
    """A GeoTIFF whose band descriptions are ESA names: numbers plus ``offset``, times ``scale``.

    Args:
        path: The file.
        scale: Unit per number: 1e-4 for reflectance, 0.01 for dB x 100, 1 for dB.
        names: Band descriptions to read and the band each of them is; all by default.
        offset: Of processing baseline 04.00, -1000 in files that have it.
    """
    with rasterio.open(path) as file:
        names = names or {name: name for name in file.descriptions}
        numbers = file.read([file.descriptions.index(name) + 1 for name in names], masked=True)
    values = (numbers.astype(np.float32).filled(np.nan) + np.float32(offset)) * np.float32(scale)
    if scale == REFLECTANCE:
        values = np.maximum(values, 0)  # keeps NaN
        values[:, (values == 0).all(axis=0)] = np.nan
    return Pixels(tuple(names.values()), whole(values)[None])


REFLECTANCE = 1e-4
DB100 = 0.01
RADAR = {"VV": "VV", "VH": "VH"}


def whole(values):
    """What is left after cutting height and width to whole patches."""
    h, w = (side // PATCH * PATCH for side in values.shape[-2:])
    return values[..., :h, :w]


def layer(path):
    """One band, cut to whole patches; NaN where nodata."""
    with rasterio.open(path) as file:
        return whole(file.read(1, masked=True).astype(np.float32).filled(np.nan))


def cells(values):
    """Pixels of every patch: ``(h, w)`` to ``(gh, gw, 64)``."""
    h, w = values.shape
    split = values.reshape(h // PATCH, PATCH, w // PATCH, PATCH)
    return split.transpose(0, 2, 1, 3).reshape(h // PATCH, w // PATCH, -1)


def mean_of(values):
    """Mean of a patch's valid pixels; NaN where fewer than half are valid."""
    pixels = cells(values)
    valid = np.isfinite(pixels).mean(axis=-1) >= 0.5
    mean = np.where(valid, np.nan_to_num(pixels).sum(-1) / np.maximum(1, np.isfinite(pixels).sum(-1)), np.nan)
    return mean.astype(np.float32)
