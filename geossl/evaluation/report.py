"""A page that shows scores: tables, confusion matrices, curves; one file that opens anywhere."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from geossl.evaluation.scores import Scores, class_iou
from geossl.outputs import write_text

OPEN = "<!doctype html><html lang=en><meta charset=utf-8>"
VIEWPORT = "<meta name=viewport content='width=device-width, initial-scale=1'>"  # else phones shrink the page
NO_ICON = "<link rel=icon href='data:,'>"  # else browsers ask a server for one
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}"
    "table{display:block;overflow-x:auto}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}code{background:#f4f4f4;padding:0 .2rem}"
    "pre{background:#f4f4f4;padding:1rem;white-space:pre-wrap;overflow-wrap:anywhere}"
    "summary{padding:.3rem 0}"  # a finger's width apart
)


class Pairs(NamedTuple):
    """Amounts as they were and as they were predicted.

    Attributes:
        truth: Of test samples.
        found: Predicted of them.
    """

    truth: Float[np.ndarray, " n"]
    found: Float[np.ndarray, " n"]


Curve = Mapping[str, Mapping[float, Scores]]  # name of a line -> share of the labels -> scores


def score_rows(scores: Mapping[str, Scores]) -> list[list[str]]:
    """Header and one row per classifier; scores with their 95 % intervals."""
    names = list(dict.fromkeys(name for s in scores.values() for name in s.values))
    rows = [["", *(name.replace("_", " ") for name in names)]]
    for title, found in scores.items():
        cells = [f"{found.values[name]:.3f}" if name in found.values else "" for name in names]
        for name, (low, high) in found.intervals.items():
            cells[names.index(name)] += f" [{low:.3f}, {high:.3f}]"
        rows.append([title, *cells])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def write_report(
    path: Path,
    title: str,
    scores: Mapping[str, Scores],
    names: Sequence[str],
    metadata: Mapping[str, Any],
    curve: Curve | None = None,
    pairs: Mapping[str, Pairs] | None = None,
) -> dict[str, Any]:
    """Write ``path`` (.html) and its numbers beside it (.json).

    Args:
        path: The page.
        title: Its heading.
        scores: Scores by classifier.
        names: Classes.
        metadata: What a reader must know to believe or repeat it; JSON values.
        curve: Scores over share of labels.
        pairs: True and predicted amounts of test samples, by regressor.

    Returns:
        The numbers.
    """
    numbers = {
        "title": title,
        "scores": {k: s.to_dict() for k, s in scores.items()},
        "classes": list(names),
        **metadata,
    }
    body = [f"<h1>{html.escape(title)}</h1>", html_table(score_rows(scores))]
    drawn = html.escape(str(metadata.get("interval", "test samples drawn with replacement")))
    body.append(f"<p>Brackets: 95 % bootstrap interval, {drawn}.</p>")
    if len(scores) > 1:
        body.append(embedded(scores_figure(scores), "Scores with their intervals"))
    if curve:
        numbers["label_fractions"] = {
            name: {str(share): scores.to_dict() for share, scores in line.items()} for name, line in curve.items()
        }
        body += ["<h2>Fewer labels</h2>", embedded(curve_figure(curve), "Scores over the share of labels")]
    for name, found in scores.items():
        if found.confusion is not None:
            body += [f"<h2>{html.escape(name)}</h2>", class_table(found.confusion, names)]
            body.append(embedded(confusion_figure(found.confusion, names), f"Confusion matrix of {name}"))
    unit = str(metadata.get("unit") or "")
    for name, pair in (pairs or {}).items():
        body += [
            f"<h2>{html.escape(name)}</h2>",
            embedded(agreement_figure(pair, unit), f"Predicted over true, {name}"),
        ]
    body += ["<h2>How</h2>", html_table([["", "value"], *([k, json.dumps(v)] for k, v in metadata.items())])]
    page = whole_page(title, "".join(body))
    for target, text in ((path, page), (path.with_suffix(".json"), json.dumps(numbers, indent=1))):
        write_text(target, text)
    return numbers


def whole_page(title: str, body: str, style: str = "") -> str:
    """A page that stands alone: ``body`` is HTML, ``title`` is text, ``style`` is CSS beside that of all pages."""
    text = html.escape(title)
    about = f'<title>{text}</title><meta name=description content="{text}; written by geossl">'
    return f"{OPEN}{VIEWPORT}{NO_ICON}{about}<style>{STYLE}{style}</style><main>{body}</main></html>"


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first one as header; it can be scrolled by keys."""
    cells = [
        "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row for tag in ["td" if number or not c else "th"])
        for number, row in enumerate(rows)
    ]
    return "<table tabindex=0>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def class_table(confusion: Int[np.ndarray, "k k"], names: Sequence[str]) -> str:
    """Per class: samples, recall, precision, intersection over union."""
    hit, truth, found = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    rows = [["class", "samples", "recall", "precision", "IoU"]]
    for i, iou in enumerate(class_iou(confusion)):
        shares = (hit[i] / truth[i] if truth[i] else np.nan, hit[i] / found[i] if found[i] else np.nan, iou)
        rows.append([names[i], str(truth[i]), *(f"{v:.3f}" if np.isfinite(v) else "" for v in shares)])
    return html_table(rows)


