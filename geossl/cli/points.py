"""Verbs of the command line for airborne laser scans."""

from typing import Any

import click

from geossl.cli.entry import InOrder
from geossl.cli.options import early, given
from geossl.cli.progress import line
from geossl.errors import InputError

asks_blocks = click.option(
    "--min-points", default=64, show_default=True, type=click.IntRange(1), help="Blocks with fewer are left out."
)
asks_overwrite = click.option("--overwrite", is_flag=True, help="Replace an output.")


class PointVerbs(InOrder):
    """Verbs that start again after an interruption."""

    def invoke(self, ctx: click.Context) -> Any:
        """Say what an interruption leaves."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            left = "interrupted; files written before are whole; --overwrite replaces them and starts again"
            raise click.Abort(left) from None


@click.group(cls=PointVerbs)
def points() -> None:
    """Embed and classify airborne laser scans (LAS, LAZ).

    \b
    geossl pretrain point_cmae data.source=tiles/
    geossl points embed tiles/ --encoder runs/point_cmae/encoder.safetensors
    geossl points finetune classified/ --encoder runs/point_cmae/encoder.safetensors
    geossl points classify tiles/ --model points.safetensors --out classified/

    SCANS is a file, a folder of files, or sample (four bundled tiles).
    """


@points.command()
@click.argument("scans")
@click.option("--encoder", required=True, help="Weight file of geossl pretrain point_cmae.")
@click.option("--out", default="embedding.tif", show_default=True, help="COG, float32; a quicklook goes beside it.")
@click.option("--cell", "cell_m", type=float, help="Side of a cell in metres.  [default: half the encoder's block]")
@click.option("--crs", type=int, help="EPSG code, for files that do not say.")
@asks_blocks
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Blocks per forward pass.")
@click.option("--chunk", "chunk_m", default=1000.0, show_default=True, help="Metres held in memory at a time.")
@asks_overwrite
def embed(scans: str, **options: Any) -> None:
    """Embed SCANS as one raster: per cell the mean vector of its points."""
    early(options)
    from geossl.api.points import embed as point_maps  # lazy: `geossl --help` must not import torch

    out = point_maps.embed_points(scans, progress=line("embed"), **options)
    click.echo(f"embedding  {out}\npicture    {out.with_suffix('.png')}")


@points.command()
@click.argument("scans")
@click.option("--encoder", required=True, help="Weight file of geossl pretrain point_cmae.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME=CODES",
    callback=lambda _c, _p, texts: named_codes(texts),
    help="ground=2, roof=6,64: LAS classes that count as one; repeated.  [default: every class there is]",
)
@click.option("--train-encoder", is_flag=True, default=None, help="Train the encoder, too.")
@click.option("--max-steps", type=int, help="Updates.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--batch-size", type=int, help="Blocks per update.")
@asks_blocks
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="points.safetensors", show_default=True, help="Model; its scores go beside it (.json).")
@asks_overwrite
def finetune(scans: str, **options: Any) -> None:
    """Learn the classes of the points of SCANS, for geossl points classify.

    Scores are of squares that were neither learned from nor used to choose anything.
    """
    early(options)
    from geossl.api.points import classify as point_classes  # lazy: see embed

    options = given(options, "train_encoder", "max_steps", "lr", "batch_size")
    written = point_classes.finetune_points(scans, progress=line("finetune"), **options)
    click.echo(f"{point_classes.summary(written)}\nmodel    {written}\nscores   {written.with_suffix('.json')}")


@points.command()
@click.argument("scans")
@click.option("--model", required=True, help="File written by geossl points finetune.")
@click.option("--out", default="classified.laz", show_default=True, help=".laz or .las for one file; else a folder.")
@asks_blocks
@asks_overwrite
def classify(scans: str, **options: Any) -> None:
    """Give every point of SCANS a class and a confidence; all else stays as it is."""
    early(options)
    from geossl.api.points import classify as point_classes  # lazy: see embed

    for path in point_classes.classify_points(scans, progress=line("classify"), **options):
        click.echo(f"points   {path}")


def named_codes(texts: tuple[str, ...]) -> dict[str, list[int]] | None:
    """LAS classes by name."""
    found = {}
    for text in texts:
        name, _, codes = text.partition("=")
        if name in found:
            raise InputError(f"--class names {name!r} twice; list its codes in one, such as {name}=3,4")
        try:
            if not name.strip():
                raise ValueError
            found[name] = [int(code) for code in codes.split(",")]
        except ValueError:
            raise InputError(f"--class {text!r} is not NAME=CODES such as roof=6 or roof=6,64") from None
    return found or None
