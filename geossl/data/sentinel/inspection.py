"""What a user names as the rasters of a sensor, looked at once: files, folders, products of many files, addresses."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader

from geossl import retries
from geossl.data import addresses
from geossl.data.addresses import is_address
from geossl.data.sentinel.band_names import band_numbers
from geossl.data.sentinel.bands import (
    GDAL,
    check_place,
    in_unit,
    inspect,
    look_at,
    note_unmasked,
    processing_level,
    with_scale,
)
from geossl.data.sentinel.products import SceneFiles, product_folders, scenes_of
from geossl.data.sentinel.raster_file import RasterFile
from geossl.data.vrt import expand
from geossl.errors import BandError, GridError, InputError, MissingBandError, alike_notes_once, redact
from geossl.sensors import SENSORS


def inspect_all(
    paths: Sequence[str | Path] | None, sensor: str, stated_offset: int | None = None, stated_bands: Sequence[str] = ()
) -> list[RasterFile]:
    """Look at all files of a sensor; single-band files of a product are put together to scenes.

    Files may lack bands, of which ``RasterFile.bands`` is 0 then: whoever reads them knows which it needs.

    Args:
        paths: Files and folders.
        sensor: Key of ``SENSORS``.
        stated_offset: As in ``inspect``.
        stated_bands: As in ``inspect``.

    Raises:
        MissingFileError, BandError, GridError: As ``inspect``.
    """
    may_lack = SENSORS[sensor].bands
    with alike_notes_once():
        return [
            inspect_one(one, sensor, stated_offset, stated_bands, may_lack=may_lack)
            for one in named(paths or [], sensor)
        ]


def named(paths: Sequence[str | Path], sensor: str) -> Iterator[str | Path | SceneFiles]:
    """What paths stand for: addresses first, then files, and the files of a scene together.

    Raises:
        MissingFileError: If a folder holds no raster.
    """
    yield from (str(path) for path in paths if is_address(path))
    here = [Path(path) for path in paths if not is_address(path)]
    yield from scenes_of(expand([folder for path in here for folder in product_folders(path, sensor)], sensor), sensor)


def inspect_one(
    one: str | Path | SceneFiles,
    sensor: str,
    stated_offset: int | None = None,
    stated_bands: Sequence[str] = (),
    place: GeoBox | None = None,
    may_lack: Sequence[str] = (),
) -> RasterFile:
    """Look at a file or at the files of a scene, which may lack some bands, but not all.

    Args:
        one: A file, the files of a scene, or an address (text).
        sensor: Key of ``SENSORS``.
        stated_offset: As in ``inspect``.
        stated_bands: As in ``inspect``.
        place: As in ``inspect``.
        may_lack: Bands that it can do without; their number in ``RasterFile.bands`` is 0.

    Raises:
        MissingFileError, BandError, GridError: As ``inspect``.
    """

    def look(wanted: tuple[str, ...] | None = None) -> RasterFile:
        if isinstance(one, SceneFiles):
            return inspect_scene(one, sensor, stated_offset, wanted)
        if isinstance(one, str):
            return inspect_address(one, sensor, stated_offset, wanted, stated_bands)
        return inspect(one, sensor, stated_offset, wanted, stated_bands, place)

    bands = SENSORS[sensor].bands
    try:
        return look()
    except MissingBandError as error:
        missing = set(error.bands)
        if not missing <= set(may_lack) or missing == set(bands):
            raise
    own = look(tuple(band for band in bands if band not in missing))
    numbers = iter(own.bands)
    return replace(own, bands=tuple(0 if band in missing else next(numbers) for band in bands))


def inspect_address(
    address: str,
    sensor: str,
    stated_offset: int | None = None,
    wanted: tuple[str, ...] | None = None,
    stated_bands: Sequence[str] = (),
) -> RasterFile:
    """``inspect`` of a file elsewhere; what lies beside it there is not read.

    Raises:
        MissingFileError, BandError, GridError: As ``inspect``.
        RunError: If it cannot be read.
    """
    addresses.check_address(address, f"--{sensor}")
    path, read = Path(addresses.plain(address)), wanted or SENSORS[sensor].bands

    def look(source: DatasetReader) -> RasterFile:
        check_place(source, path)
        file = look_at(source, path, sensor, band_numbers(source, path, sensor, read, stated_bands))
        return replace(in_unit(file, source, path, stated_offset, read), path=address)

    try:
        return addresses.read(address, look, tries=retries.FIRST_TRIES)
    except InputError as error:  # a path has lost a slash
        text = str(error).replace(str(path), redact(addresses.plain(address)))
        raise (
            MissingBandError(text, error.bands) if isinstance(error, MissingBandError) else type(error)(text)
        ) from None


def inspect_scene(
    scene: SceneFiles, sensor: str, stated_offset: int | None = None, wanted: tuple[str, ...] | None = None
) -> RasterFile:
    """Look at a scene of single-band files, all on one grid, or on grids of several pixel sizes.

    Args:
        scene: Its files.
        sensor: Key of ``SENSORS``.
        stated_offset: As in ``inspect``.
        wanted: Bands to read; all of the sensor's by default.

    Raises:
        BandError: If a band is missing or a file cannot be read.
        GridError: If files lie at different places, or nowhere.
    """
    read = wanted or SENSORS[sensor].bands
    own = scene.bands(read, sensor)
    quality: list[tuple[int, int]] = []
    for band in scene.product.quality:
        if band.name in scene.paths:
            quality.append((len(own) + 1 + len(quality), band.mask))
        elif band.required:
            note_unmasked(scene.name, band)
    parts = [*own, *(scene.paths[band.name] for band in scene.product.quality if band.name in scene.paths)]
    try:
        with rasterio.Env(**GDAL), ExitStack() as stack:
            sources = [stack.enter_context(rasterio.open(part)) for part in parts]
            boxes = [GeoBox.from_rio(source) for source in sources if source.crs is not None]
            if len(boxes) < len(parts) or not same_place(boxes, scene.product.mixed):
                raise GridError(
                    f"files of scene {scene.name} are not on one grid; use its files as they were delivered"
                )
            finest = min(range(len(boxes)), key=lambda i: abs(boxes[i].resolution.x))
            file = RasterFile(
                path=str(parts[finest]),
                sensor=sensor,
                bands=tuple(range(1, len(own) + 1)),
                offset=0,
                scale=1.0,
                reason=SENSORS[sensor].unit if scene.product.mixed else scene.product.title,
                level=processing_level(sources[finest], own[0], sensor) if scene.product.mixed else scene.product.title,
                date=scene.date,
                geobox=boxes[finest],
                zero_is_nodata=False,
                fill=scene.product.fill,
                quality=tuple(quality),
                parts=tuple(map(str, parts)),
                grids=tuple(boxes) if any(box != boxes[0] for box in boxes) else (),
            )
            if scene.product.mixed:
                file = with_scale(file, *sources)
            return in_unit(file, sources[finest], own[0], stated_offset, read)
    except rasterio.errors.RasterioIOError as error:
        raise BandError(f"scene {scene.name} cannot be read ({' '.join(str(error).split())})") from None


def same_place(boxes: Sequence[GeoBox], mixed: bool) -> bool:
    """Whether grids are the same; or, if they may be ``mixed``, of one extent."""
    if not mixed:
        return all(box == boxes[0] for box in boxes)
    corners = np.array([box.boundingbox.bbox for box in boxes])
    coarsest = max(abs(box.resolution.x) for box in boxes)
    return all(box.crs == boxes[0].crs for box in boxes) and bool((np.ptp(corners, axis=0) < coarsest).all())
