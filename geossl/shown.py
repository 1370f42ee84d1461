"""Results in a notebook: a path of what geossl wrote shows the picture and the table beside it."""

import base64
import csv
import html
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

MOST_BYTES = 4 * 2**20  # of a picture that goes into a notebook; larger ones are named
MOST_ROWS = 12

if TYPE_CHECKING or os.name != "nt":
    from pathlib import PosixPath as OwnPath
else:
    from pathlib import WindowsPath as OwnPath


class Written(OwnPath):
    """A path like any other; a notebook shows the picture, the table and the report of the same name beside it."""

    def _repr_html_(self) -> str:
        """What a notebook shows; no more than the path where there is nothing else."""
        parts = [f"<code>{html.escape(str(self))}</code>"]
        picture, report = Path(self).with_suffix(".png"), Path(self).with_suffix(".html")
        if picture.is_file():
            parts.append(image(picture))
        for ending in ("_area.csv", "_totals.csv"):
            if (table := Path(self).with_name(f"{self.stem}{ending}")).is_file():
                with table.open(newline="", encoding="utf-8") as file:
                    parts.append(rows(list(islice(csv.reader(file), MOST_ROWS + 1))))
        if report.is_file() and report != Path(self):
            parts.append(f"report: <code>{html.escape(str(report))}</code>")
        return "<div>" + "<br>".join(parts) + "</div>"


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
