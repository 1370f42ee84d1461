"""Does tying clips and frames help? CrossVideoMAE against its parts, same steps, on real image series.

Pretraining (no labels): two WorldCereal sites of 640 x 640 m (Belgium, about 130 dates each, clouds left out by a
threshold on B05) and the Boadella reservoir (12 dates, 3.8 x 3.8 km), six bands. Read-outs of frozen encoders:
1. crops: class of 40 m patches of both sites from 12 dates (one a month); linear and kNN, balanced accuracy over five
   folds of 160 m blocks; C and neighbours are chosen on another fold. Pretraining saw these places, not their labels.
   Dates are joined as `geossl series embed --dates` does: their mean, a mean per season, each date side by side.
2. one date: the same from the image branch and the date nearest to 1 July.
3. retrieval: the clip of a frame among 50; chance 0.020.
4. season: day of the year of single dates from the image branch, fitted on one site, judged on the other (a third year
   is not there); median error in days, 91 = chance.

It leaves pictures in --out: rebuilt.png (a masked series), boadella.png (PCA of the embedding raster). With --seams it
does nothing but measure how much the borders of windows show in maps of Boadella by that encoder (of the recipe).

Run: python benchmarks/cross_video_mae.py --worldcereal A.npz B.npz --boadella FOLDER [--seeds 3] [--settings]
     [--seams runs/cross_video_mae/encoder.safetensors]
"""

import argparse
import json
import shutil
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.api.series import embed_series, epsg_for
from geossl.data.resampling import outline
from geossl.data.series.batches import CLEAR_SHARE
from geossl.data.series.stacks import Clouds, open_series
from geossl.evaluation.heads import Samples, fit_head, predict
from geossl.inference.series import Extent, extent_of, series_blocks
from geossl.models.encoders.series_vit import tubelets, untubelets, valid_shares
from geossl.models.files import load_encoder
from geossl.models.layers.dates import join_dates
from geossl.rules import DATES

BANDS = ("B05", "B06", "B07", "B8A", "B11", "B12")
CLOUDS = Clouds("B05", 0.25)
PATCH, WINDOW = 4, 16
CROPS = {1200: 1, 9120: 2, 1110: 3, 1910: 3, 5100: 4}  # maize, grass, winter cereals, potatoes; 0 without crop = 5
NO_CONTRAST = [
    "objective.intra_video=0",
    "objective.intra_frame=0",
    "objective.cross_video=0",
    "objective.cross_frame=0",
]
ARMS = {
    "CrossVideoMAE": [],
    "reconstruction only": [*NO_CONTRAST, "objective.reconstruct_image=0"],
    "frame-only MAE": [
        *NO_CONTRAST,
        "objective.reconstruct_video=0",
        "objective.frames_per_clip=5",
        "objective.frame_from=clip",
    ],
}
SETTINGS = {
    "the views of before: same dates, no gaps": ["objective.gaps=0", "objective.dates=1"],
    "frames from the clip": ["objective.frame_from=clip"],
    "target patch_norm": ["objective.target=patch_norm"],
    "tube masks": ["objective.mask_kind=tube"],
    "projector norm layer": ["objective.projector_norm=layer"],
    "contrast weights 0.1": [f"{text[:-1]}0.1" for text in NO_CONTRAST],
    "no intra-modal terms": NO_CONTRAST[:2],
    "gradient of cross to video only": ["objective.cross_gradient=video"],
}


