"""SelfCon against SupCon and cross-entropy as detectors of generated images: equal steps, pictures and probe.

Two data sets: CIFAKE (32 px photographs against Stable Diffusion 1.4; a subset as zip files), and satellite images
of the bundled scenes against six generators (benchmarks/satellite_fakes.py), two of which are never trained on. Every
arm trains the same small ResNet for the same number of steps on the same draws; SupCon sees two views of every picture
and so computes twice as much per step. Then the encoder is frozen, and the same calibration stage fits a classifier on
training images and its threshold on calibration images. Scored on test images: area under the curve and balanced
accuracy, clean, after JPEG of quality 75, after halving the size and back, and as a social network hands pictures on.
Floors: the untrained encoder with the same calibration, and a random forest on the radially averaged power spectrum.

Run: python benchmarks/selfcon.py [--cifake-train ZIP --cifake-test ZIP] [--satellite FOLDER] [--pairs FOLDER]
         [--seeds 0 1 2] [--arms SelfCon SupCon] [--steps 200] [--out FILE.json]

What FILE.json holds already is not run again.
"""

import argparse
import json
import re
import time
import zipfile
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from geossl import recipe as recipes
from geossl.api.pretrain.run import prepare
from geossl.data.images.folders import read_image
from geossl.data.synthetic.calibration import TrackData
from geossl.data.synthetic.images import real_and_synthetic
from geossl.evaluation.detection import identification_scores
from geossl.evaluation.scores import auc
from geossl.methods.base import SSLMethod
from geossl.training.calibration import CalibrationConfig, calibrate, logits_of

ARMS = {
    "SelfCon": ["encoder.exits=[2]", "data.views=1"],
    "SelfCon, temperature 0.07": ["encoder.exits=[2]", "data.views=1", "objective.temperature=0.07"],
    "SelfCon, 64 images a step": ["encoder.exits=[2]", "data.views=1", "data.batch_size=64"],
    "SupCon": ["encoder.exits=[]", "data.views=2"],
    "SupCon, temperature 0.07": ["encoder.exits=[]", "data.views=2", "objective.temperature=0.07"],
    "cross-entropy": ["encoder.exits=[]", "data.views=1"],
    "untrained": ["encoder.exits=[]", "data.views=1"],
}
FLOOR = "spectrum, forest"
CONDITIONS = ("clean", "JPEG 75", "half size", "social network")
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
UNSEEN = ("blend", "quilting")


class CrossEntropy(SSLMethod):
    """A plain classifier of real and every generator, as ImagiNet's own baseline script."""

    def __init__(self, encoder, optim, classes, seed):
        super().__init__(encoder, optim, seed)
        self.head = nn.Linear(encoder.spec.dim, classes)

    def losses(self, batch):
        """Cross-entropy over real and the generators."""
        vectors = self.encoder.outputs(self.encoder.normalize({"rgb": batch["views"][:, 0]}))[:, -1]
        return {"cross_entropy": F.cross_entropy(self.head(vectors), batch["generator"] + 1)}


def cifake(train, test, folder):
    """Unpack into the layout geossl reads; the class of a CIFAKE picture stands in brackets in its name."""
    for part, path in (("train", train), ("test", test)):
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                if not name.lower().endswith((".jpg", ".png")):
                    continue
                origin = "real" if "REAL" in Path(name).parts else "stable diffusion"
                number = re.search(r"\((\d+)\)", name)
                content = CIFAR[int(number.group(1)) - 1 if number else 0]
                target = folder / part / origin / content / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read(name))
    return folder


def trained(arm, source, labels, unseen, steps, seed):
    """The encoder of an arm, and CPU seconds per step."""
    settings = [
        f"data.source={source}",
        f"data.holdout_generators={json.dumps(unseen)}",
        f"objective.labels={json.dumps(labels)}",
    ]
    settings += [f"train.max_steps={steps}", f"train.seed={seed}", "encoder.depth=10", "data.crop_px=24", *ARMS[arm]]
    recipe = recipes.load("selfcon", settings)
    data, build = prepare(recipe)
    torch.manual_seed(seed)
    method = build()
    if arm == "untrained":
        return method.encoder.eval(), 0.0
    if arm == "cross-entropy":
        method = CrossEntropy(method.encoder, method.optim, len(data.images.generators) + 1, seed)
    optimizer = method.optim.build(method)
    method.train()
    start = time.process_time()
    for step, batch in enumerate(data.train_dataloader()):
        for group in optimizer.param_groups:
            group["lr"] = method.optim.lr * method.optim.rate(step)
        optimizer.zero_grad()
        torch.stack(list(method.losses(batch).values())).sum().backward()
        optimizer.step()
    return method.encoder.eval(), (time.process_time() - start) / steps


