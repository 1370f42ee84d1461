import datetime

import numpy as np
import pytest
import torch

from geossl.errors import InputError
from geossl.models.layers.dates import SEASONS, date_names, filled, join_dates, season_of


def day(text):
    return (datetime.date.fromisoformat(text) - datetime.date(2015, 1, 1)).days


@pytest.mark.parametrize(
    ("text", "season"),
    [("2015-01-01", "djf"), ("2020-02-29", "djf"), ("2020-03-01", "mam"), ("2019-08-31", "jja"), ("2021-11-30", "son"),
     ("2021-12-01", "djf")],
)  # fmt: skip
def test_seasons_are_those_of_the_calendar(text, season):
    assert SEASONS[int(season_of(torch.tensor([float(day(text))])))] == season


def series():
    """Five dates of one clip with two patches; the second patch is usable on some, a third on none."""
    days = torch.tensor(
        [[day(d) for d in ("2020-01-10", "2020-04-01", "2020-04-11", "2020-07-01", "2021-01-01")]]
    ).float()
    tokens = torch.arange(30.0).reshape(1, 5, 3, 2)
    fed = torch.tensor([[[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]]]).bool()
    return tokens, fed, days


def test_the_mean_is_over_usable_dates():
    tokens, fed, days = series()
    found = join_dates(tokens, fed, days, "mean")[0]
    assert found[0].tolist() == tokens[0, :, 0].mean(0).tolist()
    assert found[1].tolist() == tokens[0, [1, 3], 1].mean(0).tolist()
    assert found[2].isnan().all()


def test_seasons_stand_side_by_side_and_a_missing_one_is_the_mean():
    tokens, fed, days = series()
    found = join_dates(tokens, fed, days, "season")[0].unflatten(1, (4, 2))
    first = tokens[0, :, 0]
    assert found[0].tolist() == [first[[0, 4]].mean(0).tolist(), first[[1, 2]].mean(0).tolist(), first[3].tolist(),
                                 first.mean(0).tolist()]  # fmt: skip
    second = tokens[0, :, 1]
    mean = second[[1, 3]].mean(0).tolist()
    assert found[1].tolist() == [mean, second[1].tolist(), second[3].tolist(), mean]
    assert found[2].isnan().all()


def test_every_date_is_kept_and_a_missing_one_lies_between_its_neighbours_in_time():
    tokens, fed, days = series()
    found = join_dates(tokens, fed, days, "each")[0].unflatten(1, (5, 2))
    assert torch.equal(found[0], tokens[0, :, 0])
    second = tokens[0, :, 1]
    at = days[0].numpy()
    for number in range(2):
        expected = np.interp(at, at[[1, 3]], second[[1, 3], number])
        np.testing.assert_allclose(found[1, :, number], expected, rtol=1e-6)
    assert found[2].isnan().all()


def test_dates_of_one_day_are_no_division_by_zero():
    tokens, fed = torch.randn(1, 3, 1, 2), torch.tensor([[[True], [False], [True]]])
    found = filled(tokens, fed, torch.zeros(1, 3))
    assert found.isfinite().all()


def test_numbers_have_names():
    assert date_names("mean", 2, ["20200110"]) == ["e000", "e001"]
    assert date_names("season", 1, ["20200110"]) == ["djf_e000", "mam_e000", "jja_e000", "son_e000"]
    assert date_names("each", 2, ["20200110", "20200401"])[1:3] == ["20200110_e001", "20200401_e000"]
    with pytest.raises(InputError, match="dates.*'sesaon'.*one of season, mean, each"):
        join_dates(*series(), "sesaon")
