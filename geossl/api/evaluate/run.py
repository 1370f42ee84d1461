"""Evaluate an encoder with probes and fine-tuning on labelled data."""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import geopandas as gpd
import numpy as np
import torch

from geossl.api.evaluate.classification import ClassificationRunner, items_for
from geossl.api.evaluate.cost import Cost, cost_of
from geossl.api.evaluate.inputs import EncoderImages, band_orders
from geossl.api.evaluate.runner import Runner, with_baselines
from geossl.api.evaluate.segmentation import SegmentationRunner
from geossl.api.evaluate.settings import EPISODE, PROTOCOLS, Options, Settings, settings_of
from geossl.api.evaluate.synthetic import SyntheticRunner
from geossl.api.evaluate.table import add_rows, check_table, rows_of
from geossl.api.source import Rasters, given
from geossl.data.datasets.base import ClassificationDataset, SegmentationDataset
from geossl.data.datasets.find import Data, Scenes, find, object_set
from geossl.data.synthetic.images import is_real_and_synthetic
from geossl.errors import InputError, Note
from geossl.evaluation.probes import AMOUNT_PROBES
from geossl.evaluation.report import Curve, markdown, score_rows, write_report
from geossl.evaluation.scores import Scores
from geossl.models.download import sha256_of
from geossl.models.encoder import DenseEncoder, Encoder, Items, PointEncoder
from geossl.models.files import encoder_path, load_encoder, provenance
from geossl.models.heads.projection import projected
from geossl.models.kinds import require_image_encoder
from geossl.outputs import check_output
from geossl.progress import Progress
from geossl.sensors import SENSORS
from geossl.training.run_folder import versions
from geossl.viewer.shown import page, rows

CHIP_PX = 96  # side of chips of labelled scenes
ONE_CLASS_ONLY = ("kmeans", "svm", "svm_folds")  # protocols that cannot have several classes per sample


class Evaluation(NamedTuple):
    """Scores of an evaluation, and where its report is.

    Args:
        scores: Means over seeds by row of the report.
        curves: Means over seeds by row and share of labels.
        report: The page; its numbers lie beside it (.json).
        cost: What the encoder costs by set of sensors, where that was asked for.
    """

    scores: dict[str, Scores]
    curves: dict[str, dict[float, Scores]]
    report: Path
    cost: Mapping[str, Cost] = {}

    def table(self) -> str:
        """Scores as a Markdown table, and the cost in a line per set of sensors."""
        lines = [f"cost     {name + ': ' if name else ''}{cost}" for name, cost in self.cost.items()]
        return "\n".join([markdown(score_rows(self.scores)), *lines])

    def _repr_html_(self) -> str:
        """What a notebook shows: the scores, and the page."""
        return rows(score_rows(self.scores)) + page(self.report)


