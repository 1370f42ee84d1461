"""Pretrained CROMA against the same encoder untrained, plain band statistics, and a ResNet-18 trained from scratch.

Seed i has its own pretraining (the i-th of --encoders), its own split into blocks of ground, and its own heads.

1. EuroSAT, 140 patches of 13 bands (--eurosat FILE): probes, fine-tuning, and a curve over the share of labels.
2. Radar, optical, joint: land cover per 80 m patch of the bundled scenes, and surface water (--water S1 S2 LABELS, of
   Sen1Floods11, never seen in pretraining), each with the same heads.

Every part is kept in --out; the same command goes on where it stopped.

Run: for s in 0 1 2; do geossl pretrain croma train.seed=$s out=runs/croma$s; done
     python benchmarks/evaluate.py --encoders runs/croma?/encoder.safetensors --eurosat FILE [--water S1 S2 LABELS]
"""

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

from geossl.api.evaluate.classification import ClassificationRunner
from geossl.api.evaluate.runner import EvaluatedEncoder
from geossl.api.evaluate.segmentation import SegmentationRunner
from geossl.api.evaluate.settings import Settings
from geossl.data.datasets.find import Scenes, labelled_scenes, read_set
from geossl.data.sentinel.aligned import SAMPLE
from geossl.evaluation.baselines import BandStatistics, untrained
from geossl.evaluation.report import markdown, score_rows
from geossl.evaluation.scores import Scores
from geossl.models.encoder import DenseEncoder
from geossl.models.files import load_encoder
from geossl.models.layers.normalize import ClippedRange
from geossl.training.early_stopping import FinetuneConfig

TUNE = FinetuneConfig(epochs=20, patience=6)
SENSORS = (("s1",), ("s2",), ("s1", "s2"))


class ResNet(DenseEncoder):
    """ResNet-18 of the same optical bands and scaling, with fresh weights."""

    def __init__(self, spec):
        super().__init__()
        self.spec = replace(spec, name="resnet18", architecture="resnet18", arguments={}, dim=512)
        bands = spec.sensors["s2"]
        self.range = ClippedRange(bands.mean, bands.std)
        self.body = resnet18()
        self.body.conv1 = nn.Conv2d(len(bands.bands), 64, 7, stride=2, padding=3, bias=False)
        self.body.fc = nn.Identity()

    def pooled(self, images, kept=None):
        """One vector per image."""
        return self.body(self.range(images["s2"]))

    def tokens(self, images, kept=None):
        """Not needed here."""
        raise NotImplementedError("only images are classified here")


class SideBySide(DenseEncoder):
    """Tokens of every sensor's own branch, one after the other: what there is to be joined."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.spec = replace(encoder.spec, name="side by side", dim=encoder.spec.dim * len(encoder.spec.sensors))

    def tokens(self, images, kept=None):
        """One vector per patch."""
        return torch.cat([self.encoder.tokens({name: x}) for name, x in images.items()], dim=-1)

    def pooled(self, images, kept=None):
        """One vector per image."""
        return torch.cat([self.encoder.pooled({name: x}) for name, x in images.items()], dim=-1)


def from_scratch(spec, seed):
    torch.manual_seed(seed)
    return ResNet(spec)


def kept(path, work):
    """Scores and curves of a part, from its file or from its runner."""
    if not path.exists():
        runner = work()
        runner.run()
        results = runner.results
        curves = {
            row: {str(share): scores.to_dict() for share, scores in line.items()}
            for row, line in results.curves().items()
        }
        rows = {row: scores.to_dict() for row, scores in results.scores().items()}
        path.write_text(json.dumps({"scores": rows, "curves": curves, "chosen": results.chosen}, indent=1))
    return json.loads(path.read_text())


def show(title, *parts):
    rows = {name: Scores.from_dict(scores) for part in parts for name, scores in part["scores"].items()}
    print(f"\n{title}\n\n{markdown(score_rows(rows))}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="*", type=Path, default=[])
    parser.add_argument("--eurosat", type=Path)
    parser.add_argument("--water", nargs=3, type=Path, metavar=("S1", "S2", "LABELS"))
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate"))
    parser.add_argument("--only", nargs="*", help="parts to work out, by name; all by default")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    encoders = [load_encoder(path) for path in args.encoders]
    spec = encoders[0].spec
    pretrained = EvaluatedEncoder("pretrained", lambda seed: encoders[seed], False)
    random = EvaluatedEncoder("untrained", lambda seed: untrained(encoders[0], seed), False)
    statistics = EvaluatedEncoder("band statistics", lambda seed: BandStatistics(spec), True)
    aside = EvaluatedEncoder("branches side by side", lambda seed: SideBySide(encoders[seed]), False)
    resnet = EvaluatedEncoder("ResNet-18 from scratch", lambda seed: from_scratch(spec, seed), False)
    seeds = len(encoders)
    say = lambda done, total, what: print(f"{what} {done}/{total}", flush=True)  # noqa: E731
    heads = Settings(("knn", "linear", "mlp", "kmeans"), seeds=seeds, shares=(0.1, 0.25, 0.5), progress=say)
    tune = Settings(("finetune",), seeds=seeds, finetune=TUNE, progress=say)
    works = {}
    if args.eurosat:
        data = read_set(args.eurosat)
        works["eurosat-heads"] = lambda: ClassificationRunner(data, [pretrained, random, statistics], heads)
        for subject in (pretrained, random, resnet):
            name = f"eurosat-finetune-{subject.name.split()[0]}"
            works[name] = lambda subject=subject: ClassificationRunner(data, [subject], tune)
    maps = replace(heads, sensors=SENSORS, shares=())
    # the bundled scenes are cut as in pretraining
    ground = {
        "land-cover": (
            SAMPLE / "labels",
            Scenes({"s1": [SAMPLE / "s1"], "s2": [SAMPLE / "s2"]}, None, None, 48, spec.patch_px),
        )
    }
    if args.water:
        s1, s2, labels = args.water
        ground["water"] = (labels, Scenes({"s1": [s1], "s2": [s2]}, 0, None, 96, spec.patch_px))
    for name, (labels, scenes) in ground.items():
        works[name] = lambda labels=labels, scenes=scenes: SegmentationRunner(
            labelled_scenes(labels, scenes), [pretrained, random, statistics], maps
        )
        works[f"{name}-side-by-side"] = lambda labels=labels, scenes=scenes: SegmentationRunner(
            labelled_scenes(labels, scenes), [aside], replace(maps, sensors=(("s1", "s2"),))
        )
    for name, work in works.items():
        if not args.only or name in args.only:
            part = kept(args.out / f"{name}.json", work)
            show(f"{name}, {seeds} seeds; brackets: 95 % bootstrap over test samples", part)
            for row, line in part["curves"].items():
                cells = [f"{float(k):.0%} {next(iter(v['values'].values())):.3f}" for k, v in line.items()]
                print(f"{row}: " + ", ".join(cells), flush=True)


if __name__ == "__main__":
    main()
