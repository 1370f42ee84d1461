"""The Sentinel-2 radiometric offset: from processing baseline 04.00 on, every number is 1000 higher.

Nothing in the numbers says so reliably, so it is never guessed: it is stated, or written somewhere, or refused.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from geossl.errors import BandError

OFFSETS = (0, -1000)
NEW_BASELINE = 4.0
STATE_IT = "state it with --s2-offset 0 or -1000 (recipe: data.s2_offset)"
PRODUCT = re.compile(r"S2[A-D]_MSIL(?P<level>1C|2A)_\d{8}T\d+_N(?P<major>\d{2})(?P<minor>\d{2})_")


def s2_offset(path: Path, tags: Mapping[str, str], stated: int | None) -> tuple[int, str]:
    """The number to add to Sentinel-2 values, and how it is known.

    In this order: stated by the user, a tag of the file (``BOA_ADD_OFFSET``, ``PROCESSING_BASELINE``), the product's
    metadata beside or above the file, the baseline in the product's name.

    Args:
        path: The file.
        tags: Its GDAL tags.
        stated: What the user said; wins over everything.

    Raises:
        BandError: If nothing says, or something says a number that is no known offset.
    """
    if stated is not None:
        return checked(stated, path, "stated"), "stated"
    known = {key.upper(): value for key, value in tags.items()}
    for key in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"):
        if key in known:
            return checked(known[key], path, f"tag {key}"), f"tag {key}"
    for key in ("PROCESSING_BASELINE", "S2_PROCESSING_BASELINE", "S2:PROCESSING_BASELINE"):
        if key in known:
            return of_baseline(known[key], path), f"tag {key} {known[key]}"
    folders = list(path.absolute().parents[:6])  # IMG_DATA/R10m lies four levels below a product's metadata
    for metadata in (f / name for f in folders for name in ("MTD_MSIL2A.xml", "MTD_MSIL1C.xml")):
        if metadata.is_file():
            return of_metadata(metadata), metadata.name
    for name in (path.name, *(folder.name for folder in folders)):
        if match := PRODUCT.search(name):
            baseline = f"{match['major']}.{match['minor']}"
            return of_baseline(baseline, path), f"baseline {baseline} in the name {name}"
    raise BandError(
        f"{path}: whether Sentinel-2 numbers carry the +1000 of processing baseline 04.00 is not known; {STATE_IT}"
    )


def checked(value: int | str, path: Path, origin: str) -> int:
    """An offset that exists."""
    try:
        offset = int(float(value))
    except ValueError:
        offset = 1
    if offset not in OFFSETS:
        raise BandError(f"{path}: {origin} gives the Sentinel-2 offset {value}, expected 0 or -1000; {STATE_IT}")
    return offset


def of_baseline(text: str, path: Path) -> int:
    """-1000 from processing baseline 04.00 on."""
    try:
        return -1000 if float(text) >= NEW_BASELINE else 0
    except ValueError:
        raise BandError(f"{path}: processing baseline {text!r} is no number such as 04.00; {STATE_IT}") from None


def of_metadata(path: Path) -> int:
    """The offset all bands of a product share; products before baseline 04.00 name none."""
    try:
        elements = list(ElementTree.parse(path).iter())
    except ElementTree.ParseError as error:
        raise BandError(f"{path} is not readable as XML ({error}); {STATE_IT}") from None
    found = {e.text or "" for e in elements if e.tag.endswith(("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"))}
    if len(found) > 1:
        raise BandError(f"{path} gives bands different offsets ({', '.join(sorted(found))}); {STATE_IT}")
    return checked(found.pop(), path, "the metadata") if found else 0
