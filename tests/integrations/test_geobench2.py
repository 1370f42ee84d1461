"""Sets of GEO-Bench 2, in files written as their library's own scripts write them (``make test-integrations``)."""

import json

import h5py
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.transform import from_origin

pytest.importorskip("geobench_v2", reason="geobenchv2 is not installed; make test-integrations")
pytest.importorskip("tacotoolbox", reason="tacotoolbox is not installed; make test-integrations")

import tacoreader
from tacotoolbox import tortilla

from geossl.cli import main
from geossl.data.datasets.find import Scenes, find
from geossl.data.datasets.geobench2 import geobench2_set
from geossl.data.datasets.geobench2_sets import SETS
from geossl.errors import InputError, MissingFileError

SPLITS = ("train", "validation", "test")
pytestmark = pytest.mark.filterwarnings("ignore::geossl.errors.Note", "ignore::rasterio.errors.NotGeoreferencedWarning")


def tiff(path, layers, dtype="float32"):
    """A GeoTIFF of so many layers."""
    layers = np.asarray(layers, dtype)
    place = {"crs": "EPSG:32631", "transform": from_origin(5e5, 5e6, 10, 10)}
    shape = {"count": len(layers), "height": layers.shape[1], "width": layers.shape[2]}
    with rasterio.open(path, "w", driver="GTiff", dtype=dtype, **shape, **place) as file:
        file.write(layers)
    return path


def flat(*values, side=16):
    """Layers of one value each."""
    return np.stack([np.full((side, side), value) for value in values])


def container(path, samples, outer=None):
    """A set: ``samples`` are (split, columns, files by name), each a container of its own inside."""
    inner = []
    for number, (split, columns, files) in enumerate(samples):
        parts = [part(name, file, split, columns) for name, file in files.items()]
        made = path.parent / f"sample_{number}.tortilla"
        tortilla.create(tortilla.datamodel.Samples(samples=parts), str(made), quiet=True)
        first = tacoreader.load(str(made)).iloc[0]
        place = {key: first[f"stac:{key}"] for key in ("crs", "geotransform", "raster_shape", "time_start")}
        inner.append(
            tortilla.datamodel.Sample(
                id=made.stem,
                path=str(made),
                file_format="TORTILLA",
                data_split=split,
                stac_data=place,
                **(outer or columns),
            )
        )
    tortilla.create(tortilla.datamodel.Samples(samples=inner), str(path), quiet=True)
    return path


def part(name, file, split, columns):
    """A file of a sample."""
    place = {"crs": "EPSG:32631", "geotransform": (5e5, 10, 0, 5e6, 0, -10), "raster_shape": (16, 16)}
    columns = dict(columns)
    modality = {"modality": columns.pop("modality")[name]} if "modality" in columns else {}
    kind = "HDF5" if str(file).endswith(".h5") else "GTiff"
    return tortilla.datamodel.Sample(
        id=name, path=str(file), file_format=kind, data_split=split, stac_data={**place, "time_start": 2018}, **columns,
        **modality,
    )  # fmt: skip


