"""Self-supervised learning for Sentinel-1/2: pretrain encoders, map embeddings.

Names load on first use, so that ``import geossl`` and ``geossl --help`` do not wait for torch. Other kinds of data have
their own namespaces: ``geossl.points``, ``geossl.series``, ``geossl.graphs``.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from inspect import isfunction
from types import ModuleType
from typing import TYPE_CHECKING, Any

from geossl.errors import missing, nearest
from geossl.faults import guarded

if TYPE_CHECKING:
    from geossl.api.anomaly import anomaly as anomaly
    from geossl.api.change import change as change
    from geossl.api.embed import cube as cube
    from geossl.api.embed import embed as embed
    from geossl.api.embed import embed_map as embed_map
    from geossl.api.embed import fetch as fetch
    from geossl.api.embed import plan_map as plan_map
    from geossl.api.evaluate.run import evaluate as evaluate
    from geossl.api.export import export as export
    from geossl.api.finetune.run import finetune as finetune
    from geossl.api.pretrain.run import pretrain as pretrain
    from geossl.api.sample import sample as sample
    from geossl.api.segment.run import segment as segment
    from geossl.api.similar import similar as similar
    from geossl.api.similar import view as view
    from geossl.api.source import Catalog as Catalog
    from geossl.api.source import Rasters as Rasters
    from geossl.api.verify import verify as verify
    from geossl.inference.outputs.quicklook import quicklook as quicklook
    from geossl.models.files import load_encoder as load_encoder
    from geossl.models.foreign.wrap import wrap as wrap
    from geossl.viewer.notebook import open_map as open  # noqa: F401

    points: Any
    series: Any
    graphs: Any

__version__ = "0.1.0"

PUBLIC = {
    "Catalog": "geossl.api.source:Catalog",
    "Rasters": "geossl.api.source:Rasters",
    "anomaly": "geossl.api.anomaly:anomaly",
    "change": "geossl.api.change:change",
    "cube": "geossl.api.embed:cube",
    "embed": "geossl.api.embed:embed",
    "embed_map": "geossl.api.embed:embed_map",
    "evaluate": "geossl.api.evaluate.run:evaluate",
    "export": "geossl.api.export:export",
    "fetch": "geossl.api.embed:fetch",
    "finetune": "geossl.api.finetune.run:finetune",
    "load_encoder": "geossl.models.files:load_encoder",
    "open": "geossl.viewer.notebook:open_map",
    "plan_map": "geossl.api.embed:plan_map",
    "pretrain": "geossl.api.pretrain.run:pretrain",
    "quicklook": "geossl.inference.outputs.quicklook:quicklook",
    "sample": "geossl.api.sample:sample",
    "segment": "geossl.api.segment.run:segment",
    "similar": "geossl.api.similar:similar",
    "verify": "geossl.api.verify:verify",
    "view": "geossl.api.similar:view",
    "wrap": "geossl.models.foreign.wrap:wrap",
}
POINTS = {
    "classify": "geossl.api.points.classify:classify_points",
    "embed": "geossl.api.points.embed:embed_points",
    "finetune": "geossl.api.points.classify:finetune_points",
}
SERIES = {"embed": "geossl.api.series:embed_series"}
GRAPHS = {
    "class_raster": "geossl.api.graphs.embed:class_raster",
    "cluster": "geossl.api.graphs.embed:cluster_graph",
    "embed": "geossl.api.graphs.embed:embed_graph",
    "embed_many": "geossl.api.graphs.embed:embed_graphs",
    "from_geodataframe": "geossl.api.graphs.build:graph_from_geodataframe",
    "from_images": "geossl.api.graphs.build:graphs_from_images",
    "from_raster": "geossl.api.graphs.build:graph_from_raster",
    "write": "geossl.api.graphs.build:write_graph",
}
MOVED = {  # former names
    "attention_profile": "api.attention.attention_profile (import it from there)",
    "class_raster": "graphs.class_raster",
    "classify_points": "points.classify",
    "cluster_graph": "graphs.cluster",
    "embed_graph": "graphs.embed",
    "embed_graphs": "graphs.embed_many",
    "embed_points": "points.embed",
    "embed_series": "series.embed",
    "finetune_points": "points.finetune",
    "graph_from_geodataframe": "graphs.from_geodataframe",
    "graph_from_raster": "graphs.from_raster",
    "graphs_from_images": "graphs.from_images",
    "similar_map": "similar(..., out=...)",
    "write_graph": "graphs.write",
}


def find(owner: str, name: str, names: Mapping[str, str]) -> Any:
    """Load a public name.

    Raises:
        AttributeError: Names the new place of a former name, or the nearest public one.
    """
    if name in names:
        module, attribute = names[name].split(":")
        try:
            found = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise missing(error) from None
        return guarded(found, f"{owner}.{name}") if isfunction(found) else found
    if owner == __name__ and name in MOVED:
        raise AttributeError(f"geossl.{name} is now geossl.{MOVED[name]}")
    known = [*names, *(NAMESPACES if owner == __name__ else ())]
    raise AttributeError(f"module {owner!r} has no attribute {name!r}; {nearest(name, known, 'public')}")


class Namespace(ModuleType):
    """Public names for one kind of data, loaded on first use.

    Args:
        name: Name of the namespace, within ``geossl``.
        about: What the data are.
        names: ``module:attribute`` by public name.
    """

    def __init__(self, name: str, about: str, names: Mapping[str, str]) -> None:
        super().__init__(f"{__name__}.{name}", f"{about}: {', '.join(names)}.")
        self.__all__ = [*names]
        self.names = names

    def __getattr__(self, name: str) -> Any:
        """Load a name on first use."""
        if name.startswith("__"):
            raise AttributeError(name)
        value = find(self.__name__, name, self.names)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        """Public names, for completion."""
        return sorted(self.__all__)


NAMESPACES = {
    "graphs": Namespace("graphs", "Graphs of parcels, superpixels and papers", GRAPHS),
    "points": Namespace("points", "Airborne laser scans", POINTS),
    "series": Namespace("series", "Series of images of one place", SERIES),
}
for _name, _namespace in NAMESPACES.items():
    sys.modules[f"{__name__}.{_name}"] = _namespace  # so that `from geossl.points import embed` works, too
__all__ = [*PUBLIC, *NAMESPACES]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    value = NAMESPACES[name] if name in NAMESPACES else find(__name__, name, PUBLIC)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted([*__all__, "__version__"])
