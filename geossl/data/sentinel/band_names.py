"""Which band is which: by its description, the names of files in a VRT, or a list the user wrote; never by place."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
from rasterio.io import DatasetReader

from geossl.errors import BandError, InputError, MissingBandError
from geossl.sensors import SENSORS

OTHER = re.compile(  # words beside a band's name that make it something else than the band's own values
    r"RATIO|INDEX|STD|STDDEV|STDEV|VAR|VARIANCE|COH|COHERENCE|MASK|QA|QUALITY|COUNT|ANGLE|INC|PHASE|NOISE|NESZ|GLCM"
    r"|ENTROPY|TEXTURE|CONTRAST|DIFF|DIFFERENCE|DELTA|ANOMALY|CV|SLOPE|TREND|NDVI|NDWI|NDBI|EVI|SAVI|RVI|CR|SUM|PROB"
    r"|RANGE|IQR|SKEW|SKEWNESS|KURT|KURTOSIS|ZSCORE|NORM|NORMALI[SZ]ED|STANDARDI[SZ]ED|LOG|LN|SD|SE|RMSE|ERR|ERROR|UNC"
    r"|UNCERTAINTY|SIN|COS|DOY|DATE|GRADIENT|INTERCEPT|RESIDUAL|LIA|INCIDENCE|SHADOW|LAYOVER|CLOUD|CLOUDMASK|VALID"
)
HARMONIC = re.compile(r"AMP|AMPLITUDE")  # of a season's wave in optical bands; of radar it is a kind of backscatter
OPERATOR = re.compile(r"[/*+]|(?<=\d)\s*-\s*(?=B)|(?<=V[VH])\s*-\s*(?=V)")
TAG = "BANDS"
DEEPEST = 4  # VRTs within VRTs


def normal_name(text: str) -> str:
    """The band that a text names, or the text in capitals; empty if it names nothing.

    ``b1``, ``B1``, ``Sigma0_VV_db``, ``T33UUP_20170613T101031_B8A_20m`` and ``B01, central wavelength 443 nm`` are
    bands; ``VV/VH``, ``VV_std`` and ``B8-B4`` are something made of bands; ``Band 1`` is only a number.
    """
    name = text.strip().upper()
    if re.fullmatch(r"(BAND|LAYER)?[ _-]?\d+", name):
        return ""
    if re.fullmatch(r"SR_B\d+", name):  # Landsat's, of other wavelengths than Sentinel-2's of the same number
        return name
    name = re.sub(r"\s+", " ", name)
    head = re.split(r"[,;(]", name)[0]
    words = [word for word in re.split(r"[^A-Z0-9]+", head) if word]
    found = {band for word in words if (band := band_of(word))}
    if len(found) != 1 or OPERATOR.search(head) or any(OTHER.fullmatch(word) for word in words):
        return name
    if found.isdisjoint(("VV", "VH", "HH", "HV")) and any(HARMONIC.fullmatch(word) for word in words):
        return name
    return found.pop()


def are_places(names: Sequence[str | None]) -> bool:
    """Whether bands are called ``b1``, ``b2``, ... by their place in the file, as Earth Engine calls unnamed ones.

    The ninth of them is Sentinel-2's B8A, not its B09. Capitals up to B8 are the same in either way.
    """
    texts = [(name or "").strip() for name in names]
    by_place = [f"b{i}" for i in range(1, len(texts) + 1)]
    return texts == by_place or (len(texts) > 8 and [text.lower() for text in texts] == by_place)


def band_of(word: str) -> str:
    """``B1``, ``B01``, ``B8A`` and ``VV`` as bands are spelt; empty for another word."""
    match = re.fullmatch(r"B(\d{1,2})(A?)|(VV|VH|HH|HV)", word)
    if not match:
        return ""
    number, narrow, polarisation = match.groups()
    return polarisation or (f"B{int(number)}A" if narrow else f"B{int(number):02d}")


def names_in_order(name: str, texts: Sequence[str]) -> list[str]:
    """Bands of a data set's array or files, each once, as texts name them.

    Args:
        name: Of the data set, for messages.
        texts: In the order of the numbers.

    Raises:
        BandError: If one is named twice, has no name, or all are called by their place.
    """
    names = ["" if are_places(texts) else normal_name(text) for text in texts]
    names = [next((e.band(n) for e in SENSORS.values() if e.band(n) in e.bands), n) for n in names]
    if not all(names):
        raise BandError(f"{name} has bands without names; name them VV, VH, B01 ... B12, since no order is guessed")
    if twice := sorted({band for band in names if names.count(band) > 1}):
        raise BandError(f"{name} has {', '.join(twice)} more than once; expected one of each")
    return names


def band_numbers(
    source: DatasetReader, path: Path, sensor: str, wanted: Sequence[str], stated: Sequence[str] = ()
) -> tuple[int, ...]:
    """Band numbers in the wanted order, found by name; two radar bands without names are VV and VH.

    Args:
        source: Open file.
        path: Of it.
        sensor: Key of ``SENSORS``.
        wanted: Names.
        stated: Names of the file's bands as the user gives them, for a file that has none.

    Raises:
        BandError: If a band is missing or there twice, or nothing says which is which.
    """
    names = names_of(source, path, sensor, stated)
    if not any(names):
        every = SENSORS[sensor].bands
        if source.count == len(every) and (SENSORS[sensor].is_radar or len(every) == 1):
            return tuple(every.index(band) + 1 for band in wanted)
        raise BandError(
            f"{path} has {source.count} bands without names; {sensor} has {', '.join(every)}; their "
            f"order is not guessed, so name the file's bands, in its order: --{sensor}-bands {every[0]},{every[1]},... "
            f"(recipe: data.{sensor}_bands) or in the file: gdal_edit.py -mo {TAG}={every[0]},..."
        )
    if missing := [band for band in wanted if band not in names]:
        has = ", ".join(filter(None, names))
        raise MissingBandError(f"{path} lacks {', '.join(missing)} for {sensor}; it has {has}", missing)
    if twice := [band for band in wanted if names.count(band) > 1]:
        raise BandError(f"{path} has {', '.join(twice)} more than once; {sensor} needs one of each, of one date")
    return tuple(names.index(band) + 1 for band in wanted)


def names_of(source: DatasetReader, path: Path, sensor: str, stated: Sequence[str] = ()) -> list[str]:
    """Names of a file's bands: descriptions, else those stated, else the tag ``BANDS``, else those of a VRT's files.

    Raises:
        BandError: If a list of names has another length than the file has bands, or says something else than the file.
    """
    entry = SENSORS[sensor]
    numbered = are_places(source.descriptions)
    names = ["" if numbered else entry.band(normal_name(text or "")) for text in source.descriptions]
    is_named = any(name in entry.bands for name in names)
    told = [entry.band(normal_name(text)) for text in stated]
    if is_named and told and told != names:
        raise BandError(
            f"{path} names its bands {', '.join(names)}, but --{sensor}-bands says {', '.join(told)}; leave it out"
        )
    if is_named or (any(names) and not told):
        return names
    tags = {key.upper(): value for key, value in source.tags().items()}
    listed = list(stated) or [part for part in re.split(r"[,;\s]+", tags.get(TAG, "")) if part]
    if listed:
        if len(listed) != source.count:
            raise BandError(f"{path} has {source.count} bands, but {len(listed)} names are given: {', '.join(listed)}")
        return [entry.band(normal_name(text)) for text in listed]
    return [entry.band(name) for name in vrt_names(source, path)]


def stated_names(given: Any, sensor: str, option: str = "", wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the bands of a stack that does not name them, as a user states them: a list, or text; none if None.

    Args:
        given: The list or text.
        sensor: Key of ``SENSORS``.
        option: What the user set, for messages; by default the flag.
        wanted: Bands that must be among them; whoever reads the file knows which it needs.

    Raises:
        InputError: If none is the name of a band, or one that must be there is not.
    """
    if given is None:
        return ()
    option = option or f"--{sensor}-bands"
    found = given.replace(";", ",").replace(" ", ",").split(",") if isinstance(given, str) else given
    entry = SENSORS[sensor]
    if not isinstance(found, Sequence) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{option} {given!r:.60} is not a list of bands such as {','.join(entry.bands[:3])}")
    names = tuple(name.strip() for name in found if name.strip())
    known = [entry.band(normal_name(name)) for name in names]
    missing = [band for band in wanted if band not in known]
    if missing or not set(known) & set(entry.bands):
        problem = f"lacks {', '.join(missing)}" if missing else f"names no band of {sensor}"
        raise InputError(
            f"{option} {','.join(names)[:80]} {problem}; name every band of the file, in its "
            f"order, by the names {', '.join(entry.bands)}"
        )
    return names


