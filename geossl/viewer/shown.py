"""Results in a notebook: a path of what geossl wrote shows the picture and the table beside it."""

import base64
import csv
import html
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geossl.viewer.notebook import explore_file

MOST_BYTES = 4 * 2**20  # of a picture that goes into a notebook; larger ones are named
MOST_ROWS = 12
FRAME_PX = 420  # height of a page
RUN_PAGE = "run.html"  # in the folder of a run

if TYPE_CHECKING or os.name != "nt":
    from pathlib import PosixPath as OwnPath
else:
    from pathlib import WindowsPath as OwnPath


class Written(OwnPath):
    """A path like any other; a notebook shows the picture, the table and the report of the same name beside it."""

    def explore(self, map: Any = None, **options: Any) -> Any:
        """Lay the raster over a web map (``folium.Map``), in its own colours; see ``geossl.open``.

        Args:
            map: A ``folium.Map`` to add it to; by default a new one.
            options: ``tiles`` and ``attr`` (the base map), ``opacity``, ``name``.

        Raises:
            InputError: If it is not a raster, or folium is not installed.
        """
        return explore_file(Path(self), map, **options)

    def _repr_html_(self) -> str:
        """What a notebook shows; no more than the path where there is nothing else."""
        parts = [f"<code>{html.escape(str(self))}</code>"]
        picture = Path(self).with_suffix(".png")
        report = Path(self) / RUN_PAGE if Path(self).is_dir() else Path(self).with_suffix(".html")
        if picture.is_file():
            parts.append(image(picture))
        for ending in ("_area.csv", "_totals.csv"):
            if (table := Path(self).with_name(f"{self.stem}{ending}")).is_file():
                with table.open(newline="", encoding="utf-8") as file:
                    parts.append(rows(list(islice(csv.reader(file), MOST_ROWS + 1))))
        if report.is_file() and report != Path(self):
            parts.append(page(report))
        return "<div>" + "<br>".join(parts) + "</div>"


def page(path: Path) -> str:
    """A page in a frame of the notebook, without scripts; its name where it is large."""
    named = f"report: <code>{html.escape(str(path))}</code>"
    if path.stat().st_size > MOST_BYTES:
        return named
    text = html.escape(path.read_text(encoding="utf-8"))
    frame = (
        f'<iframe sandbox title="report" srcdoc="{text}" style="width:100%;height:{FRAME_PX}px;border:1px solid #ccc">'
    )
    return f"{named}<br>{frame}</iframe>"


def image(path: Path) -> str:
    """A picture inside the page, or its name where it is large."""
    if path.stat().st_size > MOST_BYTES:
        return f"picture: <code>{html.escape(str(path))}</code>"
    text = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{text}" alt="{html.escape(path.name)}" style="max-width:100%">'


def rows(table: Sequence[Sequence[str]]) -> str:
    """A small table, headings first."""
    head, *body = table or [[]]
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return f"<table>{''.join(lines)}</table>"
