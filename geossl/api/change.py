"""What changed between two embedding maps: a raster, places, a table and a picture."""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from geossl.data.resampling import apply
from geossl.data.splits import epsg_code, hash_priority
from geossl.errors import InputError, Note, possible, redact
from geossl.evaluation.heads import fit_kmeans
from geossl.inference import change as inference
from geossl.inference.changed_places import ChangedPlaces
from geossl.inference.dated_maps import Dated, all_opened, comparable, nearer, too_few
from geossl.inference.outputs.change_picture import STEPS_ABOVE, change_picture, ramp
from geossl.inference.outputs.cog import Block, blocks, write_blocks
from geossl.inference.outputs.furniture import Caption, notice_of, span
from geossl.inference.outputs.styles import write_value_style
from geossl.outputs import check_output, replacing
from geossl.progress import Progress, silent
from geossl.rules import check_values
from geossl.viewer.shown import rows as html_rows

SAMPLE = 50_000  # patches that what is usual is learned from
LEAST = 50  # of them
TOP = 10  # places that are shown
SEASON_DAYS = 45  # dates farther apart within the year show other leaves, crops and shadows


@dataclass(frozen=True)
class Change:
    """What ``geossl.change`` found.

    Args:
        layers: ``z``, ``p_value`` and ``distance`` ``(y, x)``, lazy; NaN where patches cannot be compared.
        places: Outlines of what changed, strongest first; see ``geossl.change``.
        about: Shares, areas in hectares, threshold and what the p-values were learned from.
    """

    layers: xr.Dataset
    places: gpd.GeoDataFrame
    about: dict[str, Any]

    def _repr_html_(self) -> str:
        """What a notebook shows: the numbers, and the strongest places."""
        table = [["change", ""], *([name.replace("_", " "), str(value)] for name, value in self.about.items())]
        return html_rows(table) + self.places.drop(columns="geometry").head(TOP).to_html(index=False)


