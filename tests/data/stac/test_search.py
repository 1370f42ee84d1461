"""From a polygon and a period to pixels, over real HTTP on this machine."""

import json
import re

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geossl import retries
from geossl.data.stac import remote
from geossl.data.stac.composite import CatalogScenes
from geossl.data.stac.ranking import find_scenes
from geossl.data.stac.scenes import s2_offset, solar_day
from geossl.errors import BandError, InputError, Note, RunError
from geossl.grid import Aoi
from geossl.rules import parse_dates
from geossl.sensors import S2_BANDS
from tests.servers import scenes
from tests.servers.stac import serving

PERIOD = "2024-06"


def region(left=500, top=500, side=3000):
    """A square inside the scene, in metres from its corner."""
    west, north = scenes.LEFT + left, scenes.TOP - top
    back = Transformer.from_crs(scenes.EPSG, 4326, always_xy=True)
    square = shapely.box(west, north - side, west + side, north)
    return Aoi(shapely.transform(square, back.transform, interleaved=False), "the region")


def grid(left=1000, top=1000, shape=(120, 160)):
    return GeoBox(shape, Affine(10, 0, scenes.LEFT + left, 0, -10, scenes.TOP - top), f"EPSG:{scenes.EPSG}")


def truth(box, sensor="s2"):
    """The numbers under a grid, of bands that are stored at 10 m."""
    row, column = (round((scenes.TOP - box.transform.f) / 10), round((box.transform.c - scenes.LEFT) / 10))
    return scenes.mirrored(sensor)[:, row : row + box.height, column : column + box.width]


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """Makes a catalogue of some scenes and serves it."""
    monkeypatch.setattr(retries.CLOCK, "sleep", lambda seconds: None)
    running = []

    def make(*writers):
        manager = serving(tmp_path / "files", [])
        server = manager.__enter__()
        running.append(manager)
        for write in writers:
            server.items.append(write(tmp_path / "files"))
        return server

    yield make
    for manager in running:
        manager.__exit__(None, None, None)


def find(server, **settings):
    return find_scenes(region(), PERIOD, server.url, **{"sensors": ["s2"], **settings})


