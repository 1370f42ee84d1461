"""Sentinel-1/2 bands, and how a file's numbers become physical units."""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio.io import DatasetReader

from geossl.errors import BandError, GridError, MissingFileError

S1_BANDS = ("VV", "VH")
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
BANDS = {"s1": S1_BANDS, "s2": S2_BANDS}
NEW_BASELINE = 4.0  # processing baseline from which Sentinel-2 numbers are 1000 higher
STATE_IT = "state it with --s2-offset 0 or -1000 (recipe: data.s2_offset)"


@dataclass(frozen=True)
class RasterFile:
    """One file of one sensor, as it will be read.

    Args:
        path: The file.
        sensor: ``s1`` or ``s2``.
        bands: 1-based band numbers in the order of ``BANDS[sensor]``.
        offset: Added to Sentinel-2 numbers before the division by ``scale``.
        scale: Numbers per unit reflectance; 1 for files already in reflectance and for dB.
        reason: How offset and scale were decided.
    """

    path: str
    sensor: str
    bands: tuple[int, ...]
    offset: float
    scale: float
    reason: str


def inspect(path: str | Path, sensor: str, s2_offset: int | None = None) -> RasterFile:
    """Look at a file once and decide how to read it.

    Args:
        path: Raster file.
        sensor: ``s1`` or ``s2``.
        s2_offset: Stated by the user; wins over what the file says.

    Raises:
        MissingFileError: If there is no such file.
        GridError: If it has no CRS.
        BandError: If bands are missing, swapped or in another unit, or the Sentinel-2 offset is not known.
    """
    if not Path(path).exists():
        raise MissingFileError(f"--{sensor} file {str(path)!r} does not exist")
    try:
        with rasterio.open(path) as file:
            if file.crs is None:
                raise GridError(
                    f"{path} has no CRS, so its place is unknown; assign one, e.g. gdal_edit.py -a_srs EPSG:32631"
                )
            bands = band_numbers(file, sensor)
            sample = sample_of(file, bands)
            if sensor == "s1":
                check_decibel(path, sample)
                return RasterFile(str(path), sensor, bands, 0.0, 1.0, "dB")
            if file.dtypes[0].startswith("float") and np.nanmax(sample, initial=0) <= 3:
                return RasterFile(str(path), sensor, bands, 0.0, 1.0, "already reflectance")
            if np.nanmax(sample, initial=1) < 0 or np.nanmax(sample, initial=1) > 2**16:
                raise BandError(
                    f"{path}: Sentinel-2 numbers up to {np.nanmax(sample):.0f}; expected reflectance x 10000"
                )
            offset, reason = s2_offset_of(file, Path(path), s2_offset)
            return RasterFile(str(path), sensor, bands, offset, 10000.0, reason)
    except rasterio.errors.RasterioIOError as error:
        raise BandError(f"{path} cannot be read as a raster ({' '.join(str(error).split())})") from None


def band_numbers(file: DatasetReader, sensor: str) -> tuple[int, ...]:
    """Band numbers in our order: by description where there are any, else by position in ESA order."""
    wanted = BANDS[sensor]
    named = {normal_name(text): i for i, text in enumerate(file.descriptions, start=1) if text}
    if set(wanted) <= set(named):
        return tuple(named[band] for band in wanted)
    if any(name in BANDS["s1"] + BANDS["s2"] for name in named):
        missing = [band for band in wanted if band not in named]
        raise BandError(f"{file.name} lacks {', '.join(missing)} for {sensor}; it has {', '.join(sorted(named))}")
    if file.count != len(wanted):
        raise BandError(
            f"{file.name} has {file.count} bands without names; {sensor} needs {len(wanted)}: {', '.join(wanted)}"
        )
    return tuple(range(1, len(wanted) + 1))


def normal_name(text: str) -> str:
    """``b1``, ``B1`` and ``B01`` are one band; so are ``vv`` and ``VV``."""
    name = text.strip().upper()
    match = re.fullmatch(r"B(\d)", name)
    return f"B0{match[1]}" if match else name


def sample_of(file: DatasetReader, bands: tuple[int, ...]) -> np.ndarray:
    """A thinned look at all bands, nodata as NaN."""
    shape = (len(bands), min(file.height, 256), min(file.width, 256))
    data = file.read(bands, out_shape=shape, masked=True).astype("float64").filled(np.nan)
    if not file.dtypes[0].startswith("float"):
        data[:, (data == 0).all(axis=0)] = np.nan
    return data


def check_decibel(path: str | Path, sample: np.ndarray) -> None:
    """Refuse linear power, and swapped polarisations."""
    if not np.isfinite(sample).any():
        return
    vv, vh = np.nanmedian(sample, axis=(1, 2))
    if max(vv, vh) >= 0 or min(vv, vh) < -60 or np.nanmin(sample) >= 0:
        raise BandError(
            f"{path}: medians VV {vv:.3g}, VH {vh:.3g} are no backscatter in dB (about -12 and -19); "
            "convert linear power with 10*log10"
        )
    if vh > vv:
        raise BandError(
            f"{path}: band 1 (VV, median {vv:.1f} dB) is darker than band 2 (VH, {vh:.1f} dB); swap or name them"
        )


def s2_offset_of(file: DatasetReader, path: Path, stated: int | None) -> tuple[float, str]:
    """The number to add to Sentinel-2 values, and how it is known.

    The order is: stated, file tag, product metadata beside the file, baseline in the product's name.
    """
    if stated is not None:
        return float(stated), "stated"
    tags = {key.upper(): value for key, value in file.tags().items()}
    if "BOA_ADD_OFFSET" in tags:
        return float(tags["BOA_ADD_OFFSET"]), "tag BOA_ADD_OFFSET"
    for key in ("PROCESSING_BASELINE", "S2_PROCESSING_BASELINE"):
        if key in tags:
            return baseline_offset(float(tags[key])), f"tag {key} {tags[key]}"
    for folder in path.absolute().parents[:6]:
        metadata = folder / "MTD_MSIL2A.xml"
        if metadata.is_file():
            found = {e.text for e in ElementTree.parse(metadata).iter() if e.tag.endswith("BOA_ADD_OFFSET")}
            return (
                (float(found.pop() or 0), "MTD_MSIL2A.xml")
                if len(found) == 1
                else (0.0, "MTD_MSIL2A.xml without offset")
            )
        if match := re.search(r"S2[ABCD]_MSIL2A_\d{8}T\d+_N(\d{2})(\d{2})_", str(folder.name) + "/" + path.name):
            return baseline_offset(float(f"{match[1]}.{match[2]}")), f"baseline N{match[1]}{match[2]} in the name"
    raise BandError(
        f"{path}: whether Sentinel-2 numbers carry the +1000 of processing baseline 04.00 is not known; {STATE_IT}"
    )


def baseline_offset(baseline: float) -> float:
    """-1000 from processing baseline 04.00 on."""
    return -1000.0 if baseline >= NEW_BASELINE else 0.0


def to_physical(numbers: np.ndarray, file: RasterFile) -> np.ndarray:
    """File numbers, NaN where there is no data, to dB or reflectance (negative reflectance is cut to 0)."""
    if file.sensor == "s1":
        return numbers
    reflectance = np.maximum(numbers + file.offset, 0) / file.scale if file.scale != 1 else numbers
    return reflectance.astype(np.float32)
