"""Sizes and CRC-32 of a map's shard files, kept inside the map: a lost or damaged shard is named, never read as nodata.

A Zarr reader takes a missing shard for fill values and does not notice a flipped byte. So a finished map holds a group
``checksums`` with an array per sharded array, ``(row, column, 2)``: bytes and CRC-32 of each shard file, zeros where a
shard holds fill values only and has no file. Of a map of several dates it is ``(time, row, column, 2)``.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int
from numpy import ndarray
from zarr.storage import LocalStore

from geossl.errors import InputError
from geossl.inference.outputs.description import TIME, described
from geossl.outputs import remove

GROUP = "checksums"
Shard = tuple[int, ...]  # row and column, of a map of several dates its date first
Sums = Mapping[str, tuple[int, int]]  # by array: bytes and CRC-32 of a shard's file
Table = Int[ndarray, "*t r c 2"]  # of all shards of an array
BLOCK = 1 << 20


def shard_file(path: Path, array: str, shard: Shard) -> Path:
    """File of a shard of an array ``(y, x)`` or ``(embedding, y, x)``, before which there may be ``time``."""
    lead = [0] if array.endswith("embeddings") else []
    return path.joinpath(array, "c", *map(str, [*shard[:-2], *lead, *shard[-2:]]))


def crc_of(file: Path) -> tuple[int, int]:
    """Bytes and CRC-32 of a file; zeros if there is none."""
    size = crc = 0
    try:
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                size, crc = size + len(block), zlib.crc32(block, crc)
    except FileNotFoundError:
        return 0, 0
    return size, crc


def size_of(file: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return os.stat(file).st_size
    except FileNotFoundError:
        return 0


def sums_of(path: Path, shard: Shard, names: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """Sizes and checksums of the files a shard was just written to, of all sharded arrays or of some."""
    return {name: crc_of(shard_file(path, name, shard)) for name in names or sharded(path)}


def of_shards(
    path: Path, shards: Iterable[Shard], written: Callable[[Shard], Sums], failed: Set[Shard]
) -> tuple[dict[str, Table], list[Shard]]:
    """Checksums of a map's shard files, as their markers have them, and the shards that have lost a file since.

    Args:
        path: The map.
        shards: All of it.
        written: What the marker of a shard says, which is asked once; empty where geossl 0.1 made it.
        failed: Shards without a file.

    Returns:
        A table per array, as ``read_sums`` gives it: a million shards take 64 MB.
    """
    root: Any = zarr.open_group(str(path), mode="r")
    tables = {name: np.zeros((*grid_of(root[name]), 2), np.int64) for name in sharded(path)}
    lost = []
    for shard in shards:
        if shard in failed:
            continue
        sums = written(shard)
        for name, table in tables.items():
            file = shard_file(path, name, shard)
            size, crc = sums[name] if name in sums else crc_of(file)
            table[shard] = size, crc
            if size != size_of(file):
                lost.append(shard)
                break
    return tables, lost


def sharded(path: Path, group: str = "") -> list[str]:
    """Names of the sharded arrays of a group of a store."""
    root: Any = zarr.open_group(str(path / group if group else path), mode="r")
    return [f"{group}/{name}" if group else name for name, array in root.arrays() if array.shards is not None]


def write_sums(path: Path, tables: Mapping[str, Table]) -> None:
    """Keep the checksums of a finished map, those of its overviews included, inside it.

    Args:
        path: The map.
        tables: From ``of_shards``.
    """
    remove(
        path / GROUP
    )  # whole or in parts, as a full disk leaves it: Zarr sees a group only where its zarr.json is whole
    root: Any = zarr.open_group(str(path), mode="r+")
    for name, table in tables.items():
        keep(root, name, table)
    level = 1
    while f"overviews/{level}" in root:
        for name in sharded(path, f"overviews/{level}"):
            table = np.zeros((*grid_of(root[name]), 2), np.int64)
            for at in np.ndindex(*table.shape[:-1]):
                table[at] = crc_of(shard_file(path, name, at))
            keep(root, name, table)
        level += 1


def grid_of(array: Any) -> tuple[int, ...]:
    """Dates, where it has any, and shard rows and columns of an array."""
    counts = [-(-n // s) for n, s in zip(array.shape, array.shards, strict=True)]
    has_time = array.metadata.dimension_names[0] == TIME
    return tuple((counts[:1] if has_time else []) + counts[-2:])


def keep(root: Any, name: str, table: Table) -> None:
    """Write the table of one array."""
    axes = ("shard_row", "shard_column", "sum") if table.ndim == 3 else (TIME, "shard_row", "shard_column", "sum")
    array = root.create_array(f"{GROUP}/{name}", shape=table.shape, dtype="int64", dimension_names=axes)
    array[...] = table
    array.attrs["long_name"] = "bytes and CRC-32 of each shard file"


def read_sums(path: Path) -> dict[str, Table]:
    """Tables of a finished map by array; empty for a map that has none, as those of geossl 0.1 do."""
    if not (path / GROUP / "zarr.json").exists():
        return {}
    root: Any = zarr.open_group(str(path / GROUP), mode="r", use_consolidated=False)
    tables = {name: member for name, member in root.members(max_depth=None) if isinstance(member, zarr.Array)}
    return {name: np.asarray(member[...]) for name, member in tables.items()}


def lost(path: Path, table: Table, name: str) -> list[Shard]:
    """Shards of an array whose file is missing or of another size; looks at folders and sizes only."""
    *times, height, width = table.shape[:-1]
    sizes = np.zeros(table.shape[:-1], np.int64)
    for time in np.ndindex(*times):
        for row in entries(shard_file(path, name, (*time, 0, 0)).parents[1]):
            for column in entries(row):
                r, c = int(row.name), int(column.name)
                if r < height and c < width:
                    sizes[(*time, r, c)] = column.stat().st_size
    return [tuple(at) for at in np.argwhere((sizes != table[..., 0]) & (table[..., 0] > 0)).tolist()]


def lost_shards(path: Path) -> dict[str, list[Shard]]:
    """Shards of a finished map that have lost a file, by array, those of its overviews included."""
    found = {name: lost(path, table, name) for name, table in read_sums(path).items()}
    return {name: shards for name, shards in found.items() if shards}


def entries(folder: str | Path | os.DirEntry[str]) -> Iterable[os.DirEntry[str]]:
    """Numbered entries of a folder; none if it is missing."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if entry.name.isdecimal()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def damage(path: Path, name: str, shard: Shard, what: str) -> InputError:
    """One line on a shard that cannot be trusted."""
    return InputError(
        f"map {path} is damaged: shard {', '.join(map(str, shard))} of {name!r} {what}; delete "
        f"{shard_file(path, name, shard)} if it is there and run the geossl embed that made the map again, which makes "
        "just that shard anew, or copy the map again"
    )