def questions(parts, unseen, tracks, seed):
    """What is asked of a data set, by track: pictures to calibrate on, and test images under every condition."""
    fit, hold = (parts[name].without(unseen) for name in ("train", "calibration"))
    asked = {}
    for track in tracks:
        data = TrackData(track, fit, hold, "rgb", 32, seed)
        test = data.of(parts["test"])
        asked[track] = data, test, {name: data.seen(test, name) for name in CONDITIONS}
    return asked


def judged(encoder, question, seed):
    """The detector made of an encoder, and its scores by condition."""
    data, test, pixels = question
    detector = calibrate(encoder, data, CalibrationConfig(max_steps=60, seed=seed))
    out = {}
    for name, x in pixels.items():
        with torch.inference_mode():
            chances = np.concatenate([detector.probabilities({"rgb": part}).numpy() for part in x.split(128)])
        out[name] = scores_of(data, test, chances)
    return detector, out


def scores_of(data, test, chances):
    """Named numbers."""
    if data.track == "generator":
        found = identification_scores(data.labels(test), chances)
        return found.values | {"confusion": found.confusion.tolist()}
    chance = chances[:, 1]
    made, content = test.generator, test.content
    makers = {n: (made == i) | (made == -1) for i, n in enumerate(test.generators)}
    contents = {n: content == i for i, n in enumerate(test.contents) if len(set(test.origin[content == i])) == 2}
    return {
        "auc": auc(test.origin, chance),
        "balanced_accuracy": balanced_accuracy_score(test.origin, chance >= 0.5),
        "makers": {n: {"auc": auc(test.origin[own], chance[own])} for n, own in makers.items()},
        "contents": {n: {"auc": auc(test.origin[own], chance[own])} for n, own in contents.items()},
    }


def spectra(pixels):
    """Radially averaged log power of the mean band: the classical trace of a generator."""
    x = pixels.mean(dim=1)
    power = torch.fft.fftshift(torch.fft.fft2(x - x.mean(dim=(1, 2), keepdim=True)).abs().square(), dim=(1, 2))
    y, z = np.indices(power.shape[1:]) - power.shape[1] // 2
    ring = torch.from_numpy(np.hypot(y, z).round().astype(int).ravel())
    total = torch.zeros(len(power), int(ring.max()) + 1).index_add_(1, ring, power.flatten(1))
    return torch.log(total / torch.bincount(ring) + 1e-8).numpy()


def spectrum_floor(question, seed):
    """A random forest on spectra of clean training images and of their copies from a social network."""
    data, test, pixels = question
    both = ("clean", "social network")
    x = np.concatenate([spectra(data.seen(data.fit, name)) for name in both])
    model = RandomForestClassifier(300, class_weight="balanced", random_state=seed).fit(x, np.tile(data.fit.origin, 2))
    held = np.concatenate([model.predict_proba(spectra(data.seen(data.hold, name)))[:, 1] for name in both])
    truth = np.tile(data.hold.origin, 2)
    threshold = max(np.unique(held), key=lambda t: balanced_accuracy_score(truth, held >= t))
    out = {}
    for name, views in pixels.items():
        moved = np.clip(model.predict_proba(spectra(views))[:, 1] - threshold + 0.5, 0, 1)
        out[name] = scores_of(data, test, np.stack([1 - moved, moved], 1))
    return out


def cell(values):
    """Mean and spread over seeds."""
    return f"{np.mean(values):.3f} +- {np.std(values):.3f}"


def table(title, rows, columns):
    """Markdown; rows: name -> column -> values over seeds."""
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(cell(row[c]) if c in row else '' for c in columns)} |", flush=True)


def gathered(results, track, values_of):
    """Rows of a table: arm -> column -> values over seeds; ``values_of`` takes a run's scores by condition."""
    rows = defaultdict(lambda: defaultdict(list))
    for (arm, own), found in results.items():
        for scores in found if own == track else []:
            for column, value in values_of(scores).items():
                rows[arm][column].append(value)
    return rows


