"""Hosts that fail as real ones do, over real HTTP on this machine, with a clock that does not sleep."""

import json
import warnings
from datetime import UTC, datetime

import numpy as np
import planetary_computer.sas
import pytest

from geossl import retries
from geossl.data.stac import remote
from geossl.data.stac.composite import CatalogScenes
from geossl.data.stac.ranking import check_key, find_scenes
from geossl.data.stac.scenes import CDSE, scene_of
from geossl.data.stac.search import PRESETS, catalogs_of
from geossl.errors import InputError, Note, RunError, UnknownNameError
from geossl.sensors import S2_BANDS
from tests.data.stac.test_search import PERIOD, grid, region
from tests.servers import scenes
from tests.servers.secure import certificate, proxy, secure
from tests.servers.stac import serving

BOX = grid(1000, 1000, (16, 16))
FAR = grid(5500, 5500, (16, 16))  # GDAL keeps what it has read, and asks no host for it again


@pytest.fixture
def slept(monkeypatch):
    """Seconds that would have been slept."""
    found = []
    monkeypatch.setattr(retries.CLOCK, "sleep", found.append)
    return found


@pytest.fixture
def two(tmp_path, slept):
    """Two catalogues of one acquisition: raw numbers with the offset in one, without it in the other."""
    with (
        serving(tmp_path / "one", [scenes.raw(tmp_path / "one", "here", platform="Sentinel-2A")]) as one,
        serving(tmp_path / "two") as two,
    ):
        moment = "2024-06-10T14:49:31Z"  # of the tile, not of the pass
        two.items.append(scenes.harmonised(tmp_path / "two", "there", moment, platform="sentinel-2a"))
        yield one, two


def find(*servers, **settings):
    return find_scenes(region(), PERIOD, ",".join(server.url for server in servers), sensors=["s2"], **settings)


def pixels(source):
    return source.load(BOX)["s2"].values


def test_the_same_acquisition_elsewhere_is_read_where_a_host_fails_and_pixels_are_equal(two, tmp_path):
    one, other = two
    source = find(one, other).in_run(tmp_path / "run")
    assert [s.id for s in source.optical] == ["here"]
    assert [(s.id, s.catalog, s.offset) for s in source.optical[0].elsewhere] == [("there", other.url, 0)]
    again = CatalogScenes.from_json(json.loads(json.dumps(source.describe())))
    assert again.optical == source.optical
    calm = pixels(find(other))
    assert np.isfinite(calm).all()
    one.faults = {"503": 1.0}
    with pytest.warns(Note, match=f"here was read as there of {other.url}"):
        found = pixels(source)
    np.testing.assert_array_equal(found, calm)
    assert (tmp_path / "run/elsewhere").read_text() == f"here was read as there of {other.url}\n"
    other.faults = {"503": 1.0}
    with pytest.raises(RunError, match=rf"{one.url}/files/here/\w+.tif cannot be read"):
        source.load(FAR)


def test_a_catalogue_that_is_down_is_left_out_and_said(two):
    one, other = two
    calm = pixels(find(one, other))
    one.is_down = True
    with pytest.warns(Note, match=r"cannot be searched.*; the other catalogues are used"):
        source = find(one, other)
    assert source.catalog.url == other.url
    np.testing.assert_array_equal(pixels(source), calm)
    other.is_down = True
    with pytest.raises(InputError, match=rf"catalog {one.url} cannot be searched \(HTTP 503"):
        find(one, other)


def test_an_item_without_assets_is_taken_from_elsewhere_and_the_plan_says_so(two):
    one, other = two
    calm = pixels(find(one, other))
    del one.items[0]["assets"]["B04"]
    with pytest.warns(Note, match="1 s2 scene.s. left out: item here lacks B04"):
        source = find(one, other)
    (scene,) = source.describe()["s2"]
    assert (source.catalog.url, scene["id"], scene["catalog"]) == (one.url, "there", other.url)
    np.testing.assert_array_equal(pixels(source), calm)


@pytest.mark.parametrize(
    "change",
    [{"s2:processing_baseline": "05.11"}, {"platform": "sentinel-2b"}, {"datetime": "2024-06-10T15:30:00Z"}],
)
def test_another_acquisition_or_baseline_does_not_stand_in(two, change):
    one, other = two
    other.items[0]["properties"] |= change
    source = find(one, other)
    assert [scene.elsewhere for scene in source.optical if scene.id == "here"] == [()]
    assert ("there" in [s.id for s in source.optical]) == ("s2:processing_baseline" not in change)


def test_an_outage_of_many_requests_and_half_bodies_leave_no_trace(two):
    one, _ = two
    source = find(one)
    calm = pixels(source)
    one.outage = 40
    one.faults = {"429": 0.03, "truncated": 0.03}
    np.testing.assert_array_equal(pixels(source), calm)


def test_a_host_that_names_a_time_is_left_alone_until_then(two, slept, monkeypatch):
    one, _ = two
    source = find(one)
    monkeypatch.setattr(remote, "READERS", 1)
    one.retry_after, one.outage = "77", 6
    assert np.isfinite(pixels(source)).all()
    assert max(slept) == pytest.approx(77, abs=1)
    one.is_down, one.retry_after = True, "5000"
    with pytest.raises(InputError, match="asks to be left alone for 5000 s"):
        find(one)


