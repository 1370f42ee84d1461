"""Embed and cluster the nodes of graphs, and put the results back on the ground."""

import logging
from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo import geom
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize
from torch_geometric.data import Data

from geossl.api.graphs.build import source_graph
from geossl.data.graphs.files import read_graph
from geossl.data.labels.colours import palette
from geossl.errors import InputError, possible
from geossl.evaluation.clustering import clustering_scores
from geossl.evaluation.heads import fit_kmeans, predict
from geossl.inference.graphs import WHOLE_UP_TO, graph_embeddings, node_embeddings
from geossl.inference.outputs.class_maps import NODATA, Legend, write_classes
from geossl.inference.outputs.cog import Block
from geossl.models.encoder import Encoder, GraphEncoder
from geossl.models.encoders.gnn import NodeMLP
from geossl.models.files import load_encoder, provenance
from geossl.models.heads.classifiers import KMeansHead
from geossl.models.kinds import require
from geossl.outputs import check_output, make_folder, replacing
from geossl.recipe.graphs import Graphs
from geossl.rules import check_values
from geossl.viewer.shown import Written

log = logging.getLogger("geossl")
GSD_M = 10  # of a raster of clusters
MOST_CELLS = 10**11  # of it, as a country at 2 m


def embed_graph(
    graph: Data | str | Path, encoder: str | Path | Encoder, *, block_nodes: int = WHOLE_UP_TO
) -> pd.DataFrame:
    """Embed every node.

    Args:
        graph: From ``graph_from_geodataframe`` or ``graph_from_raster``, any PyG ``Data``, or an ``.npz`` graph.
        encoder: An encoder of GraphMAE or SCGC: loaded, or its file.
        block_nodes: Larger graphs are embedded block by block, to the same vectors in bounded memory.

    Returns:
        A row per node, columns ``e000`` ...; a GeoDataFrame with their index, in metres, where the nodes are places.

    Raises:
        InputError: If a feature the encoder was trained on is missing; those with names are found by name.
    """
    graph = read_graph(graph)
    vectors = node_embeddings(as_graph_encoder(encoder), graph, block_nodes)
    return on_the_ground(graph, pd.DataFrame(vectors, columns=[f"e{i:03d}" for i in range(vectors.shape[1])]))


def embed_graphs(graphs: Data | str | Path, encoder: str | Path | Encoder) -> pd.DataFrame:
    """Embed every graph of a union of many as one vector: its nodes pooled as the encoder's recipe says.

    Args:
        graphs: From ``graphs_from_images``, a PyG data set written with ``write_graph``, or ``Data`` with ``batch``.
        encoder: As in ``embed_graph``.

    Returns:
        A row per graph, columns ``e000`` ...

    Raises:
        InputError: As in ``embed_graph``, or if it is one graph.
    """
    graphs = read_graph(graphs)
    if graphs.get("batch") is None:
        raise InputError("this is one graph, without batch (the graph of every node); embed_graph embeds its nodes")
    vectors = graph_embeddings(as_graph_encoder(encoder), graphs)
    return pd.DataFrame(vectors, columns=[f"e{i:03d}" for i in range(vectors.shape[1])])


def cluster_graph(
    graph: Data | str | Path,
    encoder: str | Path | Encoder,
    classes: int | None = None,
    *,
    seed: int = 0,
    block_nodes: int = WHOLE_UP_TO,
) -> pd.DataFrame:
    """Give every node a cluster: that of SCGC, or by k-means of the embeddings.

    Args:
        graph: As in ``embed_graph``.
        encoder: Name, file or loaded encoder of graphs.
        classes: Number of clusters for k-means; None: the encoder's own, which SCGC's has.
        seed: Seed of k-means.
        block_nodes: As in ``embed_graph``.

    Returns:
        A row per node: ``cluster`` from 0, ``confidence`` (probability) and ``margin`` to the second best; a
        GeoDataFrame where the nodes are places.

    Raises:
        InputError: As in ``embed_graph``, or if ``classes`` is needed or does not fit.
    """
    graph, model = read_graph(graph), as_graph_encoder(encoder)
    vectors = node_embeddings(model, graph, block_nodes)
    if classes is None:
        if not isinstance(model, NodeMLP):
            raise InputError(f"{model.spec.name} has no clusters of its own; say how many classes k-means should find")
        with torch.inference_mode():
            chances = model.soft_labels(torch.from_numpy(vectors)).numpy()
    else:
        if not 2 <= classes <= len(vectors):
            raise InputError(f"classes={classes} is not possible for {len(vectors)} nodes; ask for 2 to {len(vectors)}")
        chances = predict(by_size(fit_kmeans(vectors, classes, seed), vectors), vectors)
    best = np.sort(chances, axis=1)
    table = {"cluster": chances.argmax(axis=1), "confidence": best[:, -1], "margin": best[:, -1] - best[:, -2]}
    return on_the_ground(graph, pd.DataFrame(table))


