"""Crops from one date, from all months, and from annual embeddings; blocks of ground, logistic regression.

``--data`` holds ``pixel_series/worldcereal_canada2017.npz`` (monthly series of single fields) and
``timeseries/worldcereal_BE_*.npz`` (stacks of 64 x 64 px with labels). Months of Canada are WorldCereal's composites;
those of the stacks are the median of the dates of a month whose B05 (20 m) is below 0.3, which leaves clouds out.
Missing months of plain values take the mean of training; to Presto they are no token. Scores are of all held-out
samples together, accuracy and its mean over classes; intervals (95 %) are of blocks drawn with replacement.
Regularisation is chosen on inner blocks of the training labels; with ten labels a class it is fixed.

Run: python benchmarks/seasons.py --data DATA [--only canada|stacks|images]
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import rasterio
import shapely
import torch
import xarray as xr
from rasterio.transform import from_origin
from sklearn.decomposition import PCA
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import geossl
from geossl.inference import layers
from geossl.models.encoders.galileo import GalileoEncoder, galileo_spec
from geossl.models.encoders.presto import More, PrestoEncoder, presto_spec

NODATA = 65535
LEAST = 37  # fields of a crop in Canada: eight crops have as many
TEN, DRAWS, FOLDS, RESAMPLES = 10, 10, 5, 300
BLOCK_PX, LEAST_PX = 16, 90  # of the stacks
STRENGTHS, FEW = (0.01, 0.1, 1.0), 0.1  # of logistic regression: to choose from, and with ten labels a class
CLOUD_B05 = 0.3
S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def classifier(strength):
    """Plain values or vectors to classes."""
    head = LogisticRegression(C=strength, max_iter=500, tol=1e-3)
    return make_pipeline(SimpleImputer(), StandardScaler(), head)


def chosen(x, y, blocks):
    """Strength of regularisation, by accuracy on inner blocks of the training labels."""

    def score(strength):
        parts = GroupKFold(3).split(x, y, blocks)
        return np.mean([classifier(strength).fit(x[a], y[a]).score(x[b], y[b]) for a, b in parts])

    return max(STRENGTHS, key=score)


def blocked(x, y, blocks, ten, seed=0):
    """Held-out predictions, every block once; with ``ten``, from so many labels per class of the other blocks."""
    found, rng = np.empty_like(y), np.random.default_rng(seed)
    for train, test in GroupKFold(FOLDS).split(x, y, blocks):
        if ten:
            picked = [rng.permutation(train[y[train] == c])[:TEN] for c in np.unique(y[train])]
            train = np.concatenate(picked)
        strength = FEW if ten else chosen(x[train], y[train], blocks[train])
        found[test] = classifier(strength).fit(x[train], y[train]).predict(x[test])
    return found


def interval(y, found, blocks, score):
    """95 % of scores of blocks drawn with replacement."""
    rng, names = np.random.default_rng(0), np.unique(blocks)
    rows = {name: np.flatnonzero(blocks == name) for name in names}
    scores = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rows[name] for name in rng.choice(names, len(names))])
        scores.append(np.mean([score(y[drawn], one[drawn]) for one in found]))
    return np.percentile(scores, [2.5, 97.5])


def table(title, features, y, blocks):
    """A row per set of features."""
    print(f"\n{title}: {len(y)} samples, {len(np.unique(y))} classes, {len(np.unique(blocks))} blocks\n")
    print("| features | numbers | accuracy | balanced | ten per class: accuracy | balanced |\n" + "|---" * 6 + "|")
    for name, x in features.items():
        cells = [name, str(x.shape[1])]
        runs = [blocked(x, y, blocks, ten=False)], [blocked(x, y, blocks, ten=True, seed=i) for i in range(DRAWS)]
        for found in runs:
            for score in (accuracy_score, balanced_accuracy_score):
                low, high = interval(y, found, blocks, score)
                cells.append(f"{np.mean([score(y, one) for one in found]):.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {' | '.join(cells)} |", flush=True)


def vectors(encoder, s1, s2, month, more=None):
    """Presto's vectors of series; NaN pixels are missing."""
    with torch.inference_mode():
        pixels = {"s1": torch.from_numpy(s1).float(), "s2": torch.from_numpy(s2).float()}
        parts = zip(*(x.split(512) for x in pixels.values()), strict=True)
        places = [None] * len(s1) if more is None else more.split(512)
        found = [
            encoder.series({"s1": a, "s2": b}, month, More(location=p))
            for (a, b), p in zip(parts, places, strict=False)
        ]
    return torch.cat(found).numpy()


