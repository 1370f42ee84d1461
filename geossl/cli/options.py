"""Options that verbs of the command line share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from geossl.errors import InputError, MissingFileError, possible
from geossl.models.download import ENCODERS, FETCHED, encoder_path
from geossl.sensors import PAIR, SENSORS

ALL_TIMES = ("segment", "finetune", "similar")  # verbs that take all dates side by side


def given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Options without those of ``names`` that were not given; what they are for says the default."""
    return {key: value for key, value in options.items() if key not in names or value is not None}


def typed(*names: str) -> list[str]:
    """Those of the running verb's options that the user typed."""
    context = click.get_current_context()
    default = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP, None)
    return [name for name in context.params if name in names and context.get_parameter_source(name) not in default]


def early(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse what cannot be found, before anything slow is imported.

    Raises:
        InputError: Names the file or encoder that is not there.
    """
    for name in ("aoi", "labels", "map"):
        is_sample = name == "aoi" and options.get(name) == "sample"
        if (path := options.get(name)) and "://" not in path and not is_sample and not exists(path, name):
            raise MissingFileError(f"{'map' if name == 'map' else f'--{name} file'} {path!r} does not exist")
    for name in ("encoder", "model"):
        if options.get(name) and not is_fetched(options[name]):  # those are fetched when all else fits
            encoder_path(options[name])
    return options


def is_fetched(name: str) -> bool:
    """Whether an encoder's name stands for something that may have to be downloaded or built first."""
    return name in ENCODERS or name.startswith(FETCHED)


def exists(path: str, name: str) -> bool:
    """Whether there is something at a path; ``file.gpkg:layer`` names a layer of a file."""
    found = possible(path, f"--{name}")
    return found.exists() or Path(path.rpartition(":")[0] or path).is_file()


def with_source(options: dict[str, Any], idle: str | None = None) -> dict[str, Any]:
    """Options of a verb with those of its pixels as one value, ``source``.

    Args:
        options: All of them.
        idle: An option beside which settings of the map engine do nothing; where it is given, those the user did not
            type are left out.
    """
    early(options)
    from geossl.api import source  # lazy: reads rasters and catalogues

    found = {name: value for name, value in options.items() if name not in source.FORMER}
    if idle and options[idle] is not None:
        kept = typed(*found)
        found = {name: value for name, value in found.items() if name in kept or name in ("out", "encoder")}
    pixels = source.from_options(options, typed(*source.FORMER))
    if pixels is None and (idle is None or options[idle] is None):
        raise InputError(
            f"no pixels asked for: name a period with --date to use a catalogue, or files with {source.FLAGS}"
        )
    note_default(options)
    return found | {"source": pixels}


def with_files(options: dict[str, Any]) -> dict[str, Any]:
    """Options of ``evaluate``: ``--sensors`` is not of its source, and ``--s2-offset`` may be of a folder data set."""
    stated = {name: options.get(name) for name in (*SENSORS, *(f"{name}_bands" for name in SENSORS))}
    others = {name: value for name, value in options.items() if name not in stated}
    if not any(stated.values()):
        return others
    from geossl.api.source import Rasters  # lazy: reads rasters and catalogues

    source = Rasters(s2_offset=others.pop("s2_offset"), **stated)
    return {**others, "source": source}


def with_options(verb: Callable[..., None], *options: Callable[..., Any]) -> Callable[..., None]:
    """Add options to a verb, shown in this order."""
    for option in reversed(options):
        verb = option(verb)
    return verb


def asks_catalogue(verb: Callable[..., None]) -> Callable[..., None]:
    """Options of verbs that take scenes from a catalogue."""
    return with_options(
        verb,
        click.option(
            "--date", help="Use scenes of this period: 2024-06/2024-08, a year, month or day; with presto also files."
        ),
        click.option(
            "--catalog",
            default="planetary-computer",
            show_default=True,
            help="Or earth-search, cdse, URL, file; a,b: b for a.",
        ),
        click.option("--composite", default="clearest", show_default=True, help="Or medoid, median."),
        click.option(
            "--sensors",
            default=",".join(PAIR),
            show_default=True,
            callback=lambda _c, _p, text: text.split(","),
            help="Sensors to look for in the catalogue.",
        ),
        click.option("--max-cloud", default=80.0, show_default=True, help="Percent; cloudier scenes are not used."),
        click.option("--mask", default="scl", show_default=True, help="Clouds by scene classes, or by omnicloudmask."),
    )


s2_offset = click.option(
    "--s2-offset",
    type=click.Choice(["0", "-1000"]),
    callback=lambda _c, _p, number: None if number is None else int(number),
    help="Offset of Sentinel-2 files that do not state theirs.",
)


def asks_files(verb: Callable[..., None]) -> Callable[..., None]:
    """Options of verbs that read raster files."""
    several: dict[str, Any] = {"multiple": True, "callback": lambda _c, _p, paths: list(paths) or None}
    return with_options(
        verb,
        *(
            click.option(f"--{name}", **several, help=f"{entry.title}: file, VRT, folder or address; may be repeated.")
            for name, entry in SENSORS.items()
        ),
        s2_offset,
        *(
            click.option(f"--{name}-bands", metavar="NAMES", help=f"Bands of {name} stacks without names, in order.")
            for name in SENSORS
        ),
    )


def asks_shards(verb: Callable[..., None]) -> Callable[..., None]:
    """Options of verbs that work through a region shard by shard."""
    scheduler = "sync, processes[:N], tcp://HOST:PORT, file:JSON."
    return with_options(
        verb,
        click.option("--crs", type=int, help="EPSG code of the map. [default: UTM zone of the region]"),
        click.option("--scheduler", default="sync", show_default=True, help=scheduler),
        click.option("--shard-cells", type=click.IntRange(1), help="Shard side; sets memory.  [default: 8 or 10]"),
    )


def note_default(options: dict[str, Any]) -> None:
    """Name the default encoder once everything else fits, since a larger one may be wanted."""
    if "encoder" in options and not typed("encoder") and "classes" not in options:  # segment has models, too
        name = options["encoder"]
        click.echo(
            f"geossl: note: encoder {name}, bundled; --encoder croma_base is the published, larger one", err=True
        )


asks_encoder = click.option(
    "--encoder",
    default="croma_tiny",
    show_default=True,
    help="croma_tiny or galileo_nano (bundled), presto (bundled; an image per month, 10 m), "
    "croma_base, croma_large, galileo_tiny or galileo_base (downloaded), a weight file or .pt2, "
    "timm:NAME, torchgeo:NAME, terratorch:NAME, hf:owner/repo/file@commit.",
)


def asks_reach(verb: Callable[..., None]) -> Callable[..., None]:
    """How far attention reaches in a map."""
    text = "Patches a patch attends to around it, such as 7; none = whole windows.  [default: the encoder's]"
    return with_options(verb, click.option("--reach", default="own", callback=reach, metavar="N|none", help=text))


def asks_dims(verb: Callable[..., None]) -> Callable[..., None]:
    """How many numbers a patch gets."""
    text = "Numbers per patch, by the projection in the encoder's file.  [default: all]"
    return with_options(verb, click.option("--dims", type=click.IntRange(1), metavar="N", help=text))


asks_every = click.option(
    "--every",
    metavar="month|season|year|scene",
    help="One map with a time axis: an image per period of --date, or per day with an optical scene.",
)


def asks_time(verb: Callable[..., None]) -> Callable[..., None]:
    """Which date of a map with a time axis."""
    text = "Of a map with a time axis: the date, such as 2023-06"
    text += {"sample": ".  [default: all]"}.get(
        verb.__name__, ", or all side by side." if verb.__name__ in ALL_TIMES else "."
    )
    return with_options(verb, click.option("--time", metavar="DATE", help=text))


def asks_tokens(verb: Callable[..., None]) -> Callable[..., None]:
    """Which tokens of an encoder are used."""
    text = "Tokens of all sensors together (joint), of one sensor, or radar and optical side by side (both)."
    default = "best on validation blocks" if verb.__name__ == "finetune" else "joint"
    text = f"{text}  [default: {default}]"
    return with_options(verb, click.option("--tokens", metavar="joint|s1|s2|both", help=text))


def reach(_context: click.Context, _parameter: click.Parameter, given: str) -> int | str | None:
    """A number of patches, None for ``none``, and ``own`` where nothing was asked for."""
    if given in ("own", "none"):
        return None if given == "none" else given
    if given.isdigit() and int(given):
        return int(given)
    raise InputError(f"--reach {given} is not a number of patches; use 1 or more, such as 7, or none")


def asks_protocols(verb: Callable[..., None]) -> Callable[..., None]:
    """Options of an evaluation."""
    several: dict[str, Any] = {"multiple": True, "callback": lambda _c, _p, given: list(given) or None}
    return with_options(
        verb,
        click.option(
            "--protocol",
            multiple=True,
            default=("knn", "linear"),
            show_default=True,
            help="Also mlp, kmeans, finetune, segmentation (class per pixel), all; svm, linear_lars; 5-way-10-shot.",
        ),
        click.option("--sensors", **several, help="s1, s2 or s1,s2; repeated, each is evaluated.  [default: all]"),
        click.option("--root", help="Folder of a data set known by name."),
        click.option("--download", is_flag=True, help="Fetch a data set known by name if it is not there."),
        click.option("--split", default="auto", show_default=True, help="Or official, blocked, random."),
        click.option("--seeds", default=1, show_default=True, help="Runs, each with its own split and heads."),
        click.option("--neighbours", type=int, help="k of kNN.  [default: chosen on validation]"),
        click.option(
            "--label-fractions", default="", callback=numbers, help="Shares of the labels for a curve: 0.05,0.2,0.5."
        ),
        click.option("--image-px", type=int, help="Resize images to this side (labels over scenes: side of chips)."),
        click.option("--baselines", is_flag=True, help="Also evaluate the untrained encoder and band statistics."),
        click.option("--batch-size", default=64, show_default=True, help="Images per forward pass."),
        click.option("--epochs", type=int, help="Most epochs of fine-tuning; it stops early.  [default: 50]"),
        click.option("--finetuning", help="Fine-tune as in a paper: mae_base, mae_large, mr_mae, point_cmae."),
        click.option("--column", help="Attribute of labelled polygons or points that holds the class or the amount."),
        click.option("--task", help="classify or regress, where labels over scenes do not say it."),
        click.option("--cost", is_flag=True, help="Also measure images/s, GFLOP, memory, and Wh if the machine tells."),
        click.option("--csv", help="Also add rows to a table in torchgeo-bench's layout (.csv), cost among them."),
    )


def two_maps(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, str] | None
) -> tuple[str, str] | None:
    """Both maps of ``--pair``; of one alone, click takes the option after it for the other."""
    if given is not None and (option := next((value for value in given if value.startswith("--")), None)):
        raise InputError(f"--pair takes two maps, before and after, but {option} follows the first")
    return given


def numbers(_context: click.Context, option: click.Parameter, text: str) -> list[float]:
    """Numbers separated by commas."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"{option.opts[0]} {text!r} is not a list of numbers such as 0.1,0.5") from None


asks_region = click.option(
    "--aoi", required=True, help="Region: GeoJSON polygons in lon/lat, or any vector file with a CRS."
)