def vrt_names(source: DatasetReader, path: Path, depth: int = 0) -> list[str]:
    """Band names from the files that a VRT's bands are made of; empty where they say none or disagree."""
    none = [""] * source.count
    if source.driver != "VRT" or depth > DEEPEST:
        return none
    found = []
    for number in range(1, source.count + 1):
        tags = source.tags(number, ns="vrt_sources")
        names = {name_in(xml, path, depth) for xml in tags.values()}
        found.append(names.pop() if len(names) == 1 else "")
    known = {band for sensor in SENSORS.values() for band in (*sensor.bands, *sensor.aliases)} | {"B10"}
    return found if all(name in known for name in found) else none


def name_in(xml: str, path: Path, depth: int) -> str:
    """Band name of one source of a VRT: the description in the file, or its name."""
    root = ElementTree.fromstring(xml)
    file, number = root.find("SourceFilename"), int(root.findtext("SourceBand", "1").split(",")[-1])
    if file is None or not file.text:
        return ""
    inner = path.parent / file.text if file.get("relativeToVRT") == "1" else Path(file.text)
    try:
        if inner.is_file():
            with rasterio.open(inner) as source:
                if name := normal_name(source.descriptions[number - 1] or ""):
                    return name
                if source.count > 1:
                    return vrt_names(source, inner, depth + 1)[number - 1]
    except (rasterio.errors.RasterioError, IndexError):
        return ""
    name = normal_name(inner.stem)
    return name if band_of(name) else re.split(r"[^A-Z0-9]+", inner.stem.upper())[-1]  # "red" of S2_20240101_red