def presto_rows(s1, s2, month, place=None):
    """Vectors of the published network, of one with random weights, and with the place."""
    torch.manual_seed(0)
    presto, random = geossl.load_encoder("presto"), PrestoEncoder(presto_spec()).eval()
    torch.nn.init.normal_(random.channel, std=0.02)
    found = {"Presto": vectors(presto, s1, s2, month), "random weights": vectors(random, s1, s2, month)}
    if place is not None:
        found["Presto, place given"] = vectors(presto, s1, s2, month, torch.from_numpy(place).float())
    return found


def canada(data):
    """Eight crops of Canadian fields in 2017, by blocks of 2 degrees."""
    file = np.load(data / "pixel_series" / "worldcereal_canada2017.npz")
    names, counts = np.unique(file["croptype"], return_counts=True)
    kept = np.isin(file["croptype"], names[(counts >= LEAST) & (names > 0)])
    raw = file["x"][kept, :12].astype(np.float64)
    raw[raw == NODATA] = np.nan
    bands = [str(band) for band in file["bands"]]
    s1 = 20 * np.log10(raw[..., [bands.index(b) for b in ("VV", "VH")]]) - 83
    s2 = np.stack([raw[..., bands.index(b)] if b in bands else np.full(raw.shape[:2], np.nan) for b in S2], -1) / 1e4
    y, lat, lon = (file[name][kept] for name in ("croptype", "lat", "lon"))
    blocks = np.floor(lat / 2) * 1000 + np.floor(lon / 2)
    values = np.concatenate([s1, s2[..., [i for i, b in enumerate(S2) if b in bands]]], -1)
    rows = presto_rows(s1, s2, 1, np.stack([lat, lon], 1))
    dates = {f"one month, {name}": values[:, i] for i, name in ((4, "May"), (6, "July"), (8, "September"))}
    months = values.reshape(len(y), -1)
    beside = np.concatenate([months, rows["Presto"]], 1)
    table("Canada", dates | {"monthly values": months, **rows, "monthly values and Presto": beside}, y, blocks)


def stack(path):
    """Monthly S1 and S2 of a stack: months, (t c h w) each, labels, and metres of a pixel."""
    file = np.load(path)
    has_10m = "s2_10m" in file.files
    whole = {}
    for kind, factor in (("10m", 1), ("20m", 2 if has_10m else 1)):
        if f"s2_{kind}" in file.files:
            for band, x in zip(file[f"s2_{kind}_bands"], np.moveaxis(file[f"s2_{kind}"], 1, 0), strict=True):
                whole[str(band)] = finer(x, factor) / 1e4
    shape = whole["B05"].shape
    s2 = np.stack([whole.get(band, np.full(shape, np.nan)) for band in S2], 1)
    empty = (whole["B05"] == 0) | (whole["B05"] > CLOUD_B05)
    np.moveaxis(s2, 1, -1)[empty] = np.nan
    s1 = finer(file["s1_20m"], 2 if has_10m else 1).astype(np.float64)
    s1[s1 == 0] = np.nan
    days = {"s1": file["s1_time"], "s2": file["s2_20m_time"]}
    last = min(str(days["s2"][-1]), str(days["s1"][-1]))[:7]
    months = [str(np.datetime64(last, "M") - 11 + i) for i in range(12)]
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # months without any clear date stay NaN
        for name, x in (("s1", s1), ("s2", s2)):
            stamps = np.array([str(day)[:7] for day in days[name]])
            found[name] = np.stack(
                [np.nanmedian(x[stamps == m], 0) if m in stamps else np.full(x.shape[1:], np.nan) for m in months]
            )
    clear = np.isfinite(s2[:, 3]).mean((1, 2))
    summer = [i for i, day in enumerate(days["s2"]) if str(day)[:7] in months and "05" <= str(day)[5:7] <= "09"]
    best = max(summer, key=lambda i: clear[i])
    nearest = int(np.abs(days["s1"].astype("M8[s]") - days["s2"][best].astype("M8[s]")).argmin())
    one = np.concatenate([s1[nearest], s2[best]])
    label = file["label_CT"].astype(int)
    label = label if has_10m else label[::2, ::2]
    return months, found, one, str(days["s2"][best])[:10], label


def finer(x, factor):
    """Pixels repeated along the last two axes."""
    return x.repeat(factor, -2).repeat(factor, -1)


