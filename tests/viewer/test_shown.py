import pickle
from functools import partial
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from tqdm.std import tqdm

from geossl.api.change import Change
from geossl.errors import InputError
from geossl.faults import guarded
from geossl.viewer import notebook
from geossl.viewer.shown import MOST_BYTES, MOST_ROWS, Written


def test_a_written_path_is_a_path(tmp_path):
    path = Written(tmp_path / "a.tif")
    assert path == tmp_path / "a.tif"
    assert hash(path) == hash(tmp_path / "a.tif")
    assert isinstance(path, Path)
    assert pickle.loads(pickle.dumps(path)) == path
    assert str(path.with_suffix(".png")) == str(tmp_path / "a.png")


def test_a_notebook_shows_the_picture_and_the_table_beside_it(tmp_path):
    path = Written(tmp_path / "<a>.tif")
    assert path._repr_html_() == f"<div><code>{tmp_path}/&lt;a&gt;.tif</code></div>"
    path.with_suffix(".png").write_bytes(b"\x89PNG")
    pd.DataFrame({"class": ["<b>", *"cdefghijklmn"], "ha": range(13)}).to_csv(tmp_path / "<a>_area.csv", index=False)
    path.with_suffix(".html").write_text('<p class="a">report</p>')
    found = path._repr_html_()
    assert '<img src="data:image/png;base64,iVBORw==" alt="&lt;a&gt;.png"' in found
    assert "<th>class</th><th>ha</th>" in found
    assert "<td>&lt;b&gt;</td><td>0</td>" in found
    assert found.count("<tr>") == MOST_ROWS + 1
    assert 'srcdoc="&lt;p class=&quot;a&quot;&gt;report&lt;/p&gt;"' in found
    assert "<iframe sandbox " in found
    path.with_suffix(".png").write_bytes(b"0" * (MOST_BYTES + 1))
    assert "<img" not in path._repr_html_()


def test_a_change_shows_its_numbers_and_places():
    places = gpd.GeoDataFrame({"rank": [1], "hectares": [2.5]}, geometry=gpd.points_from_xy([1], [2]))
    found = Change(xr.Dataset(), places, {"hectares_changed": 2.5, "before": ["2020<"]})._repr_html_()
    assert "<td>hectares changed</td><td>2.5</td>" in found
    assert "2020&lt;" in found
    assert "<th>rank</th>" in found


def test_a_run_shows_its_page_and_a_large_page_is_named(tmp_path):
    (tmp_path / "run.html").write_text("curves")
    assert 'srcdoc="curves"' in Written(tmp_path)._repr_html_()
    (tmp_path / "run.html").write_bytes(b"0" * (MOST_BYTES + 1))
    assert "iframe" not in Written(tmp_path)._repr_html_()
    assert "run.html" in Written(tmp_path)._repr_html_()


def square(values, dims=("y", "x")):
    """An array of four cells of 100 m."""
    coords = {"y": [5000050.0, 4999950.0], "x": [500050.0, 500150.0]}
    return xr.DataArray(values, coords, dims, name="<b>{{7*7}}").odc.assign_crs("EPSG:32632")


@pytest.fixture
def classes(tmp_path):
    path = Written(tmp_path / "classes.tif")
    shape = {"driver": "GTiff", "height": 2, "width": 2, "count": 1, "dtype": "uint8", "nodata": 255}
    move = rasterio.Affine(100, 0, 500000, 0, -100, 5000100)
    with rasterio.open(path, "w", **shape, crs="EPSG:32632", transform=move) as file:
        file.write(np.array([[[0, 1], [1, 255]]], np.uint8))
        file.write_colormap(1, {0: (1, 2, 3, 255), 1: (250, 0, 0, 255)})
        file.update_tags(CLASS_NAMES='{"0": "{{water}}", "1": "<i>fields"}')
    return path


def test_arrays_and_written_rasters_lie_on_one_web_map(classes):
    folium = pytest.importorskip("folium")
    found = square(np.random.default_rng(0).random((5, 2, 2), np.float32), ("embedding", "y", "x")).geossl.explore()
    square([[0.0, 1.0], [2.0, np.nan]]).geossl.explore(found)
    assert classes.explore(found, name="a<b>") is found
    children = [*found._children.values()]
    assert sum(isinstance(child, folium.raster_layers.ImageOverlay) for child in children) == 3
    assert isinstance(children[-1], folium.LayerControl)
    page = found.get_root().render()
    assert "#010203" in page
    assert "&#123;&#123;water}}" in page
    assert "&lt;i&gt;fields" in page
    assert r"a\u0026lt;b\u0026gt;" in page
    assert "<b>&lt;b&gt;&#123;&#123;7*7}}" in page
    assert r'"\u0026lt;b\u0026gt;\u0026#123;\u0026#123;7*7}}"' in page  # in the list of layers


def test_explore_says_in_one_line_what_it_cannot_show(classes, monkeypatch):
    with pytest.raises(InputError, match=r"axes \('time', 'y', 'x'\); expected .* choose a date"):
        square(np.zeros((1, 2, 2)), ("time", "y", "x")).geossl.explore()
    with pytest.raises(InputError, match="does not know its place"):
        xr.DataArray(np.zeros((2, 2)), dims=("y", "x")).geossl.explore()
    monkeypatch.setattr(notebook, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"web maps .* pip install 'geossl\[notebook\]'"):
        classes.explore()


def test_a_notebook_draws_one_line_of_progress(monkeypatch, capsys):
    def work(*, progress=None):
        for done in (1, 2, 3):
            (progress or print)(done, 3, "shards")

    monkeypatch.setattr("geossl.progress.DELAY_S", 0)
    monkeypatch.setattr("geossl.progress.tqdm", partial(tqdm, mininterval=0))
    monkeypatch.setattr("geossl.progress.find_spec", lambda _: None)
    monkeypatch.setattr("geossl.faults.in_notebook", lambda: True)
    guarded(work, "geossl.work")()
    said = capsys.readouterr().out
    assert "geossl.work" in said
    assert "3/3" in said
    assert "\n" not in said
    assert said.endswith("\r")
    monkeypatch.undo()
    guarded(work, "geossl.work")()
    assert capsys.readouterr().out.splitlines() == ["1 3 shards", "2 3 shards", "3 3 shards"]
