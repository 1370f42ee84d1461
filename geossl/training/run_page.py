"""The page of a pretraining run: curves, reconstructions, probes, data, versions and the next command; one file."""

import base64
import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import image

from geossl.evaluation.report import html_table, whole_page
from geossl.methods.base import CloudReconstruction, Reconstruction
from geossl.outputs import write_text
from geossl.training.run_folder import RunFolder

NEXT = {  # method -> what its encoder is for; of all others: maps
    "point_cmae": "geossl points embed SCANS --encoder {encoder} --out embedding.tif",
    "cross_video_mae": "geossl series embed FOLDER --encoder {encoder} --out series.tif",
    "graphmae": "geossl graphs cluster --encoder {encoder} --classes 8 --out clusters.gpkg",
    "scgc": "geossl graphs cluster --encoder {encoder} --out clusters.gpkg",
    "regularized_ae": "geossl anomaly --aoi region.geojson --s2 S2.tif --encoder {encoder}",
    "selfcon": "geossl evaluate {encoder} IMAGES",
}
RECONSTRUCTED = "Seen, reconstructed, true. What the loss leaves out, such as the level of a patch, is shown as it was."
Drawn = Reconstruction | CloudReconstruction
OWN_STYLE = "svg,figure{margin:0 1rem 1rem 0}div{display:flex;flex-wrap:wrap}"
WIDTH, HEIGHT = 300, 130  # of a curve, px
LONGEST = 400  # points of a curve
CHIP, CLOUD = 150, 220  # px: about the width of a reconstructed chip, and that of a cloud
GAP = 4  # px between seen, reconstructed and true, and between rows
VIEW = 0.6, 0.35  # radians: from where clouds are seen, around the vertical and above the ground
SEEN, FOUND, TRUE = (0.45, 0.45, 0.45), (0.85, 0.3, 0.1), (0.04, 0.49, 0.42)  # colours of points


def write_page(
    folder: RunFolder, recipe: Mapping[str, Any], data: Mapping[str, Any], shown: Mapping[str, Drawn]
) -> Path:
    """Write ``run.html`` into a run folder.

    Args:
        folder: Of a finished run.
        recipe: Its recipe, as JSON values.
        data: What it was trained on, as JSON values.
        shown: Reconstructions by title; may be empty.
    """
    title = f"{recipe['method']}, {recipe['train']['max_steps']} updates"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(probed(folder))}</p>"]
    for path in (folder.metrics, folder.path / "probe.csv"):
        parts += [curve(name, steps, values) for name, steps, values in columns(path)]
    if shown:
        figures = [
            f"<figure>{picture(x)}<figcaption>{html.escape(name)}</figcaption></figure>" for name, x in shown.items()
        ]
        parts.append(f"<h2>Reconstructions</h2><p>{RECONSTRUCTED}</p><div>{''.join(figures)}</div>")
    encoder = (
        folder.encoder if folder.encoder.exists() else next(iter(folder.path.glob("*.safetensors")), folder.encoder)
    )
    command = NEXT.get(
        recipe["method"], "geossl embed --aoi region.geojson --s1 S1 --s2 S2 --encoder {encoder} --out map.zarr"
    )
    again = f"geossl pretrain {folder.recipe} out=runs/again"
    parts.append(f"<h2>Next</h2><pre>{html.escape(command.format(encoder=encoder))}\n{html.escape(again)}</pre>")
    for name, values in (("Data", data), ("Recipe", recipe), ("Versions", json.loads(folder.versions.read_text()))):
        rows = [["", "value"], *([key, short(value)] for key, value in values.items())]
        parts.append(f"<details><summary>{name}</summary>{html_table(rows)}</details>")
    write_text(folder.page, whole_page(title, "".join(parts), OWN_STYLE))
    return folder.page


def probed(folder: RunFolder) -> str:
    """Scores of held-out ground, as a sentence."""
    found = json.loads(folder.holdout.read_text()) if folder.holdout.exists() else {}
    if "after" not in found:
        return "No labels lay beside the data, so nothing was probed."
    kinds = [f"{kind} {score:.3f}" for kind, score in found["after"].items()]
    before = [f"{kind} {score:.3f}" for kind, score in found.get("before", {}).items()]
    return (
        f"Balanced accuracy on {found['patches']} held-out patches of {found['classes']} classes: {', '.join(kinds)}"
        f"{'; before: ' if before else ''}{', '.join(before)}."
    )


