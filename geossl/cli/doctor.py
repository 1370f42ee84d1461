"""``geossl doctor``: the machine, and what would be made of files."""

from typing import Any

import click

from geossl.cli.options import asks_files
from geossl.errors import InputError
from geossl.sensors import PAIR, SENSORS


@click.command()
@click.option("--aoi", help="Region to ask the catalogue for.")
@click.option("--date", help="Period to ask the catalogue for: 2024-06/2024-08, a year, month or day.")
@click.option("--catalog", help="Say what a catalogue, or several by commas, has of --aoi in --date.")
@asks_files
def doctor(s2_offset: int | None, aoi: str | None, date: str | None, catalog: str | None, **files: Any) -> None:
    """Say what is installed, what geossl reads in your files, and what a catalogue offers.

    \b
    geossl doctor                             versions, GPU, memory, encoders, extras
    geossl doctor --s1 scenes/s1 --s2 S2.tif  and every file, as embed would read it
    geossl doctor --catalog earth-search --aoi region.geojson --date 2024-06
                                              scenes, clouds, baselines, orbits, platforms, holes

    Exit code 2 if a file cannot be used as it is.
    """
    if aoi is not None or date is not None or catalog is not None:
        return ask(aoi, date, catalog)
    from geossl.api.doctor import look, machine  # lazy: reads rasters
    from geossl.api.source import Rasters  # lazy: as above

    for text in machine():
        click.echo(text)
    if not any(files[name] for name in SENSORS):
        return None
    reports = []
    for report in look(Rasters(s2_offset=s2_offset, **files)):
        reports.append(report)
        click.echo(report)
    if unusable := sum(report.file is None for report in reports):
        raise InputError(f"{unusable} of {len(reports)} files cannot be used as they are")
    return None


def ask(aoi: str | None, date: str | None, catalog: str | None) -> None:
    """Say what catalogues offer.

    Raises:
        InputError: If a part of the question is missing, or no catalogue answers.
    """
    if aoi is None or date is None or catalog is None:
        missing = "--aoi" if aoi is None else "--date" if date is None else "--catalog"
        raise InputError(f"doctor needs {missing} to ask a catalogue: --catalog earth-search --aoi FILE --date 2024-06")
    from geossl.data.stac.offers import offers  # lazy: reads rasters
    from geossl.grid import read_aoi  # lazy: as above

    for text in offers(read_aoi(aoi), date, catalog, PAIR):
        click.echo(text)