@pytest.fixture
def benv2(tmp_path):
    s1 = tiff(tmp_path / "s1.tif", flat(-19, -12))  # VH before VV, as the library's script stacks them
    s2 = [tiff(tmp_path / f"s2_{i}.tif", flat(*range(100 * i, 100 * i + 12)), "int16") for i in range(6)]
    labels = [["Pastures"], ["Mixed forest", "Inland waters"], ["Pastures"]] * 2
    samples = [
        (SPLITS[i // 2], {"labels": labels[i], "lon": 3.5 + i, "lat": 45.0}, {"s1": s1, "s2": s2[i]}) for i in range(6)
    ]
    return container(tmp_path / "geobench_benv2.tortilla", samples)


def test_several_classes_with_radar_as_it_lies_in_the_file_and_reflectance(benv2, tmp_path):
    data = find("geobench2:benv2", tmp_path, False, Scenes({}, None, None, 96, 8))
    assert data.part.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.is_multi
    assert [[data.classes[i] for i in np.flatnonzero(row)] for row in data.labels[:2]] == [
        ["Pastures"], ["Mixed forest", "Inland waters"]
    ]  # fmt: skip
    theirs = SETS["benv2"]
    for i in range(2):
        np.testing.assert_array_equal(data.labels[i], library(theirs, tmp_path, "train")[i]["label"])
    item = data.items[4]
    assert data.sensors["s1"].names == ("VV", "VH")
    np.testing.assert_array_equal(item["s1"][:, 3, 3], [-12, -19])
    np.testing.assert_allclose(item["s2"][:, 0, 0], np.arange(400, 412) / 10000, rtol=1e-6)
    assert data.places.epsg.tolist() == [32631, 32631, 32631, 32632, 32632, 32632]


def library(source, root, split):
    """The same part through the library alone, with its own normalisation."""
    import geobench_v2.datasets

    return getattr(geobench_v2.datasets, source.kind)(root, split)


def test_classes_of_one_image_and_of_pixels(tmp_path):
    s2, s1 = tiff(tmp_path / "a.tif", flat(*np.arange(10) / 10)), tiff(tmp_path / "b.tif", flat(0, 0))
    label = {"labels": 3}
    samples = [(split, label, {"s1": s1, "s2": s2}) for split in SPLITS]
    container(tmp_path / "geobench_so2sat.tortilla", samples)
    data = geobench2_set("geobench2:so2sat", tmp_path)
    assert data.labels.tolist() == [3, 3, 3]
    assert data.classes[3] == "Open high-rise"
    assert set(data.items[0]) == {"s2"}
    np.testing.assert_allclose(data.items[0]["s2"][:, 0, 0], np.arange(10) / 10, rtol=1e-6)

    ground = np.arange(256).reshape(1, 16, 16) % 3 - 1  # -1, 0, 1
    image, mask = tiff(tmp_path / "c.tif", flat(*range(6))), tiff(tmp_path / "d.tif", ground, "int16")
    samples = [(split, {}, {"image": image, "label": mask}) for split in SPLITS]
    container(tmp_path / "geobench_burn_scars.tortilla", samples)
    data = geobench2_set("geobench2:burn_scars", tmp_path)
    chip = data.parts("auto", 0).val[0]
    np.testing.assert_array_equal(chip["labels"], ground[0] + 1)  # -1 is not labelled
    assert chip["s2"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.classes == ("Background", "Burn Scar")


def test_radar_in_decibels_and_floods(tmp_path):
    power = flat(0.1, 0.01)
    power[:, :2] = 0  # nothing there
    ground = np.arange(256).reshape(1, 16, 16) % 4  # no water, permanent water, flood, no data
    before, after = tiff(tmp_path / "a.tif", flat(0.5, 0.5)), tiff(tmp_path / "b.tif", power)
    height, labels = tiff(tmp_path / "c.tif", flat(7)), tiff(tmp_path / "d.tif", ground, "uint8")
    valid = tiff(tmp_path / "e.tif", flat(1), "uint8")
    files = {"pre1": before, "pre2": before, "post": after, "dem": height, "mask": labels, "mask_invalid": valid}
    container(tmp_path / "geobench_kuro_siwo.tortilla", [(split, {}, files) for split in SPLITS])
    data = geobench2_set("geobench2:kuro_siwo", tmp_path)
    assert data.classes == ("No Water", "Permanent Water", "Flood")
    chip = data.parts("auto", 0).test[0]
    np.testing.assert_allclose(chip["s1"][:, 5, 5], [-10, -20], atol=1e-4)
    assert chip["s1"][:, :2].isnan().all()
    assert chip["labels"][0, :4].tolist() == [1, 2, 3, 0]


def test_biomass_in_tonnes_of_the_first_month(tmp_path):
    radar, second = tiff(tmp_path / "a.tif", flat(-8, -15, -9, -16)), tiff(tmp_path / "b.tif", flat(1, 1, 1, 1))
    optical = tiff(tmp_path / "c.tif", flat(*range(0, 11000, 1000)), "uint16")  # the eleventh is of clouds
    amount = tiff(tmp_path / "d.tif", flat(130))
    files = {"s1_0": radar, "s1_1": second, "s2_0": optical, "agb": amount}
    modality = {"s1_0": "S1", "s1_1": "S1", "s2_0": "S2", "agb": "AGB"}
    samples = [(split, {"modality": modality}, files) for split in SPLITS]
    for number, file in enumerate(["geobench_biomassters.0000.part.tortilla", *2 * [""]]):
        path = tmp_path / (file or f"geobench_biomassters.000{number}.part.tortilla")
        container(path, samples if file else samples[:1], outer={"modality": "none"})
    data = geobench2_set("geobench2:biomassters", tmp_path)
    assert data.classes == ()
    train, _, test = data.parts("auto", 0)
    assert (len(train), len(test)) == (3, 1)
    np.testing.assert_allclose(test[0]["labels"], 130, rtol=1e-5)
    assert test[0]["s1"][:, 0, 0].tolist() == [-8, -15]
    np.testing.assert_allclose(test[0]["s2"][:, 0, 0], np.arange(10) / 10, rtol=1e-6)


def series(path, first, bands, dates=12):
    """HDF5 as PASTIS holds it: values of ``first``, one more per date and ten more per band."""
    value = first + np.arange(dates)[:, None] + 10 * np.arange(bands)
    with h5py.File(path, "w") as file:
        file["data"] = np.broadcast_to(value[..., None, None], (dates, bands, 16, 16)).astype(np.float32)
    return path


def pastis(tmp_path, optical):
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["data"] = np.broadcast_to(np.arange(256).reshape(16, 16) % 20, (3, 16, 16))
    files = {
        "s2": optical,
        "s1_asc": series(tmp_path / "asc.h5", -20, 3),
        "s1_desc": series(tmp_path / "desc.h5", -30, 3),
        "semantic": tmp_path / "mask.h5",
        "instance": tmp_path / "mask.h5",
    }
    for number in range(3):
        name = f"geobench_pastis.000{number}.part.tortilla"
        container(tmp_path / name, [(SPLITS[number], {"dates": [20190101] * 12}, files)])


def test_crops_from_the_median_of_the_dates(tmp_path):
    pastis(tmp_path, series(tmp_path / "s2.h5", 1000, 10))
    data = geobench2_set("geobench2:pastis", tmp_path)
    assert len(data.classes) == 19
    chip = data.parts("auto", 0).train[0]
    np.testing.assert_allclose(chip["s2"][:, 0, 0], (1005 + 10 * np.arange(10)) / 10000, rtol=1e-6)  # sixth of twelve
    assert chip["s1"][:, 0, 0].tolist() == [-15, -5]
    assert chip["labels"].flatten()[[0, 1, 18, 19]].tolist() == [1, 2, 19, 0]  # void is not labelled


def test_trees_have_radar_optical_and_aerial_images(tmp_path):
    aerial = tiff(tmp_path / "a.tif", flat(40, 30, 20, 10), "uint8")  # near infrared, green, blue, red
    s1, s2 = tiff(tmp_path / "b.tif", flat(-6, -12, 0.5, side=6)), tiff(tmp_path / "c.tif", flat(*range(12), side=6))
    columns = {"species_labels": ["Acer", "Tilia"], "dist_labels": [0.6, 0.4]}
    files = {"aerial": aerial, "s1": s1, "s2": s2}
    container(tmp_path / "geobench_treesatai.tortilla", [(split, columns, files) for split in SPLITS])
    data = geobench2_set("geobench2:treesatai", tmp_path)
    assert [data.classes[i] for i in np.flatnonzero(data.labels[0])] == ["Acer", "Tilia"]
    item = data.items[0]
    np.testing.assert_allclose(item["rgb"][:, 0, 0] * 255, [10, 30, 20], rtol=1e-6)
    assert item["s1"][:, 0, 0].tolist() == [-6, -12]
    order = ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09"]  # in its files
    found = dict(zip(data.sensors["s2"].names, (item["s2"][:, 0, 0] * 10000).round().tolist(), strict=True))
    assert found == {band: number for number, band in enumerate(order)}


@pytest.mark.parametrize("title", sorted({*SETS} - {"biomassters", "pastis"}))
def test_names_and_bands_are_those_of_the_library(title):
    """Every band, option and column that is asked for is one the library has."""
    from geossl.data.datasets.geobench2 import library_class

    source = SETS[title]
    kind = library_class(source.kind)
    known = kind.dataset_band_config.modalities
    for layers in source.layers.values():
        assert set(layers.theirs) <= set(known[layers.modality or "self"].bands)
    assert len(kind.classes[source.first : source.classes]) >= 2


def test_evaluate_prints_scores(benv2, tmp_path):
    arguments = ["evaluate", "croma_tiny", "geobench2:benv2", "--root", str(tmp_path), "--protocol", "knn"]
    found = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "report.html")])
    assert found.exit_code == 0, found.output
    assert "Initializing" not in found.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["benchmark"] == "GEO-Bench 2"


