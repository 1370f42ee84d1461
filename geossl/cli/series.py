"""Commands for series of images: many dates of one place."""

from typing import Any

import click

from geossl.cli.entry import InOrder
from geossl.cli.options import early, s2_offset
from geossl.cli.progress import line
from geossl.rules import DATES


@click.group(cls=InOrder)
def series() -> None:
    """Embed series of images: many dates in, one vector per patch out.

    \b
    geossl pretrain cross_video_mae data.source=dates/
    geossl series embed dates/ --encoder runs/cross_video_mae/encoder.safetensors
    """


@series.command()
@click.argument("source")
@click.option("--encoder", required=True, help="Weight file of geossl pretrain cross_video_mae.")
@click.option("--out", default="series.tif", show_default=True, help="GeoTIFF; a quicklook goes beside it.")
@click.option("--cloud-band", help="Pixels brighter than --cloud-above in this band count as cloud.")
@click.option("--cloud-above", default=0.2, show_default=True, help="Reflectance.")
@s2_offset
@click.option("--s2-bands", metavar="NAMES", help="Bands of stacks without names, in order.")
@click.option(
    "--dates",
    default=DATES[0],
    show_default=True,
    type=click.Choice(DATES),
    help="What a vector holds of its dates: a mean per season side by side, one mean, or each date.",
)
@click.option("--start", help="First day, such as 2020-01-01.")
@click.option("--end", help="Last day.")
@click.option("--overwrite", is_flag=True, help="Replace an output.")
def embed(source: str, **options: Any) -> None:
    """Embed the dates in folder SOURCE (a GeoTIFF each, 20200113.tif) as one raster, one vector per patch."""
    early(options)
    from geossl.api import series as api  # lazy: `geossl --help` must not import torch

    out = api.embed_series(source, progress=line("embed"), **options)
    click.echo(f"embedding  {out}\npicture    {out.with_suffix('.png')}")
