"""Every option of every verb, argument of every function and key of every recipe is tried; a share of it here.

``GEOSSL_FUZZ=500`` (``make fuzz``) tries all of them. They run in a process of their own, in which shapes are not
checked, as at a user's.
"""

import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.good import make

ALL = int(os.environ.get("GEOSSL_FUZZ", "25")) >= 500
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "good"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(folder)


@pytest.mark.parametrize(
    ("script", "least", "part"),  # of so many cases one in so many is tried with the suite
    [("hostile", 3900, 80), ("hostile_calls", 4300, 80), ("hostile_recipes", 6000, 400)],
)
def test_hostile_values_are_refused_in_one_line_and_leave_nothing(good, script, least, part):
    part = 1 if ALL else part
    words = [sys.executable, "-W", "ignore", "-m", f"tests.fuzz.{script}", str(good), str(part)]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=settings)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    wrong = [case for case in found if case["wrong"]]
    assert done.returncode == 0, done.stderr[-2000:]
    assert not wrong, wrong[:5]
    assert len(found) >= least // part
    assert Counter(case["outcome"] for case in found)["refused"] > 0.85 * len(found)
