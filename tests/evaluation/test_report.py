import json

import numpy as np
import pytest

from geossl.evaluation.report import curve_figure, markdown, score_rows, scores_figure, write_report
from geossl.evaluation.scores import Scores


def scores(value, **more):
    return Scores({"accuracy": value, **more}, {"accuracy": (value - 0.1, value + 0.05)}, np.array([[3, 1], [0, 4]]))


def test_a_table_names_every_score_and_its_interval():
    rows = score_rows({"knn": scores(0.5), "kmeans": scores(0.4, nmi=0.25)})
    assert rows[0] == ["", "accuracy", "nmi"]
    assert rows[1] == ["knn", "0.500 [0.400, 0.550]", ""]
    assert rows[2] == ["kmeans", "0.400 [0.300, 0.450]", "0.250"]
    lines = markdown(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("|--")


def test_points_lie_at_their_scores_between_their_intervals():
    figure = scores_figure({"a": scores(0.5), "b": scores(0.7)})
    lines = figure.axes[0].get_lines()
    assert lines[0].get_xdata().tolist() == pytest.approx([0.4, 0.55])
    assert lines[3].get_xdata().tolist() == pytest.approx([0.7])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_a_curve_has_a_tick_per_share_and_a_line_per_classifier():
    line = {1.0: scores(0.6), 0.1: scores(0.3)}
    axes = curve_figure({"knn": line, "linear": line}).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["10", "100"]
    assert len(axes.containers) == 2
    assert axes.containers[0].lines[0].get_ydata().tolist() == pytest.approx([0.3, 0.6])


def test_names_are_escaped_and_numbers_can_be_read_back(tmp_path):
    path = tmp_path / "r.html"
    write_report(path, "<b>&", {"linear": scores(0.5)}, ["<script>", "b"], {"split": "blocked"}, None)
    page = path.read_text()
    assert '<img alt="Confusion matrix of linear" src="data:image/png' in page
    assert 'alt=""' not in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    found = json.loads(path.with_suffix(".json").read_text())
    assert Scores.from_dict(found["scores"]["linear"]).to_dict() == scores(0.5).to_dict()
    assert found["split"] == "blocked"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "r.json"]
