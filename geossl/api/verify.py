"""Whether a map is what it claims to be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from geossl.api.source import Catalog, Rasters, by_period, given
from geossl.api.tokens import of_months
from geossl.data.periods import recorded_scenes
from geossl.errors import BandError, InputError, MissingFileError, possible
from geossl.inference.engine.plan import Plan, Shard
from geossl.inference.engine.source import Source
from geossl.inference.engine.verify import recorded
from geossl.inference.engine.verify import verify as compute
from geossl.models.files import EncoderFile
from geossl.progress import Progress
from geossl.rules import check_values, chosen, whole
from geossl.sensors import SENSORS


def verify(
    map: str | Path,
    *,
    encoder: str | Path = "croma_tiny",
    source: Rasters | Source | None = None,
    shards: int = 5,
    seed: int = 0,
    time: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Compute random shards of a map again from its recorded plan, and compare them byte by byte.

    The same machine and the same versions give the same bytes; another processor or another PyTorch may round
    differently and is then told as ``different``.

    Args:
        map: ``.zarr`` written by ``geossl embed``, with its ``.zarr.build`` folder beside it.
        encoder: The encoder it was made with.
        source: The files it was made from; by default those the plan names. Must be given if the files did not say
            their bands or offset by themselves.
        shards: How many; shards whose file is lost are among them.
        seed: Draws the shards.
        time: Of a map of several dates: that date alone, such as ``2023-06``.
        progress: Called as ``progress(done, wanted, "shards")``.

    Returns:
        A row per shard and layer: ``time`` (of a map of several dates), ``row``, ``column``, ``array``, ``result``
        (``equal``, ``lost``, ``damaged`` or ``different``), ``stored`` and ``made``, the CRC-32 of both files.

    Raises:
        InputError: If the map has no plan, or encoder or files are not those it was made with.
        RunError: If pixels cannot be read.
    """
    if not isinstance(shards, int) or isinstance(shards, bool) or shards < 1:
        raise InputError(f"shards={shards!r} is not a number of shards; use 1 or more")
    check_values(seed=seed)
    path, named_source = possible(map, "map"), given(source, {}, "verify")
    if isinstance(named_source, Catalog):
        raise InputError("verify: scenes are those that the plan names; leave source out, or give geossl.Rasters(...)")
    if not path.exists():
        raise MissingFileError(f"map {str(path)!r} does not exist")
    plan = recorded(path)
    if isinstance(named_source, Rasters) and "periods" in plan.metadata["source"]:
        named_source = by_period(named_source, plan.metadata["source"]["every"], period_of(plan.metadata["source"]))
    opened = named_source.source() if isinstance(named_source, Rasters) else named_source or named(plan, path)

    def report(done: int, wanted: int) -> None:
        if progress:
            progress(done, wanted, "shards")

    weights = EncoderFile.open(of_months(encoder, getattr(opened, "periods", ()))).path
    found = compute(path, plan, opened, weights, (shards, seed), among(plan, time, path), report)
    rows = [(*said(plan, c.shard), c.array, c.result, f"{c.stored:08x}", f"{c.made:08x}") for c in found]
    where = ["time", "row", "column"] if plan.times else ["row", "column"]
    return pd.DataFrame(rows, columns=[*where, "array", "result", "stored", "made"])


def among(plan: Plan, time: str | None, path: Path) -> list[Shard]:
    """Shards to draw from: all, or those of one date.

    Raises:
        InputError: If the map has no such date.
    """
    if time is None:
        return plan.shards
    if not plan.times:
        raise InputError(f"--time {time}: map {path} is of one image; leave it out")
    number = chosen(time, plan.times, plan.metadata["source"]["every"], f"map {path}")
    return [shard for shard in plan.shards if shard[0] == number]


def said(plan: Plan, shard: Shard) -> tuple[str | int, ...]:
    """A shard as a table has it: the name of its date, where there are several, row and column."""
    return (*(plan.times[time] for time in shard[:-2]), *shard[-2:])


def named(plan: Plan, path: Path) -> Source:
    """The source that a plan names.

    Raises:
        InputError: If a file is gone, or must be described again; or if scenes need a catalogue's signature.
    """
    recorded_source: dict[str, Any] = plan.metadata["source"]
    is_monthly = "periods" in recorded_source
    if set(recorded_source) <= {*SENSORS, "every", "periods", "parts"}:
        files: dict[str, Any] = {
            sensor: [f["path"] for f in inputs] for sensor, inputs in recorded_source.items() if sensor in SENSORS
        }
        files |= {"every": recorded_source["every"], "date": period_of(recorded_source)} if is_monthly else {}
        try:
            return Rasters(**files).source()
        except BandError as error:
            raise InputError(f"{error}; name the files of {path} as they were named then (--s1, --s2 ...)") from None
    from geossl.data.stac.composite import CatalogScenes  # lazy: catalogues are an extra

    if recorded_source.get("asks_again"):
        raise InputError(f"the scenes of {path} need signed addresses, which plans do not hold; fetch them and compare")
    return recorded_scenes(recorded_source) if is_monthly else CatalogScenes.from_json(recorded_source)


def period_of(described: Mapping[str, Any]) -> str:
    """First to last period of a source of several."""
    names, every = described["periods"], described["every"]
    return f"{names[0]}/{whole(names[-1], every)[1]}"
