"""Which optical pixels are not to be used: clouds, their shadows, and what lies beside them."""

import warnings
from functools import lru_cache, partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from scipy.ndimage import binary_dilation

from geossl.data.resampling import source_coordinates
from geossl.data.stac import remote
from geossl.data.stac.scenes import Scene
from geossl.errors import InputError, needs

MASKS = ("scl", "omnicloudmask")
BAD = (0, 1, 3, 8, 9, 10)  # scene classes: no data, defective, cloud shadow, clouds, thin cirrus
SPREADING = (3, 8, 9, 10)  # those whose surroundings are not trusted either
SPREAD_PX = 4  # 40 m
DISK = np.hypot(*np.mgrid[-SPREAD_PX : SPREAD_PX + 1, -SPREAD_PX : SPREAD_PX + 1]) <= SPREAD_PX
SEEN_PX, CONTEXT_PX = 704, 96  # what omnicloudmask sees at once, and how much of its rim is thrown away
KEPT_PX = SEEN_PX - 2 * CONTEXT_PX
RED_GREEN_NIR = ("B04", "B03", "B8A")  # as omnicloudmask's own loader takes them
DARKEST = 1e-4  # reflectance; 0 is omnicloudmask's nodata
OWN_MODELS: Any = None  # torch modules to use instead of omnicloudmask's own weights


def check_mask(name: str) -> None:
    """Refuse a mask that is not known, or whose package or weights are not there, before work starts.

    Raises:
        InputError: Says what to do.
    """
    if name not in MASKS:
        raise InputError(f"--mask {name!r} is not known; use {', '.join(MASKS)}")
    if name == "scl":
        return
    try:
        from omnicloudmask.download_models import get_model_data_dir, get_models  # lazy: extra
    except ImportError:
        raise needs("clouds", "use --mask scl") from None
    if OWN_MODELS is None:
        try:
            get_models()
        except Exception as error:  # of the network, the hub and the disk
            reason = " ".join(str(error).split())[:100]
            raise InputError(
                f"the weights of omnicloudmask are not in {get_model_data_dir()} and cannot be downloaded ({reason}); "
                "connect to the internet, copy them there, or use --mask scl"
            ) from None


def invalid(scene: Scene, geobox: GeoBox, sign: str) -> Bool[ndarray, "h w"]:
    """Pixels of a Sentinel-2 scene that are not to be used, with 40 m around clouds and shadows.

    Args:
        scene: The scene; its ``mask`` is ``scl`` (classes that come with the product) or ``omnicloudmask``.
        geobox: Any grid; what is found is a function of the place alone.
        sign: Name of a way to sign addresses.
    """
    wide = geobox.pad(SPREAD_PX)
    inner = np.s_[SPREAD_PX:-SPREAD_PX, SPREAD_PX:-SPREAD_PX]
    if scene.mask == "omnicloudmask":
        return binary_dilation(predicted(scene, wide, sign) > 0, DISK)[inner]
    classes = remote.read_nearest(scene.href("SCL"), sign, wide)
    return (binary_dilation(np.isin(classes, SPREADING), DISK) | np.isin(classes, BAD))[inner]


def predicted(scene: Scene, geobox: GeoBox, sign: str) -> UInt8[ndarray, "h w"]:
    """Classes of omnicloudmask on a grid, nearest pixel: 0 clear, 1 thick cloud, 2 thin cloud, 3 shadow.

    It sees squares of the scene's own 10 m grid that begin at multiples of 512 px, and the 96 px around them: its
    statistics are those of a square, so squares laid out from the block would make values depend on it.
    """

    def grid_of(source: DatasetReader) -> GeoBox:
        return GeoBox.from_rio(source)

    grid = remote.opened(scene.href("B04"), sign, grid_of)
    x, y = (np.rint(v).astype(int) for v in source_coordinates(grid, geobox))
    inside = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height)
    out = np.zeros(geobox.shape, dtype=np.uint8)
    squares = np.unique(np.column_stack([y[inside], x[inside]]) // KEPT_PX, axis=0)
    for row, column in squares.tolist():
        here = inside & (y // KEPT_PX == row) & (x // KEPT_PX == column)
        found = square(scene, grid, sign, row * KEPT_PX, column * KEPT_PX)
        out[here] = found[y[here] % KEPT_PX, x[here] % KEPT_PX]
    return out


@lru_cache(maxsize=64)
def square(scene: Scene, grid: GeoBox, sign: str, top: int, left: int) -> UInt8[ndarray, "s s"]:
    """Classes of one square of a scene, without its rim; 0 where there are no pixels."""
    rows = slice(max(top - CONTEXT_PX, 0), min(top + KEPT_PX + CONTEXT_PX, grid.height))
    columns = slice(max(left - CONTEXT_PX, 0), min(left + KEPT_PX + CONTEXT_PX, grid.width))
    part, convert = grid[rows, columns], remote.to_reflectance(scene.offset)
    jobs = [partial(remote.read_band, scene.href(band), sign, part, convert) for band in RED_GREEN_NIR]
    bands = np.stack(remote.in_parallel(jobs))
    seen = np.zeros((3, SEEN_PX, SEEN_PX), dtype=np.float32)
    down, right = rows.start - top + CONTEXT_PX, columns.start - left + CONTEXT_PX
    known = np.isfinite(bands).all(axis=0)
    pixels = np.where(known, np.maximum(bands, DARKEST), 0)
    seen[:, down : down + part.height, right : right + part.width] = pixels
    return (classify(seen) if known.any() else seen[0].astype(np.uint8))[CONTEXT_PX:-CONTEXT_PX, CONTEXT_PX:-CONTEXT_PX]


def classify(pixels: Float[ndarray, "3 h w"]) -> UInt8[ndarray, "h w"]:
    """Classes of red, green and near infrared pixels, 0 = nodata."""
    from omnicloudmask import predict_from_array  # lazy: extra

    with warnings.catch_warnings():  # that little is left of a square at the edge of a scene
        warnings.simplefilter("ignore")
        return predict_from_array(
            pixels, patch_size=SEEN_PX, patch_overlap=CONTEXT_PX, custom_models=OWN_MODELS, no_data_value=0
        )[0].astype(np.uint8)
