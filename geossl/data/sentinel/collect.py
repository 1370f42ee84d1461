"""What a folder of training scenes holds: files by sensor, which of them can be used, and why the others cannot."""

import csv
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import rasterio
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from geossl.data.listing import RASTERS, files_in
from geossl.data.sentinel.inspection import inspect_one
from geossl.data.sentinel.products import SceneFiles, product_folders, scenes_of
from geossl.data.sentinel.raster_file import RasterFile
from geossl.data.vrt import expand
from geossl.errors import InputError, MissingFileError, Note, alike_notes_once
from geossl.sensors import OPTICAL, SENSORS

OFFSETS = "offsets.csv"  # file,offset: lines beside Sentinel-2 files that do not say theirs
SHOWN = 3  # files named per reason
NOWHERE = "EPSG:32660"  # the zone of the Pacific; chips without a CRS lie in it
FIRST, STEP = (200_000.0, 900_000.0), 20_000.0  # corner of the first such place, and metres to the next
MISSABLE = ("VH", "B01", "B09")  # many older radar scenes have VV only, many stacks no bands of 60 m


@dataclass(frozen=True)
class Collected:
    """Files of a folder.

    Args:
        files: Those that can be used, by sensor.
        left_out: Path and reason of the others.
    """

    files: dict[str, list[RasterFile]]
    left_out: list[tuple[str, InputError]]

    def levels(self, sensor: str) -> Counter[str]:
        """How many files are of which processing level."""
        return Counter(file.level for file in self.files[sensor])


def is_place_by_place(root: Path, names: Sequence[str]) -> bool:
    """Whether a folder has no folders of its sensors, but files in it, or in folders in it, are named after them."""
    return not any((root / name).is_dir() for name in SENSORS) and all(any(named_after(root, name)) for name in names)


def named_after(root: Path, sensor: str) -> Iterator[Path]:
    """Rasters whose name has the sensor's as a word: ``t1_S2.tif``, ``s2_clear.tif``."""
    word = re.compile(rf"(?<![A-Z0-9]){sensor}(?![A-Z0-9])", re.IGNORECASE)
    return (path for path in (files_in(root, RASTERS, deep=True) if root.is_dir() else []) if word.search(path.stem))


@alike_notes_once()
def collect(
    root: Path, names: Sequence[str], stated_offset: int | None = None, s2_bands: Sequence[str] = ()
) -> Collected:
    """Look at every file of some sensors; problems are gathered, not raised.

    Args:
        root: Folder with a folder per sensor, or with files named after their sensor.
        names: Sensors.
        stated_offset: Offset of Sentinel-2 files that neither say it nor stand in ``offsets.csv``.
        s2_bands: Bands of Sentinel-2 files that do not name theirs, in the files' order.

    Raises:
        MissingFileError: If a sensor has no file at all.
    """
    found: dict[str, list[RasterFile]] = {name: [] for name in names}
    left: list[tuple[str, InputError]] = []
    by_name = is_place_by_place(root, names)
    parents = sorted({path.parent for name in names for path in named_after(root, name)}) if by_name else []
    for name in names:
        given = [*named_after(root, name)] if by_name else expand(product_folders(root / name, name), name)
        offsets = offsets_in(root if by_name else root / name)
        for one in scenes_of(given, name):
            place = made_up(one, parents.index(one.parent)) if by_name and isinstance(one, Path) else None
            try:
                stated = s2_bands if name == OPTICAL else ()
                offset = offsets.get(one.name, stated_offset)
                found[name].append(inspect_one(one, name, offset, stated, place, may_lack=MISSABLE))
            except InputError as error:
                left.append((one.name if isinstance(one, SceneFiles) else str(one), error))
    return Collected(found, left)


def lacking(files: Sequence[RasterFile]) -> tuple[int, tuple[str, ...]]:
    """How many files lack a band, and the bands that some file lacks."""
    short = [file for file in files if 0 in file.bands]
    bands = [SENSORS[file.sensor].bands for file in short][:1]
    lacks = {i for file in short for i, number in enumerate(file.bands) if not number}
    return len(short), tuple(band for own in bands for i, band in enumerate(own) if i in lacks)


