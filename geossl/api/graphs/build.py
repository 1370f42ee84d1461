"""Graphs of parcels, superpixels and papers, made from what a user has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import torch
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from torch_geometric.data import Data

from geossl.data.datasets.find import read_set
from geossl.data.graphs import geometry
from geossl.data.graphs.files import read_graph
from geossl.data.graphs.files import write_graph as write_graph
from geossl.data.graphs.superpixels import image_graphs, superpixel_graph, union_of
from geossl.data.labels.ground_truth import read_labels
from geossl.data.labels.tasks import CLASSIFY
from geossl.data.listing import TIFF, files_in
from geossl.data.sentinel.aligned import aligned_scenes
from geossl.data.sentinel.rasters import SAMPLE
from geossl.errors import InputError
from geossl.inference.outputs.raster import open_date
from geossl.recipe.graphs import Graphs
from geossl.rules import check_values
from geossl.sensors import OPTICAL, SENSORS
from geossl.vector_files import read_features

RASTERS = {".zarr", ".tif"}
VECTORS = {".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet"}


def graph_from_geodataframe(
    frame: gpd.GeoDataFrame | str | Path,
    features: str | Path | Sequence[str] | xr.DataArray | None = None,
    edges: str = "contiguity",
    *,
    labels: str | None = None,
    smooth: int = 0,
) -> Data:
    """Make a graph of places: parcels, points, lines, in any CRS.

    Args:
        frame: One row per node, or a vector file. A CRS in degrees or feet is changed to the UTM zone of the places.
        features: Columns of numbers (all, other than ``labels``, if None), or a raster that is averaged under every
            place: an embedding map (``.zarr``, ``.tif``), any GeoTIFF, or ``(band, y, x)`` with a CRS.
        edges: ``contiguity`` (touching or overlapping), ``contiguity:2`` (at most 2 m apart, for outlines with gaps),
            ``rook`` (a shared stretch of boundary), ``knn:8``, or ``distance:500`` in metres.
        labels: Column that holds a class; becomes ``y`` and ``classes``, -1 where it is missing.
        smooth: Replace features so many times by the mean over each node and its neighbours.

    Returns:
        PyG ``Data``: ``x``, ``edge_index``, ``pos`` (metres), ``names`` of the features, and ``frame``, whose rows are
        the nodes.

    Raises:
        InputError: If places, features or edges cannot be used; says which row or column.
    """
    check_values(smooth=smooth)
    if isinstance(features, (str, Path)) and Path(features).suffix in RASTERS:
        features = open_date(features, None)
    if isinstance(features, Path):
        raise InputError(f"features={str(features)!r} is not a raster; expected .zarr, .tif or names of columns")
    if isinstance(frame, str | Path):
        frame = read_places(Path(frame))
    return geometry.graph_of(frame, features, edges, labels, smooth)


def graph_from_raster(
    raster: str | Path | xr.DataArray | xr.Dataset,
    *,
    segment_px: int = 64,
    compactness: float = 0.1,
    labels: str | Path | gpd.GeoDataFrame | None = None,
    column: str | None = None,
    smooth: int = 0,
) -> Data:
    """Make a graph of superpixels of a scene or embedding map; the raster is held in memory.

    Args:
        raster: An embedding map or GeoTIFF, by path or as ``(band, y, x)``; or a Sentinel cube as of ``geossl.cube``,
            whose superpixels are cut along its optical bands. NaN pixels belong to no superpixel.
        segment_px: Pixels per superpixel, about.
        compactness: 0.01 follows every edge, 1 gives squares.
        labels: Class raster or polygons (with ``column``); a superpixel gets its commonest class.
        column: Attribute that holds the class.
        smooth: As in ``graph_from_geodataframe``.

    Returns:
        As ``graph_from_geodataframe``; a node's features are mean and standard deviation of every band, of maps with
        more than 16 bands the mean alone.
    """
    check_values(segment_px=segment_px, compactness=compactness, smooth=smooth)
    if column is not None and labels is None:
        raise InputError(f"column={column!r} does nothing without labels; leave it out")
    known = None if labels is None else read_labels(labels, column, CLASSIFY)
    cut = None
    if isinstance(raster, xr.Dataset):
        layers = [raster[name].rename({raster[name].dims[0]: "band"}) for name in SENSORS if name in raster]
        if not layers:
            raise InputError(f"the cube holds {', '.join(map(str, raster.data_vars))}; expected {' or '.join(SENSORS)}")
        cut, raster = layers[-1], xr.concat(layers, "band")
    elif not isinstance(raster, xr.DataArray):
        raster = open_date(raster, None)
    settings: dict[str, Any] = {"segment_px": segment_px, "compactness": compactness, "smooth": smooth}
    return superpixel_graph(raster, cut=cut, spread=raster.shape[0] <= 16, labels=known, **settings)


def graphs_from_images(source: str | Path, *, segment_px: int = 64, compactness: float = 0.1) -> Data:
    """Make a graph of superpixels of every image of a labelled data set, for classes of whole images.

    Args:
        source: A folder with a folder of images per class, also below ``train`` and ``test``; or an ``.npz`` file, as
            ``geossl evaluate`` takes them. Of several sensors all bands follow one another.
        segment_px: Pixels per superpixel, about.
        compactness: As in ``graph_from_raster``.

    Returns:
        The union of all graphs, in the order of the data set: ``x`` (n 2c), mean and standard deviation of every band;
        ``edge_index``; ``batch`` (n,), the image of every node; ``graph_y``, the class of every image, and ``classes``.

    Raises:
        InputError: If the data set cannot be used, or holds no images of one class each.
    """
    check_values(segment_px=segment_px, compactness=compactness)
    images = read_set(source)
    if not images.sensors or images.labels.ndim != 1:
        raise InputError(f"{source} holds no images of one class each; expected a folder of images per class, or .npz")
    pixels = (torch.cat(list(images.items[i].values())) for i in range(len(images.labels)))
    graphs = image_graphs(pixels, segment_px, compactness)
    graphs.graph_y, graphs.classes = torch.from_numpy(images.labels), images.classes
    return graphs


def source_graph(settings: Graphs) -> Data:
    """The graph a recipe's ``data`` section names."""
    source = Path(settings.source)
    style: dict[str, Any] = {
        "segment_px": settings.segment_px,
        "compactness": settings.compactness,
        "smooth": settings.smooth,
    }
    if settings.source == "sample" or (source / OPTICAL).is_dir():
        return scene_graph(settings.source, **style)
    if source.suffix.lower() in VECTORS:
        features = settings.features
        return graph_from_geodataframe(source, features, settings.edges, smooth=settings.smooth)
    if source.suffix in RASTERS:
        return graph_from_raster(source, **style)
    edges = None if settings.edges == Graphs().edges else settings.edges  # nodes of a file need not be places
    return geometry.smoothed(read_graph(source, edges), settings.smooth)