def columns(path: Path) -> list[tuple[str, list[int], list[float]]]:
    """Columns of a table of steps that hold finite numbers."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["step"].isdigit()]
    found = []
    for name in rows[0] if rows else ():
        pairs = [(int(row["step"]), float(row[name])) for row in rows if name != "step" and row[name]]
        pairs = [(step, value) for step, value in pairs if np.isfinite(value)]
        if len(pairs) > 1:
            found.append((name, [step for step, _ in pairs], [value for _, value in pairs]))
    return found


def curve(name: str, steps: Sequence[int], values: Sequence[float]) -> str:
    """A curve over steps as SVG, with its ends in words."""
    thin = np.unique(np.linspace(0, len(steps) - 1, LONGEST).astype(int))
    x, y = np.array(steps, dtype=float)[thin], np.array(values)[thin]
    low, span = y.min(), np.ptp(y) or 1.0
    right = (x - x[0]) / (np.ptp(x) or 1.0) * WIDTH
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(right, HEIGHT - (y - low) / span * HEIGHT, strict=True))
    label = html.escape(f"{name}: {values[0]:.4g} to {values[-1]:.4g}")
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT + 45}" viewBox="0 -22 {WIDTH} {HEIGHT + 45}" role="img" '
        f'aria-label="{label}">'
        f'<text y="-8" font-size="13">{label}</text><rect width="{WIDTH}" height="{HEIGHT}" fill="#f7f7f7"/>'
        f'<polyline points="{points}" fill="none" stroke="#0a7d6c" stroke-width="1.5"/>'
        f'<text y="{HEIGHT + 16}" font-size="11" fill="#666">step {steps[0]} to {steps[-1]}; '
        f"{low:.4g} to {y.max():.4g}</text></svg>"
    )


def picture(shown: Drawn) -> str:
    """Seen, reconstructed and true side by side, a row per chip, date or cloud, inside the page."""
    pixels = clouds(shown) if isinstance(shown, CloudReconstruction) else chips(shown)
    buffer = io.BytesIO()
    image.imsave(buffer, pixels, format="png")
    text = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="seen, reconstructed, true" src="data:image/png;base64,{text}">'


def chips(shown: Reconstruction) -> np.ndarray:
    """Chips as (y, x, 3), between the 2nd and the 98th percentile of each, or of all dates of a place."""
    masked = shown.masked[:, None].numpy()
    truth, found = shown.truth.numpy(), shown.found.numpy()
    axes = (0, 2, 3) if shown.one_place else (1, 2, 3)  # dates share a scale, each band its own
    low, high = np.nanpercentile(truth, [2, 98], axis=axes, keepdims=True)
    stretch = [np.clip((x - low) / np.maximum(high - low, 1e-6), 0, 1) for x in (truth, found)]
    zoom = max(1, round(CHIP / truth.shape[3]))
    parts = (np.where(masked, 0.85, stretch[0]), np.where(masked, stretch[1], stretch[0]), stretch[0])
    colours = (np.kron(x, np.ones((1, 1, zoom, zoom))).repeat(3 // x.shape[1], axis=1) for x in parts)
    return laid_out(list(zip(*(x.transpose(0, 2, 3, 1) for x in colours), strict=True)))


def laid_out(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Panels (y, x, 3) in rows, with white between them."""
    framed = [[np.pad(panel, ((0, GAP), (0, GAP), (0, 0)), constant_values=1) for panel in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in framed])[:-GAP, :-GAP]


def clouds(shown: CloudReconstruction) -> np.ndarray:
    """Clouds as (y, x, 3), seen from the side; points that were hidden are in colour."""
    rows = []
    for visible, found, hidden in zip(*(flattened(x.numpy()) for x in vars(shown).values()), strict=True):
        ground = np.concatenate([visible, hidden])
        low, span = ground.min(axis=0), np.ptp(ground, axis=0).max() or 1.0
        middle = low + np.ptp(ground, axis=0) / 2
        panels = []
        seen = [(visible, SEEN)]
        for layers in (seen, [*seen, (found, FOUND)], [*seen, (hidden, TRUE)]):
            panel = np.full((CLOUD, CLOUD, 3), 0.97)
            for points, ink in layers:
                x, y = (((points - middle) / span * 0.9 + 0.5) * (CLOUD - 2)).clip(1, CLOUD - 2).astype(int).T
                for dx, dy in np.ndindex(3, 3):
                    panel[CLOUD - 1 - (y + dy - 1), x + dx - 1] = ink
            panels.append(panel)
        rows.append(panels)
    return laid_out(rows)


def flattened(points: np.ndarray) -> np.ndarray:
    """Right and up, in the picture, of points in space (b n 3)."""
    around, above = VIEW
    x, y, z = np.moveaxis(points, -1, 0)
    away = y * np.cos(around) - x * np.sin(around)
    return np.stack([x * np.cos(around) + y * np.sin(around), z * np.cos(above) + away * np.sin(above)], axis=-1)


def short(value: Any) -> str:
    """A value in a few words."""
    text = json.dumps(value)
    return text if len(text) <= 400 else f"{text[:400]} ..."
