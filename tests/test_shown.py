import pickle
from pathlib import Path

import geopandas as gpd
import pandas as pd
import xarray as xr

from geossl.api.change import Change
from geossl.shown import MOST_BYTES, MOST_ROWS, Written


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
    path.with_suffix(".html").write_text("report")
    found = path._repr_html_()
    assert '<img src="data:image/png;base64,iVBORw==" alt="&lt;a&gt;.png"' in found
    assert "<th>class</th><th>ha</th>" in found
    assert "<td>&lt;b&gt;</td><td>0</td>" in found
    assert found.count("<tr>") == MOST_ROWS + 1
    assert found.count("report: <code>") == 1
    path.with_suffix(".png").write_bytes(b"0" * (MOST_BYTES + 1))
    assert "<img" not in path._repr_html_()


def test_a_change_shows_its_numbers_and_places():
    places = gpd.GeoDataFrame({"rank": [1], "hectares": [2.5]}, geometry=gpd.points_from_xy([1], [2]))
    found = Change(xr.Dataset(), places, {"hectares_changed": 2.5, "before": ["2020<"]})._repr_html_()
    assert "<td>hectares changed</td><td>2.5</td>" in found
    assert "2020&lt;" in found
    assert "<th>rank</th>" in found
