"""Every option of every verb, argument of every function and key of every recipe is tried; a share of it here.

``GEOSSL_FUZZ=500`` (``make fuzz``) tries all of them. They run in a process of their own, in which shapes are not
checked, as at a user's.
"""

import json
import os
import sys
import warnings
from collections import Counter
from importlib import import_module

import pytest

from tests.fuzz.attempts import attempt_share
from tests.fuzz.good import make
from tests.processes import start

ALL = int(os.environ.get("GEOSSL_FUZZ", "25")) >= 500


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "good"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(folder)


def tried(script, good, share, out):
    """One suite, in a process of its own; what it prints goes to a file."""
    with out.open("w", buffering=1) as sys.stdout:
        suite = import_module(f"tests.fuzz.{script}")
        attempt_share(suite.NAME, suite.cases, suite.judge, good, share)


@pytest.mark.parametrize(
    ("script", "least", "part"),  # of so many cases one in so many is tried with the suite
    [("hostile", 3900, 80), ("hostile_calls", 4300, 80), ("hostile_recipes", 6000, 400)],
)
def test_hostile_values_are_refused_in_one_line_and_leave_nothing(good, script, least, part, tmp_path):
    part = 1 if ALL else part
    process = start(tried, script, good, part, tmp_path / "found")
    process.join()
    found = [json.loads(line) for line in (tmp_path / "found").read_text().splitlines() if line.startswith("{")]
    wrong = [case for case in found if case["wrong"]]
    assert process.exitcode == 0, found[-1:]
    assert not wrong, "\n".join(json.dumps(case) for case in wrong[:5])
    assert len(found) >= least // part
    assert Counter(case["outcome"] for case in found)["refused"] > 0.85 * len(found)
