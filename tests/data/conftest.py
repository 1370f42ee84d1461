import numpy as np
import pytest
import rasterio
from affine import Affine

from geossl.sensors import S2_BANDS


def write_raster(path, data, *, epsg=32631, left=500_000.0, top=4_600_000.0, gsd=10.0, names=None, nodata=None, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    if names is None and len(data) == len(S2_BANDS):
        names = S2_BANDS
    crs = None if epsg is None else f"EPSG:{epsg}"
    profile = {
        "driver": "GTiff",
        "count": len(data),
        "height": data.shape[1],
        "width": data.shape[2],
        "dtype": data.dtype,
    }
    with rasterio.open(
        path, "w", crs=crs, transform=Affine(gsd, 0, left, 0, -gsd, top), nodata=nodata, **profile
    ) as file:
        file.write(data)
        if names:
            file.descriptions = names
        file.update_tags(**tags)
    return path


def radar(shape=(96, 120), seed=0):
    noise = np.random.default_rng(seed).normal(size=(2, *shape))
    return (np.array([-12.0, -19.0])[:, None, None] + 2 * noise).astype(np.float32)


def optical(shape=(96, 120), seed=0, add=0):
    rng = np.random.default_rng(seed)
    ramp = 300 + 5 * np.arange(shape[1]) + 3 * np.arange(shape[0])[:, None]
    return (ramp + 100 * np.arange(12)[:, None, None] + rng.integers(0, 50, (12, *shape)) + add).astype(np.uint16)


@pytest.fixture
def folder(tmp_path):
    """One pair: different dates, S1 half a pixel off, offset tagged."""
    write_raster(tmp_path / "d/s1/a_20200105.tif", radar(), left=500_005, top=4_599_995)
    write_raster(tmp_path / "d/s2/a_20200101.tif", optical(), names=S2_BANDS, BOA_ADD_OFFSET="0")
    return tmp_path / "d"
