"""Commands for graphs: parcels, superpixels, papers."""

from typing import Any

import click

from geossl.cli.entry import InOrder
from geossl.cli.options import early


@click.group(cls=InOrder)
def graphs() -> None:
    """Cluster the nodes of graphs: parcels, superpixels, papers.

    \b
    geossl pretrain scgc data.source=parcels.gpkg data.features=map.zarr objective.clusters=8
    geossl graphs cluster --encoder runs/scgc/encoder.safetensors --raster clusters.tif
    """


@graphs.command()
@click.option("--encoder", required=True, help="Weight file of geossl pretrain graphmae or scgc.")
@click.option("--source", help="Polygons, map, scenes or graph.  [default: what the encoder was trained on]")
@click.option("--classes", type=int, help="Number of k-means clusters.  [default: those of scgc]")
@click.option("--out", default="nodes.gpkg", show_default=True, help="Or .parquet; .csv if nodes have no places.")
@click.option("--raster", help="Also paint the clusters: .tif.")
@click.option(
    "--gsd",
    "gsd_m",
    default=10.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Cell of --raster in metres.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of k-means.")
@click.option("--overwrite", is_flag=True, help="Replace outputs.")
def cluster(**options: Any) -> None:
    """Give every node a cluster, its confidence and its embedding."""
    early(options)
    from geossl.api.graphs import embed as api  # lazy: `geossl --help` must not import torch

    click.echo(f"nodes    {api.graph_map(**options)}")
