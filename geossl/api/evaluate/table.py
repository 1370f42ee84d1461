"""Scores and cost as rows of torchgeo-bench's table, so that an encoder stands beside those published there.

Layout: github.com/torchgeo/torchgeo-bench, ``docs/user/results-format.rst``, ``results/all_results.csv``. What geossl
does otherwise has a name of its own: neighbours chosen on the validation part are ``knn``, not ``knn5``.
"""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geossl.api.evaluate.cost import Cost
from geossl.api.evaluate.results import Key
from geossl.api.evaluate.runner import Runner
from geossl.data.datasets.base import ClassificationDataset, SegmentationDataset
from geossl.errors import InputError, RunError
from geossl.evaluation.bootstrap import DRAWS
from geossl.evaluation.heads import C_SWEEP
from geossl.models.encoder import DenseEncoder
from geossl.outputs import check_output

COLUMNS = (
    "dataset", "method", "metric_name", "metric_value", "ci_lower", "ci_upper", "feature_dim", "best_c", "best_lr",
    "best_batch_size", "n_train", "n_val", "n_test", "seed", "model", "name", "normalization", "image_size",
    "interpolation", "partition", "bands", "c_range_start", "c_range_stop", "c_range_num", "merge_val", "bootstrap",
    "fw_iou", "precision", "recall", "f1", "ece", "rms_ce", "mce", "ece_ts", "rms_ce_ts", "mce_ts", "temperature",
    "calibration_n_bins",
)  # fmt: skip
METRICS = {"accuracy": "accuracy", "map_micro": "micro_mAP", "miou": "mIoU"}  # ours, theirs; others keep their names
Row = dict[str, Any]


def check_table(path: str | Path | None) -> Path | None:
    """A table that rows can be added to; None if none is asked for.

    Raises:
        InputError: If it is no .csv, or holds other columns.
    """
    if path is None:
        return None
    out = check_output(path, (".csv",), option="--csv")
    if out.exists() and out.stat().st_size and header_of(out) != list(COLUMNS):
        raise InputError(f"--csv {out} holds other columns than torchgeo-bench's; choose another name")
    return out


def header_of(path: Path) -> list[str]:
    """Names of the columns of a table; none if it is no text."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader([file.readline(1 << 16)]), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def add_rows(path: Path, rows: list[Row]) -> None:
    """Add rows to a table, all in one write, so that several runs may share it.

    Raises:
        RunError: If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not path.exists() or not path.stat().st_size:
        writer.writeheader()
    writer.writerows(rows)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, text.getvalue().encode())
        finally:
            os.close(file)
    except OSError as error:
        raise RunError(f"--csv {path} cannot be written ({error.strerror})") from None


def rows_of(data: ClassificationDataset | SegmentationDataset, runner: Runner, costs: Mapping[str, Cost]) -> list[Row]:
    """Rows of an evaluation: one per protocol, set of sensors and seed, then its cost."""
    rows, first = [], ("miou", "map_micro") if isinstance(data, SegmentationDataset) else ("map_micro",)
    for key, runs in runner.results.runs.items():
        if key.perturbation:
            continue
        chosen = runner.results.chosen.get(str(key), [])
        for seed, scores in enumerate(runs):
            name = next(name for name in (*first, *scores.values) if name in scores.values)
            low, high = scores.intervals.get(name, (0.0, 0.0))
            setting = chosen[seed] if seed < len(chosen) else {}
            own = {"metric_name": METRICS.get(name, name), "metric_value": scores.values[name]}
            own |= {"ci_lower": low, "ci_upper": high, "best_c": setting.get("c", ""), "bootstrap": DRAWS}
            if key.protocol == "linear" and data.classes:
                ends = np.log10([C_SWEEP[0], C_SWEEP[-1]])
                own |= {"c_range_start": ends[0], "c_range_stop": ends[1], "c_range_num": len(C_SWEEP)}
            own |= {
                column: scores.values[column] for column in ("precision", "recall", "f1") if column in scores.values
            }
            rows.append(about(data, runner, key, seed) | {"method": method(data, runner, key)} | own)
    for sensors, cost in costs.items():
        row = about(data, runner, Key(runner.encoders[0].name, sensors, "profile"), 0) | {"method": "profile"}
        rows += [
            row | {"metric_name": name, "metric_value": value, "ci_lower": 0.0, "ci_upper": 0.0}
            for name, value in profile(cost).items()
        ]
    return rows


def method(data: ClassificationDataset | SegmentationDataset, runner: Runner, key: Key) -> str:
    """Name of a protocol there: ``knn5``, ``linear``, ``seg-linear``; those of patches begin with ``patch-``."""
    kind, _, how = key.protocol.partition(", ")
    kind = kind.removesuffix("-upsample")
    if how:
        return f"seg-{kind}" + ("" if how == "frozen" else "-finetuned")
    name = f"knn{runner.settings.neighbours or ''}" if kind == "knn" else kind
    return f"patch-{name}" if isinstance(data, SegmentationDataset) else name


def about(data: ClassificationDataset | SegmentationDataset, runner: Runner, key: Key, seed: int) -> Row:
    """What a row is of."""
    spec = runner.encoders[0].encoder(0).spec
    parts = runner.metadata.get("train_val_test") or runner.metadata.get("train_val_test_chips") or []
    counts = parts[seed] if seed < len(parts) else ("", "", "")
    side = runner.settings.image_px
    return {
        "dataset": data.name,
        "feature_dim": spec.dim,
        **dict(zip(("n_train", "n_val", "n_test"), counts, strict=True)),
        "seed": seed,
        "model": f"geossl.{spec.architecture}",
        "name": key.encoder,
        "normalization": "model_native",
        "image_size": side or "",
        "interpolation": "bilinear" if side else "",
        "partition": data.metadata.get("partition", "default"),
        "bands": bands(data, runner, key.sensors),
        "merge_val": False,
    }


def bands(data: ClassificationDataset | SegmentationDataset, runner: Runner, sensors: str) -> str:
    """``all`` where an encoder sees all bands of a set, else their names, as there in order of the alphabet."""
    encoder = runner.encoders[0].encoder(0)
    if not isinstance(encoder, DenseEncoder) or not sensors:
        return "all"
    seen = {band for name in sensors.split("+") for band in encoder.spec.sensors[name].bands}
    there = {band for own in data.sensors.values() for band in own.names}
    return "all" if there <= seen else ",".join(sorted(seen & there))


def profile(cost: Cost) -> dict[str, float]:
    """What was measured, by the names there; those of a processor end in ``_cpu``."""
    end = "_cpu" if cost.device == "cpu" else ""
    found = {
        f"throughput_samples_per_sec{end}": cost.images_per_s,
        f"latency_ms_per_batch_p50{end}": 1000 * cost.batch_size / cost.images_per_s,
        "params_m": cost.parameters_m,
        "gflops": cost.gflop,
        "peak_process_mem_gb" if end else "peak_gpu_mem_gb": cost.memory_gb,
    }
    return found if cost.wh_per_1000 is None else found | {f"energy_wh_per_1k_samples{end}": cost.wh_per_1000}
