"""Airborne laser scans: LAS and LAZ files, and their points in a form from which any square is quickly cut.

Coordinates stay in float64 until they are relative to something near: float32 has steps of 0.5 m at 5,000 km north.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from geossl.data.listing import files_in
from geossl.data.points.ground import GroundSurface, ground_points
from geossl.data.points.las_crs import check_heights, parse_crs
from geossl.errors import GridError, InputError, MissingFileError, needs, possible
from geossl.grid import check_metre
from geossl.outputs import replacing

SAMPLE = Path(__file__).parents[1] / "sample_points"
SUFFIXES = {".las", ".laz"}
FEATURES = ("intensity", "return_ratio", "first", "last")
NOISE = (7, 18)  # ASPRS classes: low and high noise
BELOW_M, ABOVE_M = 5.0, 20.0  # beyond the 0.1 and 99.9 percent quantiles of height lie birds and echoes
LAS_12, LAS_14, RECORD = 227, 375, 54  # bytes: of headers, and the least of a record
FARTHEST = 1e9  # of a coordinate, in any unit
CHUNK = 2_000_000  # points read at a time
MOST_M = 200_000.0  # extent of a file; one that reaches farther has stray points, whose lattice would have no end
BIN_M = 4.0  # side of the squares points are sorted by

Bounds = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class LasFile:
    """What is known of a file before its points are used.

    Args:
        path: The file.
        bounds: Bounds of its points, in metres.
        count: Number of points.
        crs: Horizontal CRS, or None if the file has none.
        heights: Range outside of which points are taken for noise.
        brightness: Quantiles 2, 50 and 98 percent of log(1 + intensity), by which a file's uncalibrated numbers become
            comparable.
    """

    path: Path
    bounds: Bounds
    count: int
    crs: CRS | None
    heights: tuple[float, float]
    brightness: tuple[float, float, float]


def laspy() -> Any:
    """The module that reads LAS.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import laspy as module
    except ModuleNotFoundError:
        raise needs("points") from None
    return module


def find_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """LAS and LAZ files of a path, a folder (searched through), a list of these, or ``sample``.

    Raises:
        MissingFileError: If there is no such file.
    """
    if str(source) == "sample":
        source = SAMPLE
    given = [source] if isinstance(source, str | Path) else source
    found: list[Path] = []
    for path in (possible(entry, "scan") for entry in given):
        inside = files_in(path, SUFFIXES, deep=True) if path.is_dir() else [path]
        if not inside or not os.path.isfile(inside[0]):
            raise MissingFileError(f"{str(path)!r} is neither a .las or .laz file nor a folder that holds one")
        found += inside
    if not found:
        raise MissingFileError("no .las or .laz file was given")
    return found


def check_records(path: Path) -> None:
    """Refuse a header that claims more records than the file has room for, which would be read one by one.

    Raises:
        InputError: If it does.
    """
    try:
        with path.open("rb") as file:
            head = file.read(LAS_14)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if len(head) < LAS_12 or head[:4] != b"LASF":
        return  # laspy says what it is
    claimed = RECORD * int.from_bytes(head[100:104], "little")
    if len(head) == LAS_14 and head[25] >= 4:
        claimed += RECORD * int.from_bytes(head[243:247], "little")
    if claimed > path.stat().st_size:
        raise InputError(f"{path} has a damaged header, which claims more records than the file has room for")


def read_chunks(path: Path) -> Iterator[Any]:
    """Points of a file, part by part.

    Raises:
        InputError: If the file cannot be read, or is compressed and the decompressor is missing.
    """
    module = laspy()
    if path.suffix.lower() == ".laz" and not module.LazBackend.detect_available():
        raise InputError(f"{path} is compressed, which needs the package 'lazrs': pip install 'geossl[points]'")
    done, promised = 0, 0
    check_records(path)
    try:
        with module.open(path) as file:
            promised = int(file.header.point_count)
            if not (np.asarray(file.header.scales) != 0).all():
                raise ValueError("its header states a scale of 0, which puts all points at one place")
            for part in file.chunk_iterator(CHUNK):
                done += len(part)
                yield part
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # laspy raises many kinds, and a panic of lazrs is not an Exception
        raise InputError(
            f"{path} cannot be read as LAS ({' '.join(str(error).split())[:100]}); copy it again"
        ) from None
    if done != promised:
        raise InputError(f"{path} holds {done} of the {promised} points its header promises; copy it again")


