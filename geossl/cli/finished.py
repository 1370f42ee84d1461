"""Verbs that ask finished maps: vectors at points, what changed, and whether a map is what its plan gives."""

from pathlib import Path
from typing import Any

import click

from geossl.cli.options import asks_files, early, with_files
from geossl.cli.progress import line
from geossl.errors import InputError, RunError


@click.command()
@click.argument("map")
@click.argument("points")
@click.option("--radius-m", default=0.0, show_default=True, help="Average the patches so near; 0 = the point's own.")
@click.option("--out", default="samples.parquet", show_default=True, help="Table: .parquet, .csv or .gpkg.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def sample(map: str, points: str, radius_m: float, out: str, overwrite: bool) -> None:
    """Take the vectors of MAP at POINTS: a .csv or .parquet with lon and lat, or a vector file of points.

    A row per point, its own columns first; then valid, sensors, date, row, column, and the vector as e000, e001, ...
    """
    early({"map": map})
    from geossl.api.sample import sample as sampled  # lazy: see embed

    found = sampled(map, points, radius_m=radius_m, out=out, overwrite=overwrite)
    click.echo(f"table      {out}  {len(found)} points, {int((found['row'] >= 0).sum())} on the map")


@click.command()
@click.argument("before")
@click.argument("after")
@click.argument("others", nargs=-1, metavar="[STABLE]...")
@click.option(
    "--false-alarms",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 0.5, min_open=True),
    help="Share of unchanged patches taken for changed.",
)
@click.option(
    "--strata", default=1, show_default=True, type=click.IntRange(1, 100), help="Kinds of ground with their own level."
)
@click.option("--out", default="change.tif", show_default=True, help="COG; places, table, picture go beside it.")
@click.option("--seed", default=0, show_default=True, help="Of the strata and the sample.")
@click.option("--overwrite", is_flag=True, help="Replace OUT and what is beside it.")
def change(before: str, after: str, others: tuple[str, ...], out: str, **options: Any) -> None:
    """Find what changed between two maps, BEFORE and AFTER, of one encoder and place.

    STABLE are maps of days near one of the two, between which nothing changed: they show how far unchanged ground
    differs, and so what a false alarm is. Without one the bulk of the two maps stands in, by the normal distribution.
    Patches are compared that are valid in both and were made from the same sensors.

    \b
    geossl change 2020-06.zarr 2021-07-16.zarr 2021-07-21.zarr --out change.tif
    """
    for path in (before, after, *others):
        early({"map": path})
    from geossl.api import change as changes  # lazy: see embed

    found = changes.change(before, after, *others, out=out, progress=line("change"), **options)
    click.echo(changes.summary(found, Path(out)))


@click.command()
@click.argument("map")
@click.option("--encoder", default="croma_tiny", show_default=True, help="The encoder that MAP was made with.")
@asks_files
@click.option("--shards", default=5, show_default=True, type=click.IntRange(1), help="Shards to compute again.")
@click.option("--seed", default=0, show_default=True, help="Seed of the draw of shards.")
def verify(map: str, **options: Any) -> None:
    """Compute some shards of MAP again from its recorded plan, and compare them byte by byte.

    Files are those the plan names unless --s1, --s2 ... say otherwise. A shard whose file was lost or damaged is made
    anew by the geossl embed that made the map.
    """
    options = with_files(early({"map": map, **options}))
    if "source" not in options and options.pop("s2_offset") is not None:
        raise InputError("--s2-offset does nothing without --s2 files; leave it out")
    from geossl.api.verify import verify as verified  # lazy: see embed

    found = verified(progress=line("verify"), **options)
    bad = found[found["result"] != "equal"]
    for _, row in bad.iterrows():
        click.echo(
            f"shard {row['row']}, {row['column']}  {row['array']}: {row['result']}  {row['stored']} {row['made']}"
        )
    count = len(found.drop_duplicates(["row", "column"]))
    if len(bad):
        raise RunError(f"{len(bad)} of {len(found)} layers of {count} shards are not what the plan gives")
    click.echo(f"verified   {map}  {count} shards, {len(found)} layers: equal")
