"""Maps by an encoder of series: monthly images, the same engine, plan and store."""

import json

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

import geossl
from geossl.errors import BandError, InputError, Note
from geossl.models.files import load_encoder
from geossl.rules import periods_of

pytestmark = pytest.mark.filterwarnings("ignore:no s. scene in:geossl.errors.Note")

S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
LEFT, TOP, PX = 599_900, 5_000_010, 24  # 240 m, in four windows of the lattice
DAYS = {"s1": ("20210105", "20210602", "20210902"), "s2": ("20210110", "20210603", "20210613", "20210623", "20211101")}


def write(path, bands, names, dtype):
    """A small scene with named bands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    place = {"crs": "EPSG:32631", "transform": from_origin(LEFT, TOP, 10, 10)}
    with rasterio.open(path, "w", driver="GTiff", dtype=dtype, **size, **place) as file:
        file.write(bands.astype(dtype))
        file.descriptions = names


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Dated files of both sensors, and a region."""
    folder, rng = tmp_path_factory.mktemp("months"), np.random.default_rng(0)
    for day in DAYS["s1"]:
        write(folder / "s1" / f"{day}.tif", rng.uniform(-4, 4, (2, PX, PX)) - [[[10]], [[17]]], ("VV", "VH"), "float32")
    for day in DAYS["s2"]:
        numbers = rng.integers(50, 4000, (10, PX, PX))
        numbers[:, :5, :7] = 0  # no data
        write(folder / "s2" / f"{day}.tif", numbers, S2_BANDS, "uint16")
    corners = [(LEFT + 20, TOP - 20), (LEFT + 220, TOP - 20), (LEFT + 220, TOP - 220), (LEFT + 20, TOP - 220)]
    from pyproj import Transformer

    ring = [Transformer.from_crs(32631, 4326, always_xy=True).transform(*xy) for xy in [*corners, corners[0]]]
    (folder / "aoi.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return folder


def source(scenes, **settings):
    return geossl.Rasters(s1=scenes / "s1", s2=scenes / "s2", **{"s2_offset": 0, "date": "2021", **settings})


@pytest.fixture(scope="module")
def made(scenes):
    """An annual map in float32."""
    out = scenes / "map.zarr"
    geossl.embed_map(scenes / "aoi.geojson", source(scenes), encoder="presto", out=out, dtype="float32", picture=False)
    return out


def numbers_of(scenes, sensor, day):
    with rasterio.open(scenes / sensor / f"{day}.tif") as file:
        return file.read().astype(np.float32)


@torch.no_grad()
def test_a_cell_has_the_vector_of_its_own_months(made, scenes):
    embedding = geossl.open(made)
    y, x = 9, 20  # of the files
    cell = embedding.sel(x=LEFT + 10 * x + 5, y=TOP - 10 * y - 5).values
    s1, s2 = np.full((1, 12, 2), np.nan, np.float32), np.full((1, 12, 10), np.nan, np.float32)
    for day in DAYS["s1"]:
        s1[0, int(day[4:6]) - 1] = numbers_of(scenes, "s1", day)[:, y, x]
    for month in (1, 6, 11):
        days = [day for day in DAYS["s2"] if int(day[4:6]) == month]
        s2[0, month - 1] = np.median([numbers_of(scenes, "s2", day)[:, y, x] for day in days], axis=0) / 1e4
    known = load_encoder("presto").series({"s1": torch.from_numpy(s1), "s2": torch.from_numpy(s2)}, 1)[0]
    np.testing.assert_allclose(cell, known.numpy(), atol=2e-5)


def test_layers_say_how_many_months_and_which_sensors(made):
    store = geossl.open(made)
    import xarray as xr

    found = xr.open_zarr(made)
    at = {"x": LEFT + 205, "y": TOP - 95}
    corner = {"x": LEFT + 25, "y": TOP - 25}
    assert int(found["valid"].sel(at)) == 25  # 3 of 12 months of either sensor
    assert int(found["sensors"].sel(at)) == 1 + 2 + 4
    assert int(found["sensors"].sel(corner)) == 1  # no Sentinel-2 there, whatever is next to it
    assert bool(np.isfinite(store.sel(corner)).all())
    assert found.attrs["geossl:periods"][0] == "2021-01"
    assert len(found.attrs["geossl:periods"]) == 12


def test_shards_do_not_matter_and_a_broken_off_map_resumes(made, scenes):
    other = scenes / "small.zarr"
    settings = {"encoder": "presto", "dtype": "float32", "picture": False}
    args = scenes / "aoi.geojson", source(scenes)

    def stop(done, wanted, _unit):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="of 2 shards are done; run again to resume"):
        geossl.embed_map(*args, out=other, shard_cells=1, progress=stop, **settings)
    geossl.embed_map(*args, out=other, shard_cells=1, **settings)
    np.testing.assert_array_equal(geossl.open(other).values, geossl.open(made).values)


