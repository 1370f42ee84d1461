"""Where pixels come from, as one value: scenes of a catalogue, or raster files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from geossl import grid
from geossl.data.addresses import check_address, is_address
from geossl.data.periods import files_every, scenes_every
from geossl.data.sentinel.band_names import stated_names
from geossl.data.sentinel.rasters import SAMPLE, LocalRasters
from geossl.data.stac.ranking import check_request, find_scenes, resumed, search_metadata
from geossl.errors import InputError, UnknownSettingError, possible
from geossl.faults import check_hints
from geossl.inference.engine.plan import source_metadata
from geossl.models.download import is_downloaded
from geossl.rules import EVERY, parse_dates
from geossl.sensors import OPTICAL, PAIR, SENSORS

if TYPE_CHECKING:
    from geossl.inference.engine.source import Source  # imports torch

Paths = str | Path | Sequence[str | Path]
FLAGS = ", ".join(f"--{name}" for name in SENSORS)
BOTH_GIVEN = f"--date asks for scenes of a catalogue, {FLAGS} for files; give one or the other"
ANSWER = "source=geossl.Rasters(s1=..., s2=...) for files, or source=geossl.Catalog(date=...) for scenes of a catalogue"


@dataclass(frozen=True)
class Catalog:
    """Scenes of a STAC catalogue, composed to one image; checked when it is made.

    Args:
        date: Period of the scenes: ``2024-06/2024-08``, a year, month or day.
        catalog: ``planetary-computer``, ``earth-search``, ``cdse``, URL of a STAC API, a ``catalog.json`` or a
            ``.parquet`` file. Several by commas: what the first does not have or cannot give is taken from the same
            acquisition in the next, if that is of the same processing baseline.
        composite: ``clearest`` (the day with most clear area, its holes filled from the next), ``medoid``, ``median``.
        sensors: Sensors to look for.
        max_cloud: Scenes with more clouds, in percent by their metadata, are not used.
        mask: How cloudy pixels are found: ``scl`` (the product's scene classes) or ``omnicloudmask``.
        every: ``month``, ``season``, ``year`` or ``scene``: an image per month, season (from December, March, June,
            September), year, or day with an optical scene, composed as ``composite`` says; ``embed_map`` makes one map
            with a time axis of them. Encoders of series ask for ``month`` by themselves. None = one image.

    Raises:
        InputError: Which value cannot be used, and what was expected.
    """

    date: str
    catalog: str | Path = "planetary-computer"
    composite: str = "clearest"
    sensors: str | Sequence[str] = PAIR
    max_cloud: float | int = 80
    mask: str = "scl"
    every: str | None = None

    def __post_init__(self) -> None:
        """Check every value; nothing is searched yet."""
        check_hints("geossl.Catalog", vars(self), get_type_hints(Catalog))
        names = self.sensors.split(",") if isinstance(self.sensors, str) else self.sensors
        object.__setattr__(self, "sensors", tuple(names))
        object.__setattr__(self, "catalog", str(self.catalog))
        check_request(self.date, str(self.catalog), self.composite, self.sensors, self.max_cloud, self.mask)
        check_every(self.every)

    def request(self) -> dict[str, Any]:
        """What to search for, by name, as a plan of a map records it."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "every"}


@dataclass(frozen=True, init=False)
class Rasters:
    """Raster files, folders of them, VRTs or addresses, by sensor; any CRS, resolution and extent.

    An address is that of a GeoTIFF or JPEG 2000 with all its bands: ``https://``, ``s3://``, ``gs://``, or a file in an
    archive, ``/vsizip//folder/scenes.zip/s2.tif``.

    Args:
        s2_offset: Number added to Sentinel-2 values (-1000 from processing baseline 04.00 on), for files that do not
            say.
        date: With ``every``, the period whose files are taken, such as ``2021``; by default the year of all files.
        every: ``month``, ``season``, ``year``: an image per period, the median of its dates pixel by pixel; or
            ``scene``: an image per day with an optical file, and of radar the nearest day, at most 12 days away.
            ``embed_map`` makes one map with a time axis of them; encoders of series ask for ``month`` by themselves.
            None = one image of all files.
        files: By sensor, a key of ``geossl.sensors.SENSORS``: ``s1`` (VV and VH in dB), ``s2`` (those of the encoder,
            which may do without some: ``croma_tiny`` without B01, B09 and VH), ``landsat``
            (Landsat 8 or 9, Collection 2 Level 2: files with named bands, or product folders). And ``s1_bands``,
            ``s2_bands``, ``landsat_bands``: the bands of stacks that do not name them, in their order, such as
            ``"B02,B03,..."``.

    Raises:
        InputError: If no sensor is named, or a value is not a path.
    """

    files: Mapping[str, Paths | None]
    s2_offset: int | None
    bands: Mapping[str, tuple[str, ...]]
    date: str | None
    every: str | None

    def __init__(
        self,
        *,
        s2_offset: int | None = None,
        date: str | None = None,
        every: str | None = None,
        **files: Paths | None,
    ) -> None:
        check_hints("geossl.Rasters", {"s2_offset": s2_offset}, {"s2_offset": int | None})
        check_every(every)
        if date is not None:
            parse_dates(date)
        object.__setattr__(self, "date", date)
        object.__setattr__(self, "every", every)
        stated = {name: files.pop(f"{name}_bands", None) for name in SENSORS}
        bands = {name: stated_names(names, name) for name, names in stated.items() if names is not None}
        object.__setattr__(self, "files", files)
        object.__setattr__(self, "s2_offset", s2_offset)
        object.__setattr__(self, "bands", bands)
        if unknown := sorted(set(files) - set(SENSORS)):
            raise UnknownSettingError("geossl.Rasters", unknown[0], (*KEYWORDS[Rasters], *DATED))
        if not self.paths():
            raise InputError(f"no rasters given; name at least one sensor, such as {ANSWER}")
        if self.s2_offset is not None and OPTICAL not in self.paths():
            raise InputError(f"--s2-offset {self.s2_offset} does nothing without Sentinel-2 files; leave it out")
        if idle := sorted(set(self.bands) - set(self.paths())):
            raise InputError(f"--{idle[0]}-bands does nothing without --{idle[0]} files; leave it out")
        if self.s2_offset not in (None, 0, -1000):
            raise InputError(f"--s2-offset {self.s2_offset!r} is not possible; use 0 or -1000")

    def paths(self) -> dict[str, list[str | Path]]:
        """Paths by sensor, of the sensors that are named."""
        found = {name: as_paths(self.files.get(name), name) for name in SENSORS}
        return {name: paths for name, paths in found.items() if paths}

    def open(self) -> LocalRasters:
        """Look at every file once.

        Raises:
            InputError: What is wrong with which file.
        """
        if self.date is not None and self.every is None:
            raise InputError(BOTH_GIVEN)
        return LocalRasters(self.paths(), self.s2_offset, self.bands)

    def source(self) -> Source:
        """One image of all files, or one per period.

        Raises:
            InputError: What is wrong with which file, or that a file does not say its day.
        """
        return self.open() if self.every is None else files_every(self.every, self.open(), self.date)


DATED = ("date", "every")  # further keyword arguments of Rasters, for images of several months
KEYWORDS: dict[type, tuple[str, ...]] = {
    Catalog: tuple(field.name for field in fields(Catalog)),
    Rasters: (*SENSORS, "s2_offset", *(f"{name}_bands" for name in SENSORS)),
}
FORMER = tuple(name for names in KEYWORDS.values() for name in names)  # keyword arguments of before


def check_every(every: str | None) -> None:
    """Refuse other lengths of a period.

    Raises:
        InputError: Says what is known.
    """
    if every not in (None, *EVERY):
        raise InputError(f"--every {every!r} is not known; use {', '.join(EVERY)}, or leave it out for one image")


def as_paths(paths: Any, name: str) -> list[str | Path]:
    """One path or many, as a list; ``sample`` is the folder of bundled scenes, addresses stay text.

    Raises:
        InputError: If something in it is not a path.
    """
    if paths is None:
        return []
    found = [paths] if isinstance(paths, str | Path) else paths
    if not isinstance(found, Sequence) or not all(isinstance(path, str | Path) and str(path) for path in found):
        raise InputError(f"{name}={paths!r} is not a path or a list of paths")
    own = SAMPLE / name if name in PAIR and not Path("sample").exists() else Path("sample")
    return [
        check_address(str(path), f"--{name}")
        if is_address(path)
        else own
        if str(path) == "sample"
        else possible(path, f"--{name}")
        for path in found
    ]


def given(source: Any, settings: Mapping[str, Any], verb: str) -> Catalog | Rasters | Source | None:
    """The source a caller named, also in the former way (``s1=``, ``date=``), which still works and is answered.

    Args:
        source: The value, if there is one.
        settings: Other keyword arguments of the call.
        verb: Its name, for the message.

    Raises:
        InputError: If it is not a source, or named twice.
    """
    former = {name: settings[name] for name in FORMER if settings.get(name) is not None}
    if not former:
        if source is not None and not isinstance(source, Catalog | Rasters) and not hasattr(source, "load"):
            raise InputError(f"{verb}: {source!r} is not a source of pixels; write {ANSWER}")
        return source
    if source is not None:
        raise InputError(f"{verb}: {next(iter(former))} is a part of source already; leave it out")
    kind: type[Catalog | Rasters] = Rasters if set(former) & set(SENSORS) else Catalog
    if other := sorted(set(former) - set(KEYWORDS[kind])):
        raise InputError(
            "geossl.Catalog takes scenes of a catalogue, geossl.Rasters takes files; give one or the other"
            if "date" in other
            else f"{verb}: {', '.join(other)} does nothing for {'files' if kind is Rasters else 'scenes'}; leave it out"
        )
    if kind is Catalog and "date" not in former:
        raise InputError(f"{verb}: {next(iter(former))} alone names no pixels; write {ANSWER}")
    text = ", ".join(f"{name}={value!r}" for name, value in former.items())
    words = f"{', '.join(f'{name}=' for name in former)} of geossl.{verb} is now source=geossl.{kind.__name__}({text})"
    warnings.warn(words, FutureWarning, stacklevel=5)
    return kind(**former)


def needed(source: Catalog | Rasters | Source | None, verb: str) -> Catalog | Rasters | Source:
    """A source that has to be there.

    Raises:
        InputError: If there is none.
    """
    if source is None:
        raise InputError(f"{verb}: no pixels asked for; write {ANSWER}")
    return source


def opened(
    source: Catalog | Rasters | Source,
    region: grid.Aoi,
    out: Path | None,
    overwrite: bool = False,
    encoder: Any = None,
    takes_times: bool = False,
) -> Source:
    """What the map engine reads from: files looked at, scenes found; a resumed map takes its scenes from its plan.

    Args:
        source: What the caller named.
        region: Region to search scenes for.
        out: Output whose plan may name scenes; None = search.
        overwrite: Search again.
        encoder: Name, file or encoder; one of series gets an image per month.
        takes_times: Whether an image per period is of use by itself, as to ``embed_map``.

    Raises:
        InputError: If files do not fit, or no scene is found.
    """
    if isinstance(source, Catalog | Rasters):
        source = with_every(source, takes_series(encoder), takes_times)
    if isinstance(source, Rasters):
        return source.source()
    if not isinstance(source, Catalog):
        return source
    known = {} if overwrite or out is None else source_metadata(out)
    if source.every is not None:
        request = source.request()
        return scenes_every(source.every, region, request.pop("date"), request, known)
    request = source.request()
    if known.get("search") == search_metadata(region, request):
        return resumed(region, known, request)
    return find_scenes(region, request.pop("date"), **request)


def with_every(source: Catalog | Rasters, is_of_series: bool, takes_times: bool) -> Catalog | Rasters:
    """A source with the periods that an encoder takes.

    Raises:
        InputError: If it does not take those that were asked for, or what is made takes none.
    """
    if source.every is None:
        return by_period(source) if is_of_series else source
    if is_of_series and source.every != "month":
        raise InputError(f"--every {source.every} is for encoders of one image; this one takes months: leave it out")
    if not is_of_series and not takes_times:
        raise InputError(
            f"--every {source.every} makes a map of several dates: make it with geossl embed, then name it with --map"
        )
    return source


def by_period(source: Any, every: str = "month", date: str | None = None) -> Any:
    """The same source with an image per month or other length, of its own period or of another."""
    found = copy.copy(source)
    object.__setattr__(found, "every", every)
    object.__setattr__(found, "date", found.date if date is None else date)
    return found


def takes_series(encoder: Any) -> bool:
    """Whether an encoder takes several dates; one that would have to be downloaded first does not."""
    if encoder is None or (isinstance(encoder, str) and is_downloaded(encoder)):
        return False
    from geossl.models.files import EncoderFile  # lazy: imports torch

    try:
        return getattr(EncoderFile.open(encoder).encoder.spec, "dates", 1) > 1
    except InputError:  # said in its turn
        return False


def from_options(options: Mapping[str, Any], given_by_user: Sequence[str]) -> Catalog | Rasters | None:
    """The source that options of the shell name; None if they name none.

    Args:
        options: Their values, by name.
        given_by_user: Those that the user typed, which must mean something.

    Raises:
        InputError: If options name two sources, or one means nothing beside the others.
    """
    rasters = KEYWORDS[Rasters]
    files = {name: options[name] for name in rasters if options.get(name) is not None}
    is_local, date = bool(set(files) & set(SENSORS)), options.get("date")
    every = options.get("every")
    if is_local and date is not None and not (every or takes_series(options.get("model") or options.get("encoder"))):
        raise InputError(BOTH_GIVEN)
    words = {name: f"--{name.replace('_', '-')}" for name in FORMER}
    if not is_local and date is None:
        for name in given_by_user:
            raise InputError(f"{words[name]} alone names no pixels; add --date for a catalogue, or {FLAGS} for files")
        return None
    for name in given_by_user:
        if is_local and name not in (*rasters, *DATED):
            raise InputError(f"{words[name]} is for scenes of a catalogue (--date) and does nothing for files; drop it")
        if not is_local and name in rasters:
            raise InputError(f"{words[name]} is for files (--s2) and does nothing for scenes of a catalogue; drop it")
    if is_local:
        return Rasters(**files, date=date, every=every)
    return Catalog(**{field.name: options[field.name] for field in fields(Catalog) if field.name in options})
