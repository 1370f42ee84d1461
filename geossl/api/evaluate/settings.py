"""What an evaluation runs: protocols, sensors, splits, seeds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from geossl.errors import InputError, UnknownSettingError
from geossl.evaluation.features import Change, digest
from geossl.evaluation.probes import PROBES
from geossl.models.encoder import Encoder, Items
from geossl.progress import Progress, silent
from geossl.training.early_stopping import PUBLISHED as PAPERS
from geossl.training.early_stopping import FinetuneConfig

STORED_FROM = 2000  # items, from which vectors are stored until the report is written
PROTOCOLS = ("knn", "linear", "mlp", "kmeans", "finetune", "segmentation")  # what ``all`` stands for
PUBLISHED = ("svm", "svm_folds", "linear_adam", "linear_lars", "clusters")  # further ones, as papers define them
EPISODE = re.compile(r"(\d{1,4})-way-(\d{1,4})-shot")


class Options(TypedDict, total=False):
    """Options of ``geossl.evaluate`` beside encoder, data set, protocol and output; documented there."""

    sensors: str | Sequence[str] | None
    root: str | Path | None
    download: bool
    split: str
    seeds: int
    neighbours: int | None
    label_fractions: Sequence[float]
    image_px: int | None
    baselines: bool
    batch_size: int
    column: str | None
    dims: int | None
    task: str | None
    perturbations: Mapping[str, Change] | None
    epochs: int
    finetuning: str | FinetuneConfig | None
    cost: bool
    csv: str | Path | None
    s1: str | Path | Sequence[str | Path] | None
    s2: str | Path | Sequence[str | Path] | None
    s2_offset: int | None


@dataclass(frozen=True)
class Settings:
    """Protocols, sensors, seeds and splits of one evaluation.

    Args:
        protocols: Names from ``PROTOCOLS`` and ``PUBLISHED``, and few-shot episodes such as ``5-way-10-shot``.
        sensors: Sets of sensors, each evaluated by itself; empty = one set, all that encoder and data share.
        seeds: Number of runs; a seed draws the split (where none is official) and all heads.
        split: ``auto``, ``official``, ``blocked`` or ``random``.
        neighbours: Neighbours of kNN; None = chosen on the validation part.
        shares: Shares of the labels, for a curve.
        image_px: Side images are resized to; None = as they are.
        batch_size: Images at a time.
        baselines: Also evaluate the untrained encoder and plain band statistics.
        perturbations: Perturbations by name; the test part is scored once more under each.
        finetune: How encoders are fine-tuned.
        progress: Called after every part of the work; see ``geossl.progress``.
        store: Folder that keeps vectors of many items, so that an interrupted evaluation resumes.
        cost: Also measure what the encoder costs.
    """

    protocols: tuple[str, ...]
    sensors: tuple[tuple[str, ...], ...] = ()
    seeds: int = 1
    split: str = "auto"
    neighbours: int | None = None
    shares: tuple[float, ...] = ()
    image_px: int | None = None
    batch_size: int = 64
    baselines: bool = False
    perturbations: Mapping[str, Change] = field(default_factory=dict)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    progress: Progress = silent
    store: Path | None = None
    cost: bool = False

    def named(self, title: str) -> Progress:
        """Progress of one part of the evaluation, under its title."""
        return lambda done, total, _: self.progress(done, total, title)

    @property
    def probes(self) -> tuple[str, ...]:
        """Protocols on frozen vectors."""
        return tuple(name for name in self.protocols if is_probe(name))

    def stored(self, encoder: Encoder, data: str, items: Items, change: str = "") -> Path | None:
        """Folder of the vectors of these items; None where there are few."""
        if self.store is None or len(items) < STORED_FROM:
            return None
        return self.store / digest(encoder, data, len(items), getattr(items, "orders", {}), self.image_px, change)


def settings_of(protocol: str | Sequence[str], out: Path, progress: Progress | None, options: Options) -> Settings:
    """Check the options of an evaluation.

    Raises:
        InputError: If a value is not possible.
        UnknownSettingError: If there is no such option; offers the nearest.
    """
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        raise UnknownSettingError("evaluate", unknown[0], Options.__annotations__)
    neighbours, image_px, protocols = options.get("neighbours"), options.get("image_px"), requested(protocol)
    idle = [name for name in ("epochs", "finetuning") if options.get(name) is not None]
    if idle and not {"finetune", "segmentation"} & set(protocols):
        raise InputError(f"--{idle[0]} does nothing without --protocol finetune or segmentation; leave it out")
    return Settings(
        protocols=protocols,
        sensors=sensor_sets(options.get("sensors")),
        seeds=at_least(options.get("seeds", 1), 1, "--seeds", 10_000),
        split=options.get("split", "auto"),
        neighbours=None if neighbours is None else at_least(neighbours, 1, "--neighbours"),
        shares=tuple(checked_share(share) for share in options.get("label_fractions", ())),
        image_px=None if image_px is None else at_least(image_px, 1, "--image-px"),
        batch_size=at_least(options.get("batch_size", 64), 1, "--batch-size"),
        baselines=options.get("baselines", False),
        perturbations=dict(options.get("perturbations") or {}),
        finetune=finetuning_of(options),
        progress=progress or silent,
        store=out.with_name(f"{out.name}.build"),
        cost=options.get("cost", False) or options.get("csv") is not None,
    )


def finetuning_of(options: Options) -> FinetuneConfig:
    """How encoders are fine-tuned: by default, as a paper did, or as the caller says.

    Raises:
        InputError: If there is no such paper, or ``epochs`` contradicts it.
    """
    given = options.get("finetuning")
    if given is None:
        epochs = options.get("epochs")
        return FinetuneConfig(epochs=50 if epochs is None else at_least(epochs, 1, "--epochs", 10**6))
    if isinstance(given, str) and given not in PAPERS:
        raise InputError(f"--finetuning {given!r} is not known; use {', '.join(PAPERS)}, or leave it out")
    config = PAPERS[given] if isinstance(given, str) else given
    if not isinstance(config, FinetuneConfig):
        raise InputError(f"finetuning={given!r} is not possible; give a name ({', '.join(PAPERS)}) or a FinetuneConfig")
    if options.get("epochs") is None:
        return config
    epochs = at_least(options["epochs"], 1, "--epochs", 10**6)
    return replace(config, epochs=epochs, patience=epochs, warmup_epochs=min(config.warmup_epochs, epochs // 2))


def is_probe(protocol: str) -> bool:
    """Whether a protocol uses frozen vectors."""
    return protocol in PROBES or EPISODE.fullmatch(protocol) is not None


def requested(protocol: str | Sequence[str]) -> tuple[str, ...]:
    """Protocols by name, each once."""
    names = [protocol] if isinstance(protocol, str) else list(protocol)
    names = [name.strip() for given in names for name in str(given).split(",")]
    if "all" in names:
        return PROTOCOLS
    if unknown := [name for name in names if not (name in PROTOCOLS + PUBLISHED or is_probe(name))]:
        more = ", ".join((*PROTOCOLS, *PUBLISHED))
        raise InputError(f"--protocol {unknown[0]!r} is not known; use {more}, all, or episodes such as 5-way-10-shot")
    if not names:
        raise InputError("no protocol was given; use for example --protocol linear")
    return tuple(dict.fromkeys(names))


def sensor_sets(sensors: str | Sequence[str] | None) -> tuple[tuple[str, ...], ...]:
    """Sets of sensors: ``"s1,s2"`` is one set of two, a sequence of strings several sets."""
    given = [sensors] if isinstance(sensors, str) else list(sensors or [])
    sets = tuple(tuple(name.strip() for name in one.split(",") if name.strip()) for one in given)
    if not all(sets):
        raise InputError("--sensors names no sensor; write s1, s2 or s1,s2, or leave it out")
    return sets


def at_least(value: int, least: int, name: str, most: int = 10**9) -> int:
    """Refuse what is not a whole number between the least and the most that make sense."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} {value!r} is not a whole number")
    if value < least:
        raise InputError(f"{name} {value} is too small; use {least} or more")
    if value > most:
        raise InputError(f"{name} {value} is too large; use {most} or fewer")
    return value


def checked_share(share: float) -> float:
    """A share of the labels."""
    if not 0 < share < 1:
        raise InputError(f"--label-fractions {share:g} is not a share between 0 and 1, such as 0.1")
    return float(share)
