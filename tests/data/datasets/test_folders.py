import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from geossl.data.datasets.find import read_set
from geossl.errors import BandError, InputError, Note

BANDS = ["VV", "VH", "B02", "B03", "B04"]


def arrays(**changes):
    x = np.arange(4 * 5 * 8 * 8, dtype=np.float32).reshape(4, 5, 8, 8) / 10000 + 0.02
    x[:, :2] -= np.array([12, 19], np.float32)[:, None, None]  # dB; the others are reflectance
    base = {"x": x, "y": np.array([0, 1, 0, 1]), "bands": np.array(BANDS), "class_names": np.array(["a", "b"])}
    return {**base, **changes}


@pytest.fixture
def read(tmp_path):
    def of(**changes):
        np.savez(tmp_path / "set.npz", **arrays(**changes))
        return read_set(tmp_path / "set.npz")

    return of


def test_bands_of_both_sensors_are_told_apart(read):
    data = read()
    assert {name: bands.names for name, bands in data.sensors.items()} == {
        "s1": ("VV", "VH"),
        "s2": ("B02", "B03", "B04"),
    }
    assert [bands.unit for bands in data.sensors.values()] == ["dB", "reflectance"]
    assert torch.equal(data.items[1]["s1"], torch.from_numpy(arrays()["x"][1, :2]))
    assert torch.equal(data.items[1]["s2"], torch.from_numpy(arrays()["x"][1, 2:]))  # floats are reflectance already
    assert data.places is None


def test_integers_become_reflectance_with_the_stated_offset(read):
    x = np.full((4, 3, 8, 8), 3000, np.uint16)
    x[:, 0] = 960
    pixels = read(x=x, bands=np.array(BANDS[2:]), offset=np.array(-1000)).items[0]["s2"]
    assert pixels[1].unique().tolist() == pytest.approx([0.2])
    assert pixels[0].unique().tolist() == [0.0]  # darker than the offset is cut, not negative


def test_places_are_centres_in_metres(read):
    corner = np.array([[10.0, 0, 500_000, 0, -10, 4_600_000]] * 4)
    data = read(epsg=np.full(4, 32631), transform=corner)
    assert data.places.xy[0].tolist() == [500_040, 4_599_960]
    near = read(lon=np.array([3.0, 9.0, 3.0, -70.0]), lat=np.array([41.55, 41.55, 0.0, -33.0]))
    assert near.places.epsg.tolist() == [32631, 32632, 32631, 32719]
    assert near.places.xy[0, 0] == pytest.approx(500_000, abs=1)  # 3 degrees east is the middle of zone 31
    assert near.places.xy[1, 1] == pytest.approx(near.places.xy[0, 1], abs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.array([0, 1, 0])}, r"x is float32 \(4, 5, 8, 8\), y \(3,\)"),
        ({"y": np.array([0, 1, 0, 7])}, "y does not fit the 2 class_names; expected 0 to 1"),
        ({"y": np.array([0, 1, 0, -1])}, "y does not fit"),
        ({"y": np.ones((4, 3))}, "y does not fit"),
        ({"bands": np.array(["B02"])}, "bands 1; expected"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(read, changes, message):
    with pytest.raises(InputError, match=message):
        read(**changes)


def test_missing_arrays_are_named(tmp_path):
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 1, 8, 8)))
    with pytest.raises(InputError, match="lacks y, bands, class_names"):
        read_set(tmp_path / "set.npz")


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def test_folders_of_pictures_are_classes(tmp_path):
    picture(tmp_path / "set/dog/1.png", (255, 0, 0))
    picture(tmp_path / "set/cat/1.jpg", (0, 0, 0))
    data = read_set(tmp_path / "set")
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1]
    assert data.items[1]["rgb"][:, 0, 0].tolist() == [1, 0, 0]
    assert data.part is None


def test_folders_train_val_test_are_the_official_split(tmp_path):
    for i, part in enumerate(("train", "val", "test")):
        for name in ("cat", "dog"):
            picture(tmp_path / "set" / part / name / f"{part}.png", (100 * i, 0, 0))
    data = read_set(tmp_path / "set")
    assert data.part.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.labels.tolist() == [0, 1] * 3
    assert [round(float(data.items[i]["rgb"][0, 0, 0]) * 255) for i in range(6)] == [0, 0, 100, 100, 200, 200]


def test_one_class_is_no_task(tmp_path):
    picture(tmp_path / "set/cat/1.png", (0, 0, 0))
    with pytest.raises(InputError, match="holds 1 class folder; expected two or more"):
        read_set(tmp_path / "set")


def tif(path, bands, value=2000, tags=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": len(bands), "width": 8, "height": 8, "dtype": "uint16", "crs": 32631}
    with rasterio.open(path, "w", transform=rasterio.Affine(10, 0, 4e5, 0, -10, 4e6), **profile) as file:
        file.write(np.full((len(bands), 8, 8), value, np.uint16))
        file.descriptions = bands
        file.update_tags(**(tags or {}))


def test_geotiffs_take_the_offset_each_file_says(tmp_path):
    tif(tmp_path / "set/a/1.tif", ["B02", "B03"], tags={"BOA_ADD_OFFSET": "-1000"})
    tif(tmp_path / "set/b/1.tif", ["B02", "B03"], tags={"PROCESSING_BASELINE": "03.01"})
    data = read_set(tmp_path / "set")
    assert data.items[0]["s2"].unique().tolist() == pytest.approx([0.1])
    assert data.items[1]["s2"].unique().tolist() == pytest.approx([0.2])
    assert data.places.xy[0].tolist() == [400_040, 3_999_960]
    tif(tmp_path / "set/b/2.tif", ["B02", "B03"])
    with pytest.raises(BandError, match="state it with s2_offset"):
        read_set(tmp_path / "set")
    with pytest.warns(Note, match="s2_offset 0 is for files that do not say theirs; 1 say -1000, which is taken"):
        data = read_set(tmp_path / "set", s2_offset=0)
    assert data.items[0]["s2"].unique().tolist() == pytest.approx([0.1])
    assert data.items[2]["s2"].unique().tolist() == pytest.approx([0.2])


def test_geotiffs_without_names_or_with_other_bands_are_refused(tmp_path):
    tif(tmp_path / "set/a/1.tif", ["B02", "B03"], tags={"BOA_ADD_OFFSET": "0"})
    tif(tmp_path / "set/b/1.tif", ["B02", "B04"])
    with pytest.raises(BandError, match=r"1.tif has bands B02, B04; .* has B02, B03; expected the same"):
        read_set(tmp_path / "set")
    tif(tmp_path / "set/b/1.tif", ["", ""])
    with pytest.raises(BandError, match="has bands without names"):
        read_set(tmp_path / "set")