class CheckedStore(LocalStore):
    """A map on disk whose shard files are compared with their checksums the first time each of them is read.

    Args:
        root: The ``.zarr`` folder.
        read_only: As for every Zarr store; maps are only read through this one.

    Raises:
        InputError: If a shard file is missing or of another size; later, when a file that was changed is read.
    """

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self.tables = described(str(root), lambda: read_sums(self.root), is_there=True)
        self.good: set[str] = set()
        for name, shards in described(str(root), lambda: lost_shards(self.root), is_there=True).items():
            raise damage(self.root, name, shards[0], "is missing or cut short")

    def check(self, key: str) -> None:
        """Compare a shard file with its checksum, once."""
        name, marker, place = key.partition("/c/")
        if key in self.good or not marker or name not in self.tables:
            return
        numbers, table = [int(n) for n in place.split("/")], self.tables[name]
        shard = (*numbers[: table.ndim - 3], *numbers[-2:])
        size, crc = table[shard]
        if size and crc_of(self.root / key) != (size, crc):
            raise damage(self.root, name, shard, "holds other bytes than were written")
        self.good.add(key)

    async def get(self, key: str, *arguments: Any, **named: Any) -> Any:
        """A value, after its file was checked."""
        self.check(key)
        return await super().get(key, *arguments, **named)

    def get_sync(self, key: str, **named: Any) -> Any:
        """As ``get``, for readers that do not wait."""
        self.check(key)
        return super().get_sync(key, **named)  # type: ignore[misc, unused-ignore]  # since zarr 3.1.6


def checked(path: str | Path) -> CheckedStore | str:
    """What to hand to Zarr and xarray in place of a map's path: local maps are checked as they are read."""
    return CheckedStore(Path(path)) if (Path(path) / "zarr.json").is_file() else str(path)