def to_folder(path, folder):
    """A WorldCereal file as GeoTIFFs per date, its 20 m bands on the 10 m grid of the labels by repeating pixels."""
    file = np.load(path)
    assert tuple(file["s2_20m_bands"]) == BANDS
    corner = float(file["s2_20m_x"][0]) - 10, float(file["s2_20m_y"][0]) + 10
    folder.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 6, "height": 64, "width": 64, "nodata": 0}
    profile |= {"crs": int(file["epsg"]), "transform": Affine(10, 0, corner[0], 0, -10, corner[1])}
    for day, pixels in zip(file["s2_20m_time"], file["s2_20m"].repeat(2, 2).repeat(2, 3), strict=True):
        with rasterio.open(folder / f"{day[:10].replace('-', '')}.tif", "w", **profile) as out:
            out.write(pixels)
            out.descriptions = BANDS
    crop = np.vectorize(lambda code: CROPS.get(code, 0))(file["label_CT"])
    return np.where((file["label_CT"] == 0) & (file["label_LC"] >= 60), 5, crop)


def monthly(series, pixels):
    """Numbers of the clearest date of each of the last twelve months."""
    share = np.isfinite(pixels[:, 0]).mean((1, 2))
    months = [int(file.date[:4]) * 12 + int(file.date[4:6]) for file in series.files]
    return [
        max((i for i, m in enumerate(months) if m == month), key=share.__getitem__)
        for month in sorted(set(months))[-12:]
    ]


