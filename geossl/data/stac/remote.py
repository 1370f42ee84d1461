"""Read bands of remote files: signed, retried, never mistaken for nodata, the same bits whatever block is asked for."""

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
from affine import Affine
from jaxtyping import Float
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geossl import retries
from geossl.data import addresses
from geossl.data.resampling import onto, source_coordinates
from geossl.errors import RunError, needs, redact
from geossl.limits import CLEAN, DN, LEAST_REFLECTANCE, MOST_REFLECTANCE

T = TypeVar("T")
DARK_SHARE, LEAST_DARK = 0.01, 50  # of the numbers of a window: from these on dark ones prove that +1000 is not there
MOST_POWER = 10.0  # median of a block; towns stay below 3
READERS = 8  # files of one block read at a time
RENEW_S = 300.0  # before a signature ends; no single read takes longer


class Band:
    """An open single-band file, as ``rasters`` reads files: NaN where a number is not usable.

    Args:
        source: The open file.
        convert: From file numbers to physical ones.
    """

    bands: tuple[int, ...] = (1,)

    def __init__(self, source: DatasetReader, convert: Callable[[ndarray], ndarray]) -> None:
        self.geobox, self.convert = GeoBox.from_rio(source), convert

    @property
    def crs(self) -> CRS:
        """CRS of the file."""
        assert self.geobox.crs is not None
        return self.geobox.crs

    def read(self, source: DatasetReader, window: Window, shape: tuple[int, int]) -> Float[ndarray, "1 h w"]:
        """Numbers of a window in physical units."""
        data = source.read([1], window=window, out_shape=(1, *shape))  # not masked=True, which fetches all of it twice
        numbers = data.astype(np.float32)
        if source.nodata not in (None, 0):
            numbers[data == source.nodata] = np.nan
        return self.convert(numbers).astype(np.float32)


def to_db(power: Float[ndarray, "c h w"]) -> Float[ndarray, "c h w"]:
    """Linear power to dB within -50 and 10; no backscatter is nodata.

    Raises:
        RunError: If the numbers are in dB already.
    """
    known = power[np.isfinite(power) & (power != 0)]
    if known.size and float(np.median(known)) < 0:
        raise RunError(
            f"radar numbers about {np.median(known):.3g} are not linear power; expected sentinel-1-rtc as it is "
            "published: give files in dB with --s1"
        )
    if known.size and float(np.median(known)) > MOST_POWER:
        raise RunError(
            f"radar numbers about {np.median(known):.3g} are not linear power, which stays below 1 on most land"
        )
    valid = np.where(power > 0, power, np.nan)
    return np.clip(10 * np.log10(valid), -50, 10)


def to_reflectance(offset: int) -> Callable[[ndarray], ndarray]:
    """Numbers to reflectance. A raw 0 is nodata; where the offset was removed it may be a dark pixel."""

    def convert(numbers: ndarray) -> ndarray:
        if (np.floor(numbers) < numbers).any():
            raise RunError(f"numbers such as {numbers[np.floor(numbers) < numbers][0]:.4g} are not reflectance x 10000")
        dark = (numbers > 0) & (numbers < CLEAN)
        share = dark.sum() / max(1, (numbers > 0).sum())
        if offset and share > DARK_SHARE and dark.sum() > LEAST_DARK:
            raise RunError(
                f"numbers are said to carry +1000, but {100 * share:.0f} % lie below {CLEAN}; "
                "leave the scene out with --date, or fetch its files and state --s2-offset 0"
            )
        reflectance = np.maximum(numbers + np.float32(offset), 0) / np.float32(10000)
        beyond = (numbers < DN * LEAST_REFLECTANCE) | (numbers > DN * MOST_REFLECTANCE - offset)  # fill, wrapped around
        return np.where(beyond | ((numbers == 0) & (offset != 0)), np.float32(np.nan), reflectance)

    return convert


