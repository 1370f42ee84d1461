"""The Sentinel-2 radiometric offset: from processing baseline 04.00 on, every number is 1000 higher.

The one place that decides, for files and for catalogues. It is never guessed: it is stated, or written somewhere, or
refused. The numbers themselves cannot prove that +1000 is there (a cloud is bright, too), but dark pixels prove that it
is not, and every claim is checked against them.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from geossl.errors import BandError, Note
from geossl.limits import CARRIES, CLEAN, CLOUDY, DN

OFFSETS = (0, -1000)
NEW_BASELINE = 4.0
OWN_BASELINE = 99.0  # Sen2Cor run by a user; whether it adds +1000 depends on its version
STATE_IT = "state it with --s2-offset 0 or -1000 (recipe: data.s2_offset)"
PRODUCT = re.compile(
    r"S2[A-D]_MSIL(?P<level>1C|2A)_(?P<time>\d{8}T\d+)_N(?P<major>\d{2})(?P<minor>\d{2})_(?:R\d{3}_T(?P<tile>\w{5}))?"
)
GRANULE = re.compile(r"(?:^|[_/])T(?P<tile>\d{2}[A-Z]{3})_(?P<time>\d{8}T\d{6})")
OLD_PRODUCT = re.compile(r"S2[AB]_OPER_PRD_MSIL1C")  # names of before December 2016
OFFSET_TAGS = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
BASELINE_TAGS = ("PROCESSING_BASELINE", "S2_PROCESSING_BASELINE", "S2:PROCESSING_BASELINE")
METADATA = ("MTD_MSIL2A.xml", "MTD_MSIL1C.xml")
LARGEST_XML = 50 * 2**20  # bytes; real ones have 50 kB


@dataclass(frozen=True)
class Claim:
    """One thing that says whether +1000 is in the numbers.

    Args:
        offset: 0 or -1000.
        reason: What says so.
    """

    offset: int
    reason: str


def decide(name: str, claims: Sequence[Claim], stated: int | None, dark: float | None) -> tuple[int, str]:
    """The offset, from everything that is known of it.

    Args:
        name: Of the file or item, for messages.
        claims: What is written, the most specific first, which wins.
        stated: What the user said.
        dark: First percentile of the darkest numbers, DN; None = not looked at.

    Raises:
        BandError: If nothing says it, or the numbers disprove what is said.
    """
    looks = "" if dark is None else f"their darkest percentile is {dark:.0f}"
    if stated is not None:
        offset = checked(stated, name, "stated")
        return against_claims(name, offset, claims[0] if claims else None, dark)
    if not claims:
        raise BandError(
            f"{name}: whether Sentinel-2 numbers carry the +1000 of processing baseline 04.00 is not known; {STATE_IT}"
        )
    first = claims[0]
    if first.offset and dark is not None and dark < CLEAN:
        raise BandError(
            f"{name}: {first.reason} says that numbers carry +1000, but {looks}; if it was taken off already, "
            "state --s2-offset 0 (recipe: data.s2_offset)"
        )
    for other in claims[1:]:
        if other.offset != first.offset and (first.offset or dark is None or dark >= CARRIES):
            text = (
                f"{name}: {first.reason} and {other.reason} disagree about the +1000 of Sentinel-2; the first is used"
            )
            warnings.warn(text, Note, stacklevel=4)
            return first.offset, first.reason
    if not first.offset and dark is not None and CARRIES + 100 <= dark < CLOUDY:
        text = f"{name}: {first.reason} says 0, but no number is dark ({dark:.0f}), as if they carried +1000"
        warnings.warn(text, Note, stacklevel=4)
    return first.offset, first.reason


def against_claims(name: str, stated: int, claim: Claim | None, dark: float | None) -> tuple[int, str]:
    """What the user stated, unless the numbers take the side of what is written."""
    if stated and dark is not None and dark < CLEAN:
        raise BandError(
            f"{name}: --s2-offset {stated} is stated, but the darkest percentile of the numbers is {dark:.0f}, so they "
            "do not carry +1000; state 0, or leave it out where files say it"
        )
    if claim is None or claim.offset == stated:
        if claim is None and not stated and dark is not None and dark >= CARRIES + 100:
            text = f"{name}: --s2-offset 0 is stated, but no number is dark ({dark:.0f}), as if they carried +1000"
            warnings.warn(text, Note, stacklevel=5)
        return stated, "stated"
    if not stated and dark is not None and dark >= CARRIES:
        raise BandError(
            f"{name}: --s2-offset 0 is stated, but {claim.reason} says -1000 and so do the numbers, whose darkest "
            f"percentile is {dark:.0f}; leave --s2-offset out, or if +1000 was taken off, say so in the file: "
            "gdal_edit.py -mo BOA_ADD_OFFSET=0"
        )
    text = f"{name}: --s2-offset {stated} is stated and used, although {claim.reason} says {claim.offset}"
    warnings.warn(text, Note, stacklevel=5)
    return stated, "stated"


def s2_offset(
    path: Path,
    tags: Mapping[str, str],
    stated: int | None,
    dark: float | None = None,
    more: Sequence[Claim] = (),
    beneath: Sequence[Claim] = (),
) -> tuple[int, str]:
    """The number to add to a file's Sentinel-2 values, and how it is known.

    In this order: stated by the user, a tag of the file (``BOA_ADD_OFFSET``, ``PROCESSING_BASELINE``), the metadata
    of its own product, the baseline in its own name or that of its product's folder.

    Args:
        path: The file.
        tags: Its GDAL tags.
        stated: What the user said; wins over everything that the numbers do not support.
        dark: As ``geossl.units.darkest`` gives it.
        more: What else says it, before all of that.
        beneath: What the files say that it is made of, after its own tags.

    Raises:
        BandError: If nothing says, or something says a number that is not a known offset, or the numbers disprove it.
    """
    try:
        claims = [*more, *of_tags(path, tags), *beneath, *of_product(path)]
    except BandError:
        if stated is None:
            raise
        claims = [*more]
    return decide(str(path), claims, stated, dark)


def float_offset(
    path: Path,
    tags: Mapping[str, str],
    stated: int | None,
    dark: float | None,
    more: Sequence[Claim] = (),
    beneath: Sequence[Claim] = (),
) -> tuple[int, str]:
    """The same for numbers that are reflectance already; who made them has mostly, not always, taken off +0.1.

    Dark pixels show that it was. Where there are none, as in a desert, a tag is believed, then a product of a baseline
    before 04.00, and else the user is asked.

    Raises:
        BandError: As ``s2_offset``, or if only the product's name says something and the numbers do not decide.
    """
    done = (0, "already reflectance")
    if stated is not None or (more and not more[0].offset):
        return s2_offset(path, tags, stated, dark, more, beneath) if stated is not None else done
    tagged = [*more, *of_tags(path, tags), *beneath]
    if dark is None or dark < CLEAN:
        if tagged and tagged[0].offset:
            text = (
                f"{path}: {tagged[0].reason} says +0.1 is in the numbers, but they are dark ({dark}); none is taken off"
            )
            warnings.warn(text, Note, stacklevel=5)
        return done
    if tagged:
        return decide(str(path), tagged, None, dark)
    product = of_product(path)
    if not any(claim.offset for claim in product) and (dark < CARRIES or product):
        return done
    raise BandError(
        f"{path}: reflectance whose darkest percentile is {dark / DN:.3f}, as of a desert, snow or clouds, may as well "
        f"carry the +0.1 of processing baseline 04.00; {STATE_IT}"
    )


def of_tags(path: Path, tags: Mapping[str, str]) -> list[Claim]:
    """What a file's own tags say."""
    known = {key.upper(): value for key, value in tags.items()}
    found = [Claim(checked(known[key], path, f"tag {key}"), f"tag {key}") for key in OFFSET_TAGS if key in known]
    for key in BASELINE_TAGS:
        if key in known and (offset := of_baseline(known[key], path)) is not None:
            found.append(Claim(offset, f"tag {key} {known[key]}"))
    return found