def made_up(path: Path, number: int) -> GeoBox | None:
    """Where a chip without a CRS is taken to lie: at sea, every folder of chips in a place of its own.

    Chips of one folder are of one place, pixel by pixel. None if the file cannot be read.
    """
    try:
        with rasterio.open(path) as source:
            shape = source.shape
    except rasterio.errors.RasterioError:
        return None
    west, north = FIRST[0] + STEP * (number % 40), FIRST[1] - STEP * (number // 40)
    return GeoBox(shape, Affine(10, 0, west, 0, -10, north), NOWHERE)


def offsets_in(folder: Path) -> Mapping[str, int]:
    """Offsets of single files, from the table ``offsets.csv`` of a folder.

    Raises:
        InputError: If a line is not a file's name and 0 or -1000.
    """
    path, found = folder / OFFSETS, {}
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            if not row or row == ["file", "offset"]:
                continue
            if len(row) != 2 or row[1].strip() not in ("0", "-1000"):
                raise InputError(f"{path}: {','.join(row)!r} is not a file's name and 0 or -1000, such as a.tif,-1000")
            found[row[0].strip()] = int(row[1])
    return found


def in_metres(file: RasterFile, gsd_m: float) -> RasterFile:
    """A file in degrees with the UTM grid that chips are cut on; others as they are."""
    if not file.crs.geographic:
        return file
    middle = file.geobox.extent.to_crs(4326).geom.centroid
    crs = CRS(f"EPSG:{zone(middle.x, middle.y)}")
    return replace(file, chips=file.geobox.to_crs(crs, resolution=gsd_m))  # type: ignore[arg-type]  # numbers work, too


def zone(longitude: float, latitude: float) -> int:
    """EPSG code of the UTM zone of a place."""
    return (32600 if latitude >= 0 else 32700) + int((longitude + 180) // 6) % 60 + 1


def note(found: Collected, skipped: bool) -> None:
    """Say what was resampled, mixed or left out."""
    for name, files in found.files.items():
        if degrees := sum(file.crs.geographic for file in files):
            gsd = f"{SENSORS[name].gsd_m:g} m"
            say(f"{degrees} of {len(files)} {name} files are in degrees and are resampled to UTM, {gsd}")
        count, bands = lacking(files)
        if count:
            say(f"{count} of {len(files)} {name} files have no {', '.join(bands)}, which is left empty there")
        if nowhere := sum(file.geobox.crs == NOWHERE for file in files):
            say(f"{nowhere} of {len(files)} {name} files have no CRS; those of one folder are taken to be of one place")
        levels = found.levels(name)
        if len(levels) > 1:
            texts = ", ".join(f"{level} ({count})" for level, count in sorted(levels.items()))
            say(f"{name} files are of several levels, which are trained on alike: {texts}")
    if skipped and found.left_out:
        say(f"{len(found.left_out)} files cannot be used and are left out; --dry-run lists them")


def note_alone(files: Mapping[str, Sequence[RasterFile]], used: Collection[str]) -> None:
    """Say which files are of no scene, since no file of the other sensors overlaps them.

    Args:
        files: By sensor.
        used: Paths of those that are of a scene.
    """
    for name, own in files.items():
        if alone := [Path(file.path).name for file in own if file.path not in used]:
            shown = ", ".join(alone[:SHOWN]) + (", ..." if len(alone) > SHOWN else "")
            say(f"{len(alone)} of {len(own)} {name} files overlap none of the other sensors and are left out: {shown}")


def say(text: str) -> None:
    """Warn of something that was decided."""
    warnings.warn(text, Note, stacklevel=6)


def refuse(found: Collected, root: Path, needed: Sequence[str], skip: bool) -> None:
    """End if files cannot be used that were not to be skipped, or none can.

    Raises:
        InputError: The first problem, and how many more there are.
    """
    for name, files in found.files.items():
        if not files and not found.left_out:
            raise MissingFileError(f"{root / name} holds no file of {SENSORS[name].title}")
    if not found.left_out or (skip and all(found.files[name] for name in needed)):
        return
    _, first = found.left_out[0]
    more = len(found.left_out) - 1
    if not more:
        raise first
    hint = "geossl pretrain ... --dry-run lists them, data.skip=true leaves them out"
    raise type(first)(f"{first}; {more} more files cannot be used: {hint}")


def report(found: Collected) -> str:
    """What would be taken, file by file where there is something to say, and all that is left out."""
    lines = []
    for name, files in found.files.items():
        levels = ", ".join(f"{level} {count}" for level, count in sorted(found.levels(name).items()))
        lines.append(f"{name:<9} {len(files)} files taken ({levels or 'none'})")
        for reason, count in sorted(Counter(f"{f.reason}, offset {f.offset:g}" for f in files).items()):
            lines.append(f"{'':<9} {count} x {reason}")
        if degrees := sum(file.crs.geographic for file in files):
            lines.append(f"{'':<9} {degrees} in degrees, resampled to UTM")
        count, bands = lacking(files)
        if count:
            lines.append(f"{'':<9} {count} without {', '.join(bands)}, which is left empty")
        if nowhere := sum(file.geobox.crs == NOWHERE for file in files):
            lines.append(f"{'':<9} {nowhere} without a CRS: those of one folder are taken to be of one place")
    lines.append(f"left out  {len(found.left_out)} files")
    reasons: dict[str, list[str]] = {}
    for path, error in found.left_out:
        reasons.setdefault(str(error).replace(path, "").lstrip(": "), []).append(path)
    for reason, paths in reasons.items():
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        lines += [f"  {len(paths)} x {reason}", f"      {', '.join(paths[:SHOWN])}{more}"]
    if any("offset" in str(error) for _, error in found.left_out):
        lines.append(f"  (offsets of single files: a table {OFFSETS} beside them, with lines such as a.tif,-1000)")
    return "\n".join(lines)