def read_band(
    href: str,
    sign: str,
    geobox: GeoBox,
    convert: Callable[[ndarray], ndarray],
    look: Callable[[DatasetReader], None] | None = None,
) -> Float[ndarray, "h w"]:
    """A band on a grid, copied where it lies on it, else bilinear; NaN where there is none.

    Args:
        href: Its address.
        sign: Name of a way to sign addresses.
        geobox: The grid.
        convert: From file numbers to physical ones.
        look: Called with the open file.

    Raises:
        RunError: If it cannot be read, or lies nowhere.
    """

    def read(source: DatasetReader) -> Float[ndarray, "h w"]:
        if source.crs is None or source.transform == Affine.identity():
            raise RunError(f"{redact(href)} has no CRS or no transform, so its place is unknown")
        if look is not None:
            look(source)
        if source.dtypes[0] == "uint8":
            raise RunError(f"{redact(href)} holds 8-bit numbers, which are a picture; expected a band's own numbers")
        return onto(geobox, Band(source, convert), source)[0]

    return opened(href, sign, read)


def read_nearest(href: str, sign: str, geobox: GeoBox) -> ndarray:
    """Classes of a file on a grid, nearest pixel; 0 where there is none.

    Raises:
        RunError: If it cannot be read.
    """

    def read(source: DatasetReader) -> ndarray:
        if source.dtypes[0] not in ("uint8", "int8") or source.crs is None:
            raise RunError(f"{redact(href)} holds {source.dtypes[0]} numbers, not scene classes, or has no CRS")
        x, y = (np.rint(v).astype(int) for v in source_coordinates(GeoBox.from_rio(source), geobox))
        inside = (x >= 0) & (x < source.width) & (y >= 0) & (y < source.height)
        out = np.zeros(geobox.shape, dtype=np.uint8)
        if inside.any():
            left, top = int(x[inside].min()), int(y[inside].min())
            window = Window(left, top, int(x[inside].max()) - left + 1, int(y[inside].max()) - top + 1)
            out[inside] = source.read(1, window=window)[y[inside] - top, x[inside] - left]
        return out

    return opened(href, sign, read)


def opened(href: str, sign: str, use: Callable[[DatasetReader], T]) -> T:
    """Open a file under a fresh signature, use it, close it; tried again as ``addresses.read`` does.

    Raises:
        RunError: After the last try; a failed read is never taken for missing data.
    """
    return addresses.read(href, use, lambda attempt: signed(href, sign, attempt))


def signed(href: str, sign: str, attempt: int) -> str:
    """The address with a fresh token, where the host wants one; made at reading time, as tokens expire."""
    if sign != "planetary-computer":
        return href
    try:
        import planetary_computer.sas  # lazy: extra
    except ImportError:
        raise needs("stac") from None
    if attempt:
        planetary_computer.sas.TOKEN_CACHE.clear()  # the token may have expired
    address = planetary_computer.sas.sign_url(href)
    if ends_in(address) < RENEW_S:
        planetary_computer.sas.TOKEN_CACHE.clear()
        address = planetary_computer.sas.sign_url(href)
    return address


def ends_in(address: str) -> float:
    """Seconds until the signature of an address ends, as Azure (``se``) and S3 (``X-Amz-Expires``) write it."""
    words = {key.lower(): values[0] for key, values in parse_qs(urlsplit(address).query).items()}
    try:
        if "se" in words:
            end = datetime.fromisoformat(words["se"].replace("Z", "+00:00"))
        else:
            begin = datetime.strptime(words["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            end = begin + timedelta(seconds=int(words["x-amz-expires"]))
        return end.timestamp() - retries.CLOCK.now()
    except (KeyError, ValueError, TypeError):
        return float("inf")


def in_parallel(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Results in order; reads wait for the network, not for the processor."""
    with ThreadPoolExecutor(READERS) as pool:
        runs = [contextvars.copy_context() for _ in jobs]  # the budget of tries again is that of who asks
        return list(pool.map(lambda job, run: run.run(job), jobs, runs))
