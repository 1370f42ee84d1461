import warnings

import geopandas as gpd
import pandas as pd
import pytest

from geossl.api.finetune.dates import say_dates, scene_days
from geossl.data.labels.ground_truth import read_labels
from geossl.errors import Note

SCENES = {"s1": [{"day": "2024-06-01"}], "s2": [{"day": "2024-06-11"}, {"id": "x"}], "catalog": "here"}


def labels(**columns):
    frame = pd.DataFrame({"lon": [3.0, 3.1, 3.2], "lat": [41.0, 41.1, 41.2], "class": ["a", "b", "a"], **columns})
    return read_labels(frame)


@pytest.mark.parametrize(
    ("column", "dates", "said"),
    [
        ("date", ["2024-06-01", "2024-06-11", "2024-05-22"], "1 of 3 dated points .* half of them by 10 days"),
        ("Date", ["2021-06-01", None, "2024-06-21 23:59"], "2 of 2 dated points .* the farthest by 1096"),
        ("date", [2020, 2020, 2024], "3 of 3 dated points"),
        ("date", pd.to_datetime(["2025-06-11"] * 3), "3 of 3 .*2024-06-01 to 2024-06-11.* the farthest by 365"),
    ],
)
def test_points_of_other_days_than_the_scenes_are_said(column, dates, said):
    with pytest.warns(Note, match=said):
        say_dates(labels(**{column: dates}), scene_days(SCENES))


@pytest.mark.parametrize(
    ("columns", "days"),
    [
        ({"date": ["2024-06-05"] * 3}, scene_days(SCENES)),
        ({"date": ["2020-06-05"] * 3}, []),
        ({"date": ["soon", "", None]}, scene_days(SCENES)),
        ({"day": ["2020-06-05"] * 3}, scene_days(SCENES)),
    ],
)
def test_nothing_is_said_of_dates_that_fit_or_that_nobody_knows(columns, days):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say_dates(labels(**columns), days)


def test_polygons_are_passed_over():
    shapes = gpd.GeoSeries.from_xy([3, 4], [41, 42], crs=4326).buffer(0.1)
    frame = gpd.GeoDataFrame({"class": ["a", "b"], "date": ["2020-01-01"] * 2}, geometry=shapes, crs=4326)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say_dates(read_labels(frame, "class"), scene_days(SCENES))