def survey(path: Path) -> LasFile:
    """Read a file once for its quantiles.

    Raises:
        InputError: If it is unreadable or holds no points.
    """
    heights, brightness = [], np.zeros(65536, np.int64)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for part in read_chunks(path):
        xyz = [np.asarray(axis, dtype=np.float64) for axis in (part.x, part.y, part.z)]
        if not all((np.abs(axis) < FARTHEST).all() for axis in xyz):  # nor NaN
            raise InputError(f"{path} has coordinates that are no place on Earth; its header is damaged, copy it again")
        low, high = np.minimum(low, [x.min() for x in xyz]), np.maximum(high, [x.max() for x in xyz])
        heights.append(xyz[2].astype(np.float32))
        brightness += np.bincount(np.asarray(part.intensity), minlength=65536)
    with laspy().open(path) as file:
        header = file.header
        crs = parse_crs(header)
        check_heights(path, header)
    if not header.point_count:
        raise InputError(f"{path} holds no points")
    if (reach := float((high - low)[:2].max())) > MOST_M:
        raise InputError(
            f"{path} reaches over {reach / 1000:.4g} km; a scan of at most {MOST_M / 1000:.0f} km was expected: remove "
            "points that lie far off (pdal filters.crop), or split it"
        )
    bounds = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    least, most = np.quantile(np.concatenate(heights), [0.001, 0.999])
    place = np.searchsorted(brightness.cumsum(), np.array([0.02, 0.5, 0.98]) * header.point_count)
    a, b, c = np.log1p(place)
    span = (float(least) - BELOW_M, float(most) + ABOVE_M)
    return LasFile(path, bounds, int(header.point_count), crs, span, (float(a), float(b), float(c)))


def common_epsg(files: Sequence[LasFile], crs: int | None) -> int:
    """EPSG code files share.

    Args:
        files: Files that make one map.
        crs: Code the user states; wins.

    Raises:
        GridError: If files disagree, do not say, or are not in metres.
    """
    codes = {}
    try:
        stated = CRS.from_epsg(crs) if crs is not None else None
    except CRSError:
        raise GridError(f"crs={crs} is not a known EPSG code; for example 2154") from None
    for file in files:
        found = stated or file.crs
        if found is None:
            raise GridError(f"{file.path} does not say its CRS; state it, e.g. crs=2154")
        if not found.is_projected or abs(found.axis_info[0].unit_conversion_factor - 1) > 1e-9:
            unit = found.axis_info[0].unit_name
            raise GridError(f"{file.path} is in {unit} ({found.name}); reproject it to a CRS in metres first")
        west, south, east, north = file.bounds
        middle = Transformer.from_crs(found, 4326, always_xy=True).transform((west + east) / 2, (south + north) / 2)
        check_metre(found, shapely.Point(middle), str(file.path))
        code = found.to_epsg(min_confidence=70)
        if code is None:
            raise GridError(f"the CRS of {file.path} ({found.name}) has no EPSG code; state the code, e.g. crs=32631")
        codes[code] = file.path
    if len(codes) > 1:
        (a, one), (b, two) = list(codes.items())[:2]
        raise GridError(f"{one} is in EPSG:{a} and {two} in EPSG:{b}; reproject them to one CRS first")
    return int(next(iter(codes)))


@dataclass(frozen=True)
class Scan:
    """Points of one or several files, sorted by squares of 4 m and then by place, whatever their order in the files.

    Args:
        xyz: Metres, in the files' CRS.
        features: Numbers per point, in the order they were named.
        classes: LAS class.
        source: Number of the file, and of the point in the file.
        keys: Row and column of the square of every point, as one sorted number.
    """

    xyz: Float[ndarray, "n 3"]
    features: Float[ndarray, "n f"]
    classes: UInt8[ndarray, " n"]
    source: Int[ndarray, "n 2"]
    keys: Int[ndarray, " n"]

    @property
    def bounds(self) -> Bounds:
        """Bounds of the points, in metres."""
        (x0, y0, _), (x1, y1, _) = self.xyz.min(0), self.xyz.max(0)
        return float(x0), float(y0), float(x1), float(y1)

    @cached_property
    def ground(self) -> GroundSurface:
        """The ground, found without classes."""
        return GroundSurface(ground_points(self.xyz))

    def inside(self, bounds: Bounds) -> Int[ndarray, " k"]:
        """Numbers of the points of a rectangle, left and bottom edge included, in order of place."""
        left, bottom, right, top = bounds
        rows = np.arange(np.floor(bottom / BIN_M), np.ceil(top / BIN_M), dtype=np.int64)
        first = np.searchsorted(self.keys, key_of(rows, np.int64(np.floor(left / BIN_M))))
        last = np.searchsorted(self.keys, key_of(rows, np.int64(np.ceil(right / BIN_M))))
        ids = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)] or [np.zeros(0, np.int64)])
        x, y = self.xyz[ids, 0], self.xyz[ids, 1]
        return ids[(x >= left) & (x < right) & (y >= bottom) & (y < top)]