def galileo(months, found, patch):
    """Galileo nano's vectors of all months, one per pixel (that of its patch), from windows of 8 patches."""
    nano = GalileoEncoder(galileo_spec(patch_px=patch, window_px=8 * patch, margin_px=0)).eval()
    nano.load_state_dict(geossl.load_encoder("galileo_nano").state_dict())
    month = torch.tensor([[int(m[5:]) for m in months]])
    usable = {name: [np.isfinite(x[t]).any() for t in range(12)] for name, x in found.items()}
    kept = [t for t in range(12) if usable["s1"][t] and usable["s2"][t]]
    h, w = found["s1"].shape[-2:]
    out, side = np.empty((h, w, 128), np.float32), 8 * patch
    for r in range(0, h, side):
        for c in range(0, w, side):
            part = {n: torch.from_numpy(x[kept, :, r : r + side, c : c + side]).float()[None] for n, x in found.items()}
            with torch.inference_mode():
                tokens = nano.encoded(part, month=month[:, kept])[0][0].mean(0).numpy()
            out[r : r + side, c : c + side] = tokens.repeat(patch, 0).repeat(patch, 1)
    return out.reshape(h * w, -1)


def galileo_alone(months, flat):
    """Galileo nano's vectors of pixels that see no other (patches of 1 px), from the months both sensors have."""
    nano = GalileoEncoder(galileo_spec(patch_px=1, window_px=1, margin_px=0)).eval()
    nano.load_state_dict(geossl.load_encoder("galileo_nano").state_dict())
    kept = [t for t in range(12) if all(np.isfinite(x[:, t]).any() for x in flat.values())]
    month, out = torch.tensor([[int(months[t][5:]) for t in kept]]), []
    for rows in np.array_split(np.arange(len(flat["s1"])), max(1, len(flat["s1"]) // 256)):
        part = {n: torch.from_numpy(x[rows][:, kept]).float()[..., None, None] for n, x in flat.items()}
        with torch.inference_mode():
            out.append(nano.encoded(part, month=month.expand(len(rows), -1))[0].mean((1, 2, 3)).numpy())
    return np.concatenate(out)


def written(folder, months, found, file):
    """Months of a stack as dated GeoTIFFs, and their outline; a month without a pixel has no file."""
    x, y, epsg = file["s2_10m_x"], file["s2_10m_y"], int(file["epsg"])
    place = {"crs": f"EPSG:{epsg}", "transform": from_origin(x.min() - 5, y.max() + 5, 10, 10)}
    for name, bands in (("s1", ("VV", "VH")), ("s2", S2)):
        (folder / name).mkdir()
        for month, pixels in zip(months, found[name], strict=True):
            data = pixels if y[0] > y[-1] else pixels[:, ::-1]
            if np.isfinite(data).any():
                about = {"count": len(bands), "height": len(y), "width": len(x), "dtype": "float32", "nodata": np.nan}
                with rasterio.open(folder / name / f"{month}-15.tif", "w", driver="GTiff", **about, **place) as out:
                    out.write(np.where(np.isfinite(data).all(0), data * (1 if name == "s1" else 1e4), np.nan))
                    out.descriptions = bands
    outline = gpd.GeoDataFrame(geometry=[shapely.box(x.min(), y.min(), x.max(), y.max())], crs=epsg)
    return outline, x, y


def image_rows(months, found, file, day):
    """Vectors of an encoder of images per pixel, from a map with a time axis of 20 m: of one month, and of all."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        outline, x, y = written(folder, months, found, file)
        source = geossl.Rasters(
            s1=folder / "s1", s2=folder / "s2", s2_offset=0, every="month", date=f"{months[0]}/{months[-1]}"
        )
        out = folder / "months.zarr"
        geossl.embed_map(outline, source, out=out, gsd_m=20, dtype="float32", picture=False)
        rows = {}
        for title, time in (
            (f"croma_tiny, one month, {day[:7]}", day[:7]),
            ("croma_tiny, all months side by side", "all"),
        ):
            cells = layers.vectors(out, time).sel(
                x=xr.DataArray(x, dims="column"), y=xr.DataArray(y, dims="row"), method="nearest"
            )
            rows[title] = cells.transpose("row", "column", "embedding").values.reshape(len(x) * len(y), -1)
    return rows


def stacks(data):
    """Crops of two Belgian places, by blocks of 16 px."""
    for name, patch in (("worldcereal_BE_2018", 2), ("worldcereal_BE_2019_20m", 1)):
        months, found, one, day, label = stack(data / "timeseries" / f"{name}.npz")
        h, w = label.shape
        side = BLOCK_PX if h == 64 else BLOCK_PX // 2
        rows, columns = np.indices(label.shape) // side
        blocks = (rows * 100 + columns).ravel()
        classes, counts = np.unique(label, return_counts=True)
        kept = np.isin(label.ravel(), classes[(counts >= LEAST_PX // (64 // h)) & (classes > 0)])
        flat = {n: np.moveaxis(x, (0, 1), (2, 3)).reshape(h * w, 12, -1)[kept] for n, x in found.items()}
        bands = np.isfinite(flat["s2"]).any((0, 1))
        values = np.concatenate([flat["s1"], flat["s2"][..., bands]], -1).reshape(kept.sum(), -1)
        values = values[:, np.isfinite(values).any(0)]
        single = one.reshape(len(one), -1).T[kept]
        single = single[:, np.isfinite(single).any(0)]
        presto = presto_rows(flat["s1"], flat["s2"], int(months[0][5:]))
        many = galileo(months, found, patch)[kept]
        features = {f"one date, {day}": single, "all months side by side": values, **presto}
        features |= {f"Galileo nano, all months, windows of 8 patches of {patch} px": many}
        features |= {"Galileo nano, all months, each pixel alone": galileo_alone(months, flat)}
        features |= {"all months and Presto": np.concatenate([values, presto["Presto"]], 1)}
        table(f"{name}, {months[0]} to {months[-1]}", features, label.ravel()[kept], blocks[kept])


def images(data):
    """Crops of the place with 10 m bands from maps of an encoder of images: one month against all, same blocks."""
    path = data / "timeseries" / "worldcereal_BE_2018.npz"
    months, found, _, day, label = stack(path)
    rows, columns = np.indices(label.shape) // BLOCK_PX
    classes, counts = np.unique(label, return_counts=True)
    kept = np.isin(label.ravel(), classes[(counts >= LEAST_PX) & (classes > 0)])
    flat = {n: np.moveaxis(x, (0, 1), (2, 3)).reshape(label.size, 12, -1)[kept] for n, x in found.items()}
    values = np.concatenate([flat["s1"], flat["s2"]], -1).reshape(kept.sum(), -1)
    features = {title: x[kept] for title, x in image_rows(months, found, np.load(path), day).items()}
    features["all months, values"] = values[:, np.isfinite(values).any(0)]
    features["Presto"] = vectors(geossl.load_encoder("presto"), flat["s1"], flat["s2"], int(months[0][5:]))
    table(f"{path.stem}, maps", features, label.ravel()[kept], (rows * 100 + columns).ravel()[kept])


def picture(data, out):
    """A place month by month, its annual embedding (three principal components) and its labels."""
    months, found, _, _, label = stack(data / "timeseries" / "worldcereal_BE_2018.npz")
    h, w = label.shape
    flat = {n: np.moveaxis(x, (0, 1), (2, 3)).reshape(h * w, 12, -1) for n, x in found.items()}
    annual = vectors(geossl.load_encoder("presto"), flat["s1"], flat["s2"], int(months[0][5:]))
    colours = PCA(3, random_state=0).fit_transform(annual)
    low, high = np.percentile(colours, [2, 98], axis=0)
    figure, axes = plt.subplots(2, 7, figsize=(14, 4.6), layout="constrained")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for i, month in enumerate(months):
        rgb = np.moveaxis(found["s2"][i, [S2.index(band) for band in ("B04", "B03", "B02")]], 0, -1)
        axis = axes[i // 6, i % 6]
        axis.imshow(np.clip(np.where(np.isfinite(rgb), rgb / 0.2, 0.6), 0, 1))
        missing = 100 * np.isnan(rgb[..., 0]).mean()
        axis.set_title(month + (f", {missing:.0f} % missing" if missing >= 1 else ""), fontsize=8)
    axes[0, 6].imshow(np.clip((colours - low) / (high - low), 0, 1).reshape(h, w, 3))
    axes[0, 6].set_title("Presto, three components", fontsize=8)
    names = {1200: "maize", 2130: "cabbages", 5100: "potatoes", 7900: "legumes", 9120: "grass"}
    numbers = np.searchsorted(list(names), np.where(np.isin(label, list(names)), label, 0)).astype(float)
    numbers[~np.isin(label, list(names))] = np.nan
    axes[1, 6].imshow(numbers, cmap="tab10", vmin=0, vmax=9, interpolation="nearest")
    axes[1, 6].set_title("labels", fontsize=8)
    colours_of = dict(zip(("blue", "orange", "green", "red", "purple"), names.values(), strict=True))
    legend = ", ".join(f"{name} {colour}" for colour, name in colours_of.items())
    figure.supxlabel(
        "640 x 640 m in Belgium. Median of the dates of a month that a threshold calls clear (what it misses, as in "
        f"March, stays). Labels: {legend}.\nWorldCereal, MIT; contains modified Copernicus Sentinel data 2017-2018.",
        fontsize=7,
    )
    figure.savefig(out, dpi=130)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=["canada", "stacks", "images"])
    parser.add_argument("--picture", type=Path, help="Draw the first stack into this file, and stop.")
    args = parser.parse_args()
    if args.picture:
        picture(args.data, args.picture)
        return
    warnings.simplefilter("ignore", UndefinedMetricWarning)
    warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
    for name, run in (("canada", canada), ("stacks", stacks), ("images", images)):
        if args.only in (None, name):
            run(args.data)


if __name__ == "__main__":
    main()
