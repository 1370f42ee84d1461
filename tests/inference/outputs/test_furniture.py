import pytest
from matplotlib.figure import Figure

from geossl.inference.outputs.furniture import Caption, caption, furnish_all, metres, notice_of, round_metres, span


@pytest.mark.parametrize(
    ("width", "length", "text"),
    [(900.0, 200.0, "200 m"), (4000.0, 1000.0, "1 km"), (90.0, 20.0, "20 m"), (0.5, 0.1, "0.1 m")],
)
def test_a_scale_bar_is_the_longest_round_length_of_a_quarter(width, length, text):
    assert round_metres(width) == pytest.approx(length)
    assert metres(length) == text


def test_dates_are_a_day_a_span_or_unknown():
    assert span(["2020-06-21", "", "2020-06-21"]) == "2020-06-21"
    assert span(["2021-07-16", "2020-06-21"]) == "2020-06-21 to 2021-07-16"
    assert span(["", ""]) == "dates unknown"


def test_the_foot_says_meaning_source_and_whose_imagery():
    words = Caption("t", "2020-06-21", "Encoder e (s2)", "Alike is alike", notice_of(["s2"]))
    expected = "Alike is alike. Encoder e (s2). Contains modified Copernicus Sentinel data (2020-06-21)."
    assert words.foot() == expected
    assert Caption("t").foot() == "Dates unknown. Contains modified Copernicus Sentinel data."
    assert "Geological Survey" in notice_of(["landsat"])
    assert notice_of(["s1", "landsat", "s2"]).count(";") == 1
    assert Caption("t", notice="").foot() == "Dates unknown."


def test_the_bar_is_as_long_as_it_says():
    figure = Figure()
    axes = figure.subplots()
    axes.imshow([[0] * 100] * 50)
    furnish_all([axes], 100, 80.0)
    caption(figure, Caption("title"))
    bar, north = axes.artists
    assert bar.txt_label.get_text() == "2 km"
    assert bar.size_bar.get_children()[0].get_width() == pytest.approx(2000 / 80)
    assert north.txt.get_text().endswith("N")
    assert not axes.axison
    assert figure.get_suptitle() == "title"
