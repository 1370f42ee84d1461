"""What this machine has, and what geossl would make of files: for the first question of every bug report."""

import platform
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil

from geossl import __version__
from geossl.api.source import Rasters
from geossl.data.sentinel.inspection import inspect_one, named
from geossl.data.sentinel.products import SceneFiles
from geossl.data.sentinel.raster_file import RasterFile
from geossl.errors import EXTRAS, InputError, Note, RunError, redact
from geossl.models.download import ENCODERS, cache_folder
from geossl.sensors import SENSORS

PACKAGES = ("torchgeo", "rasterio", "xarray", "zarr", "dask", "timm", "lightning", "geopandas")
GIB = 2**30


@dataclass(frozen=True)
class FileReport:
    """What is known of a file, or why it cannot be used.

    Args:
        sensor: Key of ``geossl.sensors.SENSORS``.
        path: The file, or one of those of a scene.
        file: How it would be read; None if it cannot be.
        problem: Why it cannot be.
        notes: What there is to say of it besides.
    """

    sensor: str
    path: str
    file: RasterFile | None
    problem: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = f"{self.sensor:<8} {Path(self.path).name}"
        if self.file is None:
            return f"{name}\n{'':<9}cannot be used: {self.problem.replace(self.path, '').lstrip(': ')}"
        lines = [name, *(f"{'':<9}{line}" for line in (place_of(self.file), numbers_of(self.file), *self.notes))]
        return "\n".join(lines)


def machine() -> list[str]:
    """Versions, accelerator, memory, encoders and extras, a line each."""
    memory = psutil.virtual_memory()
    return [
        f"geossl    {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"torch     {accelerator()}",
        f"packages  {', '.join(f'{name} {installed(name)}' for name in PACKAGES)}",
        f"memory    {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free, {psutil.cpu_count()} cores",
        f"encoders  {', '.join(weights())}; cache {cache_folder()}",
        *extras(),
    ]


def accelerator() -> str:
    """Version of torch and what it computes on."""
    import torch  # lazy: seconds, and a broken installation is to be reported by the line that needs it

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return f"{torch.__version__}, {', '.join(names)}"
    amx = "bfloat16 by AMX" if torch.cpu._is_amx_tile_supported() else "no AMX, so --precision auto is fp32"
    return f"{torch.__version__}, no GPU, {torch.get_num_threads()} threads, {amx}"


def installed(package: str) -> str:
    """Version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "is missing"


def weights() -> Iterator[str]:
    """Which released encoders are here."""
    for name, released in ENCODERS.items():
        cached = (cache_folder() / released.file).is_file()
        yield f"{name} {'bundled' if released.bundled else 'downloaded' if cached else 'not downloaded yet'}"


def extras() -> list[str]:
    """Which extras are installed, and how to get the others."""
    missing = {
        name: [package for package in packages if find_spec(package) is None] for name, (_, packages) in EXTRAS.items()
    }
    here = ", ".join(name for name, packages in missing.items() if not packages)
    return [
        f"extras    {here or 'none'}",
        *(
            f"missing   {EXTRAS[name][0]} ({', '.join(packages)}): pip install 'geossl[{name}]'"
            for name, packages in missing.items()
            if packages
        ),
    ]


def look(source: Rasters) -> Iterator[FileReport]:
    """Look at every file as ``embed`` would, and go on where one cannot be used.

    Raises:
        MissingFileError: If a path does not exist or a folder holds no raster.
    """
    for sensor, paths in source.paths().items():
        for found in named(paths, sensor):
            yield look_at(source, sensor, found)


def look_at(source: Rasters, sensor: str, found: str | Path | SceneFiles) -> FileReport:
    """Look at a file, at one elsewhere, or at the files of a scene."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Note)
        try:
            stated = source.bands.get(sensor, ())
            file = inspect_one(found, sensor, source.s2_offset, stated, may_lack=SENSORS[sensor].bands)
        except (InputError, RunError) as error:
            name = redact(str(found.name if isinstance(found, SceneFiles) else found))
            return FileReport(sensor, name, None, str(error))
    notes = tuple(str(note.message) for note in said if issubclass(note.category, Note))
    return FileReport(sensor, redact(file.path), file, notes=notes)


def place_of(file: RasterFile) -> str:
    """Day, level, grid and CRS."""
    day = f"{file.date[:4]}-{file.date[4:6]}-{file.date[6:]}" if file.date else "day not stated"
    height, width = file.geobox.shape
    step = float(np.abs(file.geobox.resolution.x))
    unit = "degrees" if file.geobox.crs is not None and file.geobox.crs.geographic else "m"
    epsg = file.geobox.crs.to_epsg() if file.geobox.crs is not None else None
    crs = f"EPSG:{epsg}" if epsg else str(file.geobox.crs)[:40]
    return f"{day}, level {file.level}, {width} x {height} px of {step:g} {unit}, {crs}"


def numbers_of(file: RasterFile) -> str:
    """Bands, and how numbers become physical units."""
    names = SENSORS[file.sensor].bands
    lacks = [band for band, number in zip(names, file.bands, strict=True) if not number]
    bands = f"{len(names) - len(lacks)} bands{f', without {chr(32).join(lacks)}' if lacks else ''}"
    if SENSORS[file.sensor].unit != "reflectance":
        scale = f", x {file.gain[0]:g} {file.bias[0]:+g}" if file.gain else ""
        return f"{bands}, {SENSORS[file.sensor].unit}{scale}"
    return f"{bands}, reflectance = (number {file.offset:+g}) / {file.scale:g} ({file.reason})"
