import datetime
import json
import os
import pickle
import sys
import types

import h5py
import numpy as np
import pytest
import rasterio

from geossl.data.datasets import geobench
from geossl.data.datasets.find import Scenes, find
from geossl.data.datasets.geobench import geobench_set
from geossl.data.datasets.inert import read_inert
from geossl.errors import InputError, MissingFileError, UnknownNameError

S2 = (
    "01 - Coastal aerosol", "02 - Blue", "03 - Green", "04 - Red", "05 - Vegetation Red Edge", "08 - NIR",
    "08A - Vegetation Red Edge", "10 - SWIR - Cirrus", "12 - SWIR",
)  # fmt: skip
RADAR = ("01 - VH.Real", "05 - VH.LEE Filtered", "06 - VV.LEE Filtered")


@pytest.fixture
def library():
    """Classes under the names of GEO-Bench's, for as long as files are written as it writes them."""
    modules = {
        name: types.ModuleType(name) for name in ("geobench", "geobench.dataset", "geobench.label", "geobench.task")
    }

    def kind(module, name):
        made = type(name, (), {"__init__": lambda self, **state: self.__dict__.update(state), "__module__": module})
        setattr(modules[module], name, made)
        return made

    found = types.SimpleNamespace(
        Band=kind("geobench.dataset", "Sentinel2"),
        Mask=kind("geobench.dataset", "SegmentationClasses"),
        One=kind("geobench.label", "Classification"),
        Many=kind("geobench.label", "MultiLabelClassification"),
        Specs=kind("geobench.task", "TaskSpecifications"),
    )
    sys.modules.update(modules)
    yield found
    for name in modules:
        del sys.modules[name]


def written(folder, library, bands, label_type, labels, value=2000, dtype=np.int16, date=None):
    """A set in the layout of ``geobench.Sample.write``: two samples a split, bands of ``value`` plus their number."""
    folder.mkdir(parents=True)
    infos = [library.Band(name=name, alt_names=("x",), spatial_resolution=10, wavelength=0.5) for name in bands]
    specs = library.Specs(bands_info=infos, spatial_resolution=np.float64(10), label_type=label_type, patch_size=(8, 8))
    (folder / "task_specs.pkl").write_bytes(pickle.dumps(specs, protocol=4))
    names = [f"id_{number:04d}" for number in range(6)]
    for name, label in zip(names, labels, strict=True):
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            own = {"date": date, "transform": rasterio.Affine(10, 0, 4e5, 0, -10, 4e6), "meta_info": None}
            own["crs"] = rasterio.crs.CRS.from_epsg(32631)
            about = {} if isinstance(label, np.ndarray) and label.ndim == 2 else {"label": label}
            ending = "" if date is None else f"_{date:%Y-%m-%d}"
            for number, info in enumerate(infos):
                file[info.name + ending] = np.full((8, 8), value * (number + 1), dtype)
                about[info.name + ending] = {**own, "band_info": info}
            if "label" not in about:
                file["label"] = label
                about["label"] = {**own, "band_info": label_type}
            about["bands_order"] = [info.name + ending for info in infos]
            file.attrs["pickle"] = str(pickle.dumps(about))
    parts = {"train": names[:2], "valid": names[2:4], "test": names[4:]}
    (folder / "default_partition.json").write_text(json.dumps(parts))
    (folder / "0.50x_train_partition.json").write_text(json.dumps({**parts, "train": names[:1]}))
    return folder


@pytest.fixture
def eurosat(tmp_path, library):
    kind = library.One(n_classes=2, _class_names=["Forest", "River"])
    return written(tmp_path / "classification_v1.0" / "m-eurosat", library, S2, kind, [0, np.int64(1)] * 3, 1000)


def test_a_set_has_reflectance_by_band_its_classes_and_its_partitions(tmp_path, eurosat, monkeypatch):
    data = geobench_set("geobench:m-eurosat", tmp_path)
    assert data.classes == ("Forest", "River")
    assert data.labels.tolist() == [0, 1] * 3
    assert data.part.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.sensors["s2"].names == ("B01", "B02", "B03", "B04", "B05", "B08", "B8A", "B10", "B12")
    assert (data.sensors["s2"].unit, data.sensors["s2"].level, data.gsd_m) == ("reflectance", "L1C", 10)
    np.testing.assert_allclose(data.items[3]["s2"][:, 7, 7], np.arange(1, 10) / 10, rtol=1e-6)
    monkeypatch.setenv("GEO_BENCH_DIR", str(tmp_path))
    few = find("geobench:M-EuroSat:0.50x_train", None, False, Scenes({}, None, None, 96, 8))
    assert few.part.tolist() == [0, 1, 1, 2, 2]
    assert few.metadata["partition"] == "0.50x_train"
    (eurosat / "label_map.json").write_text(json.dumps({"1": [f"id_{i:04d}" for i in range(6)]}))  # wins, being quick
    assert geobench_set("geobench:m-eurosat", eurosat).labels.tolist() == [1] * 6


