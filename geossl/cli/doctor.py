"""``geossl doctor``: the machine, and what would be made of files."""

from typing import Any

import click

from geossl.cli.options import asks_files
from geossl.errors import InputError
from geossl.sensors import SENSORS


@click.command()
@asks_files
def doctor(s2_offset: int | None, **files: Any) -> None:
    """Say what is installed, and what geossl reads in your files: bands, units, level, offset, day, grid.

    \b
    geossl doctor                             versions, GPU, memory, encoders, extras
    geossl doctor --s1 scenes/s1 --s2 S2.tif  and every file, as embed would read it

    Exit code 2 if a file cannot be used as it is.
    """
    from geossl.api.doctor import look, machine  # lazy: reads rasters
    from geossl.api.source import Rasters  # lazy: as above

    for text in machine():
        click.echo(text)
    if not any(files[name] for name in SENSORS):
        return
    reports = []
    for report in look(Rasters(s2_offset=s2_offset, **files)):
        reports.append(report)
        click.echo(report)
    if unusable := sum(report.file is None for report in reports):
        raise InputError(f"{unusable} of {len(reports)} files cannot be used as they are")
