"""Change between two dates: `geossl.change` on maps of encoders against differences of bands, on OSCD and a reservoir.

OSCD: the nine cities whose labels hold change. A patch of 80 m has changed if at least a quarter of it is labelled.
Every row gives a score per patch; AUC and average precision are of its ranks, F1 is of what lies above the threshold of
a false-alarm rate of 1 %, and ``flagged`` is the share of patches without a labelled pixel above it: labels are of
urban change alone, so it holds real changes of fields, woods and clouds, too. Scores are means over cities. Intervals:
blocks of 8 x 8 patches are drawn within every city, and cities among cities.

* an encoder, the same network with fresh weights: ``geossl.change`` on its tokens of S2, of S1 (VV), of both together
  (s1+s2) and side by side (s1|s2);
* band difference: Euclidean length of the difference of patch means, every band and date standardised by itself;
* CVA: change vector analysis, the same difference of plain reflectance or dB, each band less its median difference.

* "and a head": logistic regression of both vectors and their difference, as ``geossl finetune --pair`` has it, fitted
  on the other eight cities (of each every changed patch and 500 that hold no label; two of the cities choose C, and
  their unchanged patches the threshold of 1 %), each date of every city brought to one mean and spread.

Band difference and CVA get the threshold that ``geossl.change`` would set: of a normal logarithm, from the bulk.

Reservoir: Boadella, whose water is drawn by hand at three dates (80 m patches whose water share differs by a quarter
have changed). False alarms are counted on land at least two patches from water. With one and two further dates.

Run: python benchmarks/change.py --data DATA --out change.md [--cities 2 --encoders croma_tiny]
Seven minutes of one core. Finished parts are kept in change.parts: delete it to measure again.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.features import rasterize
from scipy.ndimage import binary_dilation
from scipy.special import ndtri
from sklearn.metrics import f1_score
from tasks.change import cities, read_date
from tasks.pixels import cells, layer
from tasks.rows import EncoderRow
from tasks.scoring import Value, area_under_curve, average_precision, block_numbers, mean_of

import geossl
from geossl.evaluation.heads import FITS, Samples, fit_head, predict
from geossl.inference.change import Level, differences, invariant
from geossl.models.files import fresh

RATE, SHARE, BLOCK, DRAWS = 0.01, 0.25, 8, 400
DATES = ("t1", "t2")
PAIRS = [  # reservoir: before, after, further dates
    ("2020-06-21", "2021-07-16"),
    ("2020-06-21", "2021-07-16", "2021-07-21"),
    ("2020-06-21", "2021-07-16", "2022-06-01"),
    ("2020-02-02", "2020-06-21"),
    ("2020-02-02", "2021-07-16", "2021-07-21"),
]


def on_grid(tokens):
    """Tokens ``(h, w, d)`` as a map on some grid of 80 m patches."""
    box = GeoBox(tokens.shape[:2], Affine(80, 0, 480_000, 0, -80, 4_800_000), 32631)
    coords = {"embedding": np.arange(tokens.shape[2]), **xr_coords(box)}
    return xr.DataArray(tokens.transpose(2, 0, 1), coords, ("embedding", "y", "x"))


def encoded(row):
    """Score and what is flagged, by sensors, of an encoder's tokens."""

    def score(images):
        tokens = {}
        for sensors in (("s2",), ("s1",), ("s1", "s2")):
            tokens["+".join(sensors)] = [row.tokens({name: images[d][name] for name in sensors})[0] for d in DATES]
        tokens["s1|s2"] = [np.concatenate(both, axis=-1) for both in zip(tokens["s1"], tokens["s2"], strict=True)]
        for name, (a, b) in tokens.items():
            found = geossl.change(on_grid(a), on_grid(b), false_alarms=RATE)
            yield name, found.layers["z"].values, found.layers["p_value"].values <= RATE

    return score


def of_bands(difference):
    """Score and what is flagged, by sensors, of a difference of patch means."""

    def score(images):
        means = {
            s: [np.stack([cells(b).mean(-1) for b in images[d][s].values[0]]) for d in DATES] for s in ("s2", "s1")
        }
        means["s1+s2"] = [np.concatenate(both) for both in zip(means["s1"], means["s2"], strict=True)]
        for name, (a, b) in means.items():
            length = np.linalg.norm(difference(a, b), axis=0)
            level = Level.of(np.log(length.ravel()))
            yield name, length, (np.log(length) - level.middle) / level.spread >= -ndtri(RATE)

    return score


def standardised(a, b):
    """Difference of bands, each date standardised."""
    own = [(x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True) for x in (a, b)]
    return own[1] - own[0]


def change_vector(a, b):
    """Difference of bands in their unit; dB are brought to the size of reflectance by their spread."""
    difference = b - a
    difference = difference - np.median(difference, axis=(1, 2), keepdims=True)
    return difference / (1 if len(a) in (1, 13) else difference.std((1, 2), keepdims=True))


