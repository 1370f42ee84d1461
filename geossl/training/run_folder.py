"""A pretraining run on disk: resolved recipe, versions, metrics, checkpoints; what makes a run resumable."""

import json
import platform
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from geossl import recipe as recipes
from geossl.errors import InputError
from geossl.faults import fits
from geossl.outputs import read_note, write_text
from geossl.training.checkpoints import read_checkpoint

FREE_KEYS = {"out", "resume", "probe", "data.workers", "train.log_every", "train.checkpoint_every"}


BATCH_KEYS = {"train.devices", "data.batch_size"}  # may change together
OR_AS_MANY = ", or change data.batch_size, too, so that a step has as many items over all devices"


class RunFolder:
    """Paths of a run, and the rules for starting or resuming it.

    Args:
        path: The folder; made by ``open``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.versions = self.path / "versions.json"
        self.metrics = self.path / "metrics.csv"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.encoder = self.path / "encoder.safetensors"
        self.page = self.path / "run.html"
        self.holdout = self.path / "holdout.json"  # probes of held-out ground, before and after
        self.lengthened = self.path / "lengthened.json"  # steps at which more were asked for, and how many it had

    def check(self, recipe: recipes.Recipe) -> None:
        """Refuse to overwrite a run, or to resume one with another recipe; writes nothing.

        Raises:
            InputError: Names the first differing key, or says how to resume.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"out={str(self.path)!r} is a file; give a folder for the run")
        if not self.recipe.exists() or not self.holds_steps():
            return
        if not recipe.resume:
            raise InputError(f"{self.path} already holds a run; add resume=true to resume it, or choose another out=")
        before, now = flatten(recipes.load(self.recipe, is_run=True).model_dump()), flatten(recipe.model_dump())
        items = per_step(now)
        free = BATCH_KEYS if items is not None and items == per_step(before) else set()
        for key in now:
            if key in free or before.get(key) == now[key] or key in FREE_KEYS or key.split(".")[0] in FREE_KEYS:
                continue
            if key == "train.devices":
                text = f"{self.path} was started with {key}={before[key]}, not {now[key]}, which changes the batch"
                raise InputError(f"{text}; resume with the same value{'' if items is None else OR_AS_MANY}")
            if key != "train.max_steps":
                raise InputError(
                    f"{self.path} was started with {key}={before.get(key)!r}, not {now[key]!r}; "
                    "resume with the same value or choose another out="
                )
            if now[key] < before[key]:
                raise InputError(
                    f"{self.path} was started with {key}={before[key]}, not {now[key]}; a run can be given more steps, "
                    "not fewer: choose another out="
                )

    def holds_steps(self) -> bool:
        """Whether anything was learned that could be lost; not where the first step failed."""
        return any(path.exists() for path in (self.checkpoint, self.metrics, self.encoder))

    def open(self, recipe: recipes.Recipe) -> Path | None:
        """Make the folder, write recipe and versions; return the checkpoint to go on from, if any."""
        self.check(recipe)
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"out={str(self.path)!r} cannot be written ({error.strerror}); choose another out="
            ) from None
        if self.checkpoint.exists():
            self.lengthen(recipe.train.max_steps)
        write_text(self.recipe, recipes.dump(recipe))
        write_text(self.versions, json.dumps(versions(), indent=1))
        return self.saved()

    def saved(self) -> Path | None:
        """The checkpoint to go on from, if any."""
        return self.checkpoint if self.checkpoint.exists() else None

    def begun_with(self, key: str) -> Any:
        """A value of the recipe of the run that was begun; None if none was."""
        return flatten(recipes.load(self.recipe, is_run=True).model_dump())[key] if self.recipe.exists() else None

    def step(self) -> int:
        """Updates in the checkpoint; 0 without one."""
        if not self.checkpoint.exists():
            return 0
        return int(read_checkpoint(self.checkpoint)["global_step"])

    def lengthen(self, max_steps: int) -> None:
        """Note it down if a run that has begun is to have more steps than before."""
        before = recipes.load(self.recipe, is_run=True).train.max_steps
        now = [self.step(), before]
        known = self.changes()
        if max_steps > before and (not known or known[-1] != now):
            write_text(self.lengthened, json.dumps([*known, now]))

    def changes(self) -> list[list[int]]:
        """Step and number of steps until then, for every time the run was lengthened."""
        found: list[list[int]] = read_note(self.lengthened, list)
        if not fits(found, list[list[int]]) or any(len(change) != 2 for change in found):
            raise InputError(f"{self.lengthened} is damaged; choose another out=")
        return found


def per_step(values: dict[str, Any]) -> int | None:
    """Items of a step over all devices; None where a batch has no such number."""
    size = values.get("data.batch_size")
    return None if size is None else int(size) * int(values["train.devices"])


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionary to ``{"a.b": value}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "cpu": torch.backends.cpu.get_cpu_capability()}
    for package in ("geossl", "torch", "torchgeo", "lightning", "rasterio", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    found["git"] = own_revision(Path(__file__).parents[2])
    return found


def own_revision(root: Path) -> str:
    """Commit of the geossl checkout at ``root``; "unknown" where the package is installed some other way.

    Git looks for a repository in every folder above, so an environment inside a user's project would
    record the commit of that project.

    Args:
        root: The folder that holds the package.
    """
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        if project.get("name") != "geossl" or not (root / ".git").exists():
            return "unknown"
        git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except (OSError, ValueError):  # no such file, not TOML, or git is not installed
        return "unknown"
    return git.stdout.strip() or "unknown"
