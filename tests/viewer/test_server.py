import http.client
import http.server
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import rasterio
import shapely
import zarr
from affine import Affine
from click.testing import CliRunner
from matplotlib import image
from pyproj import Transformer

import geossl
from geossl.cli import main
from geossl.errors import InputError, MissingFileError
from geossl.inference.outputs.cog import write_blocks
from geossl.viewer.base_map import base_map
from geossl.viewer.layers import MERCATOR_M, open_layer
from geossl.viewer.server import STATIC, Server
from geossl.viewer.session import Session
from tests.inference.test_similarity import GRID, HOLE, lonlat, store, vectors
from tests.viewer import browser

NAMES = {"0": "cropland", "1": "tree cover", "2": "water"}
COLOURS = {0: (240, 220, 130, 255), 1: (60, 140, 60, 255), 2: (40, 80, 180, 255)}

AREA = shapely.Polygon([lonlat(*corner) for corner in ((5, 5), (60, 10), (40, 50))])  # the region of the map


def write_classes(path, **tags):
    """Classes at 10 m: three upright stripes, nodata below."""
    fine = GRID.zoom_to(resolution=10)
    data = np.repeat(np.arange(fine.shape[1])[None] * 3 // fine.shape[1], fine.shape[0], axis=0).astype(np.uint8)
    data[400:] = 255
    with rasterio.open(path, "w", "GTiff", *fine.shape[::-1], 1, "EPSG:32631", fine.transform, "uint8", 255) as file:
        file.write(data, 1)
        file.write_colormap(1, COLOURS)
        file.update_tags(1, **tags)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    path = store(folder / "map.zarr", vectors(), "int8")
    zarr.open_group(path, mode="r+").attrs["geossl:area"] = shapely.geometry.mapping(AREA)
    zarr.consolidate_metadata(path)
    layer = write_classes(folder / "land_cover.tif", CLASS_NAMES=json.dumps(NAMES))
    (folder / "work").mkdir()
    with Server(0) as server:
        server.session = Session(path, [layer], folder / "work")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def request(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def at(server, column, row, more=""):
    lon, lat = lonlat(column, row)
    answer, body = request(server, f"/similar.json?lon={lon}&lat={lat}{more}")
    return answer.status, json.loads(body)


def tile(server, layer, column, row, zoom=14):
    """Colour a tile shows at a place of the map."""
    lon, lat = lonlat(column, row)
    x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(lon, lat)
    side = 2 * MERCATOR_M / 2**zoom
    across, down = (x + MERCATOR_M) / side, (MERCATOR_M - y) / side
    answer, body = request(server, f"/tiles/{layer}/{zoom}/{int(across)}/{int(down)}.png")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    picture = np.rint(255 * image.imread(io.BytesIO(body))).astype(int)
    assert picture.shape == (256, 256, 4)
    return tuple(picture[int(down % 1 * 256), int(across % 1 * 256)].tolist())


@pytest.mark.parametrize("route", [*STATIC])
def test_static_files_are_served_and_ask_for_nothing_outside(served, route):
    answer, body = request(served, route)
    assert (answer.status, answer.headers["Content-Type"]) == (200, STATIC[route][1])
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if "leaflet" not in route:
        links = re.findall(r"https?://[^\s\"'<>]+", body.decode())
        assert set(links) <= {"https://leafletjs.com", "http://www.w3.org/2000/svg"}  # a name of SVG, not an address


def test_the_map_describes_itself(served):
    answer, body = request(served, "/map.json")
    values = json.loads(body)
    assert answer.status == 200
    assert (values["name"], values["shape"], values["patch_m"], values["crs"]) == (
        "map.zarr",
        [60, 70],
        80,
        "EPSG:32631",
    )
    assert [layer["name"] for layer in values["layers"]] == ["false colour", "land_cover"]
    assert shapely.geometry.shape(values["area"]).equals_exact(AREA, 1e-9)
    assert values["layers"][1]["classes"][1] == {"name": "tree cover", "colour": "#3c8c3c"}
    (south, west), (north, east) = values["bounds"]
    lon, lat = lonlat(35, 30)
    assert west < lon < east
    assert south < lat < north


@pytest.mark.parametrize("column", [0.2, 23.1, 23.5, 46.4, 46.9, 69.8])
def test_tiles_show_each_place_in_its_colour(served, column):
    assert tile(served, "1", column, 20, zoom=16) == COLOURS[int(column * 3 // 70)]  # borders at 23.33 and 46.67


def test_tiles_are_transparent_outside_and_on_nodata(served):
    assert tile(served, "1", 30, 55)[3] == 0
    assert tile(served, "0", 35, 22)[3] == 0
    assert tile(served, "0", 35, 18)[3] == 255
    assert tile(served, "0", -0.2, 10, zoom=18)[3] == 0
    assert tile(served, "0", 0.2, 10, zoom=18)[3] == 255


def test_a_click_is_answered_with_the_raster_and_the_places(served):
    status, values = at(served, 12.3, 7.8, "&top=4")
    assert status == 200
    expected = geossl.similar(served.session.folder.parent / "map.zarr", lonlat(12.3, 7.8))
    layer = values["layer"]
    assert layer["high"] == pytest.approx(1, abs=1e-6)
    assert layer["low"] == pytest.approx(np.nanpercentile(expected.values, 2), abs=0.02)
    with rasterio.open(served.session.layers[layer["id"]].path) as file:
        np.testing.assert_array_equal(file.read(1), expected.values)
    assert [m["properties"]["rank"] for m in values["places"]["features"]] == [1, 2, 3, 4]
    corners = {tuple(np.round(lonlat(c, r), 6)) for c in (12, 13) for r in (7, 8)}
    assert {tuple(np.round(p[::-1], 6)) for p in values["patch"]} == corners
    assert tile(served, layer["id"], 12.5, 7.5, zoom=16) == (253, 231, 36, 255)  # the yellow end of the bar
    assert tile(served, layer["id"], 35, 22)[3] == 0


def test_the_same_patch_is_compared_once_and_old_rasters_go(served):
    first = at(served, 40.1, 40.1)[1]
    assert at(served, 40.9, 40.9)[1] == first
    for column in range(20):
        assert at(served, column + 0.5, 50.5)[0] == 200
    rasters = [p for p in served.session.folder.iterdir() if p.name.startswith("similar")]
    assert len(rasters) == len(served.session.searches) == 16
    assert request(served, f"/tiles/{first['layer']['id']}/14/8000/6000.png")[0].status == 404


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "expected numbers"),
        ("?lon=1", "expected numbers"),
        ("?lon=a&lat=2", "expected numbers"),
        ("?lon=1&lat=2&lat=3", "expected numbers"),
        ("?lon=1&lat=2&more=3", "expected numbers"),
        ("?lon=nan&lat=2", "lon must be"),
        ("?lon=1&lat=91", "lat in -90"),
        ("?lon=1&lat=2&top=0", "top must be"),
        ("?lon=1&lat=2&top=101", "top must be"),
        ("?lon=20&lat=41", "outside the map"),
        ("?lon=-177&lat=0", "outside the map"),
    ],
)
def test_a_bad_question_gets_a_reason(served, query, reason):
    answer, body = request(served, f"/similar.json{query}")
    assert answer.status == 400
    assert reason in json.loads(body)["error"]


def test_nodata_gets_a_reason(served):
    rows, columns = HOLE[1:]
    status, values = at(served, columns.start + 0.5, rows.start + 0.5)
    assert status == 400
    assert "nodata" in values["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/static/index.html",
        "/%2e%2e/server.py",
        "/leaflet/../../server.py",
        "//etc/passwd",
        "/etc/passwd",
        "/tiles/0/../../x.png",
        "/tiles/9/1/0/0.png",
        "/tiles/0/23/0/0.png",
        "/tiles/0/1/2/0.png",
        "/tiles/../1/0/0.png",
        "/map.json/",
        "/tiles/0/1/0/0.png/x",
    ],
)
def test_unknown_routes_are_not_found(served, path):
    answer, body = request(served, path)
    assert answer.status == 404
    assert json.loads(body) == {"error": "no such page"}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_get_and_post_are_answered(served, method):
    assert request(served, "/", method)[0].status == 501
    assert request(served, "/", "POST")[0].status == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:80", ""])
