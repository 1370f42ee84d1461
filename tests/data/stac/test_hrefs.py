import json
import os

import pytest

from geossl.data.stac import remote
from geossl.data.stac.hrefs import check_href, check_item
from geossl.data.stac.ranking import find_scenes, resumed
from geossl.errors import BandError, InputError, Note, RunError, redact
from tests.data.stac.test_search import PERIOD, catalog, region  # noqa: F401  (a fixture)
from tests.servers import scenes

API = "https://stac.example.org/v1"
VRT = '<VRTDataset rasterXSize="1" rasterYSize="1"/>'


@pytest.mark.parametrize(
    "href",
    [
        "https://stac.example.org/a.tif",
        "https://data.example.org/a.tif",
        "https://sentinel2l2a01.blob.core.windows.net/x/B02.tif?sig=1",
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/B02.tif",
        "s3://sentinel-s1-rtc/a.tif",
        "gs://bucket/a.tif",
    ],
)
def test_addresses_of_a_catalogue_s_own_and_public_stores_are_read(href):
    check_href(href, API)


@pytest.mark.parametrize(
    ("href", "words"),
    [
        ("/etc/passwd", "its catalogue is remote"),
        ("file:///etc/passwd", "its catalogue is remote"),
        ("FILE:///etc/passwd", "its catalogue is remote"),
        ("../../etc/passwd", "its catalogue is remote"),
        ("/vsicurl/http://169.254.169.254/latest", "its catalogue is remote"),
        ("/vsizip//tmp/a.zip", "its catalogue is remote"),
        ("vrt:///etc/passwd?bands=1", "its catalogue is remote"),
        ("GTIFF_DIR:1:/etc/passwd", "its catalogue is remote"),
        ("ftp://stac.example.org/a.tif", "its catalogue is remote"),
        (VRT, "no address that could be read"),
        ("\n" + VRT, "no address that could be read"),
        ("https://stac.example.org\\@127.0.0.1/a.tif", "no address that could be read"),
        ("", "no address that could be read"),
        (None, "no address that could be read"),
        (["https://stac.example.org/a.tif"], "no address that could be read"),
        ("https://127.0.0.1/a.tif", "lies on '127.0.0.1'"),
        ("http://2130706433/a.tif", "lies on '2130706433'"),
        ("http://0x7f.1/a.tif", "lies on '0x7f.1'"),
        ("http://[::1]/a.tif", "lies on '::1'"),
        ("http://169.254.169.254/latest/meta-data", "lies on '169.254.169.254'"),
        ("https://evil.test/a.tif", r"lies on 'evil.test', .* GEOSSL_ALLOW=evil.test"),
        ("https://stac.example.org.evil.test/a.tif", "lies on 'stac.example.org.evil.test'"),
        ("https://stac.example.org@evil.test/a.tif", "lies on 'evil.test'"),
        ("https://notamazonaws.com/a.tif", "lies on 'notamazonaws.com'"),
        ("https://[/a.tif", r"lies on 'https://\[/a.tif'"),
    ],
)
def test_a_remote_catalogue_points_nowhere_else(href, words):
    with pytest.raises(InputError, match=words):
        check_href(href, API)


def test_a_user_may_allow_hosts_and_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOSSL_ALLOW", f"evil.test, {tmp_path}")
    check_href("https://evil.test/a.tif", API)
    check_href(str(tmp_path / "a.tif"), "/somewhere/catalog.json")
    with pytest.raises(InputError, match="its catalogue is remote"):
        check_href(str(tmp_path / "a.tif"), API)


def test_a_catalogue_on_disk_reads_below_its_own_folder(tmp_path):
    inside, outside = tmp_path / "cat/images/a.tif", tmp_path / "b.tif"
    inside.parent.mkdir(parents=True)
    inside.touch()
    outside.touch()
    file = str(tmp_path / "cat/catalog.json")
    check_href(str(inside), file)
    check_href(inside.as_uri(), file)
    check_href("https://sentinel2l2a01.blob.core.windows.net/a.tif", file)
    (tmp_path / "cat/link.tif").symlink_to(outside)
    os.mkfifo(tmp_path / "cat/fifo.tif")
    for href, words in [
        (str(outside), "outside its catalogue's folder"),
        (f"{inside.parent}/../../b.tif", "outside its catalogue's folder"),
        (str(tmp_path / "cat/link.tif"), "outside its catalogue's folder"),
        (str(tmp_path / "cat/fifo.tif"), "is not a file"),
        (str(tmp_path / "cat"), "is not a file"),
        ("images/a.tif", "relative address"),
        ("https://127.0.0.1/a.tif", "lies on '127.0.0.1'"),
        (f"/vsizip/{inside}", "only http, https, s3, gs and files"),
    ]:
        with pytest.raises(InputError, match=words):
            check_href(href, file)


