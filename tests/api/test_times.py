"""Maps with a time axis: one plan and one store for several dates, and what the verbs make of them."""

import shutil
import warnings

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import xarray as xr

import geossl
from geossl.errors import InputError, Note
from tests.api.conftest import LEFT, TOP
from tests.data.conftest import write_raster

DAYS = {"s1": ("20230112", "20230320"), "s2": ("20230110", "20230120", "20230315")}
SETTINGS = {"shard_cells": 8, "reach": None, "dtype": "float32", "picture": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A part of the scene, in two shards."""
    file = tmp_path_factory.mktemp("place") / "aoi.geojson"
    middle = shapely.box(LEFT + 500, TOP - 2200, LEFT + 2400, TOP - 700)
    gpd.GeoDataFrame(geometry=[middle], crs=32631).to_crs(4326).to_file(file)
    return file


@pytest.fixture(scope="module")
def dated(scene, tmp_path_factory):
    """The scene on five days, each a little different, two of one month; nothing in February."""
    folder = tmp_path_factory.mktemp("dated")
    for sensor, days in DAYS.items():
        with rasterio.open(scene / f"{sensor}.tif") as file:
            numbers, about = file.read(), {"left": file.transform.c, "top": file.transform.f}
            tags = {"names": file.descriptions, "BOA_ADD_OFFSET": "0"} if sensor == "s2" else {}
        (folder / sensor).mkdir()
        for i, day in enumerate(days):
            changed = numbers + np.asarray(i if sensor == "s1" else 40 * i, numbers.dtype)
            write_raster(folder / sensor / f"{day}.tif", changed, **about, **tags)
    return folder


def source(dated, **settings):
    return geossl.Rasters(s1=dated / "s1", s2=dated / "s2", **{"every": "month", "date": "2023-01/2023-03", **settings})


@pytest.fixture(scope="module")
def months(place, dated, encoder):
    """A map of three months, one of them empty."""
    out = dated / "months.zarr"
    with pytest.warns(Note, match="no s2 scene in 2023-02; these months are missing"):
        geossl.embed_map(place, source(dated), encoder=encoder, out=out, **SETTINGS)
    return out


def test_it_reads_natively_and_an_empty_month_is_nodata(months):
    found = xr.open_zarr(months)
    assert found.embeddings.dims == ("time", "embedding", "y", "x")
    assert [str(day)[:10] for day in found.time.values] == [f"2023-0{month}-01" for month in (1, 2, 3)]
    assert found.attrs["geossl:periods"] == [f"2023-0{month}" for month in (1, 2, 3)]
    known = np.isfinite(found.embeddings.values).all(axis=1).any(axis=(1, 2))
    assert known.tolist() == [True, False, True]
    assert (found.sensors.sel(time="2023-02") == 0).all()
    assert not list(months.glob("*/c/1"))  # no file where there is nothing


def test_a_date_has_the_bits_of_a_map_of_its_own(months, place, dated, encoder):
    alone = geossl.Rasters(s1=dated / "s1" / "20230320.tif", s2=dated / "s2" / "20230315.tif")
    out = dated / "march.zarr"
    geossl.embed_map(place, alone, encoder=encoder, out=out, **SETTINGS)
    march = geossl.open(out).values
    np.testing.assert_array_equal(geossl.open(months, time="2023-03").values, march)
    np.testing.assert_array_equal(geossl.open(months).sel(time="2023-03").values[0], march)
    copied = geossl.export(months, dated / "copied.zarr", time="2023-03")
    np.testing.assert_array_equal(geossl.open(copied).values, march)
    assert geossl.open(copied).dims == ("embedding", "y", "x")
    damaged = next(path for path in (copied / "embeddings/c").rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(InputError, match="is missing or cut short"):
        geossl.open(copied)


def test_a_broken_off_map_resumes_and_is_verified(months, place, dated, encoder):
    out = dated / "again.zarr"

    def stop(done, _wanted, _unit):
        if done >= 3:
            raise KeyboardInterrupt

    args, settings = (place, source(dated)), {"encoder": encoder, "out": out, **SETTINGS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        with pytest.raises(KeyboardInterrupt, match="run again to resume"):
            geossl.embed_map(*args, progress=stop, **settings)
        geossl.embed_map(*args, **settings)
        np.testing.assert_array_equal(geossl.open(out).values, geossl.open(months).values)
        found = geossl.verify(out, encoder=encoder, shards=2, time="2023-03")
        assert set(found["time"]) == {"2023-03"}
        assert set(found["result"]) == {"equal"}
        lost = next(path for path in (out / "embeddings/c/2").rglob("*") if path.is_file())
        lost.unlink()
        with pytest.raises(InputError, match="shard 2, . of 'embeddings'|shard 2, ., . of 'embeddings'"):
            geossl.open(out)
        geossl.embed_map(*args, **settings)
    np.testing.assert_array_equal(geossl.open(out).values, geossl.open(months).values)


def test_scenes_take_the_nearest_radar_within_twelve_days(dated):
    found = source(dated, every="scene", date=None).source()
    assert found.periods == ("2023-01-10", "2023-01-20", "2023-03-15")
    files = [{sensor: [f.date for f in kept] for sensor, kept in part.files.items()} for (part,) in found.parts]
    assert files[0] == {"s1": ["20230112"], "s2": ["20230110"]}
    assert files[2] == {"s1": ["20230320"], "s2": ["20230315"]}
    (late,) = [dated / "s1" / "20230320.tif"]
    alone = geossl.Rasters(s1=late, s2=dated / "s2", every="scene").source()
    assert [part.sensors for (part,) in alone.parts] == [("s2",), ("s2",), ("s1", "s2")]
    assert source(dated, every="season", date="2022-12/2023-08").source().periods == ("2022-12", "2023-03", "2023-06")


def test_dates_that_are_not_there_or_not_said_are_refused(months, dated, place, encoder):
    for time, said in (
        (None, r"is of 3 dates \(2023-01, 2023-02, 2023-03\); name one with .*2023-01"),
        ("2023", "time 2023 names 3 dates of map"),
        ("2024-01", "time 2024-01 is not in map .*, which has 2023-01"),
        ("march", "time 'march' is not a period"),
    ):
        with pytest.raises(InputError, match=said):
            geossl.similar(months, "3.0,41.5", time=time)
    with pytest.raises(InputError, match="is of one image; leave it out"):
        geossl.open(dated / "march.zarr", time="2023-03")
    with pytest.raises(InputError, match="time 2023-01 names 1 dates for 2 maps"):
        geossl.change(months, months, time="2023-01")
    with pytest.raises(InputError, match=r"every makes a map of several dates, which \.tif cannot hold"):
        geossl.embed_map(place, source(dated), encoder=encoder, out="map.tif")


def test_a_sample_has_a_row_per_point_and_date(months):
    box = geossl.open(months).odc.geobox.geographic_extent.boundingbox
    points = pd.DataFrame(
        {"lon": [(box.left + box.right) / 2] * 2, "lat": [(box.bottom + box.top) / 2] * 2, "n": [0, 1]}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        found = geossl.sample(months, points)
        one = geossl.sample(months, points, time="2023-03")
    assert found["n"].tolist() == [0] * 3 + [1] * 3
    assert found["time"].tolist() == [f"2023-0{month}" for month in (1, 2, 3)] * 2
    assert found["e000"].notna().tolist() == [True, False, True] * 2
    np.testing.assert_array_equal(one["e000"], found.loc[found["time"] == "2023-03", "e000"])


def test_a_model_of_all_dates_answers_for_maps_of_such_dates(months, dated, scene, encoder):
    out = dated / "model.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        geossl.finetune(scene / "parcels.gpkg", column="crop", map=months, encoder=encoder, out=out)
        geossl.segment(map=months, model=out, out=dated / "crops.tif")
    with rasterio.open(dated / "crops.tif") as file:
        classes, grid = file.read(1), file.transform
    fields = gpd.read_file(scene / "parcels.gpkg").to_crs(32631)
    names = sorted(fields["crop"].unique())
    middle = fields.geometry.centroid
    columns, rows = ~grid @ (middle.x.to_numpy(), middle.y.to_numpy())
    inside = (rows >= 0) & (rows < classes.shape[0]) & (columns >= 0) & (columns < classes.shape[1])
    called = classes[rows[inside].astype(int), columns[inside].astype(int)]
    truth = np.array([names.index(name) for name in fields["crop"][inside]])
    assert (called == truth)[called != 255].mean() > 0.9
    with pytest.raises(InputError, match=r"learned from 3 dates side by side, .*march.zarr has one image: give a "):
        geossl.segment(map=dated / "march.zarr", model=out, out=dated / "other.tif")


def test_other_dates_of_the_same_plan_are_refused(months, place, dated, encoder, tmp_path):
    for path in (months, months.with_name("months.zarr.build")):
        shutil.copytree(path, tmp_path / path.name)
    with pytest.raises(InputError, match="was started with another times, source"):
        geossl.embed_map(
            place,
            source(dated, date="2023-01/2023-02"),
            encoder=encoder,
            out=tmp_path / months.name,
            **SETTINGS,
        )
