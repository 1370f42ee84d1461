import json

import h5py
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from torchgeo.datasets import BigEarthNet, BigEarthNetV2, DatasetNotFoundError, EuroSAT

from geossl.data.datasets.base import SegmentationDataset
from geossl.data.datasets.names import NAMES
from geossl.data.datasets.torchgeo import DATASETS, IGBP, eurosat_of, named_set
from geossl.errors import InputError, MissingFileError, UnknownNameError
from geossl.sensors import S1_BANDS, S2_BANDS

RNG = np.random.default_rng(0)


def tif(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = array.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": array.dtype, "crs": 32631}
    with rasterio.open(path, "w", transform=rasterio.Affine(10, 0, 4e5, 0, -10, 4e6), **profile) as file:
        file.write(array)


@pytest.fixture
def eurosat(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        names = []
        for name in ("Forest", "River"):
            array = np.full((13, 64, 64), 1000 + number, np.uint16)
            array[12] = 4000  # B8A comes last
            tif(tmp_path / EuroSAT.base_dir / name / f"{name}_{number}.tif", array)
            names.append(f"{name}_{number}.jpg")
        (tmp_path / f"eurosat-{part}.txt").write_text("\n".join(names))
    return tmp_path


@pytest.mark.parametrize("download", [False, True])
def test_what_is_downloaded_is_checked_and_what_is_there_is_not_hashed_again(tmp_path, download):
    asked = []

    class Recorder(EuroSAT):
        def __init__(self, root, split, **settings):
            asked.append(settings)
            super().__init__(root, split, download=False)

    with pytest.raises(DatasetNotFoundError, match="not found"):
        eurosat_of(Recorder, "eurosat")(tmp_path, download)
    assert asked == [{"download": download, "checksum": download}]


def test_eurosat_has_named_bands_reflectance_and_its_split(eurosat):
    data = named_set("eurosat", eurosat, False)
    assert data.classes == ("Forest", "River")
    assert data.labels.tolist() == [0, 1] * 3
    assert data.part.tolist() == [0, 0, 1, 1, 2, 2]
    bands = data.sensors["s2"]
    assert bands.names[-1] == "B8A"
    assert (bands.unit, bands.level) == ("reflectance", "L1C")
    pixels = data.items[4]["s2"]
    assert float(pixels[0, 0, 0]) == pytest.approx(0.1002)
    assert float(pixels[bands.names.index("B8A"), 0, 0]) == pytest.approx(0.4)
    assert data.parts("auto", 3).tolist() == [0, 0, 1, 1, 2, 2]


def bigearthnet_patch(s1, s2, labels=None):
    """Radar with fractions of a decibel, and optical bands at their own resolution; both named as in the archive."""
    for i, band in enumerate(S1_BANDS):
        tif(s1 / f"{s1.name}_{band}.tif", np.full((1, 120, 120), -10.25 - i, np.float32))
    for i, band in enumerate(S2_BANDS):
        side = {"B01": 20, "B09": 20, "B02": 120, "B03": 120, "B04": 120, "B08": 120}.get(band, 60)
        tif(s2 / f"{s2.name}_{band}.tif", np.full((1, side, side), 100 * (i + 1), np.uint16))
    for folder in (s1, s2):
        if labels:
            (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps({"labels": labels}))


def check_bigearthnet(data):
    assert list(data.sensors) == ["s1", "s2"]
    item = data.items[0]
    assert item["s1"][:, 0, 0].tolist() == [-10.25, -11.25]  # VV before VH, and not cut to whole decibels
    np.testing.assert_allclose(item["s2"][:, 5, 5], np.arange(1, 13) / 100, rtol=1e-6)
    assert item["s2"].shape == (12, 120, 120)
    assert data.part.tolist() == [0, 1, 2]
    assert data.is_multi
    assert data.labels.shape == (3, 19)


def test_bigearthnet_has_both_sensors_and_several_classes(tmp_path):
    for part in ("train", "val", "test"):
        radar, optical = f"S1_{part}", f"S2_{part}"
        names = BigEarthNet.metadata
        s1, s2 = (tmp_path / names[s]["directory"] / n for s, n in (("s1", radar), ("s2", optical)))
        bigearthnet_patch(s1, s2, ["Pastures", "Sea and ocean"])
        (tmp_path / f"bigearthnet-{part}.csv").write_text(f"{optical},{radar}\n")
    data = named_set("bigearthnet", tmp_path, False)
    check_bigearthnet(data)
    assert [data.classes[i] for i in np.flatnonzero(data.labels[0])] == ["Pastures", "Marine waters"]


def test_bigearthnet_2_reads_its_table(tmp_path):
    rows = []
    for part in ("train", "validation", "test"):
        radar, optical = f"S1A_{part}_33UUP_1_2", f"S2A_{part}_1_2"
        names = BigEarthNetV2.dir_file_names
        s1 = tmp_path / names["s1"] / radar.rsplit("_", 3)[0] / radar
        bigearthnet_patch(s1, tmp_path / names["s2"] / optical.rsplit("_", 2)[0] / optical)
        rows.append({"patch_id": optical, "s1_name": radar, "split": part, "labels": ["Arable land", "Inland waters"]})
    (tmp_path / "Reference_Maps").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "metadata.parquet")
    data = named_set("bigearthnet2", tmp_path, False)
    check_bigearthnet(data)
    assert np.flatnonzero(data.labels[1]).tolist() == [2, 17]


def test_so2sat_turns_filtered_intensity_into_decibels(tmp_path):
    for name, count in (("training", 3), ("validation", 2), ("testing", 2)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            radar = np.zeros((count, 32, 32, 8))
            radar[..., 4], radar[..., 5] = 0.01, 0.1  # VH, VV
            file["sen1"], file["sen2"] = radar, RNG.random((count, 32, 32, 10))
            file["label"] = np.eye(17)[np.arange(count)]
    data = named_set("so2sat", tmp_path, False)
    item = data.items[0]
    np.testing.assert_allclose(item["s1"][:, 0, 0], [-10, -20], atol=1e-4)
    assert item["s2"].shape == (10, 32, 32)
    assert float(item["s2"].max()) <= 1
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert data.part.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert "B01" not in data.sensors["s2"].names


def test_dfc2020_pairs_both_sensors_with_its_map(tmp_path):
    root = tmp_path / "dfc2020_s1s2"
    for part in ("train", "val", "test"):
        name = f"ROIs0000_{part}_dfc_0_p1.tif"
        (root).mkdir(exist_ok=True)
        (root / f"dfc-{part}-new.csv").write_text(name + "\n")
        tif(root / "s1" / name.replace("dfc", "s1"), np.full((2, 16, 16), -12.5, np.float32))
        tif(root / "s2" / name.replace("dfc", "s2"), np.full((13, 16, 16), 2500, np.uint16))
        tif(root / "dfc" / name, np.full((1, 16, 16), 10, np.uint8))
    data = named_set("dfc2020", tmp_path, False)
    assert isinstance(data, SegmentationDataset)
    assert data.classes[9] == "Water"  # label 10, as 0 is background
    for chips in data.parts("auto", 0):
        assert len(chips) == 1
        assert float(chips[0]["s1"][0, 0, 0]) == -12.5
        assert float(chips[0]["s2"][3, 0, 0]) == 0.25
        assert chips[0]["labels"].unique().tolist() == [10]
    with pytest.raises(InputError, match="split 'random' is not possible here"):
        data.parts("random", 0)


def test_sen12ms_validates_on_whole_scenes(tmp_path):
    for season in ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter"):
        (tmp_path / season).mkdir()
    lists = {"train": [(scene, p) for scene in range(1, 9) for p in (1, 2)], "test": [(20, 1)]}
    for part, patches in lists.items():
        names = [f"ROIs1158_spring_s2_{scene}_p{p}.tif" for scene, p in patches]
        (tmp_path / f"{part}_list.txt").write_text("\n".join(names))
        for scene, p in patches:
            for source, array in (
                ("s1", np.full((2, 8, 8), -9, np.int16)),
                ("s2", np.full((13, 8, 8), 1000 * scene, np.uint16)),
                ("lc", np.full((4, 8, 8), 17 if p == 1 else 255, np.uint16)),
            ):
                tif(tmp_path / f"ROIs1158_spring/{source}_{scene}/ROIs1158_spring_{source}_{scene}_p{p}.tif", array)
    data = named_set("sen12ms", tmp_path, False)
    parts = data.parts("auto", 0)
    assert [len(part) for part in parts] == [12, 4, 1]
    scenes = [{round(float(chip["s2"][0, 0, 0]) * 10) for chip in part} for part in parts[:2]]
    assert scenes[0] & scenes[1] == set()
    assert parts.test[0]["labels"].unique().tolist() == [17]
    assert data.classes[16] == IGBP[16] == "water"
    assert {int(chip["labels"].max()) for chip in parts.train} == {0, 17}  # 255 is not labelled


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_data_set_that_is_not_there_is_one_line(name, tmp_path, monkeypatch):
    def offline(*_, **__):
        raise AssertionError("went online")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(MissingFileError, match=rf"data set {name} is not at root .*; name its folder, or (add|get)"):
        named_set(name, tmp_path / "nothing", False)
    assert not (tmp_path / "nothing").exists()


def test_an_unknown_name_offers_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown data set 'eurosta'; did you mean 'eurosat'"):
        named_set("eurosta", tmp_path, False)


def test_no_item_is_read_before_it_is_asked_for(eurosat, monkeypatch):
    monkeypatch.setattr(EuroSAT, "__getitem__", lambda self, i: {"image": torch.full((13, 8, 8), 500.0 * i)})
    data = named_set("eurosat", eurosat, False)
    assert float(data.items[3]["s2"][0, 0, 0]) == pytest.approx(0.05)


def test_every_data_set_known_by_name_is_listed():
    assert set(NAMES) == {*DATASETS, "sample", "geobench:NAME", "geobench2:NAME"}
