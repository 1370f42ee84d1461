"""Judge an encoder by what simple and less simple classifiers make of it on labelled data."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import torch

from geossl.api.evaluate.protocols import (
    EPISODE,
    EvaluatedEncoder,
    Key,
    Results,
    Say,
    Settings,
    evaluate_set,
    is_head,
    label_of,
)
from geossl.api.evaluate.segmentation import evaluate_maps
from geossl.api.evaluate.synthetic import evaluate_synthetic
from geossl.api.settings import checked_settings
from geossl.api.source import Rasters, given
from geossl.data.datasets.base import ClassificationDataset, SegmentationDataset
from geossl.data.datasets.find import Data, Scenes, find, shape_set
from geossl.data.synthetic.images import is_forgeries
from geossl.errors import InputError
from geossl.evaluation.baselines import BandStatistics, untrained
from geossl.evaluation.features import Change
from geossl.evaluation.report import markdown, score_rows, write_report
from geossl.evaluation.scores import Scores
from geossl.models.download import sha256_of
from geossl.models.encoder import DenseEncoder, Encoder, PointEncoder
from geossl.models.files import encoder_path, load_encoder, provenance
from geossl.training.early_stopping import FinetuneConfig
from geossl.training.run_folder import versions

CHIP_PX = 96  # side of chips of labelled scenes
PROTOCOLS = ("knn", "linear", "mlp", "kmeans", "finetune", "segmentation")  # all


class Evaluation(NamedTuple):
    """What was found.

    Args:
        scores: Means over seeds by row of the report.
        curves: The same by row and share of labels.
        report: The page; its numbers lie beside it (.json).
    """

    scores: dict[str, Scores]
    curves: dict[str, dict[float, Scores]]
    report: Path

    def table(self) -> str:
        """Markdown."""
        return markdown(score_rows(self.scores))


def evaluate(
    encoder: str | Path | Encoder,
    dataset: str | Path | gpd.GeoDataFrame | Data,
    *,
    protocol: str | Sequence[str] = ("knn", "linear"),
    sensors: str | Sequence[str] | None = None,
    out: str | Path = "report.html",
    root: str | Path | None = None,
    download: bool = False,
    split: str = "auto",
    seeds: int = 1,
    neighbours: int | None = None,
    label_fractions: Sequence[float] = (),
    image_px: int | None = None,
    baselines: bool = False,
    batch_size: int = 64,
    column: str | None = None,
    source: Rasters | None = None,
    perturbations: Mapping[str, Change] | None = None,
    epochs: int = 50,
    progress: Say | None = None,
    **former: Any,
) -> Evaluation:
    """Judge an encoder on labelled data.

    Heads are fitted on the training part, their settings chosen on the validation part, scores are of the test part.

    Args:
        encoder: Name, weight file, or an encoder.
        dataset: Name of a data set (``eurosat``, ``bigearthnet``, ...; all in ``geossl list``); a folder with a folder
            per class (pictures, or GeoTIFFs with named bands); an ``.npz`` file; ``sample`` (land cover of the bundled
            scenes); labelled polygons or a label raster over ``source``; a set; or real and generated pictures
            (``train/real``, ``train/GENERATOR``, ..., or ImagiNet's lists), on which the encoder is calibrated as a
            detector and ``protocol`` is not used. For an encoder of points, see
            ``geossl.data.points.objects.read_shapes``.
        protocol: ``knn``, ``linear``, ``mlp``, ``kmeans``, ``finetune``, ``segmentation`` (decoders of patch tokens to
            a class per pixel), or ``all`` of these; and the read-outs of papers on point clouds, ``svm`` (linear) and
            few-shot episodes such as ``5-way-10-shot``. Several as a sequence.
        sensors: ``s1``, ``s2`` or ``s1,s2`` (joint); a sequence of these judges each. By default all there are.
        out: Report (.html); its numbers go beside it (.json).
        root: Folder of a data set known by name; ``data/NAME`` by default.
        download: Fetch a data set known by name if it is not there.
        split: ``auto``: official if there is one, else blocks of ground if places are known, else random; or one of
            ``official``, ``blocked``, ``random``.
        seeds: Number of runs; each draws another split (unless official) and other heads.
        neighbours: k of kNN; by default chosen on the validation part.
        label_fractions: Shares of the labels (of training and validation) for a curve, such as 0.1.
        image_px: Resize images to this side; for labels over scenes, side of chips (96 by default).
        baselines: Also judge the untrained encoder and the statistics of bands.
        batch_size: Images at a time.
        column: Attribute of labelled polygons that holds the class.
        source: ``geossl.Rasters(s1=..., s2=...)`` the labels lie over.
        perturbations: Functions of an item and its number; the test part is judged once more under each.
        epochs: Passes of ``finetune`` over the training part, at most; it stops early on the validation part.
        progress: Called with (what, done, in all).
        former: ``s2_offset`` of a folder data set; ``s1`` and ``s2`` are now in ``source``.

    Raises:
        InputError: If data, encoder and protocols do not fit each other.
    """
    checked_settings(former, (), "evaluate")
    folder_offset = former.pop("s2_offset", None) if not {"s1", "s2"} & set(former) else None
    pixels = given(source, former, "evaluate")
    if pixels is not None and not isinstance(pixels, Rasters):
        raise InputError("evaluate: labels lie over files; fetch the scenes of a catalogue, then use geossl.Rasters")
    files = {} if pixels is None else pixels.paths()
    offset = folder_offset if pixels is None else pixels.s2_offset
    out = checked_out(out)
    settings = Settings(
        protocols=asked(protocol),
        sensors=sensor_sets(sensors),
        seeds=at_least(seeds, 1, "--seeds"),
        split=split,
        neighbours=None if neighbours is None else at_least(neighbours, 1, "--neighbours"),
        shares=tuple(checked_share(share) for share in label_fractions),
        image_px=image_px,
        batch_size=at_least(batch_size, 1, "--batch-size"),
        perturbations=dict(perturbations or {}),
        tune=FinetuneConfig(epochs=at_least(epochs, 1, "--epochs")),
        store=out.with_name(f"{out.name}.build"),
        **({"say": progress} if progress else {}),
    )
    subject = load(encoder)
    if isinstance(dataset, str | Path) and is_forgeries(dataset):
        return detection(out, encoder, subject, dataset, settings)
    patch_px = subject.spec.patch_px if isinstance(subject, DenseEncoder) else 8
    scenes = Scenes(files.get("s1"), files.get("s2"), offset, column, image_px or CHIP_PX, patch_px)
    if isinstance(subject, PointEncoder) and isinstance(dataset, str | Path):
        data: Data = shape_set(dataset)
    else:
        data = find(dataset, root, download, scenes)
    refuse_misfits(data, settings)
    they = subjects(subject, baselines)
    found, metadata = (
        evaluate_maps(data, they, settings)
        if isinstance(data, SegmentationDataset)
        else evaluate_set(data, they, settings)
    )
    done = report(out, data, subject, found, metadata | described(encoder, subject, settings))
    shutil.rmtree(out.with_name(f"{out.name}.build"), ignore_errors=True)
    return done


def refuse_misfits(data: Data, settings: Settings) -> None:
    """Say which of the protocols that were asked for the data set does not allow; ``all`` means all it does."""
    if isinstance(data, ClassificationDataset) and not data.is_multi and len(np.unique(data.labels)) < 2:
        raise InputError(f"{data.name} holds samples of one class only; two or more are needed")
    if isinstance(data, SegmentationDataset) and settings.perturbations:
        raise InputError(f"perturbations are of images with one label each; {data.name} has a class per pixel")
    if settings.protocols == PROTOCOLS:
        return
    if isinstance(data, ClassificationDataset) and "segmentation" in settings.protocols:
        raise InputError(f"--protocol segmentation: {data.name} has no class per pixel; use linear or finetune")
    for name in settings.protocols if isinstance(data, ClassificationDataset) and data.is_multi else ():
        if name in ("kmeans", "svm") or EPISODE.fullmatch(name):
            raise InputError(f"--protocol {name}: {data.name} has several classes per sample; use knn, linear or mlp")


def report(out: Path, data: Data, encoder: Encoder, found: Results, metadata: Mapping[str, Any]) -> Evaluation:
    """Write the page."""
    names = shorter(list(found.runs))
    scores = {names[key]: value for key, value in found.scores().items()}
    curves = {names[key]: value for key, value in found.curves().items()}
    about = {
        "data set": data.name,
        "samples": len(data.labels) if isinstance(data, ClassificationDataset) else None,
        "bands": {name: [*bands] for name, bands in data.sensors.items()},
        **data.metadata,
        **metadata,
        "chosen": found.chosen,
    }
    write_report(out, f"{encoder.spec.name} on {data.name}", scores, data.classes, about, curves)
    return Evaluation(scores, curves, out)


def detection(
    out: Path, encoder: str | Path | Encoder, loaded: Encoder, root: str | Path, settings: Settings
) -> Evaluation:
    """Judge on real and generated pictures; generators that pretraining held out are not learned from here, either."""
    made = {} if isinstance(encoder, Encoder) else provenance(encoder_path(encoder))
    data = made.get("recipe", {}).get("data", {})
    held = data.get("holdout_generators", data.get("unseen", []))  # the second is the name until 1b808dd
    there = [name for name in held if (Path(root) / "train" / name).is_dir()]
    scores, metadata = evaluate_synthetic(
        loaded, root, unseen=there, seeds=settings.seeds, batch_size=settings.batch_size, say=settings.say
    )
    about = {"data set": str(root), **metadata, **described(encoder, loaded, settings)}
    write_report(out, f"{loaded.spec.name} on {root}", scores, ("real", "generated"), about)
    return Evaluation(scores, {}, out)


def load(encoder: str | Path | Encoder) -> Encoder:
    """An encoder, on the GPU if there is one."""
    found = encoder if isinstance(encoder, Encoder) else load_encoder(encoder)
    return found.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def subjects(encoder: Encoder, baselines: bool) -> list[EvaluatedEncoder]:
    """The encoder, and what it must beat."""
    found = [EvaluatedEncoder(encoder.spec.name, lambda seed: encoder, True)]
    if baselines:
        found.append(EvaluatedEncoder("untrained", lambda seed: untrained(encoder, seed), False))
        if isinstance(encoder, DenseEncoder):
            statistics = BandStatistics(encoder.spec)
            found.append(EvaluatedEncoder("band statistics", lambda seed: statistics, True))
    return found


def shorter(keys: Sequence[Key]) -> dict[Key, str]:
    """Names of rows without what all rows share."""
    same = [len({key[i] for key in keys}) == 1 for i in range(4)]
    same[2] = False
    return {key: label_of(tuple("" if gone else part for part, gone in zip(key, same, strict=True))) for key in keys}  # type: ignore[arg-type]


def described(encoder: str | Path | Encoder, loaded: Encoder, settings: Settings) -> dict[str, Any]:
    """What a reader needs to repeat the numbers."""
    return {
        "encoder": loaded.spec.name,
        "encoder_sha256": None if isinstance(encoder, Encoder) else sha256_of(encoder_path(encoder)),
        "seeds": settings.seeds,
        "neighbours": settings.neighbours or "chosen on validation",
        "image_px": settings.image_px,
        "finetune": vars(settings.tune) if "finetune" in settings.protocols else None,
        "versions": versions(),
    }


def checked_out(out: str | Path) -> Path:
    """A page that may be written."""
    path = Path(out)
    if path.suffix != ".html":
        raise InputError(f"--out {path} must end in .html")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: folder {str(path.parent)!r} does not exist; create it")
    return path


def asked(protocol: str | Sequence[str]) -> tuple[str, ...]:
    """Protocols by name."""
    names = [protocol] if isinstance(protocol, str) else list(protocol)
    names = [name.strip() for given in names for name in given.split(",")]
    if "all" in names:
        return PROTOCOLS
    if unknown := [name for name in names if not (name in PROTOCOLS or is_head(name))]:
        more = ", ".join((*PROTOCOLS, "svm"))
        raise InputError(f"--protocol {unknown[0]!r} is not known; use {more}, all, or episodes such as 5-way-10-shot")
    return tuple(dict.fromkeys(names))


def sensor_sets(sensors: str | Sequence[str] | None) -> tuple[tuple[str, ...], ...]:
    """``"s1,s2"`` is one set of two; a sequence of strings is several sets."""
    given = [sensors] if isinstance(sensors, str) else list(sensors or [])
    return tuple(tuple(name.strip() for name in one.split(",") if name.strip()) for one in given)


def at_least(value: int, least: int, name: str) -> int:
    """A number that is large enough."""
    if value < least:
        raise InputError(f"{name} {value} is too small; use {least} or more")
    return value


def checked_share(share: float) -> float:
    """A share of the labels."""
    if not 0 < share < 1:
        raise InputError(f"--label-fractions {share:g} is no share between 0 and 1, such as 0.1")
    return float(share)
