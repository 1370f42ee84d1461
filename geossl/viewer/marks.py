"""What a user has labelled on a map: classes, and squares of whole patches; saved on every change."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from jaxtyping import Int
from numpy import ndarray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import rasterize

from geossl.data.labels.colours import class_colours
from geossl.errors import InputError
from geossl.outputs import check_output, replacing
from geossl.vector_files import read_features

COLUMN = "class"
LAYER = "labels"
MOST_CLASSES = 20
MOST_LABELS = 5000
MOST_NAME = 60  # letters of a class
STEPS = 200  # that can be undone
Corner = tuple[float, float]  # longitude, latitude


@dataclass(frozen=True)
class State:
    """Labels at one moment; never changed, only replaced.

    Args:
        classes: Names in the order of their keys; some may have no label yet.
        frame: Polygons with the column ``class``, in the CRS of the map; no two of those drawn here overlap.
    """

    classes: tuple[str, ...]
    frame: gpd.GeoDataFrame


class Marks:
    """Labels on the patches of a map, in a GeoPackage that ``geossl finetune --map`` reads.

    Args:
        path: ``.gpkg``; one that is there is gone on with.
        geobox: Grid of the map's patches.

    Raises:
        InputError: If the file cannot be written, or does not hold polygons with a column ``class``.
    """

    def __init__(self, path: Path, geobox: GeoBox) -> None:
        check_output(path, (".gpkg",), option="--label")
        self.path, self.geobox, self.crs = path, geobox, str(geobox.crs)
        self.past: deque[State] = deque(maxlen=STEPS)
        empty = gpd.GeoDataFrame({COLUMN: np.array([], dtype=object)}, geometry=[], crs=self.crs)
        self.state = self.read() if path.exists() else State((), empty)
        self.version = 0

    def read(self) -> State:
        """Labels of the file."""
        frame = read_features(self.path, "--label")
        kinds = set(frame.geom_type.dropna())
        if COLUMN not in frame or frame.crs is None or not kinds <= {"Polygon", "MultiPolygon"}:
            raise InputError(f"--label {self.path} must hold polygons with a column {COLUMN!r} and a CRS, or not exist")
        frame = frame[frame.geometry.notna() & ~frame.geometry.is_empty].to_crs(self.crs).reset_index(drop=True)
        names = [None if pd.isna(value) else checked_name(str(value)) for value in frame[COLUMN]]
        classes = tuple(dict.fromkeys(name for name in names if name is not None))
        if len(classes) > MOST_CLASSES or len(frame) > MOST_LABELS:
            raise InputError(
                f"--label {self.path} holds {len(frame)} labels of {len(classes)} classes; the page takes "
                f"{MOST_LABELS} of {MOST_CLASSES}"
            )
        return State(classes, frame.assign(**{COLUMN: np.array(names, dtype=object)}))

    def change(self, state: State) -> None:
        """Save a new state, then make it the present one; the old one can be gone back to."""
        self.save(state)
        self.past.append(self.state)
        self.state, self.version = state, self.version + 1

    def undo(self) -> None:
        """Go back by one change.

        Raises:
            InputError: If there is none.
        """
        if not self.past:
            raise InputError("nothing to undo")
        self.save(self.past[-1])
        self.state, self.version = self.past.pop(), self.version + 1

    def save(self, state: State) -> None:
        """Write the file whole; a killed write leaves the old one."""
        with replacing(self.path) as temporary:
            temporary.unlink(missing_ok=True)
            kind: Any = {"driver": "GPKG", "layer": LAYER, "engine": "pyogrio", "promote_to_multi": True}
            state.frame.to_file(temporary, geometry_type="MultiPolygon", **kind)

    def name(self, name: str) -> None:
        """Add a class."""
        name, known = checked_name(name), self.state.classes
        if name in known:
            raise InputError(f"there is a class {name!r} already")
        if len(known) == MOST_CLASSES:
            raise InputError(f"there are {MOST_CLASSES} classes, which is the most")
        self.change(State((*known, name), self.state.frame))

    def rename(self, old: str, new: str) -> None:
        """Give a class another name; that of another class joins the two."""
        self.require(old)
        new, frame = checked_name(new), self.state.frame
        classes = tuple(dict.fromkeys(new if name == old else name for name in self.state.classes))
        column = frame[COLUMN].where(frame[COLUMN] != old, new)
        self.change(State(classes, frame.assign(**{COLUMN: column})))

    def add(self, name: str, first: Corner, second: Corner) -> None:
        """Label the patch or patches between two corners; what was there before gives way."""
        self.require(name)
        square = self.square(first, second)
        row = gpd.GeoDataFrame({COLUMN: np.array([name], dtype=object)}, geometry=[square], crs=self.crs)
        kept = without(self.state.frame, square)
        if len(kept) >= MOST_LABELS:
            raise InputError(f"there are {MOST_LABELS} labels, which is the most; drag rectangles over alike ground")
        frame = pd.concat([kept, row], ignore_index=True) if len(kept) else row
        self.change(State(self.state.classes, frame))

    def erase(self, first: Corner, second: Corner) -> None:
        """Take labels off the patches between two corners."""
        kept = without(self.state.frame, self.square(first, second))
        if kept is self.state.frame:
            raise InputError("there is no label to take away")
        self.change(State(self.state.classes, kept))

    def require(self, name: str) -> None:
        """Refuse a class that is not there."""
        if name not in self.state.classes:
            raise InputError(f"there is no class {name!r}; add it first")

    def square(self, first: Corner, second: Corner) -> shapely.Polygon:
        """Outline of the patches whose centres lie between two corners; at least of the patch between them.

        Raises:
            InputError: If it lies outside the map.
        """
        to_map = Transformer.from_crs(4326, self.crs, always_xy=True)
        ends = [~self.geobox.transform @ to_map.transform(*corner) for corner in (first, second)]
        spans = [slice(max(0, low), min(size, high)) for low, high, size in spans_of(ends, self.geobox.shape)]
        if any(span.start >= span.stop for span in spans):
            raise InputError("that place lies outside the map")
        outline: shapely.Polygon = self.geobox[tuple(spans)].extent.geom
        return outline

    def numbers(self) -> Int[ndarray, "h w"]:
        """Per patch, the row of the label its centre lies in, from 1; 0 where there is none."""
        frame = self.state.frame
        shapes = [(shape, i + 1) for i, shape in enumerate(frame.geometry) if frame[COLUMN][i] is not None]
        out = np.zeros(self.geobox.shape, np.int32)
        if shapes:
            rasterize(shapes, out=out, transform=self.geobox.transform)
        return out

    def codes(self) -> Int[ndarray, " n"]:
        """Per label, the number of its class; -1 where it has none."""
        place = {name: i for i, name in enumerate(self.state.classes)}
        return np.array([place.get(name, -1) for name in self.state.frame[COLUMN]], np.int64)

    def describe(self) -> dict[str, Any]:
        """Classes and labels as JSON values; outlines in longitude and latitude."""
        codes, patches = self.codes(), np.bincount(self.numbers().ravel(), minlength=len(self.state.frame) + 1)[1:]
        classes = [
            {
                "name": name,
                "colour": colour,
                "labels": int((codes == i).sum()),
                "patches": int(patches[codes == i].sum()),
            }
            for i, (name, colour) in enumerate(zip(self.state.classes, self.colours(), strict=True))
        ]
        shapes = self.state.frame.geometry.to_crs(4326)
        labels = [
            {"class": int(code), "shape": shapely.geometry.mapping(shape)}
            for code, shape in zip(codes, shapes, strict=True)
            if code >= 0
        ]
        return {
            "file": str(self.path),
            "version": self.version,
            "classes": classes,
            "labels": labels,
            "undo": bool(self.past),
        }

    def colours(self) -> Sequence[str]:
        """One per class."""
        return class_colours(self.state.classes)


def spans_of(ends: Sequence[Any], shape: Sequence[int]) -> list[tuple[int, int, int]]:
    """First row and the one behind the last between two places, and how many rows there are; likewise columns."""
    found = []
    for axis, size in ((1, shape[0]), (0, shape[1])):
        low, high = sorted(float(end[axis]) for end in ends)
        if not math.isfinite(low + high):
            raise InputError("that place lies outside the map")
        first, behind = round(low), round(high)
        if behind <= first:
            first = math.floor((low + high) / 2)
            behind = first + 1
        found.append((first, behind, size))
    return found


def without(frame: gpd.GeoDataFrame, square: shapely.Polygon) -> gpd.GeoDataFrame:
    """Labels without what lies in a square; the same frame where nothing does."""
    inner = square.buffer(-1e-3 * math.sqrt(square.area))  # neighbours that share a border stay as they are
    if not (hit := frame.geometry.intersects(inner)).any():
        return frame
    left = frame.geometry.where(~hit, frame.geometry.difference(square))
    left = left.map(polygons_of)
    return frame.assign(geometry=left)[~left.is_empty].set_crs(frame.crs, allow_override=True).reset_index(drop=True)


def polygons_of(shape: Any) -> Any:
    """The areas of a shape, without the lines that a difference can leave."""
    if shape.geom_type in ("Polygon", "MultiPolygon"):
        return shape
    return shapely.MultiPolygon([part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"])


def checked_name(name: str) -> str:
    """A name of a class, without space around it.

    Raises:
        InputError: If it is empty, too long, or holds signs that cannot be seen.
    """
    found = " ".join(name.split(" ")).strip()
    if not found or len(found) > MOST_NAME or not found.isprintable():
        raise InputError(f"a class needs a name of 1 to {MOST_NAME} letters, not {name[:MOST_NAME]!r}")
    return found