def test_several_classes_and_radar_and_classes_per_pixel(tmp_path, library):
    kind = library.Many(n_classes=3, class_name=["a", "b", "c"])
    labels = [np.array([1, 0, number % 2]) for number in range(6)]
    written(tmp_path / "m-bigearthnet", library, S2[:4], kind, labels, dtype=np.float32)
    data = geobench_set("geobench:m-bigearthnet", tmp_path)
    assert data.is_multi
    assert data.labels[:2].tolist() == [[1, 0, 0], [1, 0, 1]]
    written(tmp_path / "m-so2sat", library, (*RADAR, *S2[1:3]), library.One(n_classes=2), [0, 1] * 3, 0.1, np.float32)
    data = geobench_set("geobench:m-so2sat", tmp_path)
    assert data.sensors["s1"].names == ("VV", "VH")
    np.testing.assert_allclose(data.items[0]["s1"][:, 0, 0], 10 * np.log10([0.3, 0.2]), rtol=1e-5)
    np.testing.assert_allclose(data.items[0]["s2"][:, 0, 0], [0.4, 0.5], rtol=1e-6)
    mask, ground = library.Mask(name="label", n_classes=3), np.arange(64).reshape(8, 8) % 3
    date = datetime.date(2019, 11, 20)
    written(tmp_path / "m-cashew-plant", library, (*S2[:3], "Cloud Probability"), mask, [ground] * 6, date=date)
    data = geobench_set("geobench:m-cashew-plant", tmp_path)
    assert data.classes == ("class 0", "class 1", "class 2")
    assert data.sensors["s2"].names == ("B01", "B02", "B03")
    chips = data.parts("auto", 0)
    assert [len(part) for part in chips] == [2, 2, 2]
    np.testing.assert_array_equal(chips.test[1]["labels"], ground + 1)  # 0 is not labelled
    np.testing.assert_allclose(chips.test[1]["s2"][:, 0, 0], [0.2, 0.4, 0.6], rtol=1e-6)


class Hostile:
    """What runs a command where a pickle is loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_hostile_descriptions_are_refused_by_name_and_do_not_run(tmp_path, eurosat):
    target, name = tmp_path / "ran", f"{os.system.__module__}.system"
    before = (eurosat / "task_specs.pkl").read_bytes()
    for protocol in (2, 4, 5):
        (eurosat / "task_specs.pkl").write_bytes(pickle.dumps(Hostile(target), protocol=protocol))
        with pytest.raises(InputError, match=f"refers to '{name}'.* it was not run"):
            geobench_set("geobench:m-eurosat", tmp_path)
    (eurosat / "task_specs.pkl").write_bytes(before)
    with h5py.File(eurosat / "id_0004.hdf5", "a") as file:
        file.attrs["pickle"] = str(pickle.dumps({"label": Hostile(target)}))
    with pytest.raises(InputError, match=rf"id_0004.hdf5: its description refers to '{name}'"):
        geobench_set("geobench:m-eurosat", tmp_path)
    assert not target.exists()
    assert os.system(f"touch {target}") == 0  # it would have
    own = {"label": [b"x", (1.5, None, True), {"deep": []}], "n": 2**70, "shape": ()}
    own["again"] = own["label"]
    assert read_inert(pickle.dumps(own, protocol=2), tmp_path, ("_codecs.encode",)) != {}
    for protocol in (3, 4):
        assert read_inert(pickle.dumps(own, protocol=protocol), tmp_path, ()) == own
    for text in (
        b"\x80\x04",
        b"I1\n",
        b"\x80\x04]\x85R.",
        b"\x80\x04N}b.",
        b"(i os\nsystem\n.",
        b"\x80\x04\x8c\x02os\x93.",
    ):
        with pytest.raises(InputError, match="it was not run|is damaged"):
            read_inert(text, tmp_path, ())


def test_what_is_wrong_is_said_in_a_line(tmp_path, eurosat):
    def refused(match, name="geobench:m-eurosat", kind=InputError):
        with pytest.raises(kind, match=match) as error:
            geobench_set(name, tmp_path).items[5]
        assert "\n" not in str(error.value)

    refused("unknown set of GEO-Bench 'm-eurosatt'; did you mean 'm-eurosat'", "geobench:m-eurosatt", UnknownNameError)
    refused("partition of m-eurosat '0.5x'; .*0.50x_train, default", "geobench:m-eurosat:0.5x", UnknownNameError)
    refused("m-pv4ger is not at root .* `geobench-download`", "geobench:m-pv4ger", MissingFileError)
    sample, passwords = eurosat / "id_0005.hdf5", tmp_path / "elsewhere.hdf5"
    with h5py.File(passwords, "w") as file:
        file["x"] = np.full((8, 8), 9, np.int16)
    good = sample.read_bytes()
    for link in (h5py.ExternalLink(str(passwords), "/x"), h5py.SoftLink("/03 - Green"), np.zeros((2, 8, 8)), "text"):
        sample.write_bytes(good)
        with h5py.File(sample, "a") as file:
            del file["02 - Blue"]
            file["02 - Blue"] = link
        refused("id_0005.hdf5 has no band '02 - Blue' of pixels of its own")
    sample.write_bytes(good)
    with h5py.File(sample, "a") as file:
        file.attrs["pickle"] = str(pickle.dumps({"label": 7}))
    refused("id_0005.hdf5 has a label that is none of 2 classes")
    sample.write_bytes(b"no HDF5")
    refused("is damaged or no HDF5 file")
    sample.unlink()
    refused("id_0005.hdf5 is missing, which a partition names", kind=MissingFileError)
    partition = eurosat / "default_partition.json"
    partition.write_text(json.dumps({"train": ["../../etc"], "valid": ["a"], "test": ["b"]}))
    refused("is not the name of a file beside it")
    partition.write_text("{")
    refused("is damaged; expected lists of samples: train, valid, test")
    with pytest.raises(InputError, match="download=True does nothing"):
        find("geobench:m-eurosat", tmp_path, True, Scenes({}, None, None, 96, 8))


def test_without_h5py_the_extra_is_named(tmp_path, eurosat, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'geossl\[datasets\]'"):
        geobench.label_of(eurosat / "id_0000.hdf5")
