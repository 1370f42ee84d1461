"""What a map is made of, written down before work starts: the same plan gives the same bytes."""

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Bool
from odc.geo.geobox import GeoBox

from geossl.errors import InputError, RunError
from geossl.grid import Lattice
from geossl.inference.engine.geometry import Geometry
from geossl.outputs import read_note, remove, work_path, write_text

Shard = tuple[int, ...]  # row and column of a shard, from the map's north-west corner; of several dates, its date first
Task = tuple[Shard, ...]  # shards that are read and encoded together
MOST_EMPTY = 0.05  # share of a map's rows and columns that may lie before the region, for larger shards


@dataclass(frozen=True)
class Plan:
    """Everything that decides the values of a map.

    Args:
        lattice: Where cells lie.
        area: What is mapped, in the lattice's CRS: the cells it touches are computed, whole.
        shard_cells: Side of a shard in cells.
        phases: Embeddings per patch and axis; 1, or more for a finer map.
        dtype: Type of the stored numbers.
        metadata: Source, encoder, settings: JSON values.
        block_cells: Side in cells of the squares that are encoded at once, which lie on the lattice.
        times: Names of the dates of a map with a time axis, such as ``2023-06``; none of one image.
    """

    lattice: Lattice
    area: shapely.Geometry
    shard_cells: int
    phases: int
    dtype: str
    metadata: dict[str, Any]
    block_cells: int = 1
    times: tuple[str, ...] = ()

    @cached_property
    def extent(self) -> tuple[int, int, int, int]:
        """First row and column of the map's cells, and how many of each there are.

        Where that leaves little empty, a map begins where a shard of the lattice does, so that shards are whole blocks
        or parts of one; else it begins with its region, and blocks at the borders of shards are encoded in parts.
        """
        row, column, rows, columns = self.lattice.around(self.area)
        above, left = (
            empty_before(first, count, self.shard_cells, self.block_cells)
            for first, count in ((row, rows), (column, columns))
        )
        return row - above, column - left, rows + above, columns + left

    @cached_property
    def shards(self) -> list[Shard]:
        """Shards that hold a cell to compute, date by date and row by row."""
        touched = self.lattice.touched(self.area, *self.extent, step=self.shard_cells)
        places = [(int(r), int(c)) for r, c in np.argwhere(touched)]
        return [(t, *place) for t in range(len(self.times)) for place in places] if self.times else [*places]

    def time(self, shard: Shard) -> int | None:
        """Number of a shard's date; None in a map of one image."""
        return shard[0] if self.times else None

    def block(self, shard: Shard) -> tuple[int, int, int, int]:
        """First cell row and column of a shard, and how many of each it has."""
        (top, left, rows, columns), s = self.extent, self.shard_cells
        row, column = shard[-2] * s, shard[-1] * s
        return top + row, left + column, min(s, rows - row), min(s, columns - column)

    def blocks(self, shard: Shard) -> tuple[int, int, int, int]:
        """First cell row and column of the whole blocks a shard lies in, and how many cells of each they have."""
        (top, left, rows, columns), n = self.block(shard), self.block_cells
        first, start = top // n * n, left // n * n
        return first, start, -(-(top + rows) // n) * n - first, -(-(left + columns) // n) * n - start

    def tasks(self, shards: Iterable[Shard]) -> list[Task]:
        """Shards of a date by the blocks they lie in, so that a block is read and encoded once."""
        found: dict[tuple[int, ...], list[Shard]] = {}
        for shard in shards:
            found.setdefault((*shard[:-2], *self.blocks(shard)), []).append(shard)
        return [tuple(together) for together in found.values()]

    def inside(self, shard: Shard) -> tuple[slice, slice]:
        """Rows and columns of a shard's cells, counted from the corner of its blocks."""
        (top, left, rows, columns), (first, start, *_) = self.block(shard), self.blocks(shard)
        return slice(top - first, top - first + rows), slice(left - start, left - start + columns)

    def asked(self, task: Task) -> Bool[np.ndarray, "rows columns"]:
        """Which cells of a task's blocks are computed."""
        found = np.zeros(self.blocks(task[0])[2:], bool)
        for shard in task:
            found[self.inside(shard)] = self.cells(shard)
        return found

    def cells(self, shard: Shard) -> Bool[np.ndarray, "rows columns"]:
        """Which cells of a shard are computed."""
        return self.lattice.touched(self.area, *self.block(shard))

    def km2(self, shard: Shard) -> float:
        """Square kilometres of a shard that are computed."""
        return float(self.cells(shard).sum()) * (self.lattice.cell_m / 1000) ** 2

    @property
    def cell_side(self) -> int:
        """Embeddings along the side of a cell."""
        return self.lattice.cell_patches * self.phases

    @property
    def geobox(self) -> GeoBox:
        """Grid of the map's embeddings."""
        return self.lattice.patches(*self.extent, self.phases)

    @property
    def shape(self) -> Geometry:
        """Squares that are encoded at once."""
        cell_px = self.lattice.cell_patches * self.lattice.patch_px
        return Geometry(self.metadata.get("reach"), cell_px, self.block_cells, self.metadata["margin_px"])

    def to_json(self) -> dict[str, Any]:
        """Flat values to compare and to keep."""
        layout = {"shard_cells": self.shard_cells, "phases": self.phases, "dtype": self.dtype}
        layout |= {} if self.block_cells == 1 else {"block_cells": self.block_cells}
        layout |= {"times": list(self.times)} if self.times else {}
        area = {"area": shapely.to_wkb(self.area, hex=True)}
        return json.loads(json.dumps({**asdict(self.lattice), **area, **layout, **self.metadata}))

    @property
    def sha256(self) -> str:
        """Hash of all values."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def before_region(first: int, shard_cells: int, block_cells: int) -> int:
    """Cells from the border of a shard to the first cell of a region, if shards are parts of blocks or whole ones."""
    if block_cells % shard_cells == 0:
        return first % shard_cells
    return first % block_cells if shard_cells % block_cells == 0 else 0


def empty_before(first: int, count: int, shard_cells: int, block_cells: int) -> int:
    """Cells of a map before its region along an axis; none where it is one shard."""
    empty = before_region(first, shard_cells, block_cells)
    return empty if count > shard_cells and empty <= MOST_EMPTY * count else 0


def fitting_shard(lattice: Lattice, area: shapely.Geometry, block_cells: int) -> int:
    """Side in cells of the largest shard, at most a block, that leaves little of a map empty before its region."""
    row, column, rows, columns = lattice.around(area)
    if max(rows, columns) <= block_cells:
        return block_cells
    return next(
        side
        for side in range(block_cells, 0, -1)
        if block_cells % side == 0
        and all(
            count <= side or before_region(first, side, block_cells) <= MOST_EMPTY * count
            for first, count in ((row, rows), (column, columns))
        )
    )


class BuildFolder:
    """The plan and a marker per finished shard, beside an output and never inside it, so that a store is pure data.

    Args:
        out: The output.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = work_path(out)
        self.plan = self.path / "plan.json"
        self.receipts = self.path / "receipts"
        self.finished = self.path / "finished"

    def check(self, plan: Plan, overwrite: bool) -> None:
        """Refuse to mix two plans in one output; writes nothing.

        Raises:
            InputError: Names the differing keys, or what stands in the way.
        """
        if overwrite:
            if self.out.is_dir() and any(self.out.iterdir()) and not (self.out / "zarr.json").exists():
                raise InputError(f"--out {self.out} is a folder of something else, not a map; choose another name")
            return
        if not self.plan.exists():
            if self.out.exists() and not self.is_just_begun():
                raise InputError(
                    f"--out {self.out} exists and is not an unfinished map; choose another name, or --overwrite"
                )
            return
        before, now = read_plan(self.plan), plan.to_json()
        if differing := [key for key in now | before if before.get(key) != now.get(key)]:
            raise InputError(
                f"--out {self.out} was started with another {', '.join(differing)}; "
                "choose another --out, or --overwrite"
            )

    def is_just_begun(self) -> bool:
        """Whether an output was broken off before its plan was written, by a full disk or a kill."""
        return self.receipts.is_dir() and not any(self.receipts.iterdir()) and not self.finished.exists()

    def begin(self, plan: Plan, overwrite: bool) -> bool:
        """Clear leftovers and make the folders; True if there is a plan to resume."""
        try:
            if overwrite or not self.plan.exists():
                remove(self.out)
                remove(self.path)
            self.receipts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self.out} cannot be written ({error.strerror}); choose another place") from None
        return self.plan.exists()

    def done(self) -> set[Shard]:
        """Finished shards, from file names alone, so that a large map resumes quickly."""
        with os.scandir(self.receipts) as entries:
            names = [entry.name for entry in entries]
        found = (re.fullmatch(r"((?:\d{1,9}_){1,2}\d{1,9})\.json", name) for name in names)
        return {tuple(map(int, match[1].split("_"))) for match in found if match}

    def marker(self, shard: Shard) -> Path:
        """Where it is noted that a shard is finished."""
        return self.receipts / f"{'_'.join(map(str, shard))}.json"

    def has(self, shard: Shard) -> bool:
        """Whether a shard is finished."""
        return self.marker(shard).exists()

    def read(self, shard: Shard, totals: dict[str, int]) -> dict[str, tuple[int, int]]:
        """Read the receipt of a finished shard, once: there may be a million of them.

        Args:
            shard: The shard.
            totals: Patches with an embedding, ``patches``, and those each sensor was fed in, by its name; its own are
                added.

        Returns:
            Bytes and CRC-32 of its files by array; empty where geossl 0.1 made it.

        Raises:
            InputError: If it is damaged.
        """
        receipt = self.receipt(shard)
        for name in totals:
            totals[name] += receipt["patches"] if name == "patches" else receipt["fed"].get(name, 0)
        return {name: (size, crc) for name, (size, crc) in receipt.get("files", {}).items()}

    def receipt(self, shard: Shard) -> dict[str, Any]:
        """What was noted down of a finished shard.

        Raises:
            InputError: If it is damaged.
        """
        path = self.marker(shard)
        found = read_note(path)
        if not is_receipt(found):
            raise InputError(f"{path} is damaged; delete it, and the same command makes that shard again")
        return found

    def reopen(self, shards: Iterable[Shard]) -> None:
        """Count finished shards as missing again."""
        self.finished.unlink(missing_ok=True)
        for shard in shards:
            self.marker(shard).unlink(missing_ok=True)

    def write(self, path: Path, values: dict[str, Any]) -> None:
        """Write JSON so that it is there whole or not at all."""
        write_text(path, json.dumps(values, indent=1, sort_keys=True))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing the same map.

        Raises:
            RunError: If another process is writing it.
        """
        path = self.path / "lock"
        mine = f"{socket.gethostname()} {os.getpid()}"
        if path.exists():
            host, _, pid = (path.read_text() or mine).partition(" ")  # empty: left by a full disk
            if host != socket.gethostname() or (
                pid.isdigit() and Path(f"/proc/{pid}").exists() and int(pid) != os.getpid()
            ):
                raise RunError(f"{self.out} is being written by process {pid} on {host}; wait for it, or delete {path}")
        try:
            path.write_text(mine)
            yield
        finally:
            path.unlink(missing_ok=True)


def source_metadata(out: Path) -> dict[str, Any]:
    """Source that the plan of an unfinished output names; the same in the plan of every zone."""
    return begun(out).get("source", {})


def begun(out: Path) -> dict[str, Any]:
    """The plan of an output that was begun, of any zone; empty if there is none."""
    for build in (BuildFolder(out).plan, *sorted(out.with_suffix("").glob("*.build/plan.json"))):
        if build.exists():
            return read_plan(build)
    return {}


def read_plan(path: Path) -> dict[str, Any]:
    """Plan of an unfinished output.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict) or not isinstance(values.get("source"), dict):
        raise InputError(f"{path} is damaged, so this map cannot be resumed; choose another --out, or --overwrite")
    return values


def is_receipt(found: dict[str, Any]) -> bool:
    """Whether a note is one of a finished shard; by plain types, since there may be a million of them."""
    fed, files = found.get("fed"), found.get("files", {})
    return (
        type(found.get("patches")) is int
        and type(fed) is dict
        and all(type(count) is int for count in fed.values())
        and type(files) is dict
        and all(type(sums) is list and [*map(type, sums)] == [int, int] for sums in files.values())
    )
