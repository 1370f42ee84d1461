"""Bad places, outputs and leftovers: one line, exit code 2, nothing written and nothing lost."""

import os

import pytest
import shapely
from shapely.geometry import box

from tests.data.conftest import optical, radar, write_raster
from tests.end_to_end.test_cli import TAGGED, embed, encoder, geossl, place, refused, write  # noqa: F401  (fixtures)


def region(*geometries):
    def change(folder):
        write(folder / "aoi.geojson", *geometries)
        return {}

    return change


def somebody_elses_folder(folder):
    (folder / "out.zarr").mkdir()
    (folder / "out.zarr/thesis.txt").write_text("years of work")
    return {}


def text(name, content):
    def change(folder):
        (folder / name).write_bytes(content)
        return {"aoi": name}

    return change


@pytest.mark.parametrize(
    ("change", "more", "word"),
    [
        (lambda f: {"crs": 4326}, [], "--crs 4326 (WGS 84) is not projected in metres"),
        (lambda f: {"crs": 99999}, [], "--crs 99999 is not an EPSG code"),
        (lambda f: {"crs": 2263}, [], "is not projected in metres"),  # New York in feet
        (lambda f: {"gsd": 0}, [], "--gsd 0 is not a cell size"),
        (lambda f: {"gsd": "nan"}, [], "--gsd nan is not a cell size"),
        (lambda f: {"gsd": -40}, [], "--gsd -40 is not a cell size"),
        (lambda f: {"scheduler": "processes:0"}, [], "--scheduler 'processes:0' is not known"),
        (lambda f: {"encoder": "."}, [], "encoder '.'"),
        (lambda f: {"s1": "aoi.geojson"}, [], "aoi.geojson"),
        (lambda f: {"out": "aoi.geojson/map.zarr"}, [], "aoi.geojson/map.zarr cannot be written"),
        (somebody_elses_folder, ["--overwrite"], "out.zarr is a folder of something else"),
        (region(box(-180, -90, 180, 90), box(0, 89, 10, 90)), [], ""),  # all of the Earth
        (region(box(0, 85, 10, 89.9)), [], "lies outside the rasters"),
        (region(shapely.LineString([(3, 41), (4, 41)])), [], "expected polygons only"),
        (region(shapely.Polygon([(3, 41), (3.1, 41.1), (3.1, 41), (3, 41.1)])), [], "is not a valid polygon"),
        (region(shapely.Polygon([(3, 41, 9), (3.1, 41, 9), (3.1, 41, 9), (3, 41, 9)])), [], ""),  # no area
        (text("aoi.gpkg", b"SQLite format 3\x00 cut short"), [], "cannot be read as vector data"),
        (
            text("a.geojson", b'{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": null}]}'),
            [],
            "",
        ),
        (text("a.geojson", b'{"type": "Feature", "features": 3}'), [], ""),
        (text("a.geojson", b'{"type": "Polygon", "coordinates": [[[1e999, 0], [1, 1], [0, 1], [1e999, 0]]]}'), [], ""),
    ],
)
def test_embed_refuses_and_leaves_everything_as_it_was(place, encoder, change, more, word):  # noqa: F811
    changes = change(place)
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    options = {"aoi": "aoi.geojson", "s1": "s1.tif", "s2": "s2.tif", "encoder": encoder, "out": "out.zarr", **changes}
    done = geossl("embed", *(part for key, value in options.items() for part in (f"--{key}", value)), *more, cwd=place)
    if done.exit_code == 0:  # the Earth holds the scene, too
        assert changes == {}
        assert (place / "out.zarr").is_dir()
        return
    refused(done, word)
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"lattice": 3}'])
def test_a_damaged_plan_is_told(place, encoder, damage):  # noqa: F811
    assert embed(place, encoder).exit_code == 0
    (place / "out.zarr.build/plan.json").write_bytes(damage)
    refused(embed(place, encoder), "plan.json is damaged", "--overwrite")
    assert (place / "out.zarr/zarr.json").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["similar", "out.zarr", "--to", "nan,nan"], "--to"),
        (["similar", "out.zarr", "--to", "3.005,95"], "--to"),
        (["similar", "out.zarr", "--to", "3.005;41.55"], "--to"),
        (["similar", "out.zarr", "--to", "3.005,41.549", "--out", "no/s.tif"], "no"),
        (["similar", "out.zarr", "--to", "3.005,41.549", "--out", "out.zarr"], "out.zarr"),
        (["similar", "aoi.geojson", "--to", "3.005,41.549"], "aoi.geojson"),
        (["view", "aoi.geojson", "--port", "0", "--no-browser"], "aoi.geojson"),
        (["view", "out.zarr.build", "--port", "0", "--no-browser"], "out.zarr.build"),
        (["view", "out.zarr", "--layer", ".", "--port", "0", "--no-browser"], "--layer"),
        (["view", "out.zarr", "--layer", "s2.tif", "--port", "0", "--no-browser"], "12 bands"),
        (["export", "out.zarr", "o.tif", "--aoi", "none.gpkg"], "none.gpkg"),
        (["export", "out.zarr", "o.tif", "--aoi", "s1.tif"], "s1.tif"),
        (["export", "out.zarr.build", "o.tif"], "out.zarr.build"),
        (["export", "s2.tif", "o.parquet", "--level", "tile"], ""),
        (["export", "out.zarr", "stac", "--encoder", "s1.tif"], "s1.tif"),
        (["fetch", "--aoi", "aoi.geojson"], "--date is missing"),
        (["fetch", "--aoi", "aoi.geojson", "--date", "2024-06", "--catalog", "."], "catalog"),
        (
            ["fetch", "--aoi", "aoi.geojson", "--date", "2024-06", "--max-cloud", "-5"],
            "--max-cloud -5 is not a percentage",
        ),
        (["fetch", "--aoi", "aoi.geojson", "--date", "2024-06", "--max-cloud", "nan"], "--max-cloud nan"),
        (["fetch", "--aoi", "s1.tif", "--date", "2024-06", "--catalog", "http://127.0.0.1:9"], "s1.tif"),
    ],
)
def test_the_other_verbs_refuse_and_leave_everything_as_it_was(mapped, arguments, word):
    before = sorted(os.listdir(mapped))
    refused(geossl(*arguments, cwd=mapped), word)
    assert sorted(os.listdir(mapped)) == before


@pytest.fixture(scope="module")
def mapped(tmp_path_factory, encoder):  # noqa: F811
    """A folder with a finished map."""
    folder = tmp_path_factory.mktemp("mapped")
    write_raster(folder / "s1.tif", radar())
    write_raster(folder / "s2.tif", optical(), **TAGGED)
    write(folder / "aoi.geojson", box(3.001, 41.5455, 3.012, 41.5515))
    assert embed(folder, encoder).exit_code == 0
    return folder
