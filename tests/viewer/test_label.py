import http.client
import json
import threading
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from geossl.data.labels.blocks import assign_blocks
from geossl.data.labels.ground_truth import read_labels
from geossl.data.labels.patches import patch_samples
from geossl.errors import InputError
from geossl.inference.similarity import open_embeddings
from geossl.viewer import curve
from geossl.viewer.labelled import SETTING, Labelled
from geossl.viewer.labelling import Labelling
from geossl.viewer.marks import MOST_NAME, Marks
from geossl.viewer.server import TOKEN, Server
from geossl.viewer.session import Session
from tests.inference.test_similarity import DIM, GRID, HOLE, as_array, box, lonlat
from tests.viewer import browser

ROWS, COLUMNS = GRID.shape
TRUTH = np.repeat(np.arange(COLUMNS)[None] * 3 // COLUMNS, ROWS, axis=0)  # three upright stripes
NAMES = ("water", "wood", "field")


def stripes(path, spread=0.4):
    """A map whose vectors part three stripes, with a hole of nodata; its last row was made from radar alone."""
    data = np.random.default_rng(0).normal(scale=spread, size=(DIM, *GRID.shape)).astype(np.float32)
    for i in range(3):
        data[i] += 2 * (i == TRUTH)
    data[HOLE] = np.nan
    sensors = np.where(np.isnan(data[0]), 0, 2).astype(np.uint8)
    sensors[-1] = 1
    layers = {"embeddings": as_array(data), "sensors": as_array(sensors[None])[0].drop_vars("embedding")}
    xr.Dataset(layers).to_zarr(path, zarr_format=3, consolidated=True)
    return path


@pytest.fixture(scope="module")
def map_path(tmp_path_factory):
    return stripes(tmp_path_factory.mktemp("map") / "map.zarr")


@pytest.fixture
def labelling(map_path, tmp_path):
    (tmp_path / "work").mkdir()
    return Labelling(map_path, open_embeddings(map_path), tmp_path / "labels.gpkg", tmp_path / "work")


def patch(column, row):
    return lonlat(column + 0.5, row + 0.5)


def label(labelling, *where):
    """Three classes, and labels of patches: of the stripe each lies in."""
    for name in NAMES:
        labelling.name(name)
    for column, row in where:
        labelling.add(NAMES[TRUTH[row, column]], patch(column, row), patch(column, row))


def test_a_click_labels_a_patch_and_a_drag_those_whose_centres_lie_within(labelling):
    labelling.name("water")
    labelling.add("water", lonlat(3.9, 5.1), lonlat(3.9, 5.1))
    labelling.add("water", lonlat(13.4, 9.6), lonlat(10.6, 7.4))
    shapes = list(gpd.read_file(labelling.marks.path).geometry)
    for shape, expected in zip(shapes, (box(3, 5, 4, 6), box(11, 7, 13, 10)), strict=True):
        assert shape.symmetric_difference(expected).area == pytest.approx(0, abs=1e-3)
    numbers = labelling.marks.numbers()
    assert (numbers[5, 3], (numbers == 1).sum(), (numbers == 2).sum()) == (1, 1, 6)


def test_a_later_label_takes_the_place_of_an_earlier_one(labelling):
    labelling.name("water")
    labelling.name("wood")
    labelling.add("water", lonlat(10, 10), lonlat(14, 14))
    found = labelling.add("wood", lonlat(12, 8), lonlat(20, 12))
    assert [entry["patches"] for entry in found["classes"]] == [12, 32]
    found = labelling.erase(lonlat(9, 9), lonlat(21, 15))
    assert [entry["labels"] for entry in found["classes"]] == [0, 1]
    assert found["classes"][1]["patches"] == 8
    with pytest.raises(InputError, match="no label to take away"):
        labelling.erase(lonlat(9, 13), lonlat(11, 15))


def test_every_change_is_saved_and_can_be_undone(labelling):
    label(labelling, (2, 3), (40, 3))
    labelling.rename("field", "crop, 2024")
    labelling.rename("wood", "water")  # joins the two
    assert list(gpd.read_file(labelling.marks.path)["class"]) == ["water", "water"]
    for expected in (["water", "wood"], ["water", "wood"], ["water"], []):
        labelling.undo()
        assert list(gpd.read_file(labelling.marks.path)["class"]) == expected
    for _ in NAMES:
        labelling.undo()
    with pytest.raises(InputError, match="nothing to undo"):
        labelling.undo()
    assert labelling.describe()["classes"] == []


def test_labels_are_gone_on_with(labelling):
    label(labelling, (2, 3), (40, 3), (41, 50))
    again = Marks(labelling.marks.path, GRID)
    assert again.state.classes == ("water", "wood")
    np.testing.assert_array_equal(again.numbers(), labelling.marks.numbers())


def test_finetune_sees_the_same_patches(labelling):
    where = [(c, r) for c in (3, 12, 30, 50, 66) for r in (4, 15, 31, 55)]
    label(labelling, *where)
    labelling.add("field", lonlat(55, 40), lonlat(60, 44))
    labels = read_labels(labelling.marks.path, "class")
    values = open_embeddings_of(labelling)
    split = assign_blocks(labels, 8, 10.0, 0)
    found = patch_samples(values, GRID, labels, split, 8, 0).to_fit(8)
    own, _ = labelling.vectors.labelled(labelling.marks.numbers(), labelling.marks.codes())
    names = np.array(labels.names)[found.y]
    assert len(found.x) == len(where) + 5 * 4
    order, mine = np.lexsort(found.x.T), np.lexsort(own.x.T)
    np.testing.assert_array_equal(found.x[order], own.x[mine])
    assert names[order].tolist() == [NAMES[i] for i in own.y[mine]]


def open_embeddings_of(labelling):
    out = np.full((DIM, *GRID.shape), np.nan, np.float32)
    out[:, labelling.vectors.valid] = labelling.vectors.x.T
    return out


def test_a_head_paints_classes_and_uncertainty_at_once(labelling):
    label(labelling, (2, 3), (5, 50), (40, 3), (42, 44), (60, 12), (65, 33))
    layers = labelling.fit()["layers"]
    classes, doubt = (
        rasterio.open(labelling.layers[layers[kind]["id"]].path).read(1) for kind in ("label-classes", "label-doubt")
    )
    own = labelling.vectors.valid.copy()
    own[-1] = False  # made from radar alone, of which nothing is labelled
    assert (classes[~own] == 255).all()
    assert np.isnan(doubt[~own]).all()
    assert (classes[own] == TRUTH[own]).mean() > 0.9
    x, where = labelling.vectors.x, np.cumsum(labelling.vectors.valid.ravel()).reshape(GRID.shape) - 1
    labelled = [where[r, c] for c, r in ((2, 3), (5, 50), (40, 3), (42, 44), (60, 12), (65, 33))]
    scaler = StandardScaler().fit(x[labelled].astype(float))
    model = LogisticRegression(C=SETTING["c"], max_iter=1000).fit(scaler.transform(x[labelled]), [0, 0, 1, 1, 2, 2])
    lead = np.sort(model.predict_proba(scaler.transform(x)), axis=1)
    np.testing.assert_allclose(doubt[own], (1 - lead[:, -1] + lead[:, -2])[where[own]], atol=1e-5)
    assert [entry["name"] for entry in layers["label-classes"]["classes"]] == [*NAMES]
    assert labelling.fit()["layers"] == layers  # nothing new, nothing fitted
    labelling.add("wood", patch(2, 3), patch(2, 3))
    assert labelling.fit()["layers"]["label-classes"]["id"] != layers["label-classes"]["id"]


def test_one_class_paints_nothing(labelling):
    label(labelling, (2, 3), (5, 50), (40, 3))
    assert labelling.fit()["layers"]
    labelling.undo()
    assert labelling.fit()["layers"] == {}
    assert [path.name for path in labelling.folder.iterdir()] == []


def test_the_next_place_is_uncertain_and_away_from_labels_and_earlier_places(labelling):
    places = [(2, 3), (5, 50), (40, 3), (42, 44), (60, 12), (65, 33)]
    label(labelling, *places)
    _, guess = labelling.guess()
    seen = [at(labelling.next()) for _ in range(8)]
    for i, (column, row) in enumerate(seen):
        others = np.array([*places, *seen[:i]])
        assert np.abs(others - (column, row)).max(axis=1).min() > 3
        assert labelling.vectors.valid[row, column]
    around = [np.nanmean(guess.uncertainty[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2]) for c, r in seen]
    assert np.mean(around) > np.nanquantile(guess.uncertainty, 0.75)


def test_the_next_place_lies_in_the_region(map_path, tmp_path):
    area = shapely.geometry.mapping(shapely.Polygon([lonlat(*c) for c in ((50, 5), (65, 5), (65, 20), (50, 20))]))
    labelling = Labelling(map_path, open_embeddings(map_path), tmp_path / "labels.gpkg", tmp_path, area)
    for _ in range(4):
        column, row = at(labelling.next())
        assert 50 <= column < 65
        assert 5 <= row < 20


def test_the_first_places_are_proposed_without_a_head(labelling):
    label(labelling)
    first = at(labelling.next())
    assert labelling.vectors.valid[first[1], first[0]]
    labelling.add(NAMES[TRUTH[first[1], first[0]]], patch(*first), patch(*first))
    second = at(labelling.next())
    assert TRUTH[second[1], second[0]] != TRUTH[first[1], first[0]]  # unlike what is labelled


def at(found):
    """Column and row of a proposed place."""
    from pyproj import Transformer

    x, y = Transformer.from_crs(4326, 32631, always_xy=True).transform(found["lon"], found["lat"])
    column, row = ~GRID.transform * (x, y)
    return int(column), int(row)


def samples(count, spread, seed=0, telling=1):
    """Labels of a patch each of two classes, in 25 blocks; some of the numbers tell the class."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.normal(scale=spread, size=(count, 20)).astype(np.float32)
    x[:, :telling] += 2 * y[:, None]
    return Labelled(x, y, np.arange(count), rng.integers(0, 25, count))


def test_the_curve_foretells_a_gain_where_there_is_one():
    hard, easy = (curve.label_curve(found, ("a", "b")) for found in (samples(60, 1.5), samples(60, 0.1, telling=20)))
    assert hard["gain"] > 0
    assert hard["points"][-1][1] < 90
    assert hard["interval"][0] < hard["gain"] < hard["interval"][1]
    assert easy["points"][-1][1] == 100
    assert easy["gain"] == pytest.approx(0, abs=0.2)
    assert easy["said"].endswith("That may be nothing.")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (samples(19, 1), "19 labels, and 20 are needed"),
        (samples(0, 1), "0 labels"),
        (samples(30, 1)._replace(block=np.arange(30) % 4), "4 blocks of ground, and 5 are needed"),
        (samples(30, 1)._replace(y=np.r_[np.zeros(28, int), 1, 1]), "wood needs 3 labels"),
        (
            samples(30, 1)._replace(y=np.arange(30) // 26, block=np.r_[np.arange(26), [30] * 4]),
            "all of wood lies together",
        ),
        (samples(30, 1)._replace(y=np.zeros(30, int)), "of one class"),
    ],
)
def test_the_curve_says_when_labels_are_too_few(found, reason):
    said = curve.label_curve(found, ("water", "wood"))
    assert set(said) == {"said"}
    assert said["said"].startswith("Too few labels to tell what more would bring: ")
    assert reason in said["said"]


def test_a_curve_scores_whole_blocks_no_head_has_seen(monkeypatch):
    seen = []
    found = samples(40, 1)
    keep = curve.answered

    def watched(labelled, train, test, classes):
        seen.append((set(labelled.block[train]), set(labelled.block[test])))
        return keep(labelled, train, test, classes)

    monkeypatch.setattr(curve, "answered", watched)
    curve.label_curve(found, ("a", "b"))
    assert all(not train & test for train, test in seen)
    assert set().union(*(test for _, test in seen)) == set(found.block)


def rows(column, *values, shape):
    return gpd.GeoDataFrame({column: list(values)}, geometry=[shape] * len(values), crs=32631)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda p: rows("kind", "a", shape=box(0, 0, 1, 1)).to_file(p), "column 'class'"),
        (lambda p: rows("class", "a", shape=box(0, 0, 1, 1).centroid).to_file(p), "must hold polygons"),
        (lambda p: rows("class", *map(str, range(21)), shape=box(0, 0, 1, 1)).to_file(p), "21 labels of 21 classes"),
        (lambda p: rows("class", "a" * 61, shape=box(0, 0, 1, 1)).to_file(p), "a name of 1 to 60 letters"),
        (lambda p: p.write_text("no"), "cannot be read"),
        (lambda p: p.mkdir(), "is a folder"),
    ],
)
def test_files_of_another_kind_are_refused_and_left_alone(map_path, tmp_path, write, reason):
    path = tmp_path / "labels.gpkg"
    write(path)
    with pytest.raises(InputError, match=reason):
        Labelling(map_path, open_embeddings(map_path), path, tmp_path)
    assert path.exists()


def test_maps_that_do_not_fit_are_refused(map_path, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="must end in .gpkg"):
        Labelling(map_path, open_embeddings(map_path), tmp_path / "labels.shp", tmp_path)
    monkeypatch.setattr("geossl.viewer.guesses.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="embed a smaller region, or with"):
        Labelling(map_path, open_embeddings(map_path), tmp_path / "labels.gpkg", tmp_path)
    assert not (tmp_path / "labels.gpkg").exists()


@pytest.fixture
def served(map_path, tmp_path):
    (tmp_path / "served").mkdir()
    with Server(0) as server:
        labelling = Labelling(map_path, open_embeddings(map_path), tmp_path / "labels.gpkg", tmp_path / "served")
        server.session = Session(map_path, [], tmp_path / "served", labelling=labelling)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def post(server, values, path="/label", **headers):
    body = values if isinstance(values, bytes) else json.dumps(values).encode()
    given = {TOKEN: server.token, "Content-Type": "application/json", **headers}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request("POST", path, body, {name: value for name, value in given.items() if value is not None})
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    return answer.status, found


CORNERS = {"from": [*patch(2, 3)], "to": [*patch(2, 3)]}


def test_the_page_labels_over_http(served):
    assert post(served, {"do": "name", "name": "water"})[0] == 200
    status, found = post(served, {"do": "add", "class": "water", **CORNERS}, Origin=served.url.rstrip("/"))
    assert (status, found["classes"][0]["patches"], found["undo"]) == (200, 1, True)
    assert post(served, {"do": "fit"})[1]["layers"] == {}
    assert post(served, {"do": "curve"})[1]["said"].startswith("Too few labels")
    assert post(served, {"do": "undo"})[1]["labels"] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({TOKEN: None}, 403),
        ({TOKEN: "guess"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": None}, 415),
        ({"Transfer-Encoding": "chunked"}, 415),
        ({"Content-Length": "9999999999"}, 413),
        ({"Content-Length": "-1"}, 413),
    ],
)
def test_requests_of_others_change_nothing(served, headers, status):
    assert post(served, {"do": "name", "name": "water"}, **headers)[0] == status
    assert served.session.describe()["label"]["classes"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x" * 5000,
        b"[" * 2000,
        b"[]",
        b'"name"',
        b"{",
        {"do": "forget"},
        {"do": "__init__"},
        {"do": ["add"]},
        {"do": "name"},
        {"do": "name", "name": ""},
        {"do": "name", "name": 3},
        {"do": "name", "name": "a\nb"},
        {"do": "name", "name": "a" * (MOST_NAME + 1)},
        {"do": "undo", "more": 1},
        {"do": "rename", "class": "sea", "name": "water"},
        {"do": "add", "class": "water", **CORNERS},
        {"do": "erase", "from": [1, 2, 3], "to": [1, 2]},
        {"do": "erase", "from": [True, 2], "to": [1, 2]},
        {"do": "erase", "from": ["1", 2], "to": [1, 2]},
        {"do": "erase", "from": [1e999, 2], "to": [1, 2]},
        {"do": "erase", "from": [181, 2], "to": [1, 2]},
        {"do": "erase", "from": [20, 50], "to": [21, 51]},
        {"do": "erase", **CORNERS},
        {"do": "undo"},
    ],
)
def test_bad_requests_get_a_reason_and_change_nothing(served, body):
    status, found = post(served, body)
    assert status in (400, 413)
    assert set(found) == {"error"}
    assert served.session.describe()["label"]["classes"] == []
    assert not Path(served.session.describe()["label"]["file"]).exists()


def test_without_label_mode_there_is_nothing_to_change(served):
    assert post(served, {"do": "undo"}, path="/map.json")[0] == 404
    served.session.labelling = None
    assert post(served, {"do": "undo"})[0] == 404


def test_limits_are_said(served, monkeypatch):
    marks = served.session.labelling.marks
    monkeypatch.setattr("geossl.viewer.marks.MOST_CLASSES", 2)
    for name in ("a", "b"):
        assert post(served, {"do": "name", "name": name})[0] == 200
    assert "2 classes, which is the most" in post(served, {"do": "name", "name": "c"})[1]["error"]
    assert "already" in post(served, {"do": "name", "name": "a "})[1]["error"]
    monkeypatch.setattr("geossl.viewer.marks.MOST_LABELS", 1)
    assert post(served, {"do": "add", "class": "a", **CORNERS})[0] == 200
    assert post(served, {"do": "add", "class": "b", **CORNERS})[0] == 200  # takes its place
    other = {"from": [*patch(9, 9)], "to": [*patch(9, 9)]}
    assert "1 labels, which is the most" in post(served, {"do": "add", "class": "b", **other})[1]["error"]
    assert len(marks.state.frame) == 1


POINT = "(p => [p.x, p.y])(map.latLngToContainerPoint([{1}, {0}]))"  # the map begins at the window's corner


@browser.needed
@pytest.mark.parametrize("mobile", [False, True])
def test_in_a_browser_keys_clicks_and_drags_label(served, mobile):
    with browser.Page(**browser.PHONE if mobile else {}) as page:
        page.open(served.url)
        page.wait("document.querySelector('#how').textContent.startsWith('Name a first class')")
        for i, name in enumerate(NAMES):
            page.js(f"document.querySelector('#classname').value = '{name}'")
            page.js("document.querySelector('#naming').requestSubmit()")
            page.wait(f"document.querySelectorAll('#classes li').length == {i + 2}")
        page.js("document.activeElement.blur(); map.setView(map.getCenter(), 12, {animate: false}); 0")
        for count, (key, column, row) in enumerate([("1", 4, 10), ("2", 36, 12), ("3", 60, 14)]):
            page.press(key, ord(key))
            page.click(*page.js(POINT.format(*patch(column, row))))
            page.wait(f"labels.labels.length == {count + 1}")
        ends = [page.js(POINT.format(*lonlat(*corner))) for corner in ((28, 40), (33.2, 44.2))]
        page.press("2", ord("2"))
        page.drag(*ends)
        page.wait("labels.labels.length == 4")
        amount = "[...document.querySelectorAll('#classes .where')].map((e) => e.textContent)"
        assert page.js(amount) == ["1 (1 patches)", "2 (21 patches)", "1 (1 patches)"]
        page.wait("document.body.dataset.fitted == labels.version && !document.body.classList.contains('fitting')")
        page.wait("document.querySelectorAll('.legend li').length == 3")
        page.press("n", ord("N"))
        page.wait("proposed !== null")
        page.press("1", ord("1"))  # labels the place and goes on to the next
        page.wait("labels.labels.length == 5 && proposed !== null")
        page.press("u", ord("U"))
        page.wait("labels.labels.length == 4")
        page.js("document.querySelector('#more').click()")
        page.wait("document.querySelector('#labelstatus').textContent.startsWith('Too few labels')")
        assert page.js("document.documentElement.scrollWidth <= innerWidth")
        assert page.errors == []
        assert {url.split("/")[2] for url in page.requests if url.startswith("http")} == {served.url.split("/")[2]}
    saved = gpd.read_file(served.session.labelling.marks.path)
    assert sorted(saved["class"]) == ["field", "water", "wood", "wood"]
