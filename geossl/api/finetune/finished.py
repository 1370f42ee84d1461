"""Learn from a map that is there already, or from two of them, instead of embedding the labelled ground."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from geossl.api.finetune.fitting import LEAST, Fitted, Found, fitted, together
from geossl.api.finetune.task import Task
from geossl.api.segment.models import TIMES
from geossl.api.tokens import beside, of_months
from geossl.data.labels.patches import PatchSamples, join, patch_samples
from geossl.errors import InputError, MissingFileError, Note, possible
from geossl.inference.change import Pair
from geossl.inference.layers import flags_of, sensor_layer, vectors
from geossl.inference.outputs.cog import blocks
from geossl.inference.outputs.description import store_attributes
from geossl.inference.outputs.raster import ALL, open_map, usual_time
from geossl.models.encoder import DenseEncoder
from geossl.models.files import EncoderFile
from geossl.models.kinds import require_image_encoder


def maker_of(map: str | Path, encoder: str | Path | DenseEncoder, is_default: bool) -> EncoderFile:
    """The encoder a map was made by, with as many numbers per patch and the same tokens.

    Args:
        map: ``.zarr`` written by ``geossl embed``.
        encoder: Which it should be.
        is_default: Whether the user left it out.

    Raises:
        InputError: If the map was made by another one, or is none.
    """
    path = possible(map, "--map")
    if path.suffix != ".zarr":
        raise InputError(f"--map {map} must be a .zarr embedding map, which knows what each patch was made from")
    if not path.exists():
        raise MissingFileError(f"--map {map} does not exist")
    sensor_layer(path, usual_time(path, None))
    attributes = store_attributes(path)
    made_by, sha256 = str(attributes.get("geossl:encoder")), attributes.get("geossl:encoder_sha256")
    dims = open_map(path).sizes["embedding"]
    file = EncoderFile.portable(of_months(encoder, attributes.get("geossl:periods", ())))
    spec = require_image_encoder(file.encoder).spec
    if file.sha256 == sha256:
        return file
    if dims < spec.dim and file.encoder.projection is not None and (cut := file.cut(dims)).sha256 == sha256:
        return cut
    if len(spec.sensors) > 1 and file.encoder.is_rebuilt_from_spec:
        both = EncoderFile.open(beside(require_image_encoder(file.encoder)))
        if both.sha256 == sha256:
            return both
    hint = "name that one with --encoder" if is_default else "name that one, or leave --map out"
    raise InputError(f"--map {map} was made by {made_by}, not by the {spec.name} given; {hint}")


def fit_map(kind: str, task: Task, map: Path, time: str | None = None) -> Found:
    """A head for each set of sensors the map's patches were made from, where enough of them are labelled.

    Of a map of several dates it learns from ``time``, or, where that is None, from all of them side by side.
    """
    time = usual_time(map, time)
    embeddings = vectors(map, time)
    samples = labelled(task, embeddings, sensor_layer(map, time))
    found = of_samples(kind, task, samples, f"--map {map}", embeddings)
    if time == ALL:
        spec, times = found.model.spec, store_attributes(map)["geossl:periods"]
        found.model.spec = replace(spec, name=f"{spec.name}_dates", arguments={**spec.arguments, TIMES: times})
    return found


def fit_pair(kind: str, task: Task, pair: Pair) -> Found:
    """The same of two maps; a patch's vector is that of both and their difference."""
    samples = labelled(task, pair.embeddings, pair.sensors)
    found = of_samples(kind, task, samples, f"--pair {' '.join(pair.names)}", pair.embeddings)
    spec = found.model.spec
    found.model.spec = replace(spec, name=f"{spec.name}_pair", arguments={**spec.arguments, "pair": True})
    return found


def of_samples(kind: str, task: Task, samples: dict[str, PatchSamples], name: str, embeddings: xr.DataArray) -> Found:
    """Heads of labelled patches, by sensors."""
    total = sum(len(found.x) for found in samples.values())
    if not total:
        box = embeddings.odc.geobox.geographic_extent.boundingbox
        hint = "; are lon and lat the right way round?" if task.labels.is_sparse else ""
        raise InputError(
            f"no label lies on valid patches of {name}, which spans longitudes {box.left:.4f} to {box.right:.4f} "
            f"and latitudes {box.bottom:.4f} to {box.top:.4f}{hint}"
        )
    found: dict[str, Fitted] = {}
    for key in sorted(samples, key=lambda name: -len(samples[name].x)):
        try:
            found[key] = fitted(kind, samples[key], task)
        except InputError as error:
            if not found:
                raise
            warnings.warn(f"no head for patches made from {key}: {error}", Note, stacklevel=3)
    scores = {key: one.scores for key, one in found.items()}
    metadata = {"cell_m": task.encoder.spec.patch_m, "map": name.partition(" ")[2], "labelled_patches": total}
    return together(found, task, task.encoder, task.file.sha256, scores, metadata)


def labelled(task: Task, embeddings: xr.DataArray, layer: xr.DataArray) -> dict[str, PatchSamples]:
    """Labelled patches of a map, by the sensors they were made from."""
    names, found = {*layer.names, "+".join(sorted(layer.names))}, dict[str, PatchSamples]()
    box, patch = embeddings.odc.geobox, task.encoder.spec.patch_px
    for where, values in blocks(embeddings):
        made = np.asarray(layer[where])
        for name in sorted(names):
            here = np.where(np.isin(made, flags_of(name)), values, np.nan)
            part = patch_samples(here, box[where], task.labels, task.split, patch, task.seed)
            found[name] = join([*([found[name]] if name in found else []), part])
    most = max((len(part.x) for part in found.values()), default=0)
    return {name: part for name, part in found.items() if len(part.x) >= min(LEAST, most) and len(part.x)}