def read_places(path: Path) -> gpd.GeoDataFrame:
    """The features of a vector file."""
    return read_features(path, "data.source")


def scene_graph(root: str | Path, *, segment_px: int = 64, compactness: float = 0.1, smooth: int = 0) -> Data:
    """Superpixels of every scene of a folder with ``s1/``, ``s2/`` and perhaps ``labels/``, as one graph."""
    folder = (SAMPLE if str(root) == "sample" else Path(root)) / "labels"
    labels = folder if folder.is_dir() and files_in(folder, TIFF) else None
    style: dict[str, Any] = {"segment_px": segment_px, "compactness": compactness, "smooth": smooth}
    graphs = []
    for scene in aligned_scenes(root):
        for _, row in scene.index.iterrows():
            grid, pixels = row.reference.grid, scene.read(row, row.reference.grid)
            graphs.append(graph_from_raster(as_cube(pixels, grid), labels=labels, **style))
    return union_of(graphs)


def as_cube(pixels: Mapping[str, torch.Tensor], grid: GeoBox) -> xr.Dataset:
    """All sensors of a scene as ``geossl.cube`` gives them."""
    return xr.Dataset(
        {
            name: xr.DataArray(
                pixels[name].numpy(),
                dims=(f"{name}_band", "y", "x"),
                coords={f"{name}_band": list(SENSORS[name].bands), **xr_coords(grid, dims=("y", "x"))},
            )
            for name in SENSORS
            if name in pixels
        }
    )
