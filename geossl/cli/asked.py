"""A finished map that is asked for again, known without importing what makes maps."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from geossl import __version__
from geossl.errors import GeosslError
from geossl.models.download import ENCODERS, encoder_path
from geossl.outputs import output_path, work_path
from geossl.sensors import SENSORS

MOST = 20_000  # files of a map or its sources that are looked at; larger ones take the long way
State = list[tuple[str, int, int]]  # path, bytes, time of the last change


def files_under(path: Path) -> Iterator[Path]:
    """A file, or all files of a folder."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            yield from (Path(folder) / name for name in names)
    elif path.exists():
        yield path


def state(*paths: Path) -> State | None:
    """Size and time of every file; None if they are too many."""
    found: State = []
    for file in (file for path in paths for file in files_under(path)):
        about = file.stat()
        found.append((str(file.absolute()), about.st_size, about.st_mtime_ns))
        if len(found) > MOST:
            return None
    return sorted(found)


def paths_in(value: Any) -> Iterator[Path]:
    """Paths an option may name: itself, what its wildcards stand for, and the items of a list."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from paths_in(item)
    elif isinstance(value, str | Path):
        yield from map(Path, glob(str(value)) or [str(value)])


class Asked:
    """A call of ``geossl embed``: the same options, encoder and files give the same answer.

    Args:
        options: As parsed, before they become a source.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        out = str(options["out"])
        self.out = Path(out) if "://" in out else output_path(out)
        self.picture = self.out.with_suffix(".png")
        self.note = work_path(self.out) / "asked.json"
        self.is_new = bool(options.get("overwrite"))
        self.options = {name: value for name, value in options.items() if name != "overwrite"}

    def key(self) -> str | None:
        """Digest of all the answer depends on; None if it cannot be known quickly."""
        rasters = [str(path) for name in SENSORS for path in self.options.get(name) or ()]
        if any("://" in path or path.startswith("/vsi") for path in rasters):  # they may have changed
            return None
        try:
            name = str(self.options["encoder"])
            encoder = encoder_path(name) if name not in ENCODERS or Path(name).exists() else Path(name)
            given = [value for option, value in self.options.items() if option not in ("out", "encoder")]
            files = state(encoder, *(path for value in given for path in paths_in(value)))
        except (OSError, ValueError, GeosslError):
            return None
        if files is None:
            return None
        text = json.dumps([__version__, str(self.out.absolute()), self.options, files], default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def made(self) -> State | None:
        """The map, its plan and its quicklook as they are now."""
        return state(self.out, work_path(self.out) / "plan.json", self.picture)

    def is_answered(self) -> bool:
        """Whether the same was asked before, and nothing has changed since."""
        if self.is_new or not self.note.exists() or not self.picture.exists():
            return False
        try:
            before = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return False
        now = self.made()
        return now is not None and before == json.loads(json.dumps({"key": self.key(), "files": now}))

    def has_gaps(self) -> bool:
        """Whether a list of what is missing lies beside the map: the next call has to make it."""
        return self.out.with_suffix(".missing.geojson").exists()

    def remember(self) -> None:
        """Note that this was answered; where nothing can be written, the next call takes the long way."""
        key, files = self.key(), self.made()
        if key is not None and files and self.note.parent.is_dir():
            try:
                self.note.write_text(json.dumps({"key": key, "files": files}))
            except OSError:
                return