def agreement(graph: Data, clusters: Int[ndarray, " n"]) -> dict[str, float]:
    """How well clusters agree with the graph's classes (``y``, -1 = not known); empty if it has none."""
    y = graph.get("y")
    if y is None or y.ndim != 1 or len(y) != len(clusters) or not (y >= 0).any():
        return {}
    known = (y >= 0).numpy()
    return clustering_scores(y.long().numpy()[known], clusters[known])


def say_agreement(graph: Data, nodes: pd.DataFrame) -> None:
    """Log how well clusters from ``cluster_graph`` agree with the graph's classes, if it has some."""
    if scores := agreement(graph, nodes["cluster"].to_numpy()):
        log.info("classes  " + "  ".join(f"{name.upper()} {100 * value:.1f}" for name, value in scores.items()))


def by_size(head: KMeansHead, vectors: Float[ndarray, "n d"]) -> KMeansHead:
    """The same clusters, the largest first."""
    sizes = np.bincount(predict(head, vectors).argmax(axis=1), minlength=len(head.centres))
    head.centres.copy_(head.centres[torch.from_numpy(np.argsort(-sizes, kind="stable"))].clone())
    return head


def on_the_ground(graph: Data, table: pd.DataFrame) -> pd.DataFrame:
    """The table with the places of the nodes, if they are places."""
    frame = graph.get("frame")
    if frame is None:
        return table
    return gpd.GeoDataFrame(table.set_index(frame.index), geometry=frame.geometry.to_numpy(), crs=frame.crs)


def as_graph_encoder(encoder: str | Path | Encoder) -> GraphEncoder:
    """A loaded encoder of graphs."""
    return require(GraphEncoder, encoder if isinstance(encoder, Encoder) else load_encoder(encoder))


def write_nodes(out: str | Path, nodes: pd.DataFrame) -> Path:
    """Write a table of nodes: ``.gpkg`` or ``.parquet`` with places, ``.csv`` without; appears when whole."""
    kinds = (".gpkg", ".parquet", ".csv") if isinstance(nodes, gpd.GeoDataFrame) else (".csv", ".parquet")
    out = check_output(out, kinds, makes_folder=True)
    make_folder(out.parent)
    with replacing(out) as temporary:
        if out.suffix == ".csv":
            pd.DataFrame(nodes.drop(columns="geometry", errors="ignore")).to_csv(temporary, index_label="node")
        elif out.suffix == ".parquet":
            nodes.to_parquet(temporary)
        else:
            is_kept = nodes.index.name not in (None, "fid", *nodes.columns)  # GeoPackage numbers rows by fid itself
            nodes.to_file(temporary, driver="GPKG", layer=out.stem, index=is_kept)
    return out