def test_other_months_are_another_map_of_the_same_network(made, scenes):
    other = scenes / "autumn.zarr"
    settings = {"encoder": "presto", "dtype": "float32", "picture": False}
    geossl.embed_map(scenes / "aoi.geojson", source(scenes, date="2021-06/2021-11"), out=other, **settings)
    found = geossl.verify(other, encoder="presto", source=source(scenes, date=None))
    assert set(found["result"]) == {"equal"}
    assert np.nanmean(np.abs(geossl.open(other).values - geossl.open(made).values)) > 0.01


def test_what_the_dry_run_says(scenes):
    row = geossl.plan_map(
        scenes / "aoi.geojson", source(scenes, date=None), encoder="presto", out=scenes / "new.zarr"
    ).iloc[0]
    assert row["cell_m"] == 10
    assert row["inputs"] == {"s1": 3, "s2": 5}
    assert row["seconds_per_km2"] > 0
    assert row["read_mb"] == round(row["windows"] * 32**2 * 12 * 12 * 2 / 1e6, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"date": "2020"}, "no file is of 2020; they are of 20210105 to 20211101"),
        ({"date": "2021-03"}, "no file is of 2021-03"),
        ({"date": "2021-06"}, "date gives 1 months; presto takes 2 to 24"),
        ({"date": "2019/2021"}, "date gives 36 months; presto takes 2 to 24"),
        ({"date": "soon"}, "date 'soon' is not a period"),
        ({"every": "week"}, "every .week. is not known; use month, season, year, scene"),
    ],
)
def test_periods_that_cannot_be_are_refused(scenes, change, said):
    with pytest.raises(InputError, match=said):
        geossl.plan_map(scenes / "aoi.geojson", source(scenes, **change), encoder="presto", out="new.zarr")


def test_months_without_a_file_are_said(scenes):
    with pytest.warns(Note, match="no s2 scene in 2021-02, 2021-03, .* 2021-12; these months are missing"):
        geossl.plan_map(scenes / "aoi.geojson", source(scenes), encoder="presto", out="new.zarr")


@pytest.mark.usefixtures("made")
def test_encoders_of_one_date_and_files_without_a_day_are_refused(scenes, tmp_path):
    with pytest.raises(InputError, match="date asks for scenes of a catalogue"):
        geossl.plan_map(scenes / "aoi.geojson", source(scenes), encoder="galileo_nano", out="new.zarr")
    months = source(scenes, every="month")
    with pytest.raises(InputError, match="every month makes a map of several dates: make it with geossl embed, then"):
        geossl.segment(scenes / "aoi.geojson", months, classes=2, encoder="galileo_nano")
    with pytest.raises(InputError, match="every season is for encoders of one image; this one takes months"):
        geossl.plan_map(scenes / "aoi.geojson", source(scenes, every="season"), encoder="presto", out="new.zarr")
    write(tmp_path / "s2" / "mosaic.tif", numbers_of(scenes, "s2", "20210110"), S2_BANDS, "uint16")
    undated = geossl.Rasters(s2=tmp_path / "s2", s2_offset=0, date="2021")
    with pytest.raises(InputError, match=r"mosaic.tif does not say its day; months need files with a date"):
        geossl.plan_map(scenes / "aoi.geojson", undated, encoder="presto", out="new.zarr")
    cube = geossl.cube(geossl.open(scenes / "map.zarr"), source(scenes, date=None))
    with pytest.raises(BandError, match="presto takes 12 months: a cube with a dimension time"):
        geossl.embed(cube, "presto")


@pytest.mark.usefixtures("made")
def test_a_cube_of_months_gives_the_bits_of_the_map(made, scenes):
    embedding = geossl.open(made)
    cube = geossl.cube(embedding, source(scenes, every="month"))
    assert cube["s2"].dims == ("time", "s2_band", "y", "x")
    assert str(cube["time"].values[5])[:10] == "2021-06-01"
    found = geossl.embed(cube, "presto")
    np.testing.assert_array_equal(found.values, embedding.values)
    chunked = geossl.embed(cube.chunk(y=13, x=17), "presto")
    np.testing.assert_array_equal(chunked.compute().values, embedding.values)


def test_months_of_a_period():
    from datetime import date

    found = periods_of(date(2020, 11, 15), date(2021, 2, 3))
    assert list(found) == ["2020-11", "2020-12", "2021-01", "2021-02"]
    assert found["2020-11"] == (date(2020, 11, 15), date(2020, 11, 30))
    assert found["2021-02"] == (date(2021, 2, 1), date(2021, 2, 3))
