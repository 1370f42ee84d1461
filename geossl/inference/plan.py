"""What a map is made of, written down before work starts: the same plan gives the same bytes."""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from geossl.errors import InputError, RunError
from geossl.grid import Lattice

Shard = tuple[int, int]  # row and column of a shard, counted from the map's north-west corner


@dataclass(frozen=True)
class Plan:
    """All that decides a map's values.

    Args:
        lattice: Where cells lie.
        top: First row of cells of the map.
        left: First column of cells of the map.
        rows: Rows of cells.
        columns: Columns of cells.
        cells: The cells that are computed: those the region touches.
        shard_cells: Side of a shard in cells.
        dtype: Of the stored numbers.
        facts: Region, source, encoder, settings: JSON values.
    """

    lattice: Lattice
    top: int
    left: int
    rows: int
    columns: int
    cells: tuple[tuple[int, int], ...]
    shard_cells: int
    dtype: str
    facts: dict[str, Any]

    @property
    def shards(self) -> list[Shard]:
        """Shards that hold a cell to compute, row by row."""
        s = self.shard_cells
        return sorted({((r - self.top) // s, (c - self.left) // s) for r, c in self.cells})

    @cached_property
    def cell_set(self) -> frozenset[tuple[int, int]]:
        """The cells, for look-up."""
        return frozenset(self.cells)

    def block(self, shard: Shard) -> tuple[int, int, int, int]:
        """First cell row and column of a shard, and how many of each it has."""
        s = self.shard_cells
        row, column = shard[0] * s, shard[1] * s
        return self.top + row, self.left + column, min(s, self.rows - row), min(s, self.columns - column)

    def to_json(self) -> dict[str, Any]:
        """Flat values to compare and to keep."""
        area: dict[str, Any] = {
            "epsg": self.lattice.epsg,
            "cell_patches": self.lattice.cell_patches,
            "patch_px": self.lattice.patch_px,
        }
        area |= {
            "gsd_m": self.lattice.gsd_m,
            "top": self.top,
            "left": self.left,
            "rows": self.rows,
            "columns": self.columns,
        }
        layout = {"shard_cells": self.shard_cells, "dtype": self.dtype}
        return json.loads(json.dumps({**area, **layout, "cells": self.cells, **self.facts}))

    @property
    def sha256(self) -> str:
        """Hash of all values."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


class BuildFolder:
    """Beside an output: its plan and a receipt per finished shard; never inside it, so that a store is pure data.

    Args:
        out: The output.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out.with_name(out.name + ".build")
        self.plan = self.path / "plan.json"
        self.receipts = self.path / "receipts"

    def check(self, plan: Plan, overwrite: bool) -> None:
        """Refuse to mix two plans in one output; writes nothing.

        Raises:
            InputError: Names the differing keys, or what stands in the way.
        """
        if overwrite:
            return
        if not self.plan.exists():
            if self.out.exists():
                raise InputError(
                    f"--out {self.out} exists and is not an unfinished map; choose another name, or --overwrite"
                )
            return
        before, now = json.loads(self.plan.read_text()), plan.to_json()
        if differing := [key for key in now | before if before.get(key) != now.get(key)]:
            raise InputError(
                f"--out {self.out} was begun with another {', '.join(differing)}; choose another --out, or --overwrite"
            )

    def begin(self, plan: Plan, overwrite: bool) -> bool:
        """Clear leftovers and make the folders; True if there is a plan to go on with."""
        if overwrite or not self.plan.exists():
            remove(self.out)
            remove(self.path)
        try:
            self.receipts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self.out} cannot be written ({error.strerror}); choose another place") from None
        return self.plan.exists()

    def done(self) -> dict[Shard, dict[str, Any]]:
        """Receipts by shard."""
        found = {}
        for path in self.receipts.glob("*.json"):
            row, column = path.stem.split("_")
            found[int(row), int(column)] = json.loads(path.read_text())
        return found

    def write(self, path: Path, values: dict[str, Any]) -> None:
        """Write JSON so that it is there whole or not at all."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(values, indent=1, sort_keys=True))
        os.replace(temporary, path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process from writing the same map.

        Raises:
            RunError: If another one is at it.
        """
        path = self.path / "lock"
        mine = f"{socket.gethostname()} {os.getpid()}"
        if path.exists():
            host, _, pid = path.read_text().partition(" ")
            if host != socket.gethostname() or (
                pid.isdigit() and Path(f"/proc/{pid}").exists() and int(pid) != os.getpid()
            ):
                raise RunError(f"{self.out} is being written by process {pid} on {host}; wait for it, or delete {path}")
        path.write_text(mine)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