def refused(tmp_path, name, kind=InputError):
    with pytest.raises(kind) as found:
        geobench2_set(name, tmp_path).items[0]
    assert "\n" not in str(found.value)
    return str(found.value)


def test_damaged_and_foreign_files_are_one_line(benv2, tmp_path):
    whole = benv2.read_bytes()
    for content in (b"", b"PK\3\4 no container", whole[:200], whole[:-50], whole[:30] + bytes(len(whole) - 30)):
        benv2.write_bytes(content)
        assert "geobench_benv2.tortilla is damaged or no container" in refused(tmp_path, "geobench2:benv2")
    text = b"<VRTDataset rasterXSize='16' rasterYSize='16'></VRTDataset>"
    place = whole.index(b"II*\0")
    benv2.write_bytes(whole[:place] + text + whole[place + len(text) :])
    assert "neither TIFF nor HDF5" in refused(tmp_path, "geobench2:benv2")
    benv2.unlink()
    assert "expected geobench_benv2.tortilla there" in refused(tmp_path, "geobench2:benv2", MissingFileError)


def test_a_label_that_is_no_class_is_one_line(tmp_path):
    s1, s2 = tiff(tmp_path / "s1.tif", flat(0, 0)), tiff(tmp_path / "s2.tif", flat(*range(12)))
    samples = [(split, {"labels": ["Lava"]}, {"s1": s1, "s2": s2}) for split in SPLITS]
    container(tmp_path / "geobench_benv2.tortilla", samples)
    assert "has a label that is none of its 19 classes" in refused(tmp_path, "geobench2:benv2")
    container(tmp_path / "geobench_benv2.tortilla", samples[:1])
    assert "no samples of its validation part" in refused(tmp_path, "geobench2:benv2")


def test_pixels_that_lie_in_other_files_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(12 * 10 * 256 * 4))
    with h5py.File(tmp_path / "s2.h5", "w") as file:
        where = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("data", (12, 10, 16, 16), np.float32, external=where)
    pastis(tmp_path, tmp_path / "s2.h5")
    data = geobench2_set("geobench2:pastis", tmp_path)
    with pytest.raises(InputError, match="no pixels of its own in 'data'"):
        data.parts("auto", 0).train[0]