def test_other_host_names_are_refused(served, host):
    answer, body = request(served, "/map.json", Host=host)
    assert answer.status == 403
    assert b"map.zarr" not in body


def test_other_web_sites_are_refused(served):
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        assert request(served, "/map.json", **{"Sec-Fetch-Site": site})[0].status == status


def test_forms_of_other_origins_are_refused(served):
    own = f"http://127.0.0.1:{served.server_address[1]}"
    for origin, status in (("http://evil.example", 403), ("null", 403), (f"{own}1", 403), (own, 200)):
        assert request(served, "/map.json", Origin=origin)[0].status == status


def test_a_fault_is_one_line_on_the_terminal(served, monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(served.session, "describe", lambda: 1 / 0)
    answer, body = request(served, "/map.json")
    assert (answer.status, body) == (500, b'{"error": "geossl failed; the terminal it was started in names the log"}')
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("geossl: `geossl view /map.json` ended in a fault of geossl itself (ZeroDivisionError")


def test_the_server_listens_on_this_machine_only(served):
    assert served.server_address[0] == "127.0.0.1"
    assert request(served, "/map.json", Host=f"localhost:{served.server_address[1]}")[0].status == 200


@pytest.mark.parametrize(
    "name",
    [
        "OSM",
        "",
        "https://a.org/{z}/{x}.png",
        "http://a.org/{z}/{x}/{y}.png",
        "https://a.org/{z}/{x}/{y}/{s}",
        "file:///x",
    ],
)
def test_base_maps_of_other_kinds_are_refused(name):
    with pytest.raises(InputError, match="is not known; use osm, or an address"):
        base_map(name)
    with pytest.raises(InputError, match="is not known"):
        base_map("https://a.org/{z}/{x}/{y}.png'; script-src *")


def test_a_base_map_is_allowed_by_name_and_credited(served, monkeypatch):
    assert "openstreetmap" not in request(served, "/")[0].headers["Content-Security-Policy"]
    assert json.loads(request(served, "/map.json")[1])["base"] is None
    monkeypatch.setattr(served, "base", base_map("osm"))
    policy = request(served, "/")[0].headers["Content-Security-Policy"]
    assert "img-src 'self' data: https://tile.openstreetmap.org; frame-ancestors" in policy
    assert "OpenStreetMap</a> contributors" in json.loads(request(served, "/map.json")[1])["base"]["credit"]


def test_layers_say_what_they_are(tmp_path):
    plain = open_layer(write_classes(tmp_path / "plain.tif"))
    assert plain.kind == "classes"
    assert plain.names == {0: "class 0", 1: "class 1", 2: "class 2"}
    assert open_layer(write_classes(tmp_path / "l.tif", CLASS_NAMES='["a", "b", "c"]')).names[2] == "c"
    with rasterio.open(tmp_path / "v.tif", "w", "GTiff", 9, 9, 1, "EPSG:32631", GRID.transform, "float32") as file:
        file.write(np.linspace(0, 1, 81, dtype=np.float32).reshape(1, 9, 9))
    values = open_layer(tmp_path / "v.tif")
    assert (values.kind, values.low, values.high) == ("values", pytest.approx(0.02), 1)
    with rasterio.open(tmp_path / "rgb.tif", "w", "GTiff", 9, 9, 3, "EPSG:32631", GRID.transform, "uint8") as file:
        file.write(np.full((3, 9, 9), 7, np.uint8))
    assert open_layer(tmp_path / "rgb.tif").kind == "picture"


def test_layers_that_cannot_be_shown_are_refused(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        open_layer(tmp_path / "no.tif")
    (tmp_path / "text.tif").write_text("no")
    with pytest.raises(InputError, match="cannot be read as a raster"):
        open_layer(tmp_path / "text.tif")
    for names in ("{", "3", '{"a": "b"}', '{"256": "b"}'):
        with pytest.raises(InputError, match="broken CLASS_NAMES tag"):
            open_layer(write_classes(tmp_path / "c.tif", CLASS_NAMES=names))
    with rasterio.open(tmp_path / "bands.tif", "w", "GTiff", 9, 9, 20, "EPSG:32631", GRID.transform, "float32"):
        pass
    with pytest.raises(InputError, match="has 20 bands of float32; expected one, RGB"):
        open_layer(tmp_path / "bands.tif")
    with rasterio.open(tmp_path / "nowhere.tif", "w", "GTiff", 9, 9, 1, None, Affine.scale(2), "uint8"):
        pass
    with pytest.raises(InputError, match="has no CRS"):
        open_layer(tmp_path / "nowhere.tif")


def command(*arguments):
    code = "from geossl.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(geossl.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, "view", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_stopped_and_tidies_up(tmp_path, monkeypatch, number):
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "work"))
    path = store(tmp_path / "map.zarr", vectors(), "int8")
    process = command(path, "--port", "0", "--no-browser")
    assert process.stdout.readline() == f"view  reading {path}\n"
    line = process.stdout.readline()
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    assert [*(tmp_path / "work").glob("geossl-view-*/quicklook.tif")]
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "stopped\n", "")
    assert [*(tmp_path / "work").iterdir()] == []


