"""Score rows, keep what was scored, and print it."""

import hashlib
import json
from pathlib import Path

import numpy as np

from geossl.outputs import replacing
from tasks import bark_beetle, biomass, change, crops, eurosat, floods, land_cover, radar_to_optical
from tasks.scoring import Value, mean_of

TASKS = {  # the last two are for choosing between encoders, the others for reporting
    "eurosat": eurosat,
    "land_cover": land_cover,
    "floods": floods,
    "change": change,
    "crops": crops,
    "biomass": biomass,
    "bark_beetle": bark_beetle,
    "radar_to_optical": radar_to_optical,
}
VALIDATION = ("bark_beetle", "radar_to_optical")
SHARED = ("pixels.py", "rows.py", "scoring.py")
HEADLINES = {  # task -> scores of the first table
    "eurosat": ("linear", "kNN", "3 per class", "1 per class"),
    "land_cover": (
        "s1 blocks balanced",
        "s2 blocks balanced",
        "s1+s2 blocks balanced",
        "s1|s2 blocks balanced",
        "s2 blocks balanced, 10 %",
        "s1|s2 blocks balanced, 10 %",
    ),
    "floods": ("AP, all patches", "IoU"),
    "change": ("s2 AUC", "s2 AUC, plain", "s1 AUC"),
    "crops": ("one date balanced", "four dates balanced"),
    "biomass": ("s1 R2", "s2 R2", "s1+s2 R2", "s1|s2 R2"),
    "bark_beetle": ("AP",),
    "radar_to_optical": ("R2", "r within land chips"),
}


def score(row, data, tasks=tuple(TASKS), store=None, key=""):
    """Scores of one row, a ``Value`` each, by task and name.

    Args:
        row: From ``tasks.rows``: ``EncoderRow(encoder)``, ``BandRow()``, ``RandomConvRow(seed)``.
        data: Folder of the data.
        tasks: Keys of ``TASKS``.
        store: Folder of finished tasks; None = nothing is kept.
        key: Name of the row's weights in the store, different for different weights.
    """
    data, out = Path(data), {}
    for name in tasks:
        file = None if store is None else Path(store) / f"{key}-{name}-{version(name)}.json"
        if file is not None and file.is_file():
            out[name] = {k: Value.from_dict(v) for k, v in json.loads(file.read_text()).items()}
            continue
        out[name] = TASKS[name].score(row, data)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                temporary.write_text(json.dumps({k: v.to_dict() for k, v in out[name].items()}))
    return out


def version(task):
    """Hash of the code a task's scores depend on."""
    folder = Path(__file__).parent
    code = b"".join((folder / name).read_bytes() for name in (f"{task}.py", *SHARED))
    return hashlib.sha256(code).hexdigest()[:8]


def over_seeds(runs):
    """Scores of the seeds of a row: mean of them, their values, by task and name."""
    return {
        task: {
            name: (mean_of(run[task][name] for run in runs), [run[task][name].value for run in runs]) for name in part
        }
        for task, part in runs[0].items()
    }


def escaped(name):
    """A name as Markdown takes it in a table."""
    return name.replace("|", "\\|")


def cell(found):
    """Mean, spread over seeds, and the middle 95 % of draws."""
    value, seeds = found
    low, high = np.nanpercentile(value.draws, [2.5, 97.5])
    spread = f" +- {np.std(seeds, ddof=1):.3f}" if len(seeds) > 1 else ""
    return f"{value.value:.3f}{spread} [{low:.2f}, {high:.2f}]"


def difference(found, other):
    """Difference of two rows on the same draws; bold where the middle 95 % are on one side of 0."""
    low, high = np.nanpercentile(found[0].draws - other[0].draws, [2.5, 97.5])
    text = f"{found[0].value - other[0].value:+.3f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def headlines(rows, tasks):
    """One line per headline score, one column per row; what all else is about."""
    lines = ["| | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for task in tasks:
        for name in HEADLINES[task]:
            parts = [found.get(task, {}).get(name) for found in rows.values()]
            lines.append(
                f"| {task}: {escaped(name)} | " + " | ".join(cell(part) if part else "" for part in parts) + " |"
            )
    return lines


def markdown(rows, encoders, rivals):
    """All tables.

    Args:
        rows: Row name -> what ``over_seeds`` gives.
        encoders: Rows that are compared.
        rivals: Rows they are compared with.
    """
    tasks = [task for task in TASKS if any(task in row for row in rows.values())]
    lines = ["Mean over seeds +- their standard deviation [95 % over draws of blocks or images].", ""]
    lines += [*headlines(rows, tasks), ""]
    for task in tasks:
        kind = " (for choosing, not for reporting)" if task in VALIDATION else ""
        names = list(dict.fromkeys(name for row in rows.values() for name in row.get(task, {})))
        names.sort(key=lambda name, task=task: name not in HEADLINES[task])  # headlines first, else as they come
        lines += [
            f"**{task}**{kind}",
            "",
            "| | " + " | ".join(map(escaped, names)) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for row, found in rows.items():
            if task in found:
                cells = [cell(found[task][name]) if name in found[task] else "" for name in names]
                lines.append(f"| {row} | " + " | ".join(cells) + " |")
        lines.append("")
    for encoder in encoders if rivals else ():
        lines += [f"**{encoder} against**", "", "| | " + " | ".join(rivals) + " |", "|---" * (len(rivals) + 1) + "|"]
        for task in tasks:
            for name in HEADLINES[task]:
                own = rows[encoder].get(task, {}).get(name)
                others = [rows[rival].get(task, {}).get(name) for rival in rivals]
                if own is not None:
                    cells = [difference(own, other) if other is not None else "" for other in others]
                    lines.append(f"| {task}: {escaped(name)} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)