def evaluate(
    encoder: str | Path | Encoder,
    dataset: str | Path | gpd.GeoDataFrame | Data,
    *,
    protocol: str | Sequence[str] = ("knn", "linear"),
    source: Rasters | None = None,
    out: str | Path = "report.html",
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Evaluation:
    """Evaluate an encoder with probes and fine-tuning on labelled data.

    Heads are fitted on the training part, their settings chosen on the validation part, scores are of the test part.

    Args:
        encoder: Name, weight file, or an encoder.
        dataset: Name of a data set (``eurosat``, ``bigearthnet``, ...; all in ``geossl list``); a folder with a folder
            per class (images, or GeoTIFFs with named bands); an ``.npz`` file; ``sample`` (land cover of the bundled
            scenes); labelled polygons or a label raster over ``source``; a data set object; or real and
            generated images (``train/real``, ``train/GENERATOR``, ..., or ImagiNet's lists), on which the encoder is
            calibrated as an image classifier and ``protocol`` is not used. For an encoder of points, see
            ``geossl.data.points.objects.read_objects``.
        protocol: ``knn``, ``linear``, ``mlp``, ``kmeans``, ``finetune``, ``segmentation`` (decoders of patch tokens to
            a class per pixel), or ``all`` of these; the probes of papers on point clouds, ``svm`` (linear) and
            few-shot episodes such as ``5-way-10-shot``; and those of papers on graphs, ``linear_adam`` (a layer
            trained by Adam, for nodes) and ``svm_folds`` (RBF, ten folds, for whole graphs). Several as a sequence.
        source: ``geossl.Rasters(s1=..., s2=...)`` the labels lie over.
        out: Report (.html); its numbers go beside it (.json).
        progress: Called after every part of the work; see ``geossl.progress``.
        **options: By name:

            - ``sensors``: ``s1``, ``s2`` or ``s1,s2`` (joint); a sequence of these evaluates each. By default all.
            - ``root``: Folder of a data set known by name; ``data/NAME`` by default.
            - ``download``: Fetch a data set known by name if it is not there.
            - ``split``: ``auto``: official if there is one, else blocks of ground if places are known, else random; or
              one of ``official``, ``blocked``, ``random``.
            - ``seeds``: Number of runs; each draws another split (unless official) and other heads. By default 1.
            - ``neighbours``: Neighbours of kNN; by default chosen on the validation part.
            - ``label_fractions``: Shares of the labels (of training and validation) for a curve, such as 0.1.
            - ``image_px``: Resize images to this side; for labels over scenes, side of chips (96 by default).
            - ``baselines``: Also evaluate the untrained encoder and plain band statistics.
            - ``batch_size``: Images at a time; by default 64.
            - ``column``: Attribute of labelled polygons or points that holds the class or the amount.
            - ``task``: ``classify`` or ``regress``, where labels over scenes do not say it. Amounts are scored by R2,
              errors and bias.
            - ``dims``: Numbers per vector, by the projection in the encoder's file; all by default.
            - ``perturbations``: Functions of an item and its number, by name; the test part is scored under each.
            - ``epochs``: Passes of ``finetune`` over the training part, at most; it stops early on the validation part.
              By default 50, or as the paper of ``finetuning``.
            - ``finetuning``: As a paper fine-tunes: ``mae_base``, ``mae_large``, ``mr_mae`` or ``point_cmae`` (rate,
              its decay by layer, drop path, mixup, ...); or a ``geossl.training.early_stopping.FinetuneConfig``.
            - ``cost``: Also measure images per second, operations, memory, and energy where the machine tells it.
            - ``csv``: Also add rows to a table in torchgeo-bench's layout (.csv), its cost among them.
            - ``s2_offset``: DN offset of a folder data set whose files do not state theirs.

    Raises:
        InputError: If data, encoder and protocols do not fit each other.
    """
    out = check_output(out, (".html",))
    settings, table = settings_of(protocol, out, progress, options), check_table(options.get("csv"))
    former = {name: options.get(name) for name in (*SENSORS, "s2_offset")}
    has_files = source or any(former[name] for name in SENSORS)
    pixels = given(source, former, "evaluate") if has_files else None
    model = Subject(encoder, cut(load(encoder), options.get("dims")))
    if isinstance(dataset, str | Path) and is_real_and_synthetic(dataset):
        if settings.cost:
            raise InputError("--csv and --cost are not for real and generated images; leave them out")
        return evaluate_synthetic(model, dataset, settings, out)
    if isinstance(model.encoder, PointEncoder) and isinstance(dataset, str | Path):
        data: Data = object_set(dataset)
    else:
        patch_px = model.encoder.spec.patch_px if isinstance(model.encoder, DenseEncoder) else 8
        scenes = scenes_of(pixels, options, settings.image_px or CHIP_PX, patch_px)
        data = find(dataset, options.get("root"), options.get("download", False), scenes)
    refuse_misfits(data, settings)
    runner = runner_for(data, model.encoder, settings)
    runner.run()
    costs = costs_of(data, runner) if settings.cost else {}
    done = report(out, data, runner, model.describe(settings), costs)
    if table is not None:
        add_rows(table, rows_of(data, runner, costs))
    if settings.store:
        shutil.rmtree(settings.store, ignore_errors=True)
    return done


@dataclass(frozen=True)
class Subject:
    """The encoder under evaluation.

    Args:
        given: Name, path or encoder, as the user gave it.
        encoder: Loaded.
    """

    given: str | Path | Encoder
    encoder: Encoder

    def held_out(self) -> list[str]:
        """Generators that the encoder's pretraining left out."""
        made = {} if isinstance(self.given, Encoder) else provenance(encoder_path(self.given))
        return list(made.get("recipe", {}).get("data", {}).get("unseen", []))

    def describe(self, settings: Settings) -> dict[str, Any]:
        """What a reader needs to repeat the numbers."""
        return {
            "encoder": self.encoder.spec.name,
            "encoder_sha256": None if isinstance(self.given, Encoder) else sha256_of(encoder_path(self.given)),
            "seeds": settings.seeds,
            "neighbours": settings.neighbours or "chosen on validation",
            "image_px": settings.image_px,
            "finetune": vars(settings.finetune) if "finetune" in settings.protocols else None,
            "versions": versions(),
        }


def load(encoder: str | Path | Encoder) -> Encoder:
    """An encoder, on the GPU if there is one."""
    found = encoder if isinstance(encoder, Encoder) else load_encoder(encoder)
    return found.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def cut(encoder: Encoder, dims: int | None) -> Encoder:
    """An encoder with the first numbers of its vectors' projection; None = as it is.

    Raises:
        InputError: If it has none, or the number is not possible.
    """
    if dims is None:
        return encoder
    return projected(require_image_encoder(encoder), dims).to(next(encoder.parameters()).device)


def scenes_of(pixels: Any, options: Options, chip_px: int, patch_px: int) -> Scenes:
    """Rasters the labels lie over; ``s2_offset`` beside none of them is that of a folder data set."""
    if pixels is not None and not isinstance(pixels, Rasters):
        raise InputError("evaluate: labels lie over files; fetch the scenes of a catalogue, then use geossl.Rasters")
    files = {} if pixels is None else pixels.paths()
    offset = options.get("s2_offset") if pixels is None else pixels.s2_offset
    bands = {} if pixels is None else pixels.bands
    return Scenes(files, offset, options.get("column"), chip_px, patch_px, bands, options.get("task"))


def runner_for(data: Data, encoder: Encoder, settings: Settings) -> Runner:
    """The runner of a kind of data set."""
    if isinstance(data, SegmentationDataset):
        return SegmentationRunner(data, with_baselines(require_image_encoder(encoder), settings.baselines), settings)
    return ClassificationRunner(data, with_baselines(encoder, settings.baselines), settings)


def refuse_misfits(data: Data, settings: Settings) -> None:
    """Refuse protocols the data set does not allow; ``all`` stands for those it does."""
    if isinstance(data, ClassificationDataset) and not data.is_multi and len(np.unique(data.labels)) < 2:
        kind = "value" if data.is_continuous else "class"
        raise InputError(f"{data.name} holds samples of one {kind} only; two or more are needed")
    if isinstance(data, SegmentationDataset) and settings.perturbations:
        raise InputError(f"perturbations are for images with one label each; {data.name} has a class per pixel")
    if isinstance(data, SegmentationDataset) and "clusters" in settings.protocols:
        raise InputError(f"--protocol clusters is for rows with a class each; {data.name} has a class per pixel")
    if settings.protocols == PROTOCOLS:
        return
    if not data.classes and (wrong := [name for name in settings.protocols if name not in AMOUNT_PROBES]):
        use = ", ".join(AMOUNT_PROBES)
        raise InputError(f"--protocol {wrong[0]} is for classes, and {data.name} holds amounts; use {use}")
    if isinstance(data, ClassificationDataset) and "segmentation" in settings.protocols:
        raise InputError(f"--protocol segmentation: {data.name} has no class per pixel; use linear or finetune")
    for name in settings.protocols if isinstance(data, ClassificationDataset) and data.is_multi else ():
        if name in ONE_CLASS_ONLY or EPISODE.fullmatch(name):
            raise InputError(f"--protocol {name}: {data.name} has several classes per sample; use knn, linear or mlp")


def costs_of(data: Data, runner: Runner) -> dict[str, Cost]:
    """What the encoder costs on a batch of a data set, by set of sensors."""
    encoder, settings, found = runner.encoders[0].encoder(0), runner.settings, {}
    for sensors in settings.sensors or (None,):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)  # of bands; said before
            if isinstance(data, SegmentationDataset):
                dense = require_image_encoder(encoder)
                orders = band_orders(data.name, data.sensors, dense.spec, sensors)
                chips = data.parts(settings.split, 0).train
                items: Items = EncoderImages(chips, orders, dense.spec.patch_px, settings.image_px)
            else:
                items = items_for(data, encoder, sensors, settings.image_px)
        name = "+".join(items.orders) if isinstance(items, EncoderImages) else ""
        found[name] = cost_of(encoder, [items[i] for i in range(min(settings.batch_size, len(items)))])
    return found


