import os
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import rioxarray
import zarr
from click.testing import CliRunner
from shapely.geometry import box

import geossl
from geossl.cli import main
from geossl.errors import InputError, Note
from geossl.inference.engine import run
from geossl.inference.outputs.class_maps import areal_scale
from geossl.models.files import load_encoder
from tests.api.conftest import FIELD, LEFT, NAMES, SIDE, TOP
from tests.api.test_finetune import DECODER, finetune
from tests.data.conftest import write_raster
from tests.processes import forked_workers, kill_when, start


@pytest.fixture(scope="module")
def model(scene, encoder, tmp_path_factory):
    return finetune(scene, encoder, tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture(scope="module")
def decoder(scene, encoder, tmp_path_factory):
    return finetune(scene, encoder, tmp_path_factory.mktemp("model") / "u.safetensors", head="unet", **DECODER)


def segment(scene, out, sensors=("s1", "s2"), aoi=None, **settings):
    pixels = {name: scene / f"{name}.tif" for name in sensors}
    source = geossl.Rasters(**pixels) if pixels else None
    return geossl.segment(scene / "aoi.geojson" if aoi is None else aoi, source, out=out, **settings)


def pixels(path):
    with rasterio.open(path) as file:
        return file.read(1)


def agreement(path, fields):
    """Share of classified cells, centres well inside a field, that have its class."""
    opened = rioxarray.open_rasterio(path, masked=True).squeeze()
    x, y = np.meshgrid(opened["x"], opened["y"])
    column, row = (x - LEFT) / (10 * FIELD), (TOP - y) / (10 * FIELD)
    inside = (column % 1 > 0.2) & (column % 1 < 0.8) & (row % 1 > 0.2) & (row % 1 < 0.8) & opened.notnull().values
    kinds = np.array([NAMES.index(c) for c in fields["crop"]]).reshape(SIDE // FIELD, -1)
    found = opened.values[inside].astype(int)
    return (found == kinds[row[inside].astype(int), column[inside].astype(int)]).mean()


@pytest.fixture(scope="module")
def classes(scene, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    return segment(scene, folder / "c.tif", model=model, polygons=folder / "c.parquet")


def test_a_class_map_agrees_with_the_ground(classes, fields):
    assert agreement(classes, fields) > 0.9
    names = [
        "c.parquet",
        "c.png",
        "c.qml",
        "c.tif",
        "c.tif.aux.xml",
        "c_applicability.qml",
        "c_applicability.tif",
        "c_area.csv",
        "c_confidence.qml",
        "c_confidence.tif",
    ]
    assert sorted(p.name for p in classes.parent.iterdir()) == names


def test_areas_add_up_to_the_region(classes, scene):
    region = gpd.read_file(scene / "aoi.geojson").to_crs(32631)
    middle = region.geometry[0].centroid
    ground = region.area[0] / areal_scale("EPSG:32631", np.array([middle.x]), np.array([middle.y]))[0] / 10_000
    table = pd.read_csv(classes.with_name("c_area.csv"))
    np.testing.assert_allclose(table["hectares"].sum(), ground, rtol=0.03)  # whole 80 m cells at the rim
    outlines = gpd.read_parquet(classes.with_name("c.parquet"))
    np.testing.assert_allclose(outlines["hectares"].sum(), table["hectares"].sum(), rtol=1e-3)


def test_cells_outside_the_region_are_nodata(classes, scene):
    opened = rioxarray.open_rasterio(classes, masked=True).squeeze()
    region = gpd.read_file(scene / "aoi.geojson").to_crs(32631).geometry[0]
    x, y = np.meshgrid(opened["x"], opened["y"])
    inside = region.buffer(-1).contains(gpd.points_from_xy(x.ravel(), y.ravel())).reshape(x.shape)
    assert np.array_equal(opened.notnull().values, inside)


@pytest.mark.parametrize("settings", [{"shard_cells": 4}, {"shard_cells": 4, "scheduler": "processes:1"}])
def test_shards_and_workers_do_not_change_a_bit(scene, model, classes, tmp_path, settings):
    with forked_workers():
        other = segment(scene, tmp_path / "c.tif", model=model, **settings)
    for name in ("c.tif", "c_confidence.tif", "c_applicability.tif", "c_area.csv"):
        assert (other.with_name(name)).read_bytes() == classes.with_name(name).read_bytes(), name


def test_a_decoders_map_does_not_depend_on_shards_or_batches(scene, decoder, tmp_path):
    one = segment(scene, tmp_path / "one.tif", model=decoder)
    four = segment(scene, tmp_path / "four.tif", model=decoder, shard_cells=4, batch_size=3)
    assert rioxarray.open_rasterio(one).rio.resolution() == (10, -10)
    assert np.array_equal(pixels(one), pixels(four))
    assert np.array_equal(pixels(one.with_name("one_confidence.tif")), pixels(four.with_name("four_confidence.tif")))
    assert one.with_name("one_area.csv").read_bytes() == four.with_name("four_area.csv").read_bytes()


def test_kmeans_finds_the_same_clusters_whatever_the_shards(scene, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("geossl.api.segment.clusters.KMEANS_SAMPLE", 200)  # of 1024 patches: drawn, not all
    one = segment(scene, tmp_path / "one.tif", classes=3, encoder=encoder)
    four = segment(scene, tmp_path / "four.tif", classes=3, encoder=encoder, shard_cells=4)
    assert np.array_equal(pixels(one), pixels(four))
    weights = [load_encoder(p.with_name(f"{p.stem}_model.safetensors")).state_dict() for p in (one, four)]
    assert all(np.array_equal(x, weights[1][name]) for name, x in weights[0].items())
    again = segment(scene, tmp_path / "again.tif", model=tmp_path / "one_model.safetensors")
    assert np.array_equal(pixels(one), pixels(again))


def test_an_embedding_map_is_classified_without_pixels(scene, encoder, model, classes, tmp_path):
    files = geossl.Rasters(s1=scene / "s1.tif", s2=scene / "s2.tif")
    geossl.embed_map(scene / "aoi.geojson", files, encoder=encoder, out=tmp_path / "m.zarr", dtype="float32")
    found = geossl.segment(scene / "aoi.geojson", map=tmp_path / "m.zarr", model=model, out=tmp_path / "c.tif")
    assert np.array_equal(pixels(found), pixels(classes))
    whole = geossl.segment(map=tmp_path / "m.zarr", classes=4, out=tmp_path / "k.tif")
    assert set(np.unique(pixels(whole))) - {255} == {0, 1, 2, 3}


class Killed(BaseException):
    """What a process that is killed does not survive."""


@pytest.fixture(scope="module")
def clusters(scene, encoder, tmp_path_factory):
    return segment(scene, tmp_path_factory.mktemp("clusters") / "c.tif", classes=3, encoder=encoder)


@pytest.mark.parametrize("last", ["c_model.safetensors", "c.tif"])
def test_clusters_killed_at_their_end_are_finished_by_the_same_call(
    scene, encoder, clusters, tmp_path, monkeypatch, last
):
    replace = os.replace

    def killed(source, target):
        if Path(target).name == last:
            raise Killed
        return replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        patch.setattr("os.replace", killed)
        segment(scene, tmp_path / "c.tif", classes=3, encoder=encoder)
    assert not (tmp_path / "c.tif").exists()  # the classes come last, so that they stand for all
    segment(scene, tmp_path / "c.tif", classes=3, encoder=encoder)
    for name in ("c.tif", "c_confidence.tif", "c_area.csv", "c_model.safetensors"):
        assert (tmp_path / name).read_bytes() == clusters.with_name(name).read_bytes(), name


@pytest.mark.parametrize("sensor", ["s1", "s2"])
def test_heads_and_decoders_do_with_one_sensor(scene, model, fields, tmp_path, sensor):
    assert agreement(segment(scene, tmp_path / "c.tif", (sensor,), model=model), fields) > 0.8


def test_a_decoder_does_without_a_sensor(scene, decoder, tmp_path):
    both = pixels(segment(scene, tmp_path / "both.tif", model=decoder))
    for sensor in ("s1", "s2"):
        found = pixels(segment(scene, tmp_path / f"{sensor}.tif", (sensor,), model=decoder))
        assert np.array_equal(found != 255, both != 255)


def test_where_a_sensor_has_a_hole_the_other_one_answers(scene, model, classes, fields, tmp_path):
    with rasterio.open(scene / "s2.tif") as file:
        data, names = file.read(), file.descriptions
    data[:, 100:200, 100:200] = 0  # nodata
    write_raster(tmp_path / "s2.tif", data, left=LEFT, top=TOP, names=names, BOA_ADD_OFFSET="0")
    source = geossl.Rasters(s1=scene / "s1.tif", s2=tmp_path / "s2.tif")
    found = geossl.segment(scene / "aoi.geojson", source, model=model, out=tmp_path / "c.tif")
    assert np.array_equal(pixels(found) != 255, pixels(classes) != 255)
    assert agreement(found, fields) > 0.75


def test_a_radar_model_leaves_optical_pixels_alone(scene, encoder, tmp_path):
    model = finetune(scene, encoder, tmp_path / "m.safetensors", sensors=("s1",))
    alone = segment(scene, tmp_path / "alone.tif", ("s1",), model=model)
    with pytest.warns(Note, match="fitted on s1 alone; s2 is not used"):
        both = segment(scene, tmp_path / "both.tif", model=model)
    assert np.array_equal(pixels(alone), pixels(both))
    with pytest.raises(InputError, match="was fitted on s1 and cannot do with s2"):
        segment(scene, tmp_path / "no.tif", ("s2",), model=model)
    assert not list(tmp_path.glob("no*"))


def segment_slowly(scene, out, model):
    done = run.finish

    def slow(*arguments):
        time.sleep(0.2)
        return done(*arguments)

    run.finish = slow  # in a process of its own
    segment(scene, out, model=model, shard_cells=2)


def test_a_killed_map_is_finished_by_the_same_call(scene, model, classes, tmp_path):
    out = tmp_path / "c.tif"
    receipts = tmp_path / "c.tif.build/map.zarr.build/receipts"
    kill_when(start(segment_slowly, scene, out, model), lambda: len(list(receipts.glob("*.json"))) >= 3)
    assert not out.exists()
    segment(scene, out, model=model, shard_cells=2)
    for name in ("c.tif", "c_confidence.tif", "c_applicability.tif", "c_area.csv"):
        assert out.with_name(name).read_bytes() == classes.with_name(name).read_bytes()
    assert not (tmp_path / "c.tif.build").exists()


def refused(folder, *arguments):
    """Exit code 2, one line, no traceback, nothing written."""
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("embed  ", "segment  "))]
    assert result.exit_code == 2, result.output + result.stderr
    assert len(lines) == 1, lines
    assert sorted(folder.rglob("*")) == before
    return lines[0]


@pytest.fixture(scope="module")
def bad(scene, fields, other_encoder, model, tmp_path_factory):
    """Inputs that do not fit; every test leaves the folder as it was."""
    tmp_path = tmp_path_factory.mktemp("bad")
    fields.set_crs(None, allow_override=True).to_file(tmp_path / "nocrs.gpkg")
    fields.assign(crop="wheat").to_file(tmp_path / "one.gpkg")
    fields.translate(50_000, 0).to_frame("geometry").assign(crop=fields["crop"]).to_file(tmp_path / "away.gpkg")
    fields.iloc[:2].assign(crop=["a", "b"], geometry=[box(LEFT, TOP - 90, LEFT + 90, TOP)] * 2).to_file(
        tmp_path / "few.gpkg"
    )
    fields.assign(crop=range(len(fields))).loc[np.zeros(300, int)].assign(crop=range(300)).to_file(
        tmp_path / "many.gpkg"
    )
    write_raster(tmp_path / "nocrs.tif", np.ones((1, 4, 4), np.uint8), epsg=None)
    gpd.GeoDataFrame(geometry=[box(10, 10, 10.01, 10.01)], crs=4326).to_file(tmp_path / "away.geojson")
    (tmp_path / "text.gpkg").write_text("hello")
    (tmp_path / "there.tif").write_text("")
    (tmp_path / "there.safetensors").write_text("")
    files = geossl.Rasters(s1=scene / "s1.tif", s2=scene / "s2.tif")
    geossl.embed_map(scene / "aoi.geojson", files, encoder=other_encoder, out=tmp_path / "other.zarr", picture=False)
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": "missing.gpkg"}, "does not exist"),
        ({"labels": "text.gpkg"}, "cannot be read as vector data"),
        ({"labels": "nocrs.gpkg"}, "no CRS"),
        ({"labels": "nocrs.tif", "column": None}, "has no CRS"),
        ({"labels": "one.gpkg"}, "has 1 class; expected 2 to 254"),
        ({"labels": "many.gpkg", "task": "classify"}, "has 300 classes; expected 2 to 254"),
        ({"labels": "away.gpkg"}, "lies outside the rasters"),
        ({"labels": "few.gpkg"}, "label places further apart"),
        ({"column": "corn"}, "no column 'corn'; there are: crop"),
        ({"column": None}, "name it with --column"),
        ({"out": "there.safetensors"}, "exists; choose another name"),
        ({"out": "/proc/m.safetensors"}, "cannot be written"),
        ({"s1": None, "s2": None}, "no pixels asked for"),
        ({"encoder": "missing.safetensors"}, "does not exist"),
        ({"encoder": "MODEL"}, "gives classes, not embeddings"),
        ({"head": "svm"}, "is not known"),
        ({"max-steps": 5}, "belong to decoders"),
    ],
)
def test_finetune_refuses_bad_input_in_one_line(bad, scene, encoder, model, change, message):
    options = {"labels": scene / "parcels.gpkg", "column": "crop", "s1": scene / "s1.tif", "s2": scene / "s2.tif"}
    options |= {"encoder": encoder, "out": "out.safetensors", **change}
    options = {key: model if value == "MODEL" else value for key, value in options.items() if value is not None}
    paths = {key: bad / options[key] for key in ("labels", "out", "encoder") if not os.path.isabs(options[key])}
    arguments = [part for key, value in (options | paths).items() for part in (f"--{key}", value)]
    assert message in refused(bad, "finetune", *arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "--model FILE from geossl finetune, or --classes"),
        ({"classes": 3}, "--model FILE from geossl finetune, or --classes"),
        ({"model": None, "classes": 1}, "ask for 2 to 100"),
        ({"model": "ENCODER"}, "is an encoder, not a classifier"),
        ({"model": "missing.safetensors"}, "does not exist"),
        ({"aoi": "away.geojson"}, "lies outside the rasters"),
        ({"aoi": "missing.geojson"}, "does not exist"),
        ({"aoi": None}, "--aoi is missing"),
        ({"out": "there.tif"}, "exists; choose another name, or --overwrite"),
        ({"out": "c.png"}, "must end in .tif"),
        ({"out": "/proc/c.tif"}, "cannot be written"),
        ({"polygons": "c.shp"}, "must end in .gpkg or .parquet"),
        ({"polygons": "no/folder/c.gpkg"}, "no/folder' does not exist; create it"),
        ({"map": "other.zarr", "s1": None, "s2": None}, "another encoder"),
        ({"map": "empty.zarr", "s1": None, "s2": None}, "not an embedding map"),
        ({"map": "missing.zarr", "s1": None, "s2": None}, "does not exist"),
        ({"scheduler": "threads"}, "--scheduler 'threads' is not known"),
    ],
)
def test_segment_refuses_bad_input_in_one_line(bad, scene, encoder, model, change, message):
    options = {"aoi": scene / "aoi.geojson", "model": model, "s1": scene / "s1.tif", "s2": scene / "s2.tif"}
    options |= {"out": "out.tif", **change}
    options = {key: encoder if value == "ENCODER" else value for key, value in options.items() if value is not None}
    paths = {
        k: bad / v
        for k, v in options.items()
        if k in ("aoi", "model", "out", "polygons", "map") and not os.path.isabs(v)
    }
    arguments = [part for key, value in (options | paths).items() for part in (f"--{key}", value)]
    assert message in refused(bad, "segment", *arguments)


def test_a_map_cannot_be_classified_by_a_decoder(bad, decoder):
    line = refused(bad, "segment", "--map", bad / "other.zarr", "--model", decoder, "--out", bad / "c.tif")
    assert "answers per pixel" in line
