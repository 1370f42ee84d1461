"""Self-supervised learning for Sentinel-1/2: pretrain encoders, map embeddings.

Names load on first use, so that ``import geossl`` and ``geossl --help`` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geossl.api.anomaly import anomaly as anomaly
    from geossl.api.attention import attention_profile as attention_profile
    from geossl.api.embed import cube as cube
    from geossl.api.embed import embed as embed
    from geossl.api.embed import embed_map as embed_map
    from geossl.api.embed import fetch as fetch
    from geossl.api.embed import plan_map as plan_map
    from geossl.api.evaluate.run import evaluate as evaluate
    from geossl.api.export import export as export
    from geossl.api.finetune import finetune as finetune
    from geossl.api.graphs.build import graph_from_geodataframe as graph_from_geodataframe
    from geossl.api.graphs.build import graph_from_raster as graph_from_raster
    from geossl.api.graphs.build import graphs_from_images as graphs_from_images
    from geossl.api.graphs.build import write_graph as write_graph
    from geossl.api.graphs.embed import class_raster as class_raster
    from geossl.api.graphs.embed import cluster_graph as cluster_graph
    from geossl.api.graphs.embed import embed_graph as embed_graph
    from geossl.api.graphs.embed import embed_graphs as embed_graphs
    from geossl.api.points.classify import classify_points as classify_points
    from geossl.api.points.classify import finetune_points as finetune_points
    from geossl.api.points.embed import embed_points as embed_points
    from geossl.api.pretrain.run import pretrain as pretrain
    from geossl.api.segment import segment as segment
    from geossl.api.series import embed_series as embed_series
    from geossl.api.similar import similar as similar
    from geossl.api.similar import similar_map as similar_map
    from geossl.api.similar import view as view
    from geossl.api.source import Catalog as Catalog
    from geossl.api.source import Rasters as Rasters
    from geossl.inference.outputs.quicklook import quicklook as quicklook
    from geossl.inference.outputs.raster import open_map as open  # noqa: F401
    from geossl.models.files import load_encoder as load_encoder

__version__ = "0.1.0"

PUBLIC = {
    "Catalog": "geossl.api.source:Catalog",
    "Rasters": "geossl.api.source:Rasters",
    "anomaly": "geossl.api.anomaly:anomaly",
    "attention_profile": "geossl.api.attention:attention_profile",
    "class_raster": "geossl.api.graphs.embed:class_raster",
    "classify_points": "geossl.api.points.classify:classify_points",
    "cluster_graph": "geossl.api.graphs.embed:cluster_graph",
    "cube": "geossl.api.embed:cube",
    "embed": "geossl.api.embed:embed",
    "embed_graph": "geossl.api.graphs.embed:embed_graph",
    "embed_graphs": "geossl.api.graphs.embed:embed_graphs",
    "embed_map": "geossl.api.embed:embed_map",
    "embed_points": "geossl.api.points.embed:embed_points",
    "embed_series": "geossl.api.series:embed_series",
    "evaluate": "geossl.api.evaluate.run:evaluate",
    "export": "geossl.api.export:export",
    "fetch": "geossl.api.embed:fetch",
    "finetune": "geossl.api.finetune:finetune",
    "finetune_points": "geossl.api.points.classify:finetune_points",
    "graph_from_geodataframe": "geossl.api.graphs.build:graph_from_geodataframe",
    "graph_from_raster": "geossl.api.graphs.build:graph_from_raster",
    "graphs_from_images": "geossl.api.graphs.build:graphs_from_images",
    "load_encoder": "geossl.models.files:load_encoder",
    "open": "geossl.inference.outputs.raster:open_map",
    "plan_map": "geossl.api.embed:plan_map",
    "pretrain": "geossl.api.pretrain.run:pretrain",
    "quicklook": "geossl.inference.outputs.quicklook:quicklook",
    "segment": "geossl.api.segment:segment",
    "similar": "geossl.api.similar:similar",
    "similar_map": "geossl.api.similar:similar_map",
    "view": "geossl.api.similar:view",
    "write_graph": "geossl.api.graphs.build:write_graph",
}
__all__ = [*PUBLIC]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'geossl' has no attribute {name!r}; public: {', '.join(PUBLIC)}")
    module, attribute = PUBLIC[name].split(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted([*PUBLIC, "__version__"])
