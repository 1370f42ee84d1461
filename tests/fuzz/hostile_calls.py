"""The same for Python: hostile values for every argument of every public function.

A right answer is an error of geossl, in one line.
"""

import inspect

import numpy as np
import torch

import geossl
from geossl.errors import GeosslError
from tests.fuzz.attempts import HANG_S, LONG, OUTPUTS, attempt, bad_files, limited, listing, odd_paths

PLACES = {"aoi": ".geojson", "labels": ".gpkg", "encoder": ".safetensors", "model": ".safetensors", "map": ".zarr",
          "path": ".zarr", "laz": ".las", "dataset": ".npz", "name_or_path": ".safetensors", "to": ".geojson",
          "graph": ".npz", "frame": ".gpkg", "graphs": ".npz", "raster": ".tif",
          "points": ".csv"}  # fmt: skip
TYPES = [
    None,
    3,
    -1,
    1.5,
    float("nan"),
    True,
    b"a",
    object(),
    [],
    {},
    (),
    [None],
    {"a": 1},
    np.zeros(3),
    10**30,
    lambda: 1,
]
NUMBERS = [-1, 0, 1.5, float("nan"), float("inf"), "x", None, True, 10**30, [], np.float64("nan"), "5"]
TEXTS = ["", " ", "no such", LONG, "\0", "\udcff", 5, None, b"x", [], "../x", "{}"]
SETTINGS = {  # keyword arguments that signatures do not name
    "embed_map": (
        "dtype",
        "scheduler",
        "batch_size",
        "shard_cells",
        "crs",
        "gsd_m",
        "precision",
        "valid_share",
        "reach",
    ),
    "segment": ("seed", "polygons", "shard_cells", "crs"),
    "evaluate": ("seeds", "split", "neighbours", "label_fractions", "image_px", "batch_size", "epochs", "sensors"),
    "points.finetune": ("max_steps", "lr", "batch_size", "train_encoder"),
    "Catalog": (),
    "Rasters": ("s1", "s2", "landsat", "s2_bands", "s1_bands"),
}


def good_arguments(good):
    """What is right, by function."""
    pair = geossl.Rasters(s1=good / "s1.tif", s2=good / "s2.tif")
    croma, store, points = good / "croma.safetensors", good / "map.zarr", good / "points.safetensors"
    return {
        "embed_map": {"aoi": good / "aoi.geojson", "source": pair, "encoder": croma, "out": "m.zarr"},
        "plan_map": {"aoi": good / "aoi.geojson", "source": pair, "encoder": croma, "out": "m.zarr"},
        "fetch": {"aoi": good / "aoi.geojson", "source": geossl.Catalog("2024-06", catalog=good / "items.json")},
        "cube": {"geobox_like": geossl.open(store), "source": pair},
        "embed": {"cube": geossl.cube(geossl.open(store).odc.geobox.zoom_out(1 / 8), pair), "encoder": croma},
        "finetune": {"labels": good / "parcels.gpkg", "source": pair, "column": "crop", "encoder": croma},
        "segment": {"aoi": good / "aoi.geojson", "source": pair, "model": good / "model.safetensors"},
        "anomaly": {"aoi": good / "aoi.geojson", "source": pair, "encoder": good / "ae.safetensors"},
        "change": {"before": store, "after": store, "out": "c.tif"},
        "similar": {"map": store, "to": (3.004, 41.546)},
        "export": {"map": store, "out": "m.tif"},
        "evaluate": {"encoder": croma, "dataset": good / "set.npz", "out": "r.html"},
        "open": {"path": store},
        "quicklook": {"embeddings": geossl.open(store), "out": "q.png"},
        "load_encoder": {"name_or_path": croma},
        "Catalog": {"date": "2024-06"},
        "Rasters": {"s2": good / "s2.tif"},
        "points.embed": {"laz": good / "scans", "encoder": points},
        "points.finetune": {"laz": good / "scans", "encoder": points, "max_steps": 1},
        "points.classify": {"laz": good / "scans", "model": good / "points_model.safetensors"},
        "series.embed": {"source": good / "dates", "encoder": good / "series.safetensors"},
        "graphs.from_geodataframe": {"frame": good / "parcels.gpkg", "features": ["ndvi"]},
        "graphs.from_raster": {"raster": store},
        "graphs.cluster": {"graph": good / "set.npz", "encoder": good / "graph.safetensors", "classes": 3},
        "graphs.embed": {"graph": good / "set.npz", "encoder": good / "graph.safetensors"},
        "graphs.from_images": {"source": good / "set.npz"},
        "sample": {"map": store, "points": good / "points.csv"},
        "verify": {"map": store, "encoder": croma, "source": pair},
        "wrap": {"module": torch.nn.Conv2d(3, 8, 8, 8), "bands": ("B04", "B03", "B02"), "patch_px": 8, "window_px": 32},
    }


def public(name):
    """A public function or class by its dotted name."""
    found = geossl
    for part in name.split("."):
        found = getattr(found, part)
    return found


def values_of(name, annotation, files):
    """What to try for an argument."""
    if name in PLACES:
        return [*files[PLACES[name]], *odd_paths(PLACES[name]), *TYPES]
    if name in OUTPUTS:
        return [*odd_paths(".tif"), "x.txt", *TYPES]
    text = str(annotation)
    if "int" in text or "float" in text:
        return [*NUMBERS, *TYPES]
    return [*TEXTS, *TYPES]


def cases(good, bad):
    """(function, argument, value, all arguments)."""
    files = bad_files(good, bad)
    for function, base in good_arguments(good).items():
        parameters = inspect.signature(public(function)).parameters
        named = {n: p.annotation for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        named.pop("progress", None)
        for name, annotation in {**named, **dict.fromkeys(SETTINGS.get(function, ()), "int")}.items():
            for value in values_of(name, annotation, files):
                yield function, name, value, {**base, name: value}
        yield function, "misspelt", 1, {**base, "no_such_setting": 1}


def judge(function, arguments, watched):
    """Call; what came of it, and what is wrong with that."""
    before = listing(*watched)
    try:
        with limited(HANG_S):
            public(function)(**arguments)
        return "accepted", "", ""
    except GeosslError as error:
        said = str(error)
        left = listing(*watched) - before
        wrong = (
            "no words" if not said.strip() or len(said) > 2000 else f"left {sorted(map(str, left))[:2]}" if left else ""
        )
        return "refused", wrong, said[:300]
    except TypeError as error:
        is_ours = "unexpected keyword" in str(error) or "required argument" in str(error) or "positional" in str(error)
        return "refused", "" if is_ours else "TypeError", f"{error}"[:300]
    except Exception as error:
        return "refused", type(error).__name__, f"{error} {getattr(error, '__notes__', '')}"[:400]


NAME = "calls"

if __name__ == "__main__":
    attempt(NAME, cases, judge)