def oscd(folders, rows, kept):
    """Scores by row and sensors; those of finished cities are kept in a folder."""
    found = {}
    for city in folders:
        part = kept / f"{city.name}.json"
        if not part.exists():
            kept.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(of_city(city, rows)))
        for name, sensors, key, value in json.loads(part.read_text()):
            found.setdefault((name, sensors), {}).setdefault(key, []).append(Value.from_dict(value))
        print(city.name, flush=True)
    return {row: {key: over_cities(values) for key, values in of.items()} for row, of in found.items()}


def of_city(city, rows):
    """Row, sensors, score and value."""
    images = {d: {s: read_date(city / f"{d}_{s.upper()}.tif", s) for s in ("s1", "s2")} for d in DATES}
    labelled = cells(layer(city / "change.tif")).mean(axis=-1)
    truth, calm = labelled >= SHARE, labelled == 0
    blocks = block_numbers(*truth.shape, BLOCK).ravel()
    found = []
    for name, row in rows.items():
        for sensors, score, flagged in row(images):
            values = {
                "AUC": area_under_curve(truth.ravel(), score.ravel(), blocks),
                "AP": average_precision(truth.ravel(), score.ravel(), blocks),
                "F1": single(f1_score(truth.ravel(), flagged.ravel())),
                "flagged": single(flagged[calm].mean()),
            }
            found += [(name, sensors, key, value.to_dict()) for key, value in values.items()]
    return found


def heads(folders, name, row, kept):
    """Scores of heads that never saw the city, by sensors; those of finished encoders are kept in a folder."""
    part = kept / f"heads_{name.replace(', ', '_')}.json"
    if not part.exists():
        part.write_text(json.dumps([[s, *held_out(folders, row, s.split("+"))] for s in ("s2", "s1+s2")]))
    for sensors, scores in json.loads(part.read_text()):
        found = {key: [Value.from_dict(of_one) for of_one in values] for key, values in scores.items()}
        yield sensors, {key: over_cities(values) for key, values in found.items()}
    print(f"{name} and a head", flush=True)


def held_out(folders, row, sensors):
    """Score by name, a value per city."""
    x, labelled = zip(*(of_pair(folder, row, sensors) for folder in folders), strict=True)
    found = {key: [] for key in ("AUC", "AP", "F1", "flagged")}
    for i, share in enumerate(labelled):
        others = [k for k in range(len(folders)) if k != i]
        chosen = [others[(i + step) % len(others)] for step in (0, 4)]  # two that choose the penalty
        parts = {k: training(x[k], labelled[k]) for k in others}
        train, val = (joined([parts[k] for k in others if (k in chosen) == is_val]) for is_val in (False, True))
        head, setting = fit_head("linear", train, val, 2, 0, [{"c": c} for c in (0.001, 0.01, 0.1)])
        threshold = np.quantile(predict(head, val.x[val.y == 0])[:, 1], 1 - RATE)
        whole = FITS["linear"](joined(list(parts.values())), 2, 0, **setting)
        score, truth, calm = predict(whole, flat(x[i]))[:, 1], (share >= SHARE).ravel(), (share == 0).ravel()
        blocks, flagged = block_numbers(*share.shape, BLOCK).ravel(), score >= threshold
        found["AUC"].append(area_under_curve(truth, score, blocks).to_dict())
        found["AP"].append(average_precision(truth, score, blocks).to_dict())
        found["F1"].append(single(f1_score(truth, flagged)).to_dict())
        found["flagged"].append(single(flagged[calm].mean()).to_dict())
    return [found]


def of_pair(city, row, sensors):
    """Both vectors and their difference ``(3 d, h, w)``, and the share of every patch that is labelled as changed."""
    images = {d: {s: read_date(city / f"{d}_{s.upper()}.tif", s) for s in sensors} for d in DATES}
    a, b = (row.tokens(images[d])[0].transpose(2, 0, 1) for d in DATES)
    scalings = invariant([flat(a), flat(b)])
    usable = np.isfinite(a).all(0, keepdims=True) & np.isfinite(b).all(0, keepdims=True)
    return differences(a, b, usable, (scalings[0], scalings[1])), cells(layer(city / "change.tif")).mean(axis=-1)


def flat(x):
    """Patches by row."""
    return x.reshape(len(x), -1).T


def training(x, share):
    """Patches of a city to learn from: those that changed, and some that hold no label."""
    changed, calm = np.flatnonzero(share.ravel() >= SHARE), np.flatnonzero(share.ravel() == 0)
    few = np.random.default_rng(0).permutation(calm)[:500]
    return Samples(flat(x)[np.concatenate([changed, few])], np.repeat([1, 0], [len(changed), len(few)]))