def key_of(row: Int[ndarray, " n"], column: Int[ndarray, "..."] | np.int64) -> Int[ndarray, " n"]:
    """Row and column as one number; columns reach from -2^31 to 2^31."""
    return row * 2**32 + column + 2**31


def read_scan(files: Sequence[LasFile], features: Sequence[str], bounds: Bounds | None = None) -> Scan:
    """Read points of files, without noise and withheld points.

    Args:
        files: Files as ``survey`` describes them.
        features: Names from ``FEATURES``: ``intensity`` (log, from the file's median, over its spread, within -2 to 2),
            ``return_ratio`` (number of the return over their count), ``first``, ``last`` (1 or 0).
        bounds: Only points of this rectangle.
    """
    found: list[list[ndarray]] = []
    for number, file in enumerate(files):
        if bounds is not None and not overlap(file.bounds, bounds):
            continue
        first = 0
        for part in read_chunks(file.path):
            xyz = np.column_stack([part.x, part.y, part.z]).astype(np.float64)
            classes = np.asarray(part.classification, dtype=np.uint8)
            keep = ~np.isin(classes, NOISE) & ~np.asarray(part.withheld, dtype=bool)
            keep &= (xyz[:, 2] >= file.heights[0]) & (xyz[:, 2] <= file.heights[1])
            if bounds is not None:
                keep &= (xyz[:, 0] >= bounds[0]) & (xyz[:, 0] < bounds[2])
                keep &= (xyz[:, 1] >= bounds[1]) & (xyz[:, 1] < bounds[3])
            ids = np.flatnonzero(keep)
            numbers = np.column_stack([np.full(len(ids), number), first + ids])
            found.append([xyz[ids], features_of(part, ids, features, file), classes[ids], numbers])
            first += len(keep)
    if not found:
        return sorted_scan(np.zeros((0, 3)), np.zeros((0, len(features)), np.float32), *EMPTY)
    xyz, values, classes, source = (np.concatenate(column) for column in zip(*found, strict=True))
    return sorted_scan(xyz, values, classes, source)


EMPTY = (np.zeros(0, np.uint8), np.zeros((0, 2), np.int64))


def overlap(a: Bounds, b: Bounds) -> bool:
    """Whether two rectangles share a point."""
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def features_of(part: Any, ids: Int[ndarray, " k"], features: Sequence[str], file: LasFile) -> Float[ndarray, "k f"]:
    """Features of some points of a part."""
    returns, number = (
        np.asarray(part[name])[ids].astype(np.float32) for name in ("number_of_returns", "return_number")
    )
    low, middle, high = file.brightness
    bright = np.log1p(np.asarray(part.intensity)[ids].astype(np.float32))
    known = {
        "intensity": np.clip((bright - middle) / max(high - low, 1e-6), -2, 2),
        "return_ratio": number / np.maximum(returns, 1),
        "first": number == 1,
        "last": number == returns,
    }
    return (
        np.stack([known[name] for name in features], axis=1).astype(np.float32)
        if features
        else np.zeros((len(ids), 0), np.float32)
    )


def sorted_scan(xyz: ndarray, features: ndarray, classes: ndarray, source: ndarray) -> Scan:
    """Points in the order of their squares, and of place within them."""
    row, column = (np.floor(xyz[:, i] / BIN_M).astype(np.int64) for i in (1, 0))
    keys = key_of(row, column)
    order = np.lexsort((xyz[:, 2], xyz[:, 1], xyz[:, 0], keys))
    return Scan(xyz[order], features[order], classes[order], source[order], keys[order])


def write_classes(source: Path, out: Path, classes: UInt8[ndarray, " n"], percent: UInt8[ndarray, " n"]) -> None:
    """Copy a scan with new classes and an extra dimension ``confidence``; renamed into place when whole.

    Args:
        source: File to copy; everything else stays as it is.
        out: ``.las`` or ``.laz``.
        classes: Per point.
        percent: Confidence; points with 0 keep the class they had.

    Raises:
        InputError: If the file's point format has no room for a class.
    """
    module = laspy()
    points = module.read(source)
    known = percent > 0
    if points.header.point_format.id < 6 and known.any() and classes[known].max() > 31:
        raise InputError(f"{source} has an old point format, whose classes end at 31; the model gives {classes.max()}")
    if "confidence" not in points.point_format.dimension_names:
        points.add_extra_dim(module.ExtraBytesParams("confidence", "u1", "class, percent; 0 = kept"))
    points.classification = np.where(known, classes, np.asarray(points.classification))
    points.confidence = percent
    with replacing(out) as temporary:
        points.write(temporary)
