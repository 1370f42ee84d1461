"""Charts of the benchmarks' tables, drawn from the tables themselves when the site is built.

Above a table stands, unseen on other readers' pages, what to draw of it::

    <!-- chart title="EuroSAT, accuracy" rows="kNN|linear" columns="bands; croma_tiny" -->

``rows`` is a regular expression for the first cells (all rows without it), ``columns`` names columns by their heads,
``label`` says how many first cells make the name of a row, and ``scale="log"`` is for what spans orders of magnitude.
Of a cell the first number is drawn, with its interval in brackets, else with its +- as whiskers.
"""

import io
import re
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

MARK = re.compile(r"^<!-- chart (?P<asked>.*?) -->\n(?P<table>(?:\|.*\n)+)", re.MULTILINE)
ASKED = re.compile(r'(\w+)="([^"]*)"')
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
INTERVAL = re.compile(r"\[([-+.\de]+), ([-+.\de]+)\]")
SPREAD = re.compile(r"\+- ([.\d]+)")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#444444")  # Okabe and Ito
MARKERS = "osD^vPX"


class Chart(NamedTuple):
    """What to draw of a table.

    Attributes:
        title: Above the chart, and its text for those who do not see it.
        rows: Names, from above.
        series: Name of a column -> value, low end and high end of every row; None where a cell is empty.
        is_log: Logarithmic.
    """

    title: str
    rows: list[str]
    series: dict[str, list[tuple[float, float, float] | None]]
    is_log: bool

    @property
    def name(self) -> str:
        """Of its file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") + ".svg"

    def describe(self) -> str:
        """What can be seen, in words."""
        low, high = (pick(v[0] for values in self.series.values() for v in values if v) for pick in (min, max))
        return f"Chart: {self.title}. {len(self.rows)} rows, {' and '.join(self.series)}, from {low:g} to {high:g}."


def plain(cell: str) -> str:
    """A cell without marks of emphasis."""
    return re.sub(r"[*`]|\\(?=[|*])", "", cell).strip()


def cells(line: str) -> list[str]:
    """Of a row; a bar after a backslash is text."""
    return [plain(cell) for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def measured(cell: str) -> tuple[float, float, float] | None:
    """Value, low end, high end."""
    found = NUMBER.search(cell)
    if found is None:
        return None
    value = float(found[0].replace(",", ""))
    if ends := INTERVAL.search(cell):
        return value, float(ends[1]), float(ends[2])
    spread = SPREAD.search(cell)
    half = float(spread[1]) if spread else 0.0
    return value, value - half, value + half


def read(asked: str, table: str) -> Chart:
    """The chart that a mark asks for.

    Raises:
        ValueError: If the table has no such column or row.
    """
    wanted = dict(ASKED.findall(asked))
    head, _, *lines = [cells(line) for line in table.splitlines()]
    columns = [name.strip() for name in wanted["columns"].split(";")]
    if missing := [name for name in columns if name not in head]:
        raise ValueError(f"chart {wanted['title']!r}: the table has no column {missing[0]!r}; there are: {head}")
    labels = int(wanted.get("label", "1"))
    rows = {" ".join(filter(None, line[:labels])): line for line in lines}
    rows = {name: line for name, line in rows.items() if re.search(wanted.get("rows", ""), name)}
    series = {name: [measured(line[head.index(name)]) for line in rows.values()] for name in columns}
    if not any(value for values in series.values() for value in values):
        raise ValueError(f"chart {wanted['title']!r}: no row of the table is called {wanted.get('rows')!r}")
    return Chart(wanted["title"], list(rows), series, wanted.get("scale") == "log")


def draw(chart: Chart) -> str:
    """SVG: a line per row, a mark with whiskers per column."""
    height = 0.9 + 0.3 * len(chart.rows) * max(1, 0.45 * len(chart.series)) + 0.25 * (len(chart.series) > 1)
    with rc_context({"svg.hashsalt": chart.name, "font.size": 10}):
        figure = Figure(figsize=(8, height), layout="constrained")
        axes = figure.subplots()
        for number, (name, values) in enumerate(chart.series.items()):
            shift = 0.7 * ((number + 0.5) / len(chart.series) - 0.5)
            known = [(row + shift, *value) for row, value in enumerate(values) if value]
            at, middle, low, high = np.array(known).T
            ends = np.stack([middle - low, high - middle])
            style = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": "none"}
            axes.errorbar(middle, at, xerr=ends, label=name, markersize=6, elinewidth=1.5, **style)
        axes.set_yticks(range(len(chart.rows)), chart.rows)
        axes.set_ylim(len(chart.rows) - 0.4, -0.6)
        for row in range(1, len(chart.rows), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
        figure.suptitle(chart.title, x=0.01, ha="left", fontsize=11)
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        if chart.is_log:
            axes.set_xscale("log")
        if len(chart.series) > 1:
            figure.legend(loc="outside lower center", ncols=len(chart.series), frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def drawn(text: str, folder: str) -> tuple[str, dict[str, str]]:
    """A page with its marks replaced by pictures above their tables, and the pictures by their path.

    Args:
        text: Markdown.
        folder: Of the pictures, beside the page.
    """
    files = {}

    def place(mark: re.Match[str]) -> str:
        chart = read(mark["asked"], mark["table"])
        files[f"{folder}/{chart.name}"] = draw(chart)
        return f"![{chart.describe()}]({folder}/{chart.name})\n\n{mark['table']}"

    return MARK.sub(place, text), files
