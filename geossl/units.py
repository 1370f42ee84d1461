"""One rule for what numbers can be: reflectance, backscatter in dB, or neither; for files, catalogues and cubes alike.

Limits and the scenes they are set by stand in ``geossl.limits``.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geossl.errors import BandError, Note
from geossl.limits import (
    BRIGHTEST,
    CARRIES,
    CLEAN,
    CLOUDY,
    DARKEST,
    DARKEST_LAND,
    DARKEST_WATER,
    DN,
    FILL_DB,
    GREEN_SHARE,
    GREENEST,
    LEAST_DB,
    MAX_INT16,
    MOST_DB,
    MOST_REFLECTANCE,
    NEGATIVE,
    WRAPPED,
)
from geossl.sensors import OPTICAL, SENSORS

CHECKED = ("dB", "reflectance")  # units whose numbers can be told from others
FEW_BANDS = 4  # fewer may hold the same number by chance, or where they are cut off
MANY, MOSTLY = 0.005, 0.8  # shares of pixels, and of negative numbers, from which one number is no chance
FIX_S2 = "expected reflectance 0 to 1 or reflectance x 10000"


def check_decibel(
    name: str, seen: Float[ndarray, "c n"], bands: Sequence[str] = ("VV", "VH"), *, is_named: bool = False
) -> None:
    """Refuse linear power, amplitudes, natural logarithms, fill values and swapped polarisations.

    Args:
        name: Name of the file or cube, for messages.
        seen: Usable pixels, every band finite.
        bands: Their names.
        is_named: The names are sure, so that VH may be brighter than VV.

    Raises:
        BandError: Says what the numbers look like and what to do.
    """
    if not seen.size:
        return
    check_constant(name, seen[:, ((seen > LEAST_DB) & (seen < MOST_DB)).all(axis=0)])
    medians = np.median(seen, axis=1)
    least, most = float(medians.min()), float(medians.max())
    low, high = float(seen.min()), float(seen.max())
    if least > LEAST_DB and most < 0 and (low < FILL_DB[0] or high > FILL_DB[1]):
        raise BandError(
            f"{name}: values from {low:.4g} to {high:.4g} are not dB; if one is a fill value, declare it: "
            "gdal_edit.py -a_nodata"
        )
    texts = ", ".join(f"{band} {median:.3g}" for band, median in zip(bands, medians, strict=True))
    if least < -100 and low >= -10000 and high < 10000:
        raise BandError(
            f"{name}: medians {texts} are not backscatter in dB (about -12 and -19); if they are dB x 100, say so: "
            "gdal_edit.py -scale 0.01"
        )
    if most >= 0 or least <= LEAST_DB or (len(medians) > 1 and least > -6):
        raise BandError(
            f"{name}: medians {texts} are not backscatter in dB (about -12 and -19); convert linear power with "
            "10*log10, amplitudes with 20*log10"
        )
    if not is_named and tuple(bands[:2]) == ("VV", "VH") and medians[1] > medians[0]:
        raise BandError(
            f"{name}: band 1 (VV, median {medians[0]:.1f} dB) is darker than band 2 (VH, {medians[1]:.1f} dB); "
            "swap or name them"
        )


def reflectance_scale(
    name: str,
    seen: Float[ndarray, "c n"],
    kind: str,
    bands: Sequence[str],
    *,
    is_stated: bool = False,
    is_cube: bool = False,
) -> float:
    """Numbers per unit reflectance, 1 or 10000, decided by the numbers.

    Args:
        name: Name of the file or cube, for messages.
        seen: Usable pixels, every band finite; as stored, or as the file's scale and offset make them.
        kind: NumPy's name of the numbers' type, e.g. ``uint16``.
        bands: Their names.
        is_stated: The file states the scale, so that a scene may be darker than others are.
        is_cube: Numbers are not a file's, so that none of them can be declared as nodata.

    Raises:
        BandError: If they cannot be reflectance; says what they look like and what to do.
    """
    is_float = np.dtype(kind).kind == "f"
    if kind in ("uint8", "int8"):
        raise BandError(f"{name}: 8-bit numbers are a picture, not reflectance; {FIX_S2}: use the original bands")
    if not seen.size:
        return 1.0 if is_float else DN
    seen = seen[:, ~((seen == seen[0]).all(axis=0) & (seen[0] < 0) & (seen[0] > -2001))]  # fill such as -999
    if not seen.size:
        return 1.0 if is_float else DN
    check_fill(name, seen, bands)
    sure = seen[:, (seen < (MOST_REFLECTANCE + 0.1) * DN).all(axis=0)]
    if len(seen) >= FEW_BANDS and not is_cube:
        check_constant(name, sure[:, (sure != MAX_INT16).any(axis=0)])
    sure = sure if 2 * sure.shape[1] > seen.shape[1] else seen  # without saturated pixels and fill of 65535
    check_alike(name, sure, bands)
    bright = float(np.percentile(sure, 99, axis=1).max()) if sure.size else 0.0
    scale = 1.0 if is_float and bright <= BRIGHTEST else DN
    check_wrapped(name, seen, scale)
    check_negative(name, seen, scale, bands)
    check_brightness(name, sure, bright, scale)
    check_vegetation(name, sure, scale, bands)
    if scale == 1:
        note_stretched(name, sure)
    if not is_stated or bright < DARKEST * scale:
        check_darkness(name, sure, bright, scale, bands)
    return scale


def check_constant(name: str, seen: Float[ndarray, "c n"]) -> None:
    """Refuse one number in all bands of many pixels, which is a fill value; radar in dB may be cut off at one."""
    if len(seen) < 2:
        return
    alike = seen[0, (seen == seen[0]).all(axis=0)]
    values, counts = np.unique(alike, return_counts=True)
    if not len(values) or not MANY * seen.shape[1] < counts.max() < seen.shape[1]:
        return
    value, share = values[counts.argmax()], 100 * counts.max() / seen.shape[1]
    text = f"{name}: {share:.1f} % of the pixels hold {value:.6g} in all bands; if that is a fill value, declare it: "
    text += f"gdal_edit.py -a_nodata {value:.6g}"
    if len(seen) < FEW_BANDS and value < -1:
        warnings.warn(text, Note, stacklevel=4)
        return
    raise BandError(text)


def check_alike(name: str, seen: Float[ndarray, "c n"], bands: Sequence[str]) -> None:
    """Refuse reflectance 0 to 1 in some bands, or most pixels, beside large numbers in others.

    Whole numbers are not asked: a band of water may well be 0 or 1 everywhere.
    """
    high = np.percentile(seen, 99, axis=1)
    small = (high > 0) & (high <= BRIGHTEST) & (seen != np.floor(seen)).any(axis=1)
    large = high > 100 * BRIGHTEST
    if small.any() and large.any():
        one, other = int(np.argmax(small)), int(np.argmax(large))
        raise BandError(
            f"{name}: bands are in different units: {bands[one]} up to {high[one]:.4g}, {bands[other]} up to "
            f"{high[other]:.4g}; {FIX_S2} in all bands"
        )
    middle = float(np.median(seen.max(axis=0)))
    if large.any() and 0 < middle <= BRIGHTEST and (seen != np.floor(seen)).any():
        raise BandError(
            f"{name}: most numbers lie below {middle:.3g}, as reflectance does, but others reach {seen.max():.6g}; "
            f"if that is a fill value, declare it: gdal_edit.py -a_nodata {seen.max():.6g}"
        )


def note_stretched(name: str, seen: Float[ndarray, "c n"]) -> None:
    """Say that reflectance ends at exactly 1 in most bands, as pictures do that were stretched band by band."""
    top = seen.max(axis=1)
    if len(seen) >= FEW_BANDS and 2 * (top == 1).sum() >= len(seen) and (top <= 1).all():
        text = f"{name}: {(top == 1).sum()} of {len(seen)} bands end at exactly 1, as when they are stretched for a "
        warnings.warn(text + "picture; reflectance is needed as it was measured", Note, stacklevel=4)


def check_fill(name: str, seen: Float[ndarray, "c n"], bands: Sequence[str]) -> None:
    """Refuse numbers far below 0, and one negative number again and again, which are a fill value not declared."""
    low = float(seen.min())
    if low <= -2001:
        raise BandError(
            f"{name}: Sentinel-2 numbers down to {low:.6g}; if that is a fill value, declare it: "
            f"gdal_edit.py -a_nodata {low:.6g}"
        )
    for band, values in zip(bands, seen, strict=True):
        below, counts = np.unique(values[values < 0], return_counts=True)
        if len(below) and counts.max() > max(MOSTLY * counts.sum(), MANY * len(values)):
            raise BandError(
                f"{name}: {band} holds {below[counts.argmax()]:.6g} in {100 * counts.max() / len(values):.1f} % of the "
                f"pixels; if that is a fill value, declare it: gdal_edit.py -a_nodata {below[counts.argmax()]:.6g}"
            )


def check_brightness(name: str, seen: Float[ndarray, "c n"], bright: float, scale: float) -> None:
    """Refuse per cent, 8-bit and 16-bit full scale, whose brightest band is too bright."""
    percentile = f"99 % of the brightest band's numbers lie below {bright:.4g}"
    if scale > 1 and bright <= 255 and (seen != np.floor(seen)).any():
        raise BandError(f"{name}: {percentile}, as per cent does; {FIX_S2}: say so with gdal_edit.py -scale 0.01")
    if scale > 1 and seen.max() == 255:
        raise BandError(f"{name}: numbers from {seen.min():.0f} to 255 look like 8 bits; {FIX_S2}")
    if bright > BRIGHTEST * scale:
        raise BandError(
            f"{name}: Sentinel-2 numbers up to {seen.max():.0f} ({percentile}); {FIX_S2}: if 65535 is reflectance 1, "
            "say so with gdal_edit.py -scale 0.0000152590219"
        )


def check_vegetation(name: str, seen: Float[ndarray, "c n"], scale: float, bands: Sequence[str]) -> None:
    """Refuse numbers some times too bright: what is as bright as clouds in the near infrared is not half as red."""
    if not {"B04", "B08"} <= set(bands) or not seen.size:
        return
    red, near = (seen[list(bands).index(band)] for band in ("B04", "B08"))
    share = float(((near > GREENEST * scale) & (red < near / 2)).mean())
    if share > GREEN_SHARE:
        raise BandError(
            f"{name}: {100 * share:.0f} % of the pixels are brighter than {GREENEST} in B08 and not half as bright in "
            f"B04, as no ground or cloud is; {FIX_S2}: if 65535 is reflectance 1, say so with gdal_edit.py -scale "
            "0.0000152590219"
        )


def check_negative(name: str, seen: Float[ndarray, "c n"], scale: float, bands: Sequence[str]) -> None:
    """Refuse standardised numbers: of reflectance, hardly any pixel lies clearly below 0."""
    tenth = np.percentile(seen, 10, axis=1)
    if tenth.min() < NEGATIVE * scale:
        band = [*bands, *map(str, range(len(bands), len(tenth)))][int(tenth.argmin())]
        raise BandError(
            f"{name}: a tenth of {band} lies below {tenth.min():.3g}, which reflectance does not; if numbers were "
            "standardised, give them as they were before; if that is a fill value, declare it: gdal_edit.py -a_nodata"
        )


def check_darkness(name: str, seen: Float[ndarray, "c n"], bright: float, scale: float, bands: Sequence[str]) -> None:
    """Refuse x 1000, whose brightest band is too dark; reflectance in float is taken at its word."""
    ground = is_land(seen, bands)
    least = DARKEST if scale == 1 else DARKEST_LAND if ground else DARKEST_WATER
    if 0 < bright < scale * least:
        what = "land" if ground and scale > 1 else "any scene"
        raise BandError(
            f"{name}: 99 % of the brightest band's numbers lie below {bright:.4g}, too dark for {what} in reflectance"
            + ("" if scale == 1 else " x 10000; if they are x 1000, say so with gdal_edit.py -scale 0.001, and if")
            + ("; correct their scale" if scale == 1 else " they are x 10000 and as dark as that, with -scale 0.0001")
        )


def is_land(seen: Float[ndarray, "c n"], bands: Sequence[str]) -> bool:
    """Whether most pixels are brighter in the infrared than in green."""
    named = dict(zip(bands, np.median(seen, axis=1), strict=True)) if seen.size else {}
    infrared = max((named[b] for b in ("B08", "B8A", "B11", "B12") if b in named), default=None)
    return infrared is not None and "B03" in named and bool(infrared > named["B03"])


def check_wrapped(name: str, seen: Float[ndarray, "c n"], scale: float) -> None:
    """Refuse 16-bit numbers that 1000 was taken off although they did not carry it."""
    if scale == 1:
        return
    odd = np.unique(seen[(seen >= WRAPPED[0]) & (seen <= WRAPPED[1])])
    if len(odd) > 2:
        raise BandError(
            f"{name}: numbers such as {odd[0]:.0f} and {odd[-1]:.0f} are dark ones that wrapped around when 1000 was "
            "taken off unsigned numbers; take it off once, and cut at 0"
        )
    shares = (seen < -CLEAN).mean(axis=1) if seen.size else np.zeros(1)
    if shares.max() > 0.05:
        raise BandError(
            f"{name}: {100 * shares.max():.0f} % of a band lie below -{CLEAN}, as when 1000 is taken off twice; "
            "take it off once"
        )


def darkest(seen: Float[ndarray, "c n"], scale: float) -> float | None:
    """First percentile, in DN, of the darkest band of every pixel; 0 is no data. None if there is no pixel."""
    if not seen.size:
        return None
    values = seen * (DN / scale)
    least = np.where(values > 0, values, np.inf).min(axis=0)
    least = least[np.isfinite(least)]
    return float(np.percentile(least, 1)) if least.size else None


def check_cube(name: str, values: Float[ndarray, "c h w"], bands: Sequence[str], kind: Any) -> None:
    """Refuse a cube's array that is not in dB or reflectance 0 to 1.

    Args:
        name: The sensor, a key of ``geossl.sensors.SENSORS``.
        values: Numbers; NaN and 0 in every band are not usable.
        bands: Names.
        kind: The array's own type, before it was made float32.

    Raises:
        BandError: Says what the numbers look like and what to do.
    """
    sensor = SENSORS[name]
    if np.dtype(kind).kind != "f":
        raise BandError(
            f"the cube's {name} holds {np.dtype(kind).name} numbers; expected "
            f"{'dB' if sensor.is_radar else f'reflectance 0 to 1, {sensor.formula}'} as float, NaN for no data"
        )
    flat = values.reshape(len(values), -1)
    seen = flat[:, np.isfinite(flat).all(axis=0) & (flat != 0).any(axis=0)]
    if sensor.is_radar:
        check_decibel(f"the cube's {name}", seen, bands, is_named=True)
        return
    if seen.size and reflectance_scale(f"the cube's {name}", seen, np.dtype(kind).name, bands, is_cube=True) != 1:
        raise BandError(
            f"the cube's {name} holds numbers up to {seen.max():.0f}; expected reflectance 0 to 1: {sensor.formula}"
        )
    dark = darkest(seen, 1.0)
    if name == OPTICAL and dark is not None and CARRIES + 140 <= dark < CLOUDY:
        text = f"the cube's {name} is nowhere dark ({dark / DN:.3f}), as if it carried the +0.1 of baseline 04.00"
        warnings.warn(text, Note, stacklevel=4)


def check_block(name: str, values: Float[ndarray, "c h w"]) -> Float[ndarray, "c h w"]:
    """A block of a lazy cube, unchanged, if most of its numbers can be dB or reflectance; as ``check_cube``."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return values
    middle, sensor = float(np.median(finite)), SENSORS[name]
    if sensor.is_radar and not LEAST_DB < middle < 0:
        raise BandError(
            f"a block of the cube's {name} has the median {middle:.4g}; expected dB (about -12 and -19): convert "
            "linear power with 10*log10"
        )
    if not sensor.is_radar and middle > BRIGHTEST:
        raise BandError(
            f"a block of the cube's {name} has the median {middle:.4g}; expected reflectance 0 to 1: {sensor.formula}"
        )
    return values
