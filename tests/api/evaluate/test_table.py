import csv
import json

import numpy as np
import pytest
import torch

import geossl
from geossl.api.evaluate import table
from geossl.api.evaluate.cost import Cost
from geossl.api.evaluate.table import COLUMNS, add_rows, check_table, profile
from geossl.data.datasets.base import Bands, ClassificationDataset, MapParts, SegmentationDataset
from geossl.errors import InputError
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.sensors import S2_BANDS


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("geossl.api.evaluate.cost.LEAST_S", 0.0)


L2A = {"s2": Bands(S2_BANDS, "reflectance", "L2A")}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=4)).eval()


def pictures(n, labels):
    torch.manual_seed(1)
    items = [{"s2": 0.2 * torch.rand(12, 16, 16) + 0.3 * int(label)} for label in np.arange(n) % 2]
    part = np.repeat([0, 1, 2], n // 3)
    about = {"partition": "0.10x_train"}
    return ClassificationDataset("m-two", items, labels, ("a", "b"), L2A, part=part, gsd_m=10.0, metadata=about)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_those_of_torchgeo_bench(encoder, tmp_path):
    out, to = tmp_path / "r.html", tmp_path / "t.csv"
    data = pictures(36, np.arange(36) % 2)
    found = geossl.evaluate(encoder, data, protocol=("knn", "linear"), neighbours=5, seeds=2, csv=to, out=out)
    rows = read(to)
    assert tuple(rows[0]) == COLUMNS
    assert to.read_text().startswith("dataset,method,metric_name,metric_value,ci_lower,ci_upper,feature_dim,best_c,")
    scored = [row for row in rows if row["method"] != "profile"]
    assert [(row["method"], row["seed"]) for row in scored] == [
        ("knn5", "0"), ("knn5", "1"), ("linear", "0"), ("linear", "1")
    ]  # fmt: skip
    last = scored[-1]
    assert (last["dataset"], last["partition"], last["bands"], last["feature_dim"]) == (
        "m-two",
        "0.10x_train",
        "all",
        "32",
    )
    assert (last["metric_name"], last["n_train"], last["n_val"], last["n_test"]) == ("accuracy", "12", "12", "12")
    assert float(last["best_c"]) in (0.001, 0.01, 0.1, 1, 10)
    accuracy = np.mean([float(row["metric_value"]) for row in scored[2:]])
    assert accuracy == pytest.approx(found.scores["linear"].values["accuracy"])
    assert float(last["ci_lower"]) <= float(last["metric_value"]) <= float(last["ci_upper"])
    costs = {row["metric_name"]: float(row["metric_value"]) for row in rows if row["method"] == "profile"}
    assert costs["params_m"] == pytest.approx(sum(x.numel() for x in encoder.parameters()) / 1e6, abs=1e-6)
    assert costs["throughput_samples_per_sec_cpu"] == found.cost["s2"].images_per_s > 0
    assert json.loads(out.with_suffix(".json").read_text())["cost"]["s2"]["gflop"] == costs["gflops"] > 0
    assert "cost     s2: " in found.table()
    geossl.evaluate(encoder, data, protocol="knn", csv=to, out=out)
    more = read(to)
    assert len(more) == len(rows) + 1 + len(costs)  # added, under the same header
    assert more[len(rows)]["method"] == "knn"  # neighbours were chosen


def test_several_classes_are_scored_by_micro_map_and_pixels_by_miou(encoder, tmp_path):
    to = tmp_path / "t.csv"
    many = pictures(36, np.stack([np.arange(36) % 2, np.arange(36) % 3 == 0], axis=1).astype(np.int64))
    found = geossl.evaluate(encoder, many, protocol="linear", csv=to, out=tmp_path / "r.html")
    row = read(to)[0]
    assert (row["method"], row["metric_name"]) == ("linear", "micro_mAP")
    assert float(row["metric_value"]) == pytest.approx(found.scores["linear"].values["map_micro"])
    chips = [{**item, "labels": torch.full((16, 16), i % 2 + 1)} for i, item in enumerate(many.items)]
    parts = MapParts(chips[:12], chips[12:24], chips[24:])
    pixels = SegmentationDataset("m-chips", lambda split, seed: parts, ("a", "b"), L2A)
    geossl.evaluate(encoder, pixels, protocol=("linear", "segmentation"), epochs=1, csv=to, out=tmp_path / "r.html")
    rows = [row for row in read(to) if row["dataset"] == "m-chips" and row["method"] != "profile"]
    assert [(r["method"], r["metric_name"]) for r in rows] == [
        ("patch-linear", "accuracy"), ("seg-linear", "mIoU"), ("seg-unet", "mIoU")
    ]  # fmt: skip


def test_a_table_that_cannot_take_rows_is_refused_before_work(encoder, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("id,lon,lat\n")
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    for name, message in (
        (other, r"csv .*other.csv holds other columns than torchgeo-bench's; choose another name"),
        (binary, "holds other columns"),
        (tmp_path / "t.txt", r"csv .*t.txt must end in .csv"),
        (tmp_path / "no" / "t.csv", "csv"),
    ):
        with pytest.raises(InputError, match=message):
            geossl.evaluate(encoder, "no such set", csv=name, out=tmp_path / "r.html")
    assert check_table(None) is None
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert check_table(empty) == empty
    add_rows(empty, [{"dataset": "a"}])
    assert [row["dataset"] for row in read(empty)] == ["a"]


def test_what_was_measured_has_the_names_of_its_device():
    cost = Cost("H200", 64, 640.0, 1.5, 2.0, 0.25, 0.01)
    assert profile(cost) == {
        "throughput_samples_per_sec": 640.0,
        "latency_ms_per_batch_p50": 100.0,
        "params_m": 2.0,
        "gflops": 1.5,
        "peak_gpu_mem_gb": 0.25,
        "energy_wh_per_1k_samples": 0.01,
    }
    assert set(table.METRICS.values()) == {"accuracy", "micro_mAP", "mIoU"}