def report(results, title):
    """Tables of one data set."""
    for score in ("auc", "balanced_accuracy"):
        rows = gathered(results, "origin", lambda run, s=score: {n: run[n][s] for n in CONDITIONS})
        table(f"{title}: real or generated, {score.replace('_', ' ')}", rows, CONDITIONS)
    for kind in ("makers", "contents"):
        for name in ("clean", "social network"):
            rows = gathered(
                results, "origin", lambda run, k=kind, n=name: {key: v["auc"] for key, v in run[n][k].items()}
            )
            columns = list(dict.fromkeys(key for row in rows.values() for key in row))
            if len(columns) > 1:
                table(f"{title}: AUC by {kind[:-1]}, {name}", rows, columns)
    rows = gathered(results, "generator", lambda run: {n: run[n]["balanced_accuracy"] for n in CONDITIONS})
    if rows:
        table(f"{title}: which generator (of those trained on), balanced accuracy", rows, CONDITIONS)


def run(title, source, labels, unseen, asked, known):
    """All arms and seeds on one data set that are not known yet; ``known`` is filled and saved one by one."""
    parts = real_and_synthetic(source)
    tracks = ["origin", "generator"] if "generator" in labels else ["origin"]
    for seed in asked.seeds:
        wanted = [arm for arm in (FLOOR, *ARMS) if arm in asked.arms]
        missing = [arm for arm in wanted if f"{title} / {arm} / {seed}" not in known]
        question = questions(parts, unseen, tracks, seed) if missing else {}
        for arm in missing:
            if arm == FLOOR:
                found = {"seconds": 0.0, "origin": spectrum_floor(question["origin"], seed)}
            else:
                encoder, seconds = trained(arm, source, labels, unseen, asked.steps, seed)
                found = {"seconds": seconds}
                for track in tracks:
                    detector, found[track] = judged(encoder, question[track], seed)
                    if track == "origin" and asked.pairs and title == "satellite":
                        found["pairs"] = sanity(detector, asked.pairs)
            key = f"{title} / {arm} / {seed}"
            known[key] = found
            short = {
                t: {n: round(v["balanced_accuracy"], 3) for n, v in found[t].items()} for t in tracks if t in found
            }
            print(key, short, flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(known, indent=1))
    summary(title, {key: found for key, found in known.items() if key.startswith(f"{title} / ")}, tracks)


def summary(title, known, tracks):
    """Tables of what is known of a data set, cost, and the pairs."""
    results, per_arm = defaultdict(list), defaultdict(list)
    for key, found in known.items():
        per_arm[key.split(" / ")[1]].append(found)
        for track in tracks:
            if track in found:
                results[key.split(" / ")[1], track].append(found[track])
    report(results, title)
    seconds = {arm: np.mean([f["seconds"] for f in found]) for arm, found in per_arm.items()}
    if seconds.get("SelfCon"):
        print(
            "\nCPU seconds per step, SelfCon = 1:",
            {a: f"{s / seconds['SelfCon']:.2f}" for a, s in seconds.items() if s},
        )
    pairs = {arm: [f["pairs"] for f in found if "pairs" in f] for arm, found in per_arm.items()}
    if any(pairs.values()):
        means = {arm: f"{np.mean(v):.2f}" for arm, v in pairs.items() if v}
        print("GAN pairs (10 + 10 pictures of another generator), AUC:", means)


def sanity(detector, folder):
    """AUC on pairs of real Sentinel-2 and a conditional GAN's, by the mean logit of four windows; far too few."""
    mean = {}
    for kind in ("real", "fake"):
        tiles = [read_image(p) for p in sorted(folder.glob(f"*{kind}_s2rgb.jpg"))]
        cut = [t[:, y : y + 32, x : x + 32] for t in tiles for y in (0, 112) for x in (0, 112)]
        mean[kind] = logits_of(detector, "rgb", torch.from_numpy(np.stack(cut)))[:, 0].view(len(tiles), -1).mean(1)
    return float((mean["fake"][:, None] > mean["real"]).float().mean())


def main():
    """Run what data is given for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cifake-train", type=Path)
    parser.add_argument("--cifake-test", type=Path)
    parser.add_argument("--satellite", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=[FLOOR, *ARMS], default=[FLOOR, *ARMS], help="train only these")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    known = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
    if asked.satellite:
        run("satellite", asked.satellite, ["origin", "generator"], list(UNSEEN), asked, known)
    if asked.cifake_train and asked.cifake_test:
        with TemporaryDirectory() as folder:
            source = cifake(asked.cifake_train, asked.cifake_test, Path(folder))
            run("CIFAKE", source, ["origin"], [], asked, known)


if __name__ == "__main__":
    main()