def test_a_port_in_use_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handlers stay those of this process
    path = store(tmp_path / "map.zarr", vectors(), "int8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asked = ["view", str(path), "--port", str(taken.getsockname()[1]), "--no-browser"]
        done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert re.fullmatch(
        r"geossl: --port \d+ cannot be used \(Address already in use\); choose another.*\n", done.stderr
    )


def test_a_change_raster_parts_at_its_threshold_and_says_so(tmp_path):
    z = np.tile(np.linspace(0, 4, GRID.shape[1], dtype=np.float32), (GRID.shape[0], 1))
    path, parts = tmp_path / "change.tif", [((slice(0, GRID.shape[0]), slice(0, GRID.shape[1])), np.stack([z, z, z]))]
    tags = {"GEOSSL_Z_THRESHOLD": "2", "GEOSSL_FALSE_ALARMS": "0.01"}
    names = ["z", "p_value", "distance"]
    write_blocks(path, GRID, parts, count=3, dtype="float32", nodata=np.nan, names=names, tags=tags)
    found = open_layer(path)
    assert found.describe()["note"] == "changed from 2 on, at a false-alarm rate of 1 %"
    assert (found.low, found.high, found.name) == (0, 4, "change: robust z")
    red, green, blue, _ = (int(c) for c in found.table[100])
    assert red == green == blue  # grey below the threshold
    assert int(found.table[160][0]) > int(found.table[160][2])
    write_blocks(
        path, GRID, parts, count=3, dtype="float32", nodata=np.nan, tags={"GEOSSL_Z_THRESHOLD": "high"}, names=names
    )
    with pytest.raises(InputError, match="broken GEOSSL_Z_THRESHOLD"):
        open_layer(path)


@pytest.fixture
def two_maps(tmp_path):
    first = store(tmp_path / "a.zarr", vectors(), "int8")
    second = store(tmp_path / "b.zarr", np.flip(vectors(), axis=2).copy(), "int8")
    (tmp_path / "work").mkdir()
    with Server(0) as server:
        server.session = Session(first, [], tmp_path / "work", second)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_two_maps_are_painted_in_the_same_colours(two_maps):
    layers = two_maps.session.describe()["layers"]
    assert [(layer["name"], layer["side"]) for layer in layers] == [
        ("false colour", "both"),
        ("right: b.zarr", "right"),
    ]
    left, right = (rasterio.open(two_maps.session.layers[layer["id"]].path).read() for layer in layers)
    assert left.any()
    np.testing.assert_array_equal(left, right[:, :, ::-1])


READY = "!document.querySelectorAll('.leaflet-tile:not(.leaflet-tile-loaded)').length"


@browser.needed
@pytest.mark.parametrize("mobile", [False, True])
def test_in_a_browser_a_click_shows_similarity_and_places(served, mobile):
    with browser.Page(**browser.PHONE if mobile else {}) as page:
        page.open(served.url)
        page.wait("document.querySelectorAll('#layers > li').length == 3")
        page.wait(f"document.querySelectorAll('.leaflet-tile').length > 0 && {READY}")
        assert page.js("document.querySelector('#name').textContent") == "map.zarr"
        assert page.js("[...document.querySelectorAll('.legend li')].map((e) => e.textContent)") == [*NAMES.values()]
        drawn = "document.querySelectorAll('.leaflet-overlay-pane path').length"
        assert page.js(drawn) == 2  # the region, dashed on a light line
        page.js("document.querySelector('#show-region').click()")
        assert page.js(drawn) == 0
        page.js("document.querySelector('#show-region').click()")
        corners = "document.querySelector('.leaflet-overlay-pane path').getBoundingClientRect()"
        left, top = page.js(f"(r => [r.left, r.top])({corners})")
        at_corner = page.js("(p => [p.x, p.y])(map.latLngToContainerPoint([{1}, {0}]))".format(*lonlat(5, 5)))
        assert (left, top) == pytest.approx(at_corner, abs=4)
        lon, lat = lonlat(12.5, 7.5)
        x, y = page.js(f"(p => [p.x, p.y])(map.latLngToContainerPoint([{lat}, {lon}]))")
        page.click(x, y)
        page.wait("document.querySelectorAll('#places li').length == 10")
        page.wait(f"document.querySelectorAll('#layers > li').length == 4 && {READY}")
        assert page.js("document.querySelectorAll('.leaflet-marker-icon .rank').length") == 10
        assert "similar" in page.js(
            "document.querySelector('.leaflet-tile-container img').closest('.leaflet-pane').innerHTML"
        )
        assert page.js("document.querySelector('.bar').getAttribute('aria-label')").endswith(" to 1.00")
        shown = float(page.js("document.querySelector('#places button').textContent").split("-")[0][1:6])
        assert shown == pytest.approx(
            at(served, 12.5, 7.5)[1]["places"]["features"][0]["properties"]["score"], abs=1e-3
        )
        page.js("document.querySelector('#layers input[type=checkbox]').click()")
        assert "similar" not in page.js("document.querySelector('.leaflet-tile-pane').innerHTML")
        assert page.js("document.documentElement.scrollWidth <= innerWidth")
        assert page.errors == []
        assert {url.split("/")[2] for url in page.requests if url.startswith("http")} == {served.url.split("/")[2]}


@browser.needed
def test_in_a_browser_the_keyboard_is_enough(served):
    with browser.Page() as page:
        page.open(served.url)
        page.wait("document.querySelectorAll('#layers > li').length == 3")
        controls = "[...document.querySelectorAll('input, button, [role=img]')].filter((e) => e.offsetParent)"
        named = "(e.labels?.length || e.getAttribute('aria-label') || e.textContent)"
        assert page.js(f"{controls}.length") == 7
        assert page.js(f"{controls}.every((e) => {named})")
        page.js("map.setView(map.getCenter(), map.getZoom(), {animate: false}); document.getElementById('map').focus()")
        page.press("Enter", 13)
        page.wait("document.querySelectorAll('#places li').length == 10")
        page.js("document.querySelector('#places button').focus()")
        page.press("Enter", 13)
        page.wait("document.querySelector('.leaflet-popup')?.textContent.startsWith('Place 1, similarity')")
        lon, lat = lonlat(35, 22)
        page.js(
            f"document.querySelector('#point').value = '{lon}, {lat}'; document.querySelector('#search button').click()"
        )
        page.wait("document.querySelector('#status').textContent.includes('nodata')")
        page.js("document.querySelector('#point').value = 'here'; document.querySelector('#search button').click()")
        assert page.js("document.querySelector('#status').textContent") == "Write a point as lon, lat."
        assert [e for e in page.errors if "400" not in e] == []  # the browser itself logs the refused search


@browser.needed
def test_in_a_browser_a_slider_swipes_one_map_over_the_other(two_maps):
    with browser.Page() as page:
        page.open(two_maps.url)
        page.wait("document.querySelectorAll('#layers > li').length == 2")
        page.wait(f"document.querySelectorAll('.leaflet-right-pane img').length > 0 && {READY}")
        clip = "document.querySelector('.leaflet-right-pane').style.clip"
        size = page.js("map.getSize().x")
        assert page.js(clip).endswith(f"{size / 2:g}px)")
        page.js("(e => {e.value = 1; e.dispatchEvent(new Event('input'))})(document.querySelector('#swipe'))")
        assert page.js(clip).endswith(f"{size:g}px)")
        assert page.errors == []


class Tiles(http.server.BaseHTTPRequestHandler):
    """A host of base-map tiles: green ones, and none of zoom 15 and deeper."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Referer")))
        body = io.BytesIO()
        image.imsave(body, np.broadcast_to(np.uint8([0, 200, 0, 255]), (256, 256, 4)), format="png")
        is_there = int(self.path.split("/")[1]) < 15
        self.send_response(200 if is_there else 404)
        self.end_headers()
        self.wfile.write(body.getvalue() if is_there else b"")

    def log_message(self, *_):
        pass


@browser.needed
def test_in_a_browser_a_base_map_lies_below_and_its_faults_hurt_nothing(served, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tiles) as host, browser.Page() as page:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{host.server_address[1]}/{{z}}/{{x}}/{{y}}.png"
        monkeypatch.setattr(served, "base", base_map(address))
        page.open(served.url)
        page.wait("document.querySelectorAll('#layers > li').length == 4")
        tiles = f"[...document.querySelectorAll('.leaflet-tile[src^=\"{address.split('{')[0]}\"]')]"
        page.js("map.setView(map.getCenter(), 13, {animate: false}); 0")
        page.wait(f"{tiles}.length > 0 && {tiles}.every((e) => e.naturalWidth == 256) && {READY}")
        first = f"{tiles}[0].closest('.leaflet-layer')"
        assert page.js(f"{first} === {first}.parentElement.firstElementChild || {first}.style.zIndex == 0")
        assert "base map: 127.0.0.1" in page.js("document.querySelector('.leaflet-control-attribution').textContent")
        assert {referrer for _, referrer in Tiles.asked} == {served.url}  # what hosts of tiles ask for
        assert page.errors == []
        page.js("map.setView(map.getCenter(), 15, {animate: false}); 0")  # no tiles of the host from here on
        page.wait("document.querySelectorAll('.leaflet-tile-loaded[src*=\"tiles/0/15/\"]').length > 0")
        assert [e for e in page.errors if "404" not in e] == []
        page.js("document.querySelector('#show-base').click()")
        assert page.js(f"{tiles}.length") == 0
        host.shutdown()