def change(
    before: str | Path | xr.DataArray,
    *after: str | Path | xr.DataArray,
    false_alarms: float = 0.01,
    strata: int = 1,
    time: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Change:
    """Find what changed between two maps of one encoder, at a false-alarm rate.

    Patches count that are valid in both maps and were made from the same sensors. A patch's distance is the cosine
    distance of its vectors, both dates brought to one mean and spread; ``z`` sets its logarithm against the median;
    ``p_value`` is the share of unchanged ground that looks as different. Further maps, each of a day near ``before`` or
    ``after``, show what unchanged ground looks like; without one, the bulk of the two maps does, by the normal
    distribution, which is a guess about its tail. See ``geossl.inference.change``.

    Args:
        before: ``.zarr`` written by ``geossl embed``, or ``(embedding, y, x)`` as ``geossl.open`` gives it.
        after: Another date of the same place; the part that both cover is compared. None where ``before`` has several
            dates, of which ``time`` names two or more. Further maps, of days near one of the two, between which nothing
            changed; each is paired with the nearer one.
        false_alarms: Share of unchanged patches that may be taken for changed, above 0, at most 0.5.
        strata: Kinds of ground (k-means of ``before``) that get a level of their own. More than one makes fields count
            for less and hides change of a whole kind, such as a shore.
        time: Of maps with several dates (``embed --every``): those to compare, one for every map or several of one map,
            by commas: ``2023-03,2023-09``. The first two are before and after.
        out: Also write it: ``.tif``, a COG with bands ``z``, ``p_value`` and ``distance``. Beside it ``.gpkg``
            (places), ``.csv`` (the same as a table), ``.png`` (before, after, change) and ``.qml`` (style for QGIS).
        seed: Of the strata and the sample.
        overwrite: Replace these.
        progress: Called after every block; see ``geossl.progress``.

    Returns:
        Lazy layers, the places, and numbers about them. Places have ``rank``, ``hectares`` (on the ellipsoid),
        ``patches``, ``z_max``, ``z_mean``, ``p_min``, and ``lon``, ``lat`` of the strongest patch.

    Raises:
        MissingFileError: If a map does not exist.
        GridError: If the maps do not share a lattice or do not overlap.
        InputError: If they were made by different encoders or from different sensors, or hold too little in common.
    """
    check_values(false_alarms=false_alarms, strata=strata, seed=seed, overwrite=overwrite)
    given = [before, *after]
    target = None if out is None else check_outputs(out, overwrite, given)
    maps = all_opened(given, time)
    stable = [(nearer(maps, k), k) for k in range(2, len(maps))]
    rows = sample(maps, seed)
    calibration = inference.calibrate(rows, stable, kinds(rows[0], strata, seed))
    threshold = calibration.threshold(false_alarms)
    if not np.isfinite(threshold):
        raise InputError(
            f"--false-alarms {false_alarms:g} is finer than {len(calibration.null)} patches of stable ground can show; "
            f"use {2 / len(calibration.null):.1g} or more"
        )
    layers = inference.layers(maps[0].embeddings, maps[1].embeddings, comparable(maps[:2]), calibration)
    found = ChangedPlaces(layers.odc.geobox, threshold)
    parts = watched(layers, found, progress or silent)
    if target is None:
        for _ in parts:
            pass
        places, about = found.table(), numbers(maps, found, stable, calibration, false_alarms)
    else:
        with replacing(target) as raster:
            geobox, names = layers.odc.geobox, inference.LAYERS
            tags = tags_of(maps, threshold, false_alarms)
            write_blocks(
                raster, geobox, parts, count=len(names), dtype="float32", nodata=np.nan, names=names, tags=tags
            )
            places, about = found.table(), numbers(maps, found, stable, calibration, false_alarms)
            write_beside(target, maps, layers, places, about, calibration)
    notes(maps, about)
    return Change(layers.to_dataset("layer"), places, about)


def open_pair(maps: tuple[str | Path, str | Path], seed: int = 0, time: str | None = None) -> inference.Pair:
    """Two maps of one encoder, lattice and place, brought to one mean and spread as ``geossl.change`` does.

    Args:
        maps: Before and after: ``.zarr`` written by ``geossl embed``.
        seed: Of the sample that mean and spread are measured on.
        time: Dates of both by a comma, of maps with several.

    Raises:
        MissingFileError: If one does not exist.
        GridError: If they do not share a lattice or do not overlap.
        InputError: If they were made by different encoders, or hold too little in common.
    """
    found = all_opened(maps, time)
    first, second = inference.invariant(sample(found, seed))
    return inference.paired(found, (first, second))


def check_outputs(out: str | Path, overwrite: bool, maps: Sequence[str | Path | xr.DataArray]) -> Path:
    """The raster's path, if it and what goes beside it can be written."""
    target = check_output(out, (".tif",), overwrite=overwrite)
    folders = target.resolve().parents
    if inside := [m for m in maps if isinstance(m, str | Path) and possible(m, "map").resolve() in folders]:
        raise InputError(f"--out {out} lies inside the map {inside[0]}; choose another folder")
    for path in beside(target):
        check_output(path, (path.suffix,), overwrite=overwrite)
    return target


def beside(out: Path) -> list[Path]:
    """What is written beside the raster: places, table, picture and style."""
    return [out.with_suffix(ending) for ending in (".gpkg", ".csv", ".png", ".qml")]


def sample(maps: Sequence[Dated], seed: int) -> list[Float[np.ndarray, "n d"]]:
    """Vectors of the same comparable patches of every map, at most 50,000; the same whatever the chunks.

    Raises:
        InputError: If there are too few.
    """
    usable, box = comparable(maps), maps[0].embeddings.odc.geobox
    priority, rows = np.zeros(0, np.uint64), [np.zeros((0, m.embeddings.sizes["embedding"]), np.float32) for m in maps]
    for where, values in blocks(maps[0].embeddings):
        y, x = np.nonzero(usable[(0, *where)].compute())
        places = np.column_stack(apply(box[where].transform, x + 0.5, y + 0.5))
        found = hash_priority(places, epsg_code(box), seed)
        if len(priority) == SAMPLE:
            better = found < priority[-1]
            y, x, found = y[better], x[better], found[better]
        if not len(found):
            continue
        vectors = [values, *(m.embeddings[(slice(None), *where)].values for m in maps[1:])]
        order = np.argsort(np.concatenate([priority, found]), kind="stable")[:SAMPLE]
        priority = np.concatenate([priority, found])[order]
        rows = [np.concatenate([r, v[:, y, x].T])[order] for r, v in zip(rows, vectors, strict=True)]
    if len(priority) < LEAST:
        raise InputError(
            f"{too_few(maps)}; expected at least {LEAST} patches valid in all maps and of the same sensors"
        )
    return rows


def kinds(rows: Float[np.ndarray, "n d"], count: int, seed: int) -> Float[np.ndarray, "k d"]:
    """Kinds of ground in the first map: centres of k-means of scaled vectors."""
    if count == 1:
        return np.zeros((1, rows.shape[1]))
    scaling = inference.Scaling.of(rows)
    scaled = ((rows - scaling.mean) / scaling.spread).astype(np.float32)
    with threadpool_limits(1):  # sums of several threads would differ in the last bits
        return fit_kmeans(scaled, count, seed).centres.numpy() * scaling.spread + scaling.mean


def watched(layers: xr.DataArray, found: ChangedPlaces, progress: Progress) -> Iterator[Block]:
    """Blocks as they pass; places are gathered from them."""
    total = int(np.prod([len(axis) for axis in layers.data.chunks[1:]]))
    for done, (where, values) in enumerate(blocks(layers), start=1):
        found.add(where, values)
        yield where, values
        progress(done, total, "blocks")


def numbers(
    maps: Sequence[Dated],
    found: ChangedPlaces,
    stable: Sequence[tuple[int, int]],
    calibration: inference.Calibration,
    false_alarms: float,
) -> dict[str, Any]:
    """Shares, areas and what they rest on."""
    changed, compared = found.hectares()
    patches, known = found.patches()
    pairs = [f"{maps[i].name} and {maps[k].name}" for i, k in stable]
    return {
        "before": maps[0].days,
        "after": maps[1].days,
        "patches_compared": known,
        "patches_of_map": int(np.prod(maps[0].embeddings.shape[1:])),
        "patches_changed": patches,
        "hectares_compared": round(compared, 4),
        "hectares_changed": round(changed, 4),
        "hectares_of_false_alarms": round(false_alarms * compared, 4),
        "false_alarms": false_alarms,
        "z_threshold": round(found.threshold, 4),
        "strata": len(calibration.centres),
        "stable_ground": pairs or "none: the bulk of the two maps, by the normal distribution",
        "stable_patches": len(calibration.null),
    }


def tags_of(maps: Sequence[Dated], threshold: float, false_alarms: float) -> dict[str, str]:
    """What the raster says of itself."""
    found = {"BEFORE": maps[0].name, "AFTER": maps[1].name, "DATES": json.dumps([m.days for m in maps[:2]])}
    found |= {"Z_THRESHOLD": f"{threshold:.6g}", "FALSE_ALARMS": f"{false_alarms:g}"}
    if further := [m.name for m in maps[2:]]:
        found["STABLE_GROUND"] = json.dumps(further)
    return {f"GEOSSL_{key}": redact(value) for key, value in found.items()}


def notes(maps: Sequence[Dated], about: dict[str, Any]) -> None:
    """Say what bears on the result and is easily missed."""
    said = []
    if not about["stable_patches"]:
        said.append(
            "what unchanged ground looks like is taken from the bulk of the two maps; a third map, of a day near one "
            "of them, calibrates the false-alarm rate"
        )
    first, second = maps[0].middle, maps[1].middle
    if first and second:
        apart = abs(first.timetuple().tm_yday - second.timetuple().tm_yday)
        if first > second:
            said.append(f"{maps[0].name} is of {first}, later than {maps[1].name} of {second}")
        if min(apart, 365 - apart) > SEASON_DAYS:
            said.append(f"{first} and {second} are of different seasons, whose leaves and crops count as change")
    if about["patches_compared"] < about["patches_of_map"] / 2:
        share = 100 * about["patches_compared"] / about["patches_of_map"]
        said.append(f"{share:.0f} % of the patches can be compared: valid at both dates and of the same sensors")
    for text in said:
        warnings.warn(text, Note, stacklevel=3)


def write_beside(
    out: Path,
    maps: Sequence[Dated],
    layers: xr.DataArray,
    places: gpd.GeoDataFrame,
    about: dict[str, Any],
    calibration: inference.Calibration,
) -> None:
    """Places, table and picture."""
    polygons, table, picture, _ = beside(out)
    write_value_style(out, 0.0, STEPS_ABOVE * about["z_threshold"], ramp())
    with replacing(polygons) as temporary:
        places.to_file(temporary, driver="GPKG", layer="change")
    with replacing(table) as temporary:
        places.drop(columns="geometry").to_csv(temporary, index=False)
    dates = [span(m.days) for m in maps[:2]]
    scaled = [scaled_by(m.embeddings, s) for m, s in zip(maps, calibration.scalings, strict=False)]
    words = Caption(
        f"Change at a false-alarm rate of {100 * about['false_alarms']:g} %: {about['hectares_changed']:,.1f} of "
        f"{about['hectares_compared']:,.1f} ha ({about['hectares_of_false_alarms']:,.1f} ha would be false alarms)",
        span([*maps[0].days, *maps[1].days]),
        f"Encoder {maps[0].about.get('geossl:encoder', 'unknown')}",
        "Before and after: the same three principal components, so alike is alike. Change: blue outlines lie above "
        "the threshold",
        notice_of(maps[0].about.get("geossl:sensors", ())),
    )
    titles = (f"before, {dates[0]}", f"after, {dates[1]}")
    z = layers.sel(layer="z")
    change_picture((scaled[0], scaled[1]), titles, z, about["z_threshold"], places, picture, words)


def scaled_by(embeddings: xr.DataArray, scaling: inference.Scaling) -> xr.DataArray:
    """Vectors centred and scaled by their date."""
    return (embeddings - scaling.mean[:, None, None]) / scaling.spread[:, None, None]


def summary(found: Change, out: Path, top: int = TOP) -> str:
    """Where the outputs are, and what was found, as text."""
    about = found.about
    polygons, table, picture, _ = beside(out)
    lines = [
        f"change     {out}  z, p_value, distance",
        f"places     {polygons}  {len(found.places)}",
        f"table      {table}",
        f"picture    {picture}",
        f"changed    {about['hectares_changed']:,.1f} of {about['hectares_compared']:,.1f} ha compared, "
        f"{about['patches_changed']} of {about['patches_compared']} patches; "
        f"{100 * about['false_alarms']:g} % false alarms would be {about['hectares_of_false_alarms']:,.1f} ha",
    ]
    if len(found.places):
        lines.append(found.places.drop(columns="geometry").head(top).to_string(index=False))
    return "\n".join(lines)