def of_product(path: Path) -> list[Claim]:
    """What the name of the file, its product's metadata and its product's folder say.

    A product above the file counts only if the file is a part of it: of the same tile and time where the file's name
    says them, else in its ``.SAFE`` folder or beside its metadata.
    """
    place = path.absolute()
    own, granule = PRODUCT.search(place.name), GRANULE.search(place.name)
    identity = own or granule
    claims: list[Claim] = []
    for level, folder in enumerate(place.parents[:6]):  # IMG_DATA/R10m lies four levels below a product's metadata
        product = PRODUCT.search(folder.name)
        if product and identity and not is_same(identity, product):
            break
        metadata = next((folder / name for name in METADATA if (folder / name).is_file()), None)
        belongs = bool(product) or (not own and (level == 0 or folder.name.upper().endswith(".SAFE")))
        if metadata and belongs and (offset := of_metadata(metadata, identity)) is not None:
            claims.append(Claim(offset, metadata.name))
        if product and not own and (offset := of_name(product, path)) is not None:
            claims.append(Claim(offset, f"baseline {product['major']}.{product['minor']} in the name {folder.name}"))
        if not product and OLD_PRODUCT.search(folder.name):
            claims.append(Claim(0, f"the old form of the name {folder.name}"))
        if product or claims:
            break
    if own and (offset := of_name(own, path)) is not None:
        claims.append(Claim(offset, f"baseline {own['major']}.{own['minor']} in the name {place.name}"))
    elif not own and OLD_PRODUCT.search(place.name):
        claims.append(Claim(0, f"the old form of the name {place.name}"))
    return claims


