"""Is a map what its plan says: some of its shards are computed anew and compared, byte by byte."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geossl.errors import InputError
from geossl.grid import Lattice
from geossl.inference.engine import store, workers
from geossl.inference.engine.encode import EncodeConfig
from geossl.inference.engine.plan import BuildFolder, Plan, Shard, read_plan
from geossl.inference.engine.run import Work, run_task
from geossl.inference.engine.source import Source
from geossl.inference.outputs import checksums
from geossl.models.files import EncoderFile

LATTICE = tuple(field.name for field in fields(Lattice))
LAYOUT = ("area", "shard_cells", "phases", "dtype", "block_cells", "times")


@dataclass(frozen=True)
class Checked:
    """A layer of a shard after it was computed anew.

    Args:
        shard: Row and column.
        array: Layer of the map.
        result: ``equal``; ``lost`` (its file is missing or cut short); ``damaged`` (its file is not what was written);
            ``different`` (its file is whole, but another computation gives other bytes).
        stored: CRC-32 of the file there is.
        made: CRC-32 of what was computed now.
    """

    shard: Shard
    array: str
    result: str
    stored: int
    made: int


def recorded(out: Path) -> Plan:
    """The plan of a finished map.

    Raises:
        InputError: If the map has none beside it, is not finished, or the plan was changed.
    """
    build = BuildFolder(out.absolute())
    if not (out / "zarr.json").is_file() or not build.plan.exists():
        raise InputError(
            f"map {out} cannot be verified: it needs a .zarr written by geossl embed, with {build.plan} beside it"
        )
    if not build.finished.exists():
        raise InputError(f"map {out} is not finished; run the geossl embed that began it again")
    values = read_plan(build.plan)
    try:
        lattice = Lattice(**{name: values[name] for name in LATTICE})
        layout: dict[str, Any] = {name: values[name] for name in LAYOUT[1:] if name in values}
        layout |= {"times": tuple(values["times"])} if "times" in values else {}
        metadata = {name: value for name, value in values.items() if name not in (*LATTICE, *LAYOUT)}
        plan = Plan(lattice, shapely.from_wkb(values["area"]), metadata=metadata, **layout)
        is_same = plan.to_json() == values
    except (KeyError, TypeError, ValueError, shapely.errors.ShapelyError):
        is_same = False
    if not is_same:
        raise InputError(f"{build.plan} is damaged or of another geossl, so this map cannot be verified")
    return plan


def verify(
    out: Path,
    plan: Plan,
    source: Source,
    encoder: Path,
    drawn: tuple[int, int],
    among: Sequence[Shard],
    report: Callable[[int, int], None],
) -> list[Checked]:
    """Compute random shards of a map anew, beside it, and compare their files; shards that lost one come first.

    Args:
        out: The map.
        plan: From ``recorded``.
        source: What the plan was made for.
        encoder: Its weight file.
        drawn: How many shards (all if there are no more), and the seed that says which.
        among: Shards to draw from.
        report: Gets done and wanted.

    Raises:
        InputError: If the source or the encoder are not what the plan names.
        RunError: If pixels cannot be read.
    """
    sha256 = EncoderFile.open(encoder).sha256
    now = {"encoder_sha256": sha256, "sensors": list(source.sensors), "source": source.describe()}
    for name, value in json.loads(json.dumps(now)).items():
        if plan.to_json()[name] != value:
            raise InputError(f"{name.split('_')[0]} is not what {out} was made with: {differing(plan, name, value)}")
    lost = {s for name, shards in checksums.lost_shards(out).items() if "/" not in name for s in shards}
    lost, (count, seed) = lost & set(among), drawn
    others = [shard for shard in among if shard not in lost]
    places = np.random.default_rng(seed).permutation(len(others))[: max(0, count - len(lost))]
    wanted = [*sorted(lost), *sorted(others[i] for i in places)]
    found: list[Checked] = []
    done = 0
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}.verify.", dir=out.absolute().parent) as folder:
        data = Path(folder) / "map.zarr"
        build = BuildFolder(data)
        build.receipts.mkdir(parents=True)
        config = EncodeConfig(10, plan.metadata["precision"], plan.metadata["valid_share"], workers.device())
        work = Work(plan, source, str(encoder.absolute()), data, build, config)
        store.create(data, plan, work.model().spec)
        for task in plan.tasks(wanted):  # shards of one block are read and encoded once
            run_task(work, task)
            done += len(task)
            found += [layer for shard in task for layer in compared(out, data, shard)]
            report(done, len(wanted))
    return found


def differing(plan: Plan, name: str, value: Any) -> str:
    """The first thing that is not as it was, in words."""
    before = plan.to_json()[name]
    if name != "source":
        return f"{before} then, {value} now"
    for sensor in sorted({*before, *value}):
        then, now = before.get(sensor), value.get(sensor)
        if then != now and isinstance(then, list) and isinstance(now, list):
            for old, new in zip(then, now, strict=False):
                if old != new and isinstance(old, dict):
                    keys = [key for key in old if old[key] != new.get(key)]
                    return f"{old.get('path') or old.get('id')} has another {', '.join(keys)}"
            return f"{len(then)} {sensor} inputs then, {len(now)} now"
    return "other scenes or settings; name the same --s1, --s2 or --date"


def compared(out: Path, made: Path, shard: Shard) -> Sequence[Checked]:
    """Files of a shard of two stores."""
    tables, found = checksums.read_sums(out), []
    for array, (size, crc) in checksums.sums_of(made, shard).items():
        there = checksums.crc_of(checksums.shard_file(out, array, shard))
        written = tuple(int(n) for n in tables[array][shard]) if array in tables else there
        if there == (size, crc):
            result = "equal"
        elif there[0] != written[0]:
            result = "lost"
        else:
            result = "different" if there == written else "damaged"
        found.append(Checked(shard, array, result, there[1], crc))
    return found
