"""The one value pixels come from, in Python and in the shell."""

import math
from pathlib import Path

import pytest
from click.testing import CliRunner
from odc.geo.geobox import GeoBox

import geossl
from geossl.api.source import as_paths, given
from geossl.cli import main
from geossl.data.sentinel.aligned import SAMPLE
from geossl.errors import InputError, UnknownSettingError

FILES = {"s1": SAMPLE / "s1", "s2": SAMPLE / "s2"}
REGION = "examples/region.geojson"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"date": "June"}, "date 'June'"),
        ({"composite": "mean"}, "composite 'mean' is not known; use clearest, medoid, median"),
        ({"sensors": ("s3",)}, "sensors 's3' is not known; use s1, s2"),
        ({"sensors": ()}, "must name each sensor once"),
        ({"max_cloud": math.nan}, "max_cloud nan is not a percentage"),
        ({"mask": "fmask"}, "mask 'fmask' is not known; use scl, omnicloudmask"),
        ({"catalog": "planetary"}, "unknown catalog 'planetary'; did you mean 'planetary-computer'"),
        ({"catalog": "none.json"}, "catalog file 'none.json' does not exist"),
    ],
)
def test_a_catalogue_is_checked_when_it_is_named(values, message):
    with pytest.raises(InputError, match=message):
        geossl.Catalog(**{"date": "2024-06", **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no rasters given"),
        ({"s1": []}, "no rasters given"),
        ({"s1": "a.tif", "s2_offset": 0}, "s2_offset 0 does nothing without Sentinel-2 files"),
        ({"s2": "a.tif", "s1_bands": "VV,VH"}, "s1_bands does nothing without s1 files"),
        ({"s2": "a.tif", "s2_bands": "one,two"}, "s2_bands one,two names no band of s2; name every band of the file"),
        ({"s1": "a.tif", "s1_bands": (Path("VV"),)}, "s1_bands .* is not a list of bands such as VV,VH"),
        ({"s2": "a.tif", "s2_offset": -999}, "s2_offset -999 is not possible; use 0 or -1000"),
    ],
)
def test_rasters_are_checked_when_they_are_named(values, message):
    with pytest.raises(InputError, match=message):
        geossl.Rasters(**values)


def test_sources_are_values():
    assert geossl.Catalog("2024-06", sensors="s1,s2") == geossl.Catalog("2024-06", sensors=["s1", "s2"])
    assert [str(p) for p in geossl.Rasters(s2=["a.tif", "b.tif"]).paths()["s2"]] == ["a.tif", "b.tif"]


def test_former_keywords_still_work_and_name_the_new_form():
    box = GeoBox.from_bbox((721000, 5679000, 721080, 5679080), crs="EPSG:32718", resolution=10)
    new = geossl.cube(box, geossl.Rasters(**FILES))
    with pytest.warns(FutureWarning, match=r"s1=, s2= of geossl.cube is now source=geossl.Rasters\(s1="):
        old = geossl.cube(box, **FILES)
    assert new.identical(old)
    assert new["s2"].shape == (12, 8, 8)
    with pytest.warns(FutureWarning, match=r"date= of geossl.fetch is now source=geossl.Catalog\(date='2024-06'\)"):
        assert given(None, {"date": "2024-06"}, "fetch") == geossl.Catalog("2024-06")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geossl.embed_map(REGION), "embed_map: no pixels asked for; write source=geossl.Rasters"),
        (lambda: given("s2.tif", {}, "embed_map"), "'s2.tif' is not a source of pixels; write source="),
        (lambda: as_paths(3, "s2"), "s2=3 is not a path or a list of paths"),
        (lambda: as_paths([None], "s2"), r"s2=\[None\] is not a path"),
        (lambda: geossl.embed_map(REGION, geossl.Rasters(**FILES), s1="a"), "s1 is a part of source already"),
        (lambda: geossl.embed_map(REGION, s1="a", date="2024"), "give one or the other"),
        (lambda: geossl.embed_map(REGION, s1="a", mask="scl"), "mask does nothing for files; leave it out"),
        (lambda: geossl.embed_map(REGION, date="2024", s2_offset=0), "s2_offset does nothing for scenes"),
        (lambda: geossl.embed_map(REGION, mask="scl"), "mask alone names no pixels"),
        (lambda: geossl.fetch(REGION), "fetch: no scenes asked for"),
        (lambda: geossl.cube(3, geossl.Rasters(**FILES)), "int has no grid with a CRS"),
        (lambda: geossl.segment(map=".", classes=2, source=geossl.Rasters(**FILES)), "must be a .zarr"),
    ],
)
def test_a_call_without_one_clear_source_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is not possible; expected a whole number, 1 or more"),
        ({"batch_size": True}, "batch_size=True is not possible"),
        ({"shard_cells": 1.5}, "shard_cells=1.5 is not possible"),
        ({"precision": "x"}, "precision='x' is not possible; expected 'auto', 'fp32' or 'bf16'"),
        ({"valid_share": math.nan}, "valid_share=nan is not possible; expected a share"),
        ({"valid_share": 0}, "valid_share=0 is not possible"),
        ({"gsd_m": "40"}, "gsd_m='40' is not possible; expected a number of metres"),
        ({"overwrite": "yes"}, "overwrite='yes' is not possible; expected True or False"),
    ],
)
def test_settings_are_checked_in_python_as_in_the_shell(settings, message):
    with pytest.raises(InputError, match=message):
        geossl.embed_map(REGION, geossl.Rasters(**FILES), **settings)


def test_a_misspelt_setting_is_answered_with_the_nearest():
    for call in (geossl.embed_map, geossl.plan_map, geossl.segment):
        with pytest.raises(UnknownSettingError, match="has no setting 'batchsize'; did you mean 'batch_size'"):
            call(REGION, geossl.Rasters(**FILES), batchsize=4)
    with pytest.raises(TypeError, match="finetune with head='unet' has no setting 'stepps'"):
        geossl.finetune("labels.gpkg", geossl.Rasters(**FILES), head="unet", stepps=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--s2 a.tif --mask scl", "--mask is for scenes of a catalogue (--date) and does nothing for files"),
        ("--s2 a.tif --composite median", "--composite is for scenes"),
        ("--s2 a.tif --sensors s2", "--sensors is for scenes"),
        ("--date 2024 --s2-offset 0", "--s2-offset is for files (--s2) and does nothing for scenes"),
        ("--date 2024 --s1 a.tif", "give one or the other"),
        ("--mask scl", "--mask alone names no pixels"),
        ("--s2-offset 0", "--s2-offset alone names no pixels"),
    ],
)
def test_an_option_that_does_nothing_is_refused(options, message):
    done = CliRunner().invoke(main, ["embed", "--aoi", REGION, *options.split()])
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