def joined(parts):
    """Samples of several cities."""
    return Samples(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def single(value):
    """A score without draws of blocks."""
    return Value(float(value), np.full(DRAWS, float(value)))


def over_cities(values):
    """Mean over cities; draws of blocks within cities, and of cities."""
    draws = np.array([v.draws for v in values])
    chosen = np.random.default_rng(1).integers(len(values), size=(DRAWS, len(values)))
    return Value(mean_of(values).value, np.nanmean(draws[chosen, np.arange(DRAWS)[:, None]], axis=1))


def reservoir(data, encoder):
    """A line per pair: AUC, share flagged of the changed shore, and of land far from water."""
    folder = data / "timeseries" / "boadella_s2l2a"
    with tempfile.TemporaryDirectory() as scratch:
        maps = {}
        for day in sorted({day for pair in PAIRS for day in pair}):
            source = geossl.Rasters(s2=folder / f"{day}.tif", s2_offset=0)
            region = gpd.GeoDataFrame(geometry=[box_of(folder / f"{day}.tif")], crs=4326)
            maps[day] = geossl.embed_map(region, source, encoder=encoder, out=Path(scratch) / f"{day}.zarr")
        for before, after, *others in PAIRS:
            found = geossl.change(*(maps[day] for day in (before, after, *others)), false_alarms=RATE)
            z, box = found.layers["z"].values, found.layers.odc.geobox
            water = [water_share(folder / f"{day}_water.geojson", box) for day in (before, after)]
            known = np.isfinite(z)
            truth = (abs(water[1] - water[0]) >= SHARE) & known
            land = known & ~binary_dilation(water[0] + water[1] > 0, iterations=2)
            flagged = found.layers["p_value"].values <= RATE
            auc = area_under_curve(truth[known], z[known], np.arange(known.sum()) // 64).value
            found = f"{auc:.3f} | {percent(flagged[truth])} | {percent(flagged[land])}"
            yield f"| {before} | {after} | {', '.join(others) or 'none'} | {found} |"


def percent(flags):
    """Share that is flagged."""
    return f"{100 * flags.mean():.0f} %" if flags.mean() > 0.04 else f"{100 * flags.mean():.1f} %"


def box_of(path):
    """Outline of a raster in its CRS."""
    import rasterio
    import shapely

    with rasterio.open(path) as file:
        return shapely.box(*file.bounds)


def water_share(path, box, fine=8):
    """Share of every patch that is water."""
    shapes = gpd.read_file(path).to_crs(box.crs.to_wkt()).geometry
    grid = box.zoom_out(1 / fine)
    mask = rasterize(shapes, grid.shape, transform=grid.transform)
    return mask.reshape(box.shape[0], fine, box.shape[1], fine).mean(axis=(1, 3))


def table(found):
    """Markdown."""
    lines = ["| | sensors | AUC | average precision | F1 at 1 % | flagged, no label |", "|---|---|---|---|---|---|"]
    for (name, sensors), scores in found.items():
        texts = [text_of(scores[key]) for key in ("AUC", "AP", "F1", "flagged")]
        lines.append(f"| {name} | {sensors.replace('|', chr(92) + '|')} | {' | '.join(texts)} |")
    return lines


def text_of(value):
    """A score and its interval."""
    low, high = np.nanpercentile(value.draws, [2.5, 97.5])
    return f"{value.value:.3f} [{low:.2f}, {high:.2f}]"


def main():
    """Print and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with oscd_s1s2 and timeseries")
    parser.add_argument("--out", type=Path, default=Path("change.md"))
    parser.add_argument("--encoders", nargs="+", default=["croma_tiny", "galileo_nano"])
    parser.add_argument("--cities", type=int, help="the first so many alone, for a first look; heads need nine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", geossl.errors.Note)
    rows = {"band difference": of_bands(standardised), "CVA": of_bands(change_vector)}
    for name in options.encoders:
        encoder = geossl.load_encoder(name)
        rows[name] = encoded(EncoderRow(encoder))
        torch.manual_seed(0)
        rows[f"{name}, random"] = encoded(EncoderRow(fresh(encoder.spec.to_dict())))
    folders = list(cities(options.data))
    few = folders[: options.cities]
    kept = options.out.with_suffix(".parts") / "_".join(options.encoders)
    found = oscd(few, rows, kept)
    for name in options.encoders if few == folders else ():
        for known in (name, f"{name}, random"):
            row = EncoderRow(geossl.load_encoder(name))
            if known != name:
                torch.manual_seed(0)
                row = EncoderRow(fresh(row.encoder.spec.to_dict()))
            found |= {(f"{known}, and a head", s): scores for s, scores in heads(folders, known, row, kept)}
    lines = table(found)
    lines += [
        "",
        "| before | after | further | AUC of the shore | shore flagged | land flagged |",
        "|---|---|---|---|---|---|",
    ]
    lines += list(reservoir(options.data, options.encoders[0]))
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