def windows(pixels):
    """Squares of the size the encoders were trained on: (n t c 16 16), row by row."""
    h, w = pixels.shape[2:]
    h, w = h // WINDOW * WINDOW, w // WINDOW * WINDOW
    cut = torch.from_numpy(pixels[..., :h, :w]).unfold(2, WINDOW, WINDOW).unfold(3, WINDOW, WINDOW)
    return cut.permute(2, 3, 0, 1, 4, 5).flatten(0, 1), (h // WINDOW, w // WINDOW)


def on_grid(tokens, grid):
    """Windows back to one grid of patches."""
    gh, gw = grid
    return tokens.unflatten(0, grid).transpose(1, 2).reshape(gh * WINDOW // PATCH, gw * WINDOW // PATCH, -1).numpy()


@torch.inference_mode()
def video_features(encoder, pixels, days, dates="mean"):
    """One vector per patch from all dates."""
    cut, grid = windows(pixels)
    day = torch.from_numpy(days.astype(np.float32))
    return on_grid(torch.cat([encoder.tokens(part, day.expand(len(part), -1), dates) for part in cut.split(64)]), grid)


@torch.inference_mode()
def image_features(encoder, pixels, days, dates="mean"):
    """One vector per patch from what the image branch makes of each usable patch, date by date."""
    cut, grid = windows(pixels)
    n, t = cut.shape[:2]
    flat = cut.flatten(0, 1)
    valid = F.avg_pool2d(flat.isfinite().all(1, keepdim=True).float(), PATCH)[:, 0] >= 0.5
    found = torch.cat([encoder.tokens({"s2": part}) for part in flat.split(256)])
    return joined(found.nan_to_num(0), valid, (n, t), days, dates, grid)


def band_means(pixels, days, dates="mean"):
    """Mean of the bands of a patch."""
    cut, grid = windows(pixels)
    means = F.avg_pool2d(cut.flatten(0, 1).nan_to_num(0), PATCH).permute(0, 2, 3, 1)
    share = F.avg_pool2d(cut.flatten(0, 1).isfinite().all(1, keepdim=True).float(), PATCH)[:, 0]
    return joined(means / share[..., None].clamp(min=1e-6), share >= 0.5, cut.shape[:2], days, dates, grid)


def joined(x, valid, shape, days, dates, grid):
    """Vectors of windows and dates (n t, h, w, d) as one per patch."""
    n, t = shape
    side = x.shape[1]
    day = torch.zeros(n, t) if days is None else torch.from_numpy(days.astype(np.float32)).expand(n, -1)
    x, valid = x.reshape(n, t, side * side, -1), valid.reshape(n, t, side * side)
    return on_grid(join_dates(x, valid, day, dates).reshape(n, side, side, -1), grid)


def majority(labels):
    """Class of every patch, 0 where none holds half of its pixels."""
    h, w = (n // WINDOW * WINDOW // PATCH for n in labels.shape)
    cut = labels[: h * PATCH, : w * PATCH].reshape(h, PATCH, w, PATCH).transpose(0, 2, 1, 3).reshape(h, w, -1)
    counts = np.stack([(cut == k).sum(-1) for k in range(labels.max() + 1)], -1)
    counts[..., 0] = 0
    return np.where(counts.max(-1) > PATCH**2 / 2, counts.argmax(-1), 0)


def blocked(features, labels, block, most=1500):
    """(linear, kNN) balanced accuracy over folds of blocks; features and labels are lists of grids, one per site."""
    x = np.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    y = np.concatenate([label.ravel() for label in labels])
    blocks = [
        np.add.outer(1000 * (np.arange(h) // block), np.arange(w) // block).ravel() + 10**6 * i
        for i, (h, w) in enumerate(label.shape for label in labels)
    ]
    groups = np.concatenate(blocks)
    keep = np.flatnonzero((y > 0) & np.isfinite(x).all(1))
    keep = np.sort(np.random.default_rng(0).permutation(keep)[:most])
    x, y, groups = x[keep], np.unique(y[keep], return_inverse=True)[1], groups[keep]
    folds = [test for _, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(x, y, groups)]
    scores = []
    for kind in ("linear", "knn"):
        guess = np.zeros_like(y)
        for i, test in enumerate(folds):
            val = folds[(i + 1) % 5]
            train = np.setdiff1d(np.arange(len(y)), np.concatenate([test, val]))
            z = StandardScaler().fit(x[train]).transform(x).astype(np.float32)
            head, _ = fit_head(kind, *(Samples(z[rows], y[rows]) for rows in (train, val)), y.max() + 1, 0)
            guess[test] = predict(head, z[test]).argmax(1)
        scores.append(balanced_accuracy_score(y, guess))
    return scores


def season_error(encoder, sites):
    """Median error in days of the day of the year, from the mean token of single dates."""
    x, angle = [], []
    for series, pixels in sites:
        clear = np.flatnonzero(np.isfinite(pixels[:, 0]).mean((1, 2)) >= CLEAR_SHARE)
        x.append(np.stack([np.nanmean(image_features(encoder, pixels[[i]], None), axis=(0, 1)) for i in clear]))
        angle.append(series.days[clear] / 365.25 * 2 * np.pi)
    errors = []
    for a, b in ((0, 1), (1, 0)):
        scaler = StandardScaler().fit(x[a])
        model = Ridge(10.0).fit(scaler.transform(x[a]), np.column_stack([np.sin(angle[a]), np.cos(angle[a])]))
        sine, cosine = model.predict(scaler.transform(x[b])).T
        away = np.angle(np.exp(1j * (np.arctan2(sine, cosine) - angle[b])))
        errors.extend(np.abs(away) / 2 / np.pi * 365.25)
    return float(np.median(errors))


class Judge:
    """The labelled data, read once."""

    def __init__(self, root, labels):
        self.sites, self.crops = [], list(labels.values())
        for name in labels:
            series = open_series(root / name, BANDS, CLOUDS, 0)
            self.sites.append((series, series.whole))
        self.months = [(pixels[i], s.days[i]) for s, pixels in self.sites for i in [monthly(s, pixels)]]
        self.july = []
        for series, pixels in self.sites:
            share = np.isfinite(pixels[:, 0]).mean((1, 2)) >= CLEAR_SHARE
            away = np.where(share, np.abs(series.days % 365.25 - 182), 999)
            self.july.append((pixels[[away.argmin()]], series.days[[away.argmin()]]))

    def crop_scores(self, features, data=None):
        """Linear and kNN on crops."""
        return blocked([features(*site) for site in data or self.months], [majority(c) for c in self.crops], 4)

    def all_of(self, video, image, method=None):
        """Every number of one run; ``None`` for a branch it did not train."""
        rows = {}
        for name, encoder, make in (("video branch", video, video_features), ("image branch", image, image_features)):
            if encoder is not None:
                for dates in DATES:
                    features = lambda p, d, e=encoder, f=make, how=dates: f(e, p, d, how)  # noqa: E731
                    rows[name, f"crops {dates}"] = self.crop_scores(features)
        if image is not None:
            rows["image branch", "one date"] = self.crop_scores(lambda p, d: image_features(image, p, d), self.july)
            rows["image branch", "season"] = [season_error(image, self.sites)]
        if method is not None:
            rows["video branch", "retrieval"] = [method]
        return rows


def recipe_of(args, seed, changes, name):
    """The packaged recipe on the benchmark's data, smaller."""
    mine = [f"data.source={args.out}/series", "data.s2_offset=0", f"encoder.bands={list(BANDS)}".replace("'", "")]
    mine += [f"data.cloud_band={CLOUDS.band}", f"data.cloud_above={CLOUDS.above}"]
    mine += ["data.batch_size=32", "objective.decoder_depth=1"]
    mine += [f"train.max_steps={args.steps}", f"train.seed={seed}", "resume=true"]
    return recipes.load("cross_video_mae", [*mine, *changes, f"out={args.out}/{name.replace(' ', '_')}_{seed}"])


def method_of(recipe, state=None):
    """Method with fresh weights or those of a checkpoint, and data."""
    data, build = pretraining.prepare(recipe)
    torch.manual_seed(recipe.train.seed)
    method = build()
    if state:
        method.load_state_dict(torch.load(state, weights_only=True)["state_dict"])
    return method.eval(), data


@torch.inference_mode()
def retrieval(recipe, run, per_batch=50, batches=8):
    """Share of frames that find their clip, on draws after those of the training."""
    method, data = method_of(recipe, run / "checkpoints/last.ckpt")
    first, found = recipe.train.max_steps * recipe.data.batch_size, []
    for i in range(batches):
        items = [data.source[first + i * per_batch + k] for k in range(per_batch)]
        method.losses({key: torch.stack([item[key] for item in items]) for key in items[0]})
        found.append(float(method.logged_scalars["retrieval"]))
    return float(np.mean(found))


def run_arm(args, judge, name, changes, seed):
    """Pretrain and judge, unless both were done; scores are kept beside the run."""
    recipe = recipe_of(args, seed, changes, name)
    run = Path(recipe.out)
    scores = run.with_name(f"{run.name}.json")
    if scores.exists():
        return {tuple(key.split("/")): values for key, values in json.loads(scores.read_text()).items()}
    if name == "random init":
        method, _ = method_of(recipe)
        rows = judge().all_of(method.encoder, method.image_encoder)
    else:
        if not (run / "image_encoder.safetensors").exists():
            pretraining.pretrain(recipe)
        video, image = (load_encoder(run / f"{part}.safetensors") for part in ("encoder", "image_encoder"))
        if name == "frame-only MAE":
            rows = judge().all_of(None, image)
        elif name == "reconstruction only":
            rows = judge().all_of(video, None)
        else:
            rows = judge().all_of(video, image, retrieval(recipe, run))
    scores.write_text(json.dumps({"/".join(key): list(map(float, values)) for key, values in rows.items()}))
    return rows


def show(results):
    """One row per arm and branch: mean +- standard deviation over its seeds."""
    columns = [(f"crops {dates}", i, f"{kind}, {dates}") for i, kind in enumerate(("linear", "kNN")) for dates in DATES]
    columns += [("one date", 0, "one date, linear")]
    columns += [("season", 0, "season, days"), ("retrieval", 0, "retrieval")]
    print("| arm | branch | seeds | " + " | ".join(c[2] for c in columns) + " |\n|" + "---|" * (len(columns) + 3))
    for arm, runs in results.items():
        for branch in dict.fromkeys(key[0] for key in runs[0]):
            cells = []
            for task, i, _ in columns:
                values = [run[branch, task][i] for run in runs if (branch, task) in run]
                spread = f" +- {np.std(values):.3f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}" if values else "")
            print(f"| {arm} | {branch} | {len(runs)} | " + " | ".join(cells) + " |", flush=True)


@torch.inference_mode()
def rebuild_picture(recipe, run, out):
    """Rows: dates of a clip, what the video branch saw, what it made of it. B8A, B11, B05 as red, green, blue."""
    method, data = method_of(recipe, run / "checkpoints/last.ckpt")
    first = recipe.train.max_steps * recipe.data.batch_size
    items = [data.source[first + i] for i in range(16)]
    clip, days = (torch.stack([item[key] for item in items]) for key in ("clip", "days"))
    valid = valid_shares(clip, 1, PATCH) >= 0.5
    draw = method.draw(clip, valid, valid.float().mean(2) >= 0.5, torch.Generator().manual_seed(0))
    x, ids = method.encoder.normalize(clip), draw.ids[0]
    side = WINDOW // PATCH
    tokens = method.decoder(method.encoder(x, days, ids), ids, (side, side), days)
    seen = torch.zeros(valid.flatten(1).shape, dtype=torch.bool).scatter(1, ids, True)
    cut = tubelets(x, 1, PATCH).flatten(1, 2)
    shown, whole = torch.where(seen[..., None], cut, torch.nan), torch.where(seen[..., None], cut, tokens)
    chosen = clip.isfinite().float().mean((1, 2, 3, 4)).argsort(descending=True)[:2]
    rows = []
    for layer in (
        torch.where(clip.isfinite(), x, torch.nan),
        *(back(layer, valid.shape, side) for layer in (shown, whole)),
    ):
        rows.append([layer[i, :, [3, 4, 0]].permute(0, 2, 3, 1) for i in chosen])
    strips = [torch.cat(list(row[k]), dim=1) for k in range(2) for row in rows]
    picture = ((torch.cat(strips) + 2) / 4).clamp(0, 1).nan_to_num(0.5)
    image = Image.fromarray((picture.numpy() * 255).astype(np.uint8))
    image.resize((image.width * 8, image.height * 8), Image.NEAREST).save(out)


def back(cut, shape, side):
    """Tokens of a clip to pixels."""
    return untubelets(cut.unflatten(1, shape[1:]), 1, PATCH, (side, side))


def clocked(run, times):
    """CPU seconds."""
    start = time.process_time()
    for _ in range(times):
        run()
    return time.process_time() - start


def step(method, batch):
    """Forward and backward."""
    sum(method.losses(batch).values()).backward()


def speed(args, times=4, rounds=3, size=32):
    """Clips per second of CPU time for a step of each arm, taken in turns, and for both branches alone."""
    made = {name: method_of(recipe_of(args, 0, changes, "speed")) for name, changes in ARMS.items()}
    method, data = made["CrossVideoMAE"]
    items = [data.source[i] for i in range(size)]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    x, slots, frames = method.encoder.normalize(batch["clip"]), batch["days"], batch["clip"].flatten(0, 1)
    runs = {f"step, {name}": partial(step, made_one.train(), batch) for name, (made_one, _) in made.items()}
    runs["video branch alone, all tokens"] = torch.no_grad()(lambda: method.encoder(x, slots))
    runs["image branch alone, all frames"] = torch.no_grad()(lambda: method.image_encoder.tokens({"s2": frames}))
    spent = dict.fromkeys(runs, 0.0)
    for _ in range(rounds):
        for name, run in runs.items():
            spent[name] += clocked(run, times)
    print("\n| what | clips per CPU second | relative |\n|---|---|---|")
    for name, seconds in spent.items():
        print(f"| {name} | {size * times * rounds / seconds:.0f} | {next(iter(spent.values())) / seconds:.2f} |")


def seams(path, folder, side=32):
    """Step between neighbouring patches across lines every 160 m over that elsewhere, for windows and margins."""
    encoder = load_encoder(path)
    bands = encoder.spec.sensors["s2"].bands
    series = open_series(folder, bands, Clouds("B02", 0.2), 0)
    read, area = (
        partial(series.read, dates=list(range(len(series.files)))),
        outline(series.geobox, CRS(epsg_for(series))),
    )
    print("| window, px | margin, px | kept, px | step ratio | CPU s per km2 |\n|---|---|---|---|---|")
    for window, margin in ((32, 8), (64, 24), (20, 8)):
        encoder.spec = replace(encoder.spec, window_px=window, margin_px=margin)
        extent = extent_of(encoder.spec, area.centroid, epsg_for(series))
        cells = side // extent.lattice.cell_patches
        row, column = ((n * extent.lattice.cell_patches // 4 * 4) // extent.lattice.cell_patches for n in extent[1:3])
        extent = Extent(extent.lattice, row - cells // 2, column - cells // 2, cells, cells)
        x, start = np.empty((encoder.spec.dim, side, side), np.float32), time.process_time()
        for where, values in series_blocks(encoder, read, series.days, extent):
            x[:, *where] = values
        spent, x = time.process_time() - start, x / np.linalg.norm(x, axis=0)
        steps = [1 - (np.delete(x, 0, axis) * np.delete(x, -1, axis)).sum(0) for axis in (1, 2)]
        line = np.arange(1, side) % 4 == 0
        across, within = (np.nanmean([steps[0][rows], steps[1][:, rows].T]) for rows in (line, ~line))
        area_km2 = (side * PATCH / 100) ** 2
        kept = window - 2 * margin
        print(f"| {window} | {margin} | {kept} | {across / within:.2f} | {spent / area_km2:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worldcereal", type=Path, nargs=2)
    parser.add_argument("--boadella", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/cross_video"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--untrained", action="store_true", help="band means and random weights alone")
    parser.add_argument("--only", type=int, nargs="*", help="just these seeds; a later run of all finds them done")
    parser.add_argument(
        "--settings", action="store_true", help="also measure the settings that are ours, one seed each"
    )
    parser.add_argument("--seams", type=Path, metavar="ENCODER", help="only measure the seams of its maps of Boadella")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.seams:
        seams(args.seams, args.boadella)
        return
    root = args.out / "series"
    labels = {path.stem: to_folder(path, root / path.stem) for path in args.worldcereal}
    (root / "boadella").mkdir(exist_ok=True)
    for path in args.boadella.glob("*.tif"):
        shutil.copy(path, root / "boadella")
    judge = cache(lambda: Judge(root, labels))
    results = {"band means": [plain(judge())]}
    for seed in args.only or range(args.seeds):
        for name, changes in {"random init": [], **({} if args.untrained else ARMS)}.items():
            results.setdefault(name, []).append(run_arm(args, judge, name, changes, seed))
        print(f"\nafter seed {seed}:\n")
        show(results)
    if args.only or args.untrained:
        return
    rebuild_picture(recipe_of(args, 0, [], "CrossVideoMAE"), args.out / "CrossVideoMAE_0", args.out / "rebuilt.png")
    encoder = args.out / "CrossVideoMAE_0" / "encoder.safetensors"
    embed_series(
        open_series(root / "boadella", BANDS, CLOUDS, 0), encoder, out=args.out / "boadella.tif", overwrite=True
    )
    speed(args)
    for name, changes in SETTINGS.items() if args.settings else ():
        show({name: [run_arm(args, judge, name, changes, 0)]})


def plain(judge):
    """What a user has without an encoder."""
    rows = {}
    for dates in DATES:
        features = lambda pixels, days, how=dates: band_means(pixels, days, how)  # noqa: E731
        rows["-", f"crops {dates}"] = judge.crop_scores(features)
    return rows


if __name__ == "__main__":
    main()
