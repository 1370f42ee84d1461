"""Charts show what their tables say."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("charts", ROOT / "docs/charts.py")
charts = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(charts)

PAGE = r"""# Scores

<!-- chart title="A and B" rows="s2$" columns="A; B" label="2" -->
| row | from | A | B |
|---|---|---|---|
| one | s1 | 9 | 9 |
| **one** | s1\|s2 | **0.5** [0.4, +0.8] | 1,250 ms |
| two | s2 | -0.25 +- 0.05 | |

After.
"""


def test_a_chart_holds_the_numbers_of_its_table():
    mark = charts.MARK.search(PAGE)
    chart = charts.read(mark["asked"], mark["table"])
    assert chart.rows == ["one s1|s2", "two s2"]
    assert chart.series == {"A": [(0.5, 0.4, 0.8), (-0.25, -0.3, -0.2)], "B": [(1250, 1250, 1250), None]}
    page, files = charts.drawn(PAGE, "charts")
    assert re.search(r"^!\[Chart: A and B\. .*\]\(charts/a-and-b\.svg\)\n\n\| row", page, re.MULTILINE)
    assert "<!--" not in page
    assert "</svg>" in files["charts/a-and-b.svg"]
    assert charts.drawn(PAGE, "charts")[1] == files


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("A; B", "A; C", "no column 'C'; there are"), ("s2$", "s3$", "no row of the table is called 's3")],
)
def test_a_chart_of_what_is_not_there_is_refused(old, new, message):
    with pytest.raises(ValueError, match=message):
        charts.drawn(PAGE.replace(old, new, 1), "charts")
