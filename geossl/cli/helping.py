"""Help that can be overlooked: options of long verbs in groups, and completion in the shell."""

from typing import Any

import click
from click.shell_completion import get_completion_class

from geossl.outputs import check_not_input
from geossl.sensors import SENSORS

LONG = 12  # options of a verb, from which they are grouped
DECODERS = ("train_encoder", "max_steps", "lr", "batch_size", "chip_px")
GROUPS = {  # heading -> options, by the name of their value; the rest comes first
    "Pixels of a catalogue": ("date", "catalog", "composite", "sensors", "max_cloud", "mask"),
    "Pixels of files": (*SENSORS, "s2_offset", *(f"{name}_bands" for name in SENSORS)),
    "Encoder": ("encoder", "reach", "dims", "tokens"),
    "Decoders, --head linear-upsample or unet": DECODERS,
    "Grid, memory and speed": ("crs", "gsd_m", "scheduler", "shard_cells", "batch_size", "precision", "on_error"),
}
SHELLS = ("bash", "zsh", "fish")


class Grouped(click.Command):
    """A verb whose options are listed in groups where there are many, and whose output is none of its inputs."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        check_not_input(ctx.params)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them."""
        records = [(p.name or "", p.get_help_record(ctx)) for p in self.get_params(ctx)]
        known = [(name, record) for name, record in records if record is not None]
        if len(known) <= LONG:
            return super().format_options(ctx, formatter)
        names = {name for name, _ in known}
        place = {name: heading for heading, group in GROUPS.items() for name in group}
        if "chip_px" in names:
            place["batch_size"] = next(heading for heading, group in GROUPS.items() if group == DECODERS)
        for heading in ("Options", *GROUPS):
            own = [record for name, record in known if place.get(name, "Options") == heading]
            if own:
                with formatter.section(heading):
                    formatter.write_dl(own)
        return None


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete verbs, options and files: bash, zsh or fish.

    \b
    eval "$(geossl completion bash)"           in ~/.bashrc
    eval "$(geossl completion zsh)"            in ~/.zshrc, below compinit
    geossl completion fish > ~/.config/fish/completions/geossl.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    found = kind(ctx.find_root().command, {}, "geossl", "_GEOSSL_COMPLETE")
    text = found.source_template % found.source_vars()
    click.echo(text.replace("complete -o nosort -F", "complete -o nosort -o default -F"))  # bash: else files