def of_files(path: Path, tags: Mapping[Path, Mapping[str, str]]) -> list[Claim]:
    """What the files say that a raster is made of, by their tags.

    Raises:
        BandError: If they disagree, as one number is added to all.
    """
    found: dict[int, Claim] = {}
    for file, own in tags.items():
        for claim in [*of_tags(file, own), *of_product(file)][:1]:
            found[claim.offset] = Claim(claim.offset, f"{claim.reason} of {file.name}")
    if len(found) > 1:
        raise BandError(
            f"{path} is made of files with and without the +1000 of processing baseline 04.00: {found[-1000].reason} "
            f"says -1000, {found[0].reason} says 0; give the files themselves, scene by scene"
        )
    return list(found.values())


def is_same(one: re.Match[str], product: re.Match[str]) -> bool:
    """Whether a file and a product are of the same tile and time, as far as their names say."""
    times, tiles = (one["time"][:15], product["time"][:15]), (one["tile"], product["tile"])
    return times[0] == times[1] and (None in tiles or tiles[0] == tiles[1])


def of_name(match: re.Match[str], path: Path | str) -> int | None:
    """What the baseline in a product's name says."""
    return of_baseline(f"{match['major']}.{match['minor']}", path)


def checked(value: int | float | str, name: Path | str, origin: str, scale: float = 1 / DN) -> int:
    """An offset that exists; -0.1, in reflectance, is -1000.

    Args:
        value: As it is written.
        name: Where, for messages.
        origin: What says it.
        scale: Reflectance per number, for offsets in reflectance.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    for offset in OFFSETS:
        if math.isclose(number, offset, abs_tol=1e-6) or (
            offset and math.isclose(number / scale, offset, rel_tol=1e-3)
        ):
            return offset
    raise BandError(f"{name}: {origin} gives the Sentinel-2 offset {value}, expected 0 or -1000; {STATE_IT}")


def of_baseline(text: str | float, name: Path | str) -> int | None:
    """-1000 from processing baseline 04.00 on; None for 99.xx, which says nothing.

    Written as ``04.00``, ``4.0``, ``N0400`` or ``0400``.
    """
    digits = str(text).strip().upper().removeprefix("N")
    number = baseline_number(digits)
    if number is None:
        raise BandError(f"{name}: processing baseline {text!r} is not a number such as 04.00; {STATE_IT}")
    if number >= OWN_BASELINE:
        return None
    return -1000 if number >= NEW_BASELINE else 0


def baseline_number(text: str) -> float | None:
    """A baseline as a number below 100; None if it is not one."""
    if re.fullmatch(r"\d{3,4}", text):
        return int(text) / 100
    return float(text) if re.fullmatch(r"\d{1,2}(\.\d{1,2})?", text) else None


def of_metadata(path: Path, identity: re.Match[str] | None = None) -> int | None:
    """The offset all bands of a product share; products before baseline 04.00 name none.

    None if the metadata are of another product than the file, or of baseline 99.xx and name no offset.
    """
    try:
        if path.stat().st_size > LARGEST_XML:
            raise BandError(f"{path} has {path.stat().st_size} bytes, too many for a product's metadata; {STATE_IT}")
        elements = list(ElementTree.parse(path).iter())
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise BandError(f"{path} is not readable as XML ({error}); {STATE_IT}") from None
    texts = {tag: (e.text or "").strip() for e in elements for tag in (e.tag.rpartition("}")[2],)}
    uri = PRODUCT.search(texts.get("PRODUCT_URI", ""))
    if uri and identity and not is_same(identity, uri):
        return None
    found = {(e.text or "").strip() for e in elements if e.tag.endswith(OFFSET_TAGS)}
    if len(found) > 1:
        raise BandError(f"{path} gives bands different offsets ({', '.join(sorted(found))}); {STATE_IT}")
    if found:
        return checked(found.pop(), path, "the metadata")
    return of_baseline(texts["PROCESSING_BASELINE"], path) if texts.get("PROCESSING_BASELINE") else 0


Probe = Callable[[], float]  # first percentile of a scene's usable numbers, DN


def item_offset(name: str, claims: Sequence[Claim], is_sure: bool, probe: Probe) -> tuple[int, str]:
    """The offset of a catalogue's item; its numbers are looked at where what is written is not sure or disagrees.

    Args:
        name: Of the item.
        claims: What is written, the most specific first.
        is_sure: Whether the first claim needs no look.
        probe: Looks.

    Raises:
        BandError: If nothing says it, and the numbers decide nothing.
    """
    if is_sure and len({claim.offset for claim in claims}) == 1:
        return claims[0].offset, claims[0].reason
    dark = probe()
    if dark >= CARRIES:
        return -1000, f"metadata unsure; darkest percentile {dark:.0f} still carries +1000"
    if dark <= CLEAN:
        return 0, f"metadata unsure; darkest percentile {dark:.0f} has no +1000"
    raise BandError(
        f"item {name}: metadata are known to be unsure and the darkest percentile {dark:.0f} decides nothing"
    )