def spot(row, column, radius=40, kind=9):
    """Scene classes, 20 m: clear but for a round cloud."""
    classes = np.full((scenes.SIZE // 2, scenes.SIZE // 2), scenes.CLEAR, dtype=np.uint8)
    y, x = np.mgrid[: classes.shape[0], : classes.shape[1]]
    classes[np.hypot(y - row, x - column) < radius] = kind
    return classes


def test_three_encodings_of_the_same_reflectance_agree(catalog):
    box, found = grid(), []
    for writer in (scenes.raw, scenes.harmonised, scenes.lying):
        source = find(catalog(writer))
        found.append(source.load(box)["s2"].values)
    expected = truth(box) / 10000
    for values, scene in zip(found, ("raw", "harmonised", "lying"), strict=True):
        for band in ("B02", "B03", "B04", "B08"):
            number = S2_BANDS.index(band)
            np.testing.assert_allclose(values[number], expected[number], atol=1e-7, err_msg=scene)
        np.testing.assert_allclose(values, found[0], atol=1e-4)
        np.testing.assert_allclose(values.mean((1, 2)), expected.mean((1, 2)), rtol=0.02)


@pytest.mark.parametrize(
    ("writer", "offset", "reason"),
    [
        (scenes.raw, -1000, "processing baseline 05.10"),
        (scenes.harmonised, 0, "earthsearch:boa_offset_applied"),
        (scenes.lying, 0, "has no [+]1000"),
        (lambda f: scenes.raw(f, **{"s2:processing_baseline": "02.09"}), 0, "processing baseline 02.09"),
        (lambda f: scenes.raw(f, **{"earthsearch:boa_offset_applied": False}), -1000, "still carries [+]1000"),
        (
            lambda f: scenes.raw(f, collection="sentinel-2-c1-l2a", asset={"raster:bands": [{"offset": -0.1}]}),
            -1000,
            "raster:bands offset",
        ),
    ],
)
def test_every_offset_is_decided_by_a_rule_that_is_recorded(catalog, writer, offset, reason):
    metadata = find(catalog(writer)).describe()["s2"][0]
    assert metadata["offset"] == offset
    assert re.search(reason, metadata["reason"])


def test_a_scene_whose_offset_cannot_be_known_is_left_out_with_the_reason(catalog):
    unknown = lambda f: scenes.optical(f, "unknown", "2024-06-11T14:40:00Z", add=1000)  # noqa: E731
    with pytest.warns(Note, match=r"1 s2 scene\(s\) left out: item unknown names no processing baseline"):
        source = find(catalog(scenes.raw, unknown))
    assert [s.id for s in source.optical] == ["raw"]


def test_order_of_assets_and_of_answers_changes_nothing(catalog):
    one = catalog(lambda f: scenes.raw(f, "a"), lambda f: scenes.raw(f, "b", "2024-06-12T14:40:00Z"))
    two = catalog(lambda f: scenes.raw(f, "b", "2024-06-12T14:40:00Z"), lambda f: scenes.raw(f, "a"))
    for item in two.items:
        item["assets"] = dict(reversed(item["assets"].items()))
    first, second = find(one), find(two)
    assert [s.id for s in first.optical] == [s.id for s in second.optical] == ["a", "b"]
    np.testing.assert_array_equal(first.load(grid())["s2"], second.load(grid())["s2"])


def test_the_clearest_day_comes_first_and_its_holes_are_filled_from_the_next(catalog):
    source = find(
        catalog(
            lambda f: scenes.raw(f, "cloudy", "2024-06-05T14:40:00Z", scl=spot(80, 80, 60), dark=0.5),
            lambda f: scenes.raw(f, "best", "2024-06-15T14:40:00Z", scl=spot(80, 90, 20)),
            lambda f: scenes.raw(f, "worst", "2024-06-20T14:40:00Z", scl=np.full((336, 336), 8, np.uint8)),
        )
    )
    assert [s.id for s in source.optical] == ["best", "cloudy", "worst"]
    cube = source.load(grid(1000, 1000))
    cloud = spot(80, 90, 20)[50:110, 50:130].repeat(2, 0).repeat(2, 1) == 9
    days = cube["date"].values
    assert (days[cloud] != 8932).all()  # 2024-06-15 is day 8932
    assert (days[cloud] == 8922).sum() == 0  # the other day is cloudy there, too
    assert np.isnan(cube["s2"].values[:, cloud]).all()
    assert set(np.unique(days)) <= {0, 8922, 8932}
    near = np.isnan(cube["s2"].values[0]) & ~cloud
    assert 300 < near.sum() < 1200  # 40 m around the cloud are not trusted


def test_holes_are_filled_where_the_next_day_is_clear(catalog):
    source = find(
        catalog(
            lambda f: scenes.raw(f, "best", "2024-06-15T14:40:00Z", scl=spot(80, 90, 20)),
            lambda f: scenes.raw(f, "next", "2024-06-05T14:40:00Z", scl=spot(140, 150, 30), dark=0.5),
        )
    )
    cube = source.load(grid(1000, 1000))
    cloud = spot(80, 90, 20)[50:110, 50:130].repeat(2, 0).repeat(2, 1) == 9
    expected = np.where(cloud, 0.5, 1.0) * truth(grid())[S2_BANDS.index("B03")] / 10000
    inside = cloud | (cube["date"].values == 8932)
    np.testing.assert_allclose(cube["s2"].values[S2_BANDS.index("B03")][inside], expected[inside], atol=1e-4)
    assert np.isfinite(cube["s2"].values).all()


@pytest.mark.parametrize("composite", ["clearest", "medoid", "median"])
def test_values_do_not_depend_on_the_block_that_is_asked_for(catalog, composite):
    writers = [
        lambda f, d=day, c=column: scenes.raw(
            f, f"s{d}", f"2024-06-{d:02d}T14:40:00Z", scl=spot(100, c, 25), dark=1 - d / 50
        )
        for day, column in ((3, 70), (8, 100), (13, 130))
    ]
    source = find(catalog(*writers, scenes.radar), sensors=["s1", "s2"], composite=composite)
    whole = source.load(grid(1003, 1007, (150, 170)))
    for top, left, shape in ((0, 0, (31, 47)), (60, 40, (90, 100)), (140, 160, (10, 10))):
        part = source.load(grid(1003 + 10 * left, 1007 + 10 * top, shape))
        for name in part.data_vars:
            inner = whole[name].values[..., top : top + shape[0], left : left + shape[1]]
            np.testing.assert_array_equal(part[name].values, inner)


def test_medoid_takes_a_real_day_and_median_mixes_them(catalog):
    writers = [
        lambda f, d=day, k=dark: scenes.raw(f, f"s{d}", f"2024-06-{d:02d}T14:40:00Z", dark=k)
        for day, dark in ((3, 1.0), (8, 0.8), (13, 0.3))
    ]
    server, green = catalog(*writers), S2_BANDS.index("B03")
    medoid, median = (find(server, composite=kind).load(grid()) for kind in ("medoid", "median"))
    assert (medoid["date"].values == 8925).mean() > 0.99  # 2024-06-08, the middle one
    np.testing.assert_allclose(median["s2"].values[green], medoid["s2"].values[green], atol=1e-6)
    assert "date" not in median


def test_radar_is_in_db_and_of_one_direction_and_the_nearest_pass(catalog):
    source = find(
        catalog(
            lambda f: scenes.raw(f, moment="2024-06-20T14:40:00Z"),
            lambda f: scenes.radar(f, "early", "2024-06-02T10:00:00Z"),
            lambda f: scenes.radar(f, "near", "2024-06-18T10:00:00Z"),
            lambda f: (
                scenes.radar(f, "nearest_but_descending", "2024-06-20T22:00:00Z", state="descending", orbit=55)
                | {"geometry": scenes.outline() | {"coordinates": [[[x * 1.0, y] for x, y in corner(0.4)]]}}
            ),
        ),
        sensors=["s1", "s2"],
    )
    assert [s.id for s in source.radar] == ["near", "early"]
    metadata = source.describe()
    assert (metadata["delta_days"], metadata["s1"][0]["direction"], metadata["s1"][0]["orbit"]) == (2, "ascending", 10)
    np.testing.assert_allclose(source.load(grid())["s1"].values, truth(grid(), "s1"), atol=1e-4)


def corner(share):
    """Outline of the western part of the scene."""
    west, south, east, north = shapely.from_geojson(json.dumps(scenes.outline())).bounds
    return list(shapely.box(west, south, west + share * (east - west), north).exterior.coords)


def test_radar_far_from_the_optical_date_is_told(catalog):
    server = catalog(
        lambda f: scenes.raw(f, moment="2024-06-29T14:40:00Z"), lambda f: scenes.radar(f, "r", "2024-06-02T10:00:00Z")
    )
    with pytest.warns(Note, match="radar is 27 days from the optical date, more than 12"):
        find(server, sensors=["s1", "s2"])


def test_uncalibrated_radar_is_refused_by_name(catalog, monkeypatch):
    monkeypatch.setattr("geossl.data.stac.search.READABLE", {"s1": ("sentinel-1-grd",)})
    server = catalog(lambda f: scenes.radar(f, "g", "2024-06-10T10:00:00Z", collection="sentinel-1-grd"))
    with pytest.warns(Note, match="uncalibrated amplitudes"), pytest.raises(InputError, match="no valid scene"):
        find(server, sensors=["s1"])


def covering_bytes(path, start, side):
    """Stored bytes of the blocks under a square that begins so many metres south and east of the scene's corner."""
    with rasterio.open(path) as file:
        step, block = file.transform.a, file.block_shapes[0][0]
        first, last = (int(v / step) // block for v in (start, start + side - step))
        blocks = range(first, min(last, (file.width - 1) // block) + 1)
        return sum(file.block_size(1, r, c) for r in blocks for c in blocks)


@pytest.mark.parametrize("sensor", ["s1", "s2"])
def test_no_more_is_fetched_than_the_blocks_that_cover(catalog, sensor):
    server = catalog(scenes.raw if sensor == "s2" else scenes.radar)
    source = find(server, sensors=[sensor])
    server.sent.clear()
    source.load(grid(1300, 1300, (380, 380)))
    covering = sum(covering_bytes(server.folder / name, 1260, 3880) for name in server.sent)
    assert sum(server.sent.values()) <= 1.1 * covering + 32768 * len(server.sent)  # and one look at each header


def test_five_in_a_hundred_requests_may_fail_without_a_trace(catalog):
    server = catalog(scenes.raw, scenes.radar)
    source = find(server, sensors=["s1", "s2"])
    calm = source.load(grid(500, 500, (300, 300)))
    server.faults = {"503": 0.02, "truncated": 0.02, "403": 0.01}
    stormy = source.load(grid(500, 500, (300, 300)))
    for name in calm.data_vars:
        np.testing.assert_array_equal(calm[name].values, stormy[name].values)
    assert np.isfinite(stormy["s2"].values).all()


def test_a_file_that_cannot_be_read_is_an_error_never_nodata(catalog):
    server = catalog(scenes.raw)
    source = find(server)
    server.faults = {"503": 1.0}
    with pytest.raises(RunError, match=r"/files/raw/B01.tif cannot be read"):
        source.load(grid(1000, 1000, (16, 16)))


def test_an_expired_token_is_signed_again(catalog, monkeypatch):
    server = catalog(scenes.raw)
    source = find(server)
    tokens = []

    def sign(href, how, attempt):
        tokens.append(attempt)
        server.faults = {} if attempt else {"403": 1.0}
        return href

    monkeypatch.setattr(remote, "signed", sign)
    monkeypatch.setattr(remote, "READERS", 1)
    assert np.isfinite(source.load(grid(1000, 1000, (16, 16)))["s2"].values).all()
    assert set(tokens) == {0, 1}


def test_a_source_survives_being_written_down(catalog):
    source = find(catalog(scenes.raw, scenes.radar), sensors=["s1", "s2"])
    again = CatalogScenes.from_json(json.loads(json.dumps(source.describe())))
    assert (again.optical, again.radar, again.describe()) == (source.optical, source.radar, source.describe())
    np.testing.assert_array_equal(source.load(grid())["s1"], again.load(grid())["s1"])


@pytest.mark.parametrize("kind", ["static", "parquet"])
def test_a_static_catalogue_and_a_table_give_the_same_scenes(catalog, tmp_path, kind, monkeypatch):
    monkeypatch.setenv("GEOSSL_ALLOW", "127.0.0.1")  # a catalogue on disk must not point there by itself
    server = catalog(scenes.raw, scenes.radar)
    expected = find(server, sensors=["s1", "s2"])
    items = json.loads(json.dumps(server.items).replace("{url}", server.url))
    if kind == "static":
        tree = pystac.Catalog("c", "test")
        for item in items:
            tree.add_item(pystac.Item.from_dict(item))
        tree.normalize_and_save(str(tmp_path / "static"), pystac.CatalogType.SELF_CONTAINED)
        where = tmp_path / "static/catalog.json"
    else:
        import stac_geoparquet.arrow

        where = tmp_path / "items.parquet"
        stac_geoparquet.arrow.to_parquet(stac_geoparquet.arrow.parse_stac_items_to_arrow(items), where)
    found = find_scenes(region(), PERIOD, str(where), sensors=["s1", "s2"])
    assert (found.optical, found.radar) == (expected.optical, expected.radar)


def test_days_are_solar():
    assert solar_day("2024-06-10T23:30:00Z", 150.0) == "2024-06-11"
    assert solar_day("2024-06-10T01:00:00+00:00", -120.0) == "2024-06-09"


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2024-06", "2024-06-01", "2024-06-30"),
        ("2023", "2023-01-01", "2023-12-31"),
        ("2024-02-28", "2024-02-28", "2024-02-28"),
        ("2023-12/2024-02", "2023-12-01", "2024-02-29"),
    ],
)
def test_periods(text, first, last):
    assert [str(day) for day in parse_dates(text)] == [first, last]


@pytest.mark.parametrize("text", ["", "summer", "2024-13", "2024-6", "2024-06/2024-05", "2024-06-31", "2024/"])
def test_what_is_no_period_is_refused(text):
    if text == "2024/":
        assert [str(d) for d in parse_dates(text)] == ["2024-01-01", "2024-12-31"]
    else:
        with pytest.raises(InputError, match="date"):
            parse_dates(text)


def test_catalogues_that_do_not_answer_or_hold_nothing_say_so(catalog, tmp_path):
    server = catalog(scenes.raw)
    with pytest.raises(InputError, match="has no valid scene over the region in 2020-01"):
        find_scenes(region(), "2020-01", server.url, sensors=["s2"])
    with pytest.raises(InputError, match=r"catalog http://127.0.0.1:9 cannot be searched"):
        find_scenes(region(), PERIOD, "http://127.0.0.1:9", sensors=["s2"])
    with pytest.raises(InputError, match=r"unknown catalog 'earth-serch'; did you mean 'earth-search'"):
        find_scenes(region(), PERIOD, "earth-serch")
    with pytest.raises(InputError, match=r"none.json' does not exist"):
        find_scenes(region(), PERIOD, "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"bad.json cannot be searched"):
        find_scenes(region(), PERIOD, str(tmp_path / "bad.json"))
    with pytest.raises(InputError, match=r"PC_SDK_SUBSCRIPTION_KEY"):
        find_scenes(region(), PERIOD, "planetary-computer")


def claims_of(assets, **properties):
    """What is decided of an item with these fields in every asset, without a look."""
    bands = {band: {"href": f"{band}.tif", **assets} for band in S2_BANDS}
    return s2_offset(
        {"id": "x", "assets": bands, "properties": properties}, dict.fromkeys(S2_BANDS, ""), lambda _: 300.0
    )


@pytest.mark.parametrize(
    ("assets", "properties", "expected"),
    [
        ({"raster:offset": -0.1, "raster:scale": 0.0001}, {}, (-1000, "raster:bands offset")),  # STAC 1.1
        ({"bands": [{"raster:offset": -0.1}]}, {}, (-1000, "raster:bands offset")),
        ({"raster:bands": [{"offset": -1000, "scale": 1}]}, {}, (-1000, "raster:bands offset")),
        ({}, {"s2:processing_baseline": "0205"}, (0, "processing baseline 02.05")),
        ({}, {"processing:version": "N0510"}, (-1000, "processing baseline 05.10")),
        (
            {},
            {"s2:product_uri": "S2A_MSIL2A_20230610T074621_N0509_R135_T36MXC_20230610T1.SAFE"},
            (-1000, "processing baseline 05.09"),
        ),
        ({"raster:offset": -0.1}, {"s2:processing_baseline": "02.05"}, (0, "darkest percentile 300 has no")),
        ({}, {"s2:processing_baseline": "99.99"}, (0, "darkest percentile 300 has no")),
    ],
)
def test_catalogues_and_files_read_offsets_alike(assets, properties, expected):
    offset, reason = claims_of(assets, **properties)
    assert offset == expected[0]
    assert expected[1] in reason


def test_offsets_and_scales_that_do_not_exist_are_refused():
    with pytest.raises(BandError, match=r"scale 0.001; expected numbers of reflectance x 10000"):
        claims_of({"raster:scale": 0.001}, **{"s2:processing_baseline": "05.09"})
    with pytest.raises(BandError, match="gives the Sentinel-2 offset -0.2, expected 0 or -1000"):
        claims_of({"raster:offset": -0.2}, **{"s2:processing_baseline": "05.09"})
