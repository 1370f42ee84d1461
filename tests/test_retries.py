"""The rule for hosts that fail, with a clock that does not sleep."""

from multiprocessing.dummy import Pool

import pytest

from geossl import retries
from geossl.retries import Answer, Budget, GaveUp, seconds_of, shared, tried


class Failed(OSError):
    """What a host that fails raises."""


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only by sleeping; the longest draw."""
    found = retries.Clock(now=lambda: found.time, draw=lambda: 1.0)
    found.time, found.slept = 1000.0, []

    def sleep(seconds):
        found.slept.append(round(seconds, 3))
        found.time += seconds

    found.sleep = sleep
    monkeypatch.setattr(retries, "CLOCK", found)
    return found


def asked(answers, tries=retries.TRIES, host="host.org"):
    """Ask a host that gives these answers one after the other, then what it was asked for."""
    left = list(answers)

    def ask(attempt):
        if left:
            raise Failed(str(left[0]))
        return attempt

    return tried(ask, host, lambda error: left.pop(0), (Failed,), tries)


def test_waits_double_up_to_a_minute(clock):
    assert asked([Answer(503)] * 9) == 9
    assert clock.slept == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_half_of_a_wait_is_drawn(clock):
    clock.draw = lambda: 0.0
    asked([Answer(503)] * 3)
    assert clock.slept == [0.25, 0.5, 1]


def test_a_host_is_left_alone_for_as_long_as_it_asks_by_all_who_share_a_budget(clock):
    with shared(None):
        assert asked([Answer(429, 120.0)]) == 1
        assert clock.slept == [0.5, 119.5]
        retries.RUN.get().hold("host.org", 30.0)
        assert asked([], host="other.org") == 0
        assert clock.slept == [0.5, 119.5]
        assert asked([]) == 0
        assert clock.slept == [0.5, 119.5, 30]


def test_a_host_that_asks_for_an_hour_is_given_up(clock):
    with pytest.raises(GaveUp, match=r"host.org asks to be left alone for 3600 s; run again then"):
        asked([Answer(503, 3600.0)])
    assert clock.slept == []


@pytest.mark.parametrize(("status", "times"), [(404, 1), (410, 1), (403, 4), (206, 4), (500, 12), (0, 12)])
def test_what_cannot_pass_is_not_tried_again(clock, status, times):
    answers = [Answer(status)] * 20
    with pytest.raises(Failed) as failed:
        asked(answers)
    assert len(clock.slept) == times - 1
    assert (failed.value.__notes__ if status == 206 else []) == (["cut off or damaged at its host"] * (status == 206))


def test_a_budget_ends_a_run_whose_host_is_down_and_answers_earn_more(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "RESERVE", 5)
    retries.begin(tmp_path)
    with shared(tmp_path) as budget:
        for _ in range(20):
            asked([])
        assert budget.left == 7
        with pytest.raises(GaveUp, match=r"host.org failed too often in this run \(HTTP 503 last; 5 tries again"):
            asked([Answer(503)] * 20)
    assert len(clock.slept) == 7
    retries.begin(tmp_path)
    with shared(tmp_path) as budget:
        assert budget.left == 5


def test_workers_of_other_processes_draw_on_the_same_budget_and_wait_together(clock, tmp_path):
    here, there = Budget(tmp_path), Budget(tmp_path)
    with Pool(8) as pool:
        pool.map(lambda i: (here, there)[i % 2].spend("host.org", "HTTP 503"), range(80))
    assert here.left == there.left == retries.RESERVE - 80
    here.hold("host.org", 40.0)
    there.wait("host.org")
    assert clock.slept == [40]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120), (" 7 ", 7), ("Thu, 01 Jan 1970 00:17:10 GMT", 30), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
     ("soon", 0), ("-3", 0), ("", 0), (None, 0)],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_as_a_date(clock, text, seconds):
    assert seconds_of(text) == seconds