def test_a_file_that_is_cut_off_at_its_host_is_named(two, tmp_path):
    one, _ = two
    source = find(one)
    path = tmp_path / "one/here/B11.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(RunError, match=r"/files/here/B11.tif cannot be read \(cut off or damaged at its host"):
        source.load(FAR)


def test_signatures_are_renewed_before_they_end_and_where_they_ended_early(two, monkeypatch):
    one, _ = two
    now, signed = [1_000_000.0], []

    def sign(href):
        if not planetary_computer.sas.TOKEN_CACHE:
            one.token = f"t{len(signed)}"
            planetary_computer.sas.TOKEN_CACHE["x"] = (one.token, now[0] + 3600)
            signed.append(one.token)
        token, end = planetary_computer.sas.TOKEN_CACHE["x"]
        return f"{href}?sig={token}&se={datetime.fromtimestamp(end, UTC).isoformat().replace('+00:00', 'Z')}"

    monkeypatch.setattr(planetary_computer.sas, "sign_url", sign)
    monkeypatch.setattr(planetary_computer.sas, "TOKEN_CACHE", {})
    monkeypatch.setattr(retries.CLOCK, "now", lambda: now[0])
    one.token = "none"

    def width(band):
        return remote.opened(f"{one.url}/files/here/{band}.tif", "planetary-computer", lambda file: file.width)

    assert width("B02") == width("B03") == scenes.SIZE
    assert signed == ["t0"]
    now[0] += 3600 - remote.RENEW_S + 1
    assert width("B04") == scenes.SIZE
    assert signed == ["t0", "t1"]  # while t0 still held
    one.token = "revoked"
    assert width("B08") == scenes.SIZE
    assert signed == ["t0", "t1", "t2"]


def test_a_proxy_and_a_certificate_of_ones_own_are_those_of_the_environment(two, tmp_path, monkeypatch):
    one, _ = two
    calm, far = pixels(find(one)), find(one).load(FAR)["s2"].values
    pem, key = certificate(tmp_path)
    secure(one, pem, key)
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"cannot be searched .*CERTIFICATE_VERIFY_FAILED"):
        find(one)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    np.testing.assert_array_equal(pixels(find(one)), calm)
    with proxy() as between:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{between.server_port}")
        source = find(one)
        searches = len(between.asked)
        np.testing.assert_array_equal(source.load(FAR)["s2"].values, far)
    assert searches >= 1
    assert len(between.asked) > searches
    assert set(between.asked) == {f"127.0.0.1:{one.server_port}"}


def test_ends_of_signatures_are_read_as_hosts_write_them(monkeypatch):
    monkeypatch.setattr(retries.CLOCK, "now", lambda: datetime(2024, 6, 1, tzinfo=UTC).timestamp())
    assert remote.ends_in("https://a.org/x.tif?se=2024-06-01T00%3A10%3A00Z&sig=a") == 600
    assert remote.ends_in("https://a.org/x.tif?X-Amz-Date=20240531T235900Z&X-Amz-Expires=3600") == 3540
    assert remote.ends_in("https://a.org/x.tif") == remote.ends_in("https://a.org/x.tif?se=x") == float("inf")


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        ("earth-search,earth-search", InputError, "names a catalogue twice"),
        (",", InputError, "',' has an empty name; write one, or several"),
        ("earth-search,cdsee", UnknownNameError, "did you mean 'cdse'"),
        ("earth-search,", InputError, "'earth-search,' has an empty name"),
    ],
)
def test_names_of_catalogues_that_are_wrong(names, error, text):
    with pytest.raises(error, match=text):
        catalogs_of(names)


def test_items_of_the_copernicus_data_space_are_read_by_their_names(monkeypatch):
    name = "S2A_MSIL2A_20240610T143741_N0510_R096_T19HCC_20240610T200000"
    scale = {"raster:scale": 0.0001, "raster:offset": -0.1}
    files = {CDSE[band]: {"href": f"s3://eodata/{name}/{CDSE[band]}.jp2", **scale} for band in S2_BANDS}
    files["SCL_20m"] = {"href": f"s3://eodata/{name}/SCL_20m.jp2"}
    properties = {"datetime": "2024-06-10T14:37:41Z", "processing:version": "05.10", "grid:code": "MGRS-19HCC"}
    item = scenes.item(name, "sentinel-2-l2a", properties.pop("datetime"), files, **properties)
    scene = scene_of(item, "s2", lambda href: 1200.0)
    assert (scene.offset, scene.tile, scene.href("B8A")) == (-1000, "19HCC", f"s3://eodata/{name}/B8A_20m.jp2")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with pytest.raises(InputError, match="need S3 keys of the Copernicus Data Space in AWS_ACCESS_KEY_ID"):
        check_key(PRESETS["cdse"], ["s2"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_key(PRESETS["cdse"], ["s2"])