def class_raster(out: str | Path, nodes: gpd.GeoDataFrame, gsd_m: float = GSD_M) -> Path:
    """Paint clusters on the ground: a class raster, its confidence in percent and hectares per cluster.

    Args:
        out: ``.tif``: COG of clusters with colours and names, nodata 255 where no place is.
        nodes: From ``cluster_graph``, places in a CRS of metres; a cell belongs to the place its centre lies in.
        gsd_m: Side of a cell; cells lie on multiples of it.

    Raises:
        InputError: If the places lie in several UTM zones or are not areas, or ``out`` is not a ``.tif``.
    """
    out = check_output(out, (".tif",), option="--raster", makes_folder=True)
    if not 0 < gsd_m < np.inf:
        raise InputError(f"gsd_m={gsd_m} is not the side of a cell; expected metres above 0")
    if not isinstance(nodes, gpd.GeoDataFrame) or nodes.crs.is_geographic:
        raise InputError("a class raster needs places of one UTM zone; these have none, or lie in several")
    if not (nodes.geometry.area > 0).any():
        raise InputError("a class raster needs areas; these places are points or lines")
    left, bottom, right, top = nodes.total_bounds
    if (right - left) / gsd_m * (top - bottom) / gsd_m > MOST_CELLS:
        raise InputError(f"gsd_m={gsd_m} makes a raster of more than {MOST_CELLS:.0e} cells; use larger ones")
    box = geom.BoundingBox(left, bottom, right, top, crs=str(nodes.crs))
    geobox = GeoBox.from_bbox(box, resolution=gsd_m)
    count = int(nodes["cluster"].max()) + 1

    def parts() -> Iterator[Block]:
        places = nodes[nodes.geometry.area > 0]
        for first in range(0, geobox.height, 1024):
            where = (slice(first, min(first + 1024, geobox.height)), slice(0, geobox.width))
            part = geobox[where]
            near = places.iloc[np.sort(places.sindex.query(part.extent.geom))]
            layers = np.full((2, *part.shape), NODATA, np.uint8)
            for layer, values in zip(layers, (near["cluster"], (100 * near["confidence"]).round()), strict=True):
                if len(near):
                    shapes = zip(near.geometry, values.astype(int), strict=True)
                    rasterize(shapes, out=layer, transform=part.transform)
            yield where, layers

    legend = Legend([f"cluster {i}" for i in range(count)], palette(count))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_classes(out, geobox, parts(), legend, None, {"nodes": len(nodes)})
    return Written(out)


def graph_map(
    encoder: str | Path,
    source: str | Path | None = None,
    *,
    classes: int | None = None,
    out: str | Path = "nodes.gpkg",
    raster: str | Path | None = None,
    gsd_m: float = GSD_M,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Cluster the nodes of a graph that is made as the one the encoder was trained on.

    Where the graph holds classes, how well the clusters agree with them is logged.

    Args:
        encoder: File of a GraphMAE or SCGC encoder pretrained by geossl, which knows how its graph was made.
        source: Other parcels, map, scenes or graph; None: those it was trained on.
        classes: As in ``cluster_graph``.
        out: ``.gpkg`` or ``.parquet`` for places, ``.csv`` for others: ``cluster``, ``confidence``, ``margin`` and the
            embedding of every node.
        raster: Also paint a class raster, ``.tif``.
        gsd_m: Its cell.
        seed: Seed of k-means.
        overwrite: Replace outputs.

    Returns:
        ``out``.

    Raises:
        InputError: If something does not fit; nothing was written.
    """
    check_values(seed=seed)
    if raster is None and gsd_m != GSD_M:
        raise InputError(f"--gsd {gsd_m} does nothing without --raster; leave it out")
    check_output(out, (".gpkg", ".parquet", ".csv"), overwrite=overwrite, makes_folder=True)
    if raster is not None:
        check_output(raster, (".tif",), overwrite=overwrite, option="--raster", makes_folder=True)
    model = as_graph_encoder(encoder)
    made = provenance(encoder).get("recipe", {}).get("data")
    if made is None:
        raise InputError(
            f"--encoder {encoder} does not say how its graph was made; use geossl.graphs.cluster in Python"
        )
    made = {key: value for key, value in made.items() if key in Graphs.model_fields}  # the rest is of training alone
    chosen = made if source is None else {**made, "source": str(possible(source, "--source"))}
    graph = source_graph(Graphs(**chosen))
    nodes = cluster_graph(graph, model, classes, seed=seed)
    say_agreement(graph, nodes)
    vectors = embed_graph(graph, model)
    nodes[[c for c in vectors if c.startswith("e")]] = vectors[[c for c in vectors if c.startswith("e")]]
    if raster is not None:
        class_raster(raster, nodes, gsd_m)
    return write_nodes(out, nodes)
