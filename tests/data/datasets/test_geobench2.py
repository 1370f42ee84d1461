import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

from geossl.data.datasets import geobench2
from geossl.data.datasets.find import Scenes, find
from geossl.data.datasets.geobench2 import Samples, geobench2_set, inspect, labels_of, pixels
from geossl.data.datasets.geobench2_sets import REFUSED, SETS
from geossl.errors import InputError, MissingExtraError, MissingFileError, UnknownNameError

NONE = Scenes({}, None, None, 96, 8)


def test_without_the_library_its_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "geobench_v2", None)
    monkeypatch.setitem(sys.modules, "geobench_v2.datasets", None)
    with pytest.raises(MissingExtraError, match=r"GEO-Bench 2 need the package 'geobench_v2': pip install 'geossl\[ge"):
        find("geobench2:benv2", tmp_path, False, NONE)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("geobench2:cloudsen", UnknownNameError, "unknown set of GEO-Bench 2 'cloudsen'; did you mean 'cloudsen12'"),
        ("geobench2:", UnknownNameError, "unknown set of GEO-Bench 2 ''; known: benv2, biomassters"),
        ("geobench2:benv2:0.10x_train", InputError, "no partition '0.10x_train', only .* use label_fractions=0.1"),
        ("geobench2:EverWatch", InputError, "geobench2:everwatch is not read: it holds boxes around objects"),
    ],
)
def test_names_that_are_not_read_say_why(name, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        geobench2_set(name, tmp_path)


def test_download_is_refused_with_where_to_get_it(tmp_path):
    with pytest.raises(InputError, match="download=True does nothing for 'geobench2:benv2'; fetch .*hf.co/aialliance"):
        find("geobench2:benv2", tmp_path, True, NONE)


def test_every_set_is_read_or_refused():
    assert len(SETS) + len(REFUSED) == 20  # classes of geobenchv2 0.9
    assert not {*SETS} & {*REFUSED}
    for source in SETS.values():
        assert source.task in ("classify", "segment", "regress")
        assert all(len(layers.theirs) == len(layers.bands.names) for layers in source.layers.values())
        assert all(layers.bands.unit in ("reflectance", "dB", "0..1") for layers in source.layers.values())


def test_numbers_become_physical_units_and_gaps_of_radar_nan():
    power = torch.tensor([[0.1, 0.0], [0.01, 0.0]])[:, None]
    found = pixels(power, SETS["kuro_siwo"].layers["s1"])
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([-10.0, -20.0]))
    assert found[:, 0, 1].isnan().all()
    assert pixels(torch.full((12, 1, 1), 2500), SETS["cloudsen12"].layers["s2"])[3].item() == 0.25
    assert pixels(torch.zeros(12, 1, 1), SETS["cloudsen12"].layers["s2"]).sum() == 0  # dark, not missing
    with pytest.raises(InputError, match=r"image has shape \(3, 1, 1\); expected 12 bands"):
        pixels(torch.zeros(3, 1, 1), SETS["cloudsen12"].layers["s2"])


@pytest.mark.parametrize(
    ("title", "classes", "mask", "labels"),
    [
        ("pastis", 19, [0, 18, 19], [1, 19, 0]),  # 19 = void
        ("kuro_siwo", 3, [0, 1, 3], [0, 1, 3]),  # 0 = no data
        ("burn_scars", 2, [0, 1, 2], [1, 2, 0]),  # 2 = no data
        ("flair2", 13, [-1, 0, 12], [0, 1, 13]),
        ("biomassters", 0, [0.0, 0.5, 1.0], [0.0, 144.945, 289.89]),
    ],
)
def test_labels_of_pixels_begin_at_one(title, classes, mask, labels):
    found = Samples(title, None, classes).labels(torch.tensor([mask]), SETS[title])
    torch.testing.assert_close(found[0], torch.tensor(labels))


def data(labels, **about):
    table = pd.DataFrame({"labels": labels})
    return types.SimpleNamespace(data_df=types.SimpleNamespace(table=table), **about)


def test_labels_of_images_are_names_or_numbers():
    classes = ("a", "b", "c")
    assert labels_of("so2sat", data(["b", "c"]), classes).tolist() == [1, 2]
    assert labels_of("so2sat", data([2, 0]), classes).tolist() == [2, 0]
    many = labels_of("benv2", data([["c", "a"], np.array(["b"])], multilabel=True), classes)
    assert many.tolist() == [[1, 0, 1], [0, 1, 0]]
    for wrong in (["d"], [3], [None], [1.5]):
        with pytest.raises(InputError, match=r"a sample of geobench2:so2sat has a label that is none of its 3 classes"):
            labels_of("so2sat", data(wrong), classes)
    with pytest.raises(InputError, match="none of its 3 classes"):
        labels_of("benv2", data([["a", "d"]], multilabel=True), classes)


def test_parts_of_a_container_are_looked_at_before_they_are_opened(tmp_path):
    path = tmp_path / "a.tortilla"
    path.write_bytes(b"#y" + bytes(8) + b"II*\0" + bytes(8) + b"<VRTDataset>")
    inspect(f"/vsisubfile/10_12,{path}")
    for place, message in (
        (f"/vsisubfile/22_12,{path}", "neither TIFF nor HDF5"),
        (f"/vsisubfile/-1_12,{path}", "not a part of a container"),
        (f"/vsicurl/http://host/{path}", "not a part of a container"),
    ):
        with pytest.raises(InputError, match=message):
            inspect(place)


def test_a_set_that_is_not_there_says_what_was_expected(tmp_path):
    kind = types.SimpleNamespace(paths=["geobench_benv2.tortilla"], url="https://hf.co/datasets/x/resolve/main/{}")
    with pytest.raises(
        MissingFileError, match=r"expected geobench_benv2.tortilla there, from https://hf.co/datasets/x$"
    ):
        geobench2.opened("benv2", kind, tmp_path, "train")
