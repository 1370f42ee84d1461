"""Verbs that ask finished maps: vectors at points, what changed, is a map what its plan gives, a page of it."""

import signal
from pathlib import Path
from typing import Any

import click

from geossl.cli.options import asks_files, asks_time, early, typed, with_files
from geossl.cli.progress import line
from geossl.errors import InputError, RunError


@click.command()
@click.argument("map")
@click.argument("points")
@click.option("--radius-m", default=0.0, show_default=True, help="Average the patches so near; 0 = the point's own.")
@asks_time
@click.option("--out", default="samples.parquet", show_default=True, help="Table: .parquet, .csv or .gpkg.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def sample(map: str, points: str, out: str, **options: Any) -> None:
    """Take the vectors of MAP at POINTS: a .csv or .parquet with lon and lat, or a vector file of points.

    A row per point, its own columns first; then valid, sensors, date, row, column, and the vector as e000, e001, ...
    """
    early({"map": map})
    from geossl.api.sample import sample as sampled  # lazy: see embed

    found = sampled(map, points, out=out, **options)
    rows = "rows" if "time" in found else "points"
    click.echo(f"table      {out}  {len(found)} {rows}, {int((found['row'] >= 0).sum())} on the map")


@click.command()
@click.argument("map_paths", metavar="MAP...", nargs=-1, required=True)
@click.option("--to", required=True, help="A point lon,lat, or a vector file of points and polygons.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Places to list.")
@click.option(
    "--out",
    default="similarity.tif",
    show_default=True,
    help="COG, places beside it; or places.geojson.",
)
@asks_time
def similar(map_paths: tuple[str, ...], to: str, top: int, out: str, time: str | None) -> None:
    """Find where MAP looks like a place: a similarity raster and the best places.

    Files named like the outputs are replaced. A raster reads the whole map; places alone come from an index beside it,
    map.index, which the first search makes. Of several maps of one encoder the best places of all are given (.geojson).
    """
    for path in map_paths:
        early({"map": path})
    from geossl.api import similar as similarity  # lazy: see embed

    written = similarity.similar_map(map_paths, to, top=top, out=out, time=time)
    if written.suffix != ".geojson":
        click.echo(f"similarity  {written}")
    click.echo(f"places      {written.with_suffix('.geojson')}")


@click.command()
@click.argument("before")
@click.argument("after", required=False)
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
@click.option("--model", help="Of geossl finetune --pair: its classes or amounts, in place of the distance.")
@click.option("--time", metavar="DATES", help="Of maps with a time axis: 2023-03,2023-09; one map will do.")
@click.option("--out", default="change.tif", show_default=True, help="COG; places, table, picture go beside it.")
@click.option("--seed", default=0, show_default=True, help="Of the strata and the sample.")
@click.option("--overwrite", is_flag=True, help="Replace OUT and what is beside it.")
def change(before: str, after: str | None, others: tuple[str, ...], out: str, **options: Any) -> None:
    """Find what changed between two maps, BEFORE and AFTER, of one encoder and place.

    STABLE are maps of days near one of the two, between which nothing changed: they show how far unchanged ground
    differs, and so what a false alarm is. Without one the bulk of the two maps stands in, by the normal distribution.
    Patches are compared that are valid in both and were made from the same sensors.

    \b
    geossl change 2020-06.zarr 2021-07-16.zarr 2021-07-21.zarr --out change.tif
    geossl change months.zarr --time 2023-03,2023-09
    geossl finetune --pair A.zarr B.zarr --labels changes.gpkg --column class
    geossl change A.zarr B.zarr --model model.safetensors
    """
    maps = [path for path in (before, after, *others) if path is not None]
    for path in maps:
        early({"map": path})
    if (model := options.pop("model")) is not None:
        both = (before, before if after is None else after)
        kept = {"out": out, "time": options["time"], "overwrite": options["overwrite"]}
        tell_change(both, others, early({"model": model})["model"], kept)
        return
    from geossl.api import change as changes  # lazy: see embed

    found = changes.change(*maps, out=out, progress=line("change"), **options)
    click.echo(changes.summary(found, Path(out)))


def tell_change(maps: tuple[str, str], others: tuple[str, ...], model: str, kept: dict[str, Any]) -> None:
    """Classes or amounts of a model of change."""
    idle = [f"--{name.replace('_', '-')}" for name in typed("false_alarms", "strata", "seed")]
    if idle or others:
        raise InputError(f"{idle[0] if idle else others[0]} does nothing beside --model; leave it out")
    from geossl.api.segment import files, run  # lazy: see embed

    click.echo(files.summary(run.segment(map=maps, model=model, **kept)))


@click.command()
@click.argument("map")
@click.option("--encoder", default="croma_tiny", show_default=True, help="The encoder that MAP was made with.")
@asks_files
@click.option("--shards", default=5, show_default=True, type=click.IntRange(1), help="Shards to compute again.")
@asks_time
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
    bad, where = found[found["result"] != "equal"], [n for n in ("time", "row", "column") if n in found]
    for _, row in bad.iterrows():
        click.echo(
            f"shard {', '.join(str(row[name]) for name in where)}  {row['array']}: {row['result']}  "
            f"{row['stored']} {row['made']}"
        )
    count = len(found.drop_duplicates(where))
    if len(bad):
        raise RunError(f"{len(bad)} of {len(found)} layers of {count} shards are not what the plan gives")
    click.echo(f"verified   {map}  {count} shards, {len(found)} layers: equal")


@click.command()
@click.argument("map_path", metavar="MAP")
@click.option("--layer", "layers", multiple=True, help="Raster to show on top (.tif): classes, change, values, RGB.")
@click.option("--beside", help="Another map, of another date, say: a slider swipes it over MAP.")
@click.option("--time", metavar="DATE[,DATE]", help="Of a map with a time axis; the second is swiped over the first.")
@click.option("--label", help="Label mode: a .gpkg that holds your labels, or will, for finetune --map MAP.")
@click.option("--base-map", help="Also show tiles of others, online: osm, or https://.../{z}/{x}/{y}.png.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def view(map_path: str, layers: tuple[str, ...], port: int, no_browser: bool, **shown: Any) -> None:
    """Show MAP in a web page on this machine; a click finds similar places. Ctrl-C stops.

    With --label a click or a drag labels: keys 1 to 9 choose a class, a head learns at once, and the map shows what it
    says and where it is unsure. Labels are saved on every change.

    \b
    geossl view embedding.zarr --label labels.gpkg
    geossl finetune --map embedding.zarr --labels labels.gpkg --column class
    """
    for path in (map_path, shown["beside"]):
        early({"map": path})
    from geossl.api import similar as similarity  # lazy: see embed

    for number in (signal.SIGINT, signal.SIGTERM):  # both end it tidily, in the background, too
        signal.signal(number, signal.default_int_handler)
    similarity.view(map_path, layers=list(layers), port=port, browser=not no_browser, **shown)
