"""The command line; ``main`` is its entry point."""

from geossl.cli.commands import main as main
