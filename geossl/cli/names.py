"""``geossl list``: recipes, released encoders and labelled data sets, a line each."""

from collections.abc import Iterator

import click

from geossl.data.datasets.names import NAMES
from geossl.models.download import ENCODERS

WIDTH = 26  # of names


@click.command("list")
@click.argument("what", required=False, type=click.Choice(["recipes", "encoders", "data"]))
def list_names(what: str | None) -> None:
    """List recipes by method, released encoders and labelled data sets.

    \b
    geossl list             all of them
    geossl list recipes     or encoders, or data
    """
    parts = {
        "recipes": ("recipes: geossl pretrain NAME, and with --explain what its keys mean", recipes()),
        "encoders": ("encoders: --encoder NAME, or a weight file of a run", encoders()),
        "data": ("data sets: geossl evaluate ENCODER NAME, or a folder or file of your own", data_sets()),
    }
    text = ["\n".join([title, *lines]) for name, (title, lines) in parts.items() if what in (None, name)]
    click.echo("\n\n".join(text))


def recipes() -> Iterator[str]:
    """Recipes grouped by method, the one to start with first."""
    from geossl import recipe  # lazy: pydantic, which --help does without

    summaries = {name: recipe.summary(name) for name in recipe.names()}
    for method in recipe.RECIPES:
        own = [name for name, (its_method, _) in summaries.items() if its_method == method]
        for name in sorted(own, key=lambda name: (name != method, name)):
            indent = "  " if name == method else "    "
            yield f"{indent + name:<{WIDTH}}{summaries[name][1]}"


def encoders() -> Iterator[str]:
    """Released encoders with their licence."""
    return (
        f"{'  ' + name:<{WIDTH}}{weights.bundled or weights.file}, "
        f"{'comes with geossl' if weights.bundled else 'downloaded on first use'}; licence {weights.licence}"
        for name, weights in ENCODERS.items()
    )


def data_sets() -> Iterator[str]:
    """Labelled data sets known by name."""
    return (f"{'  ' + name:<{WIDTH}}{line}" for name, line in NAMES.items())
