"""The command line: parse, call ``geossl.api``, print. Torch is imported by the verbs that need it, never by --help."""

from pathlib import Path
from typing import Any

import click

from geossl import __version__
from geossl.cli.asked import Asked
from geossl.cli.doctor import doctor
from geossl.cli.entry import EntryPoint
from geossl.cli.finished import change, sample, similar, verify, view
from geossl.cli.graphs import graphs
from geossl.cli.helping import completion
from geossl.cli.names import list_names
from geossl.cli.options import (
    asks_catalogue,
    asks_dims,
    asks_encoder,
    asks_every,
    asks_files,
    asks_protocols,
    asks_reach,
    asks_region,
    asks_shards,
    asks_time,
    asks_tokens,
    early,
    given,
    two_maps,
    with_files,
    with_source,
)
from geossl.cli.points import points
from geossl.cli.progress import line
from geossl.cli.series import series
from geossl.errors import InputError

ON_ERROR = "skip: what cannot be read is nodata, listed in .missing.geojson, and made by the next run."


@click.group(cls=EntryPoint, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Learn from Sentinel-1/2 without labels, and map what was learned.

    \b
    geossl pretrain croma                      pretrain on the bundled scenes
    geossl embed --aoi region.geojson --date 2024-06/2024-08 \\
        --encoder runs/croma/encoder.safetensors
    geossl embed --aoi region.geojson --s1 S1.tif --s2 S2.tif ...
    geossl finetune --labels parcels.gpkg --column crop --s1 S1.tif --s2 S2.tif
    geossl segment --aoi region.geojson --model model.safetensors --s1 ...
    geossl evaluate croma_base eurosat         how good is an encoder?
    geossl anomaly --aoi region.geojson --encoder autoencoder.safetensors --s2 ...
    geossl points embed tiles/ --encoder ...   airborne laser scans; also finetune, classify
    geossl similar map.zarr --to 3.01,41.55    where else does it look like this?
    geossl change a.zarr b.zarr [c.zarr ...]   what changed, at a false-alarm rate
    geossl sample map.zarr plots.csv           vectors at points, as a table
    geossl verify map.zarr                     is the map what its plan gives?
    geossl view map.zarr                       look at a map in the browser
    geossl export map.zarr map.tif             or .parquet, or a folder of STAC documents
    geossl list                                recipes, methods, encoders
    geossl doctor --s2 S2.tif                  what is installed, and what is in my files
    """


@main.command()
@click.argument("recipe_name", metavar="RECIPE")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--print", "show", is_flag=True, help="Print the resolved recipe and stop.")
@click.option("--explain", is_flag=True, help="Print every key with its meaning, unit and default, and stop.")
@click.option("--dry-run", is_flag=True, help="Print which files it would train on, which not and why, and stop.")
def pretrain(recipe_name: str, overrides: tuple[str, ...], show: bool, explain: bool, dry_run: bool) -> None:
    """Pretrain an encoder as RECIPE says (a file, or a name such as croma).

    KEY=VALUE changes a recipe value: train.max_steps=10 data.source=/my/scenes out=runs/mine. A stopped or killed run
    resumes with resume=true.
    """
    from geossl import recipe  # lazy: pydantic, which --help does without

    resolved = recipe.load(recipe_name, overrides)
    if show:
        click.echo(recipe.dump(resolved), nl=False)
    if explain:
        click.echo(recipe.explain(resolved), nl=False)
    if dry_run:
        from geossl.api.pretrain.images import survey  # lazy: reads rasters

        click.echo(survey(resolved))
    if show or explain or dry_run:
        return
    from geossl.api.pretrain import run as pretraining  # lazy: a mistake in a recipe answers before torch is imported

    folder = pretraining.pretrain(resolved)
    if not pretraining.speaks():
        return
    click.echo(f"run      {folder}\nencoder  {folder / 'encoder.safetensors'}\npage     {folder / 'run.html'}")
    if found := pretraining.scores(folder):
        click.echo(f"probe    {found}")


@main.command()
@asks_region
@asks_catalogue
@click.option("--out", default="scenes", show_default=True, help="Folder; gets s1/*.tif and s2/*.tif.")
@click.option("--crs", type=int, help="EPSG code of the tiles. [default: UTM zones of the region]")
def fetch(**options: Any) -> None:
    """Download scenes of a region as GeoTIFFs that pretrain and embed both read.

    geossl pretrain croma data.source=scenes; geossl embed --s1 scenes/s1 --s2 scenes/s2 ...
    """
    if options["date"] is None:
        raise InputError("--date is missing; name a period such as 2024-06/2024-08")
    options = with_source(options)
    from geossl.api import embed as maps  # lazy: see embed

    out = maps.fetch(progress=line("fetch"), **options)
    click.echo(f"scenes     {out}")


@main.command()
@asks_region
@asks_catalogue
@asks_every
@asks_files
@asks_encoder
@click.option("--out", default="embedding.zarr", show_default=True, help=".zarr or .tif (COG), or s3://, gs://.")
@click.option("--dtype", type=click.Choice(["int8", "float16", "float32"]), help="[default: int8 .zarr, float32 .tif]")
@click.option("--gsd", "gsd_m", type=float, help="Cell of the map in metres: 40 or 20 cost 4 or 16 times as much.")
@asks_reach
@asks_dims
@asks_tokens
@asks_shards
@click.option("--batch-size", default=10, show_default=True, type=click.IntRange(1), help="Windows per forward pass.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["auto", "fp32", "bf16"]))
@click.option("--on-error", default="stop", show_default=True, type=click.Choice(["stop", "skip"]), help=ON_ERROR)
@click.option("--dry-run", is_flag=True, help="Print what it would take, and stop.")
@click.option("--overwrite", is_flag=True, help="Replace an output that was made from another plan.")
def embed(dry_run: bool, **options: Any) -> None:
    """Embed a region and write a georeferenced raster, one vector per 80 m patch.

    Killed or interrupted, the same command resumes where it stopped. Memory depends on --shard-cells and --batch-size,
    never on the region; --dry-run says how much.
    """
    asked = Asked(options)
    if not dry_run and asked.is_answered():
        click.echo(f"embedding  {asked.out}\npicture    {asked.picture}")
        return
    options = given(with_source(options), "tokens")
    from geossl.api import embed as maps  # lazy: `geossl --help` must not import torch

    if dry_run:
        for _, row in maps.plan_map(**options).iterrows():
            click.echo("\n".join(f"{key:<22}{value}" for key, value in row.items()))
        return
    out = maps.embed_map(progress=line("embed"), **options)
    if not asked.has_gaps():
        asked.remember()
    click.echo(f"embedding  {out}\npicture    {maps.picture_of(out)}")


@main.command()
@click.option(
    "--labels",
    required=True,
    help="Polygons or points with an attribute, a table of lon, lat and a label, a label raster, or a folder of them.",
)
@click.option("--column", help="Attribute that holds the class or the amount.")
@click.option("--task", help="classify or regress, where the labels do not say it.")
@click.option("--unit", help="Of amounts, such as t/ha.")
@click.option("--level", type=float, help="Share of amounts within their interval.  [default: 0.9]")
@click.option("--radius-m", type=float, help="A point stands for so many metres around it.  [default: its pixel]")
@click.option("--map", help="Learn from this embedding map (.zarr) instead of pixels.")
@click.option(
    "--pair",
    nargs=2,
    metavar="A B",
    callback=two_maps,
    help="Learn change from two maps, before and after; see geossl change.",
)
@asks_time
@asks_catalogue
@asks_files
@asks_encoder
@click.option(
    "--head",
    default="linear",
    show_default=True,
    help="Per 80 m patch: linear (ridge), knn, mlp, forest. Per 10 m pixel: linear-upsample, unet.",
)
@click.option("--train-encoder", is_flag=True, default=None, help="Train the encoder, too (decoders only).")
@click.option("--max-steps", type=int, help="Updates of a decoder.  [default: 600]")
@click.option("--lr", type=float, help="Learning rate of a decoder.  [default: 0.001]")
@click.option("--batch-size", type=int, help="Chips per update of a decoder.  [default: 8]")
@click.option("--chip-px", type=int, help="Side of a decoder's chips.  [default: 96]")
@asks_reach
@asks_dims
@asks_tokens
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="model.safetensors", show_default=True, help="Model; its report goes beside it.")
def finetune(**options: Any) -> None:
    """Fit a classifier or regressor of the ground on your own labels, for geossl segment.

    \b
    geossl finetune --labels parcels.gpkg --column crop --s1 S1.tif --s2 S2.tif
    geossl finetune --labels plots.csv --column biomass --unit t/ha --radius-m 15 --map embedding.zarr

    Scores are of blocks of ground that were neither learned from nor used to choose settings.
    """
    for path in options["pair"] or ():
        early({"map": path})
    options = with_source(options, idle="map" if options["pair"] is None else "pair")
    options = given(options, "tokens", "task", "unit", "level", "radius_m", "map", "pair", "time", "dims")
    from geossl.api.finetune import run as finetuning  # lazy: see embed

    options = given(options, "train_encoder", "max_steps", "lr", "batch_size", "chip_px")  # heads have none of these
    written = finetuning.finetune(progress=line("finetune"), **options)
    click.echo(finetuning.summary(written))
    click.echo(f"model    {written}\nreport   {written.with_suffix('.html')}")


@main.command()
@click.option("--aoi", help="Region: GeoJSON polygons in lon/lat, or any vector file with a CRS.")
@click.option("--model", help="File written by geossl finetune.")
@click.option("--classes", type=int, help="Without a model: number of classes that k-means finds.")
@click.option("--map", help="Classify this embedding map (.zarr) instead of pixels.")
@asks_time
@click.option("--encoder", default="croma_tiny", show_default=True, help="Encoder for --classes.")
@asks_catalogue
@asks_files
@click.option("--out", default="classes.tif", show_default=True, help="COG; confidence and area table go beside it.")
@click.option("--polygons", help="Also write outlines: .gpkg or .parquet.")
@click.option("--totals", help="Polygons to sum amounts over, with standard errors.  [default: the region]")
@asks_reach
@asks_dims
@asks_tokens
@asks_shards
@click.option("--batch-size", default=10, show_default=True, type=click.IntRange(1), help="Windows per forward pass.")
@click.option("--seed", default=0, show_default=True, help="Seed of k-means.")
@click.option("--overwrite", is_flag=True, help="Replace an output.")
def segment(**options: Any) -> None:
    """Classify or measure a region: raster of classes or amounts, how sure they are, and a table.

    \b
    geossl segment --aoi region.geojson --s1 S1.tif --s2 S2.tif --model model.safetensors
    geossl segment --map embedding.zarr --classes 8
    """
    options = given(with_source(options, idle="map"), "tokens", "totals", "time")
    from geossl.api.segment import files, run  # lazy: see embed

    click.echo(files.summary(run.segment(progress=line("segment"), **options)))


@main.command()
@click.option("--aoi", help="Region: GeoJSON polygons in lon/lat, or any vector file with a CRS.")
@click.option("--encoder", required=True, help="Weight file of geossl pretrain regularized_ae.")
@click.option("--map", help="Embedding map, for an auto-encoder of embeddings.")
@asks_catalogue
@asks_files
@click.option("--out", default="anomaly.tif", show_default=True, help="COG: score_norm, energy, p_value.")
@asks_shards
@click.option("--overwrite", is_flag=True, help="Replace an output.")
def anomaly(**options: Any) -> None:
    """Map where a region is unlike what an auto-encoder learned.

    Threshold p_value: the share of holdout vectors that lie further off.
    """
    options = with_source(options, idle="map")
    from geossl.api import anomaly as places  # lazy: see embed

    click.echo(f"anomaly    {places.anomaly(progress=line('anomaly'), **options)}")


main.add_command(points)
main.add_command(series)
main.add_command(graphs)


@main.command()
@click.argument("map")
@click.argument("out")
@click.option("--aoi", help="Polygons: keep only what lies in them; with --level aoi, pool over each of them.")
@click.option("--dtype", help="Type of a .tif: float32, float16, int8, uint8 (QGIS before 3.30).  [default: float32]")
@click.option("--level", help="One row of a .parquet per patch, tile or aoi.  [default: patch]")
@click.option("--encoder", help="The encoder of the map, which STAC then describes, too.")
@asks_time
@click.option("--licence", help="Licence of the map, for STAC: an SPDX identifier such as CC-BY-4.0.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def export(map: str, out: str, **options: Any) -> None:
    """Write MAP as OUT: .tif (COG), .parquet (GeoParquet), a folder of STAC documents, or one date as .zarr.

    MAP may also be an encoder, and OUT a program for other software: .pt2 (torch.export) or .onnx.

    \b
    geossl export embedding.zarr embedding.tif --aoi region.geojson
    geossl export croma_base croma_base.onnx
    """
    is_program = out.endswith((".pt2", ".onnx"))
    early({"encoder" if is_program else "map": map, **({} if is_program else options)})
    from geossl.api import export as exports  # lazy: see embed

    if is_program:
        typed = [name for name in ("aoi", "dtype", "level", "time", "encoder", "licence") if options[name] is not None]
        click.echo(exports.program(map, Path(out), typed, options["overwrite"]).summary())
    else:
        click.echo(f"exported   {exports.export(map, out, **options)}")


@main.command()
@click.argument("encoder")
@click.argument("dataset")
@asks_protocols
@asks_dims
@asks_files
@click.option("--out", default="report.html", show_default=True, help="Report; its numbers go beside it (.json).")
def evaluate(**options: Any) -> None:
    """Evaluate ENCODER with probes and fine-tuning on the labels of DATASET.

    DATASET is a name (geossl list), a folder with a folder per class (images or GeoTIFFs), an .npz file, sample, or
    labels (polygons, rasters) over --s1 and --s2. Heads are fitted on a training part, settings chosen on a validation
    part, scores are of a test part; parts are blocks of ground where places are known. Or it holds real/ and generated
    images: then scores are of telling them apart, clean and after compression and resizing.
    """
    options = with_files(early(options))
    from geossl.api.evaluate import run as evaluating  # lazy: see embed

    found = evaluating.evaluate(**options, progress=line("evaluate"))
    click.echo(f"{found.table()}\nreport   {found.report}")


main.add_command(list_names)
main.add_command(completion)
main.add_command(doctor)
main.add_command(change)
main.add_command(sample)
main.add_command(similar)
main.add_command(verify)
main.add_command(view)