def test_only_assets_that_are_read_are_looked_at():
    item = {"id": "i", "assets": {"thumbnail": {"href": "file:///etc/passwd"}, "B02": {"href": f"{API}/a.tif"}}}
    check_item(item, ("B02", "VV"), API)
    item["assets"]["vv"] = {"href": "/etc/passwd"}
    with pytest.raises(BandError, match="item i: vv points to '/etc/passwd'"):
        check_item(item, ("B02", "VV"), API)


def test_a_scene_that_points_to_local_files_is_left_out_unread(catalog, monkeypatch):  # noqa: F811
    def hostile(folder):
        item = scenes.raw(folder, "hostile", "2024-06-10T14:40:00Z")
        item["assets"]["B02"]["href"] = "/etc/passwd"
        return item

    server = catalog(hostile)
    monkeypatch.setattr(remote, "opened", lambda *_: pytest.fail("a file was opened"))
    with (
        pytest.warns(Note, match=r"1 s2 scene\(s\) left out: item hostile: B02 points to '/etc/passwd'"),
        pytest.raises(InputError, match="no valid scene"),
    ):
        find_scenes(region(), PERIOD, server.url, sensors=["s2"])


def test_a_vrt_behind_an_allowed_address_is_not_opened(catalog, tmp_path):  # noqa: F811
    server = catalog()
    (tmp_path / "files").mkdir(exist_ok=True)
    (tmp_path / "files/a.tif").write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="2">'
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
        '<SourceFilename relativetoVRT="0">/etc/passwd</SourceFilename></VRTRasterBand></VRTDataset>'
    )
    with pytest.raises(RunError, match=r"a\.tif cannot be read"):
        remote.opened(f"{server.url}/files/a.tif", "", lambda source: source.read())


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@host.org/a?x=1#f", "https://host.org/a?x=1#f"),
        ("https://host.org/a?subscription-key=12ab&x=1", "https://host.org/a?x=1"),
        ("no https://h.org/a.tif?se=1&sig=Zm9v%3D&sp=r here", "no https://h.org/a.tif here"),
        ("'https://h.org/a?X-Amz-Signature=1&X-Amz-Credential=2'", "'https://h.org/a'"),
        ("s3://KEY:SECRET@bucket/a.tif", "s3://bucket/a.tif"),
        ("https://h.org/a?access_token=1&size=2", "https://h.org/a?size=2"),
        ("https://h.org/a?api_key=1;apikey=2", "https://h.org/a"),
        ("https://h.org:8000/a.tif", "https://h.org:8000/a.tif"),
        ("/data/a@b.tif and a?token=b", "/data/a@b.tif and a?token=b"),
        ("https://[bad/a?sig=1", "https://[bad/a"),
        ("exceeded with url: /?subscription-key=12ab (Caused by", "exceeded with url: / (Caused by"),
        ("with url: /a/search?x=1&sig=Zm9v&se=1 (", "with url: /a/search?x=1 ("),
    ],
)
def test_secrets_are_redacted_and_nothing_else(text, clean):
    assert redact(text) == clean


def test_a_plan_holds_no_secret_and_asks_again(catalog):  # noqa: F811
    def signed(folder):
        item = scenes.raw(folder, "one", "2024-06-10T14:40:00Z")
        for asset in item["assets"].values():
            asset["href"] += "?sig=TOPSECRET&v=1"
        return item

    server = catalog(signed)
    url = server.url.replace("//", "//me:TOPSECRET@") + "?subscription-key=TOPSECRET"
    source = find_scenes(region(), PERIOD, url, sensors=["s2"])
    written = json.dumps(source.describe())
    assert "TOPSECRET" not in written
    assert "me:" not in written
    assert "?v=1" in written  # what is not a secret stays
    request = {"date": PERIOD, "catalog": url}
    again = resumed(region(), json.loads(written), request)
    assert again.optical == source.optical
    assert json.dumps(again.describe()) == written
    server.items.clear()
    with pytest.raises(InputError, match=r"scene one of the map that was begun is not in http://127\.0\.0\.1:\d+ any"):
        resumed(region(), json.loads(written), request)