def report(
    out: Path, data: Data, runner: Runner, described: Mapping[str, Any], costs: Mapping[str, Cost]
) -> Evaluation:
    """Write the page."""
    scores, curves = runner.results.scores(), runner.results.curves()
    about = {
        "data set": data.name,
        "samples": len(data.labels) if isinstance(data, ClassificationDataset) else None,
        "bands": {name: [*bands] for name, bands in data.sensors.items()},
        **data.metadata,
        **runner.metadata,
        **described,
        "chosen": runner.results.chosen,
        **({"cost": {name: cost.to_dict() for name, cost in costs.items()}} if costs else {}),
    }
    done = written(out, f"{described['encoder']} on {data.name}", scores, data.classes, about, curves)
    return done._replace(cost=costs)


def evaluate_synthetic(model: Subject, root: str | Path, settings: Settings, out: Path) -> Evaluation:
    """Score on real and generated images; generators left out of pretraining are left out of calibration, too."""
    unseen = [name for name in model.held_out() if (Path(root) / "train" / name).is_dir()]
    scores, metadata = SyntheticRunner(model.encoder, root, settings, unseen).run()
    about = {"data set": str(root), **metadata, **model.describe(settings)}
    return written(out, f"{model.encoder.spec.name} on {root}", scores, ("real", "generated"), about, {})


def written(
    out: Path, title: str, scores: dict[str, Scores], classes: Sequence[str], about: Mapping[str, Any], curves: Curve
) -> Evaluation:
    """The evaluation, its page written."""
    write_report(out, title, scores, classes, about, curves)
    return Evaluation(scores, {name: dict(line) for name, line in curves.items()}, out)