def confusion_figure(confusion: Int[np.ndarray, "k k"], names: Sequence[str]) -> Figure:
    """Shares of each true class, with counts."""
    side = 2.5 + 0.45 * len(names)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(confusion):
        if count:
            axes.text(
                j, i, str(count), ha="center", va="center", color="white" if share[i, j] > 0.5 else "black", size=8
            )
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    return figure


def scores_figure(scores: Mapping[str, Scores]) -> Figure:
    """The first score of every classifier with its interval, top to bottom."""
    figure = Figure(figsize=(7, 0.8 + 0.3 * len(scores)), layout="constrained")
    axes = figure.subplots()
    for row, found in enumerate(scores.values()):
        first = next(iter(found.values))
        low, high = found.intervals[first]
        axes.plot([low, high], [row, row], color="#8ab", linewidth=3, solid_capstyle="butt")
        axes.plot(found.values[first], row, "o", color="#135")
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    kinds = dict.fromkeys(next(iter(found.values)).replace("_", " ") for found in scores.values())
    axes.set_xlabel(f"{' or '.join(kinds)} on the test part")
    return figure


def agreement_figure(pairs: Pairs, unit: str) -> Figure:
    """Predicted over true amounts, shaded by how many there are, and the line on which they agree."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    ends = [min(v.min() for v in pairs), max(v.max() for v in pairs)]
    shown = axes.hexbin(*pairs, gridsize=40, mincnt=1, bins="log", cmap="viridis", extent=(*ends, *ends))
    axes.plot(ends, ends, color="#c33", linewidth=1)
    axes.set_aspect("equal")
    words = f", {unit}" if unit else ""
    axes.set_xlabel(f"true{words}")
    axes.set_ylabel(f"predicted{words}")
    figure.colorbar(shown, ax=axes, label="test samples", shrink=0.8)
    return figure


def curve_figure(curve: Curve) -> Figure:
    """Score over share of the training labels; lines are moved apart a little, so that intervals can be told apart."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, line) in enumerate(curve.items()):
        shares = sorted(line)
        first = next(iter(line[shares[0]].values))
        value = np.array([line[share].values[first] for share in shares])
        ends = np.array([line[share].intervals[first] for share in shares]).T
        gap = np.abs(ends - value)  # a bootstrap interval need not be symmetric
        places = 100 * np.array(shares) * 1.02 ** (number - (len(curve) - 1) / 2)
        axes.errorbar(places, value, gap, marker="o", capsize=2, elinewidth=0.8, label=name)
        axes.set_ylabel(f"{first.replace('_', ' ')} on the test part")
    ticks = [100 * share for share in sorted({share for line in curve.values() for share in line})]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labels used, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def embedded(figure: Figure, about: str) -> str:
    """A figure inside the page, and what it shows for who does not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(about)}" src="data:image/png;base64,{text}"></p>'
