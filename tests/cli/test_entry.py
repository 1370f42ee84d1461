"""What is said where a command is interrupted, or misses something."""

import click
import pytest

from geossl.cli import main
from geossl.cli.entry import EntryPoint


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (KeyboardInterrupt("stopped at step 3; resume=true resumes it"), "geossl: stopped at step 3; resume=true"),
        (KeyboardInterrupt(), "geossl: interrupted; finished work is kept"),
        (click.Abort(), "geossl: interrupted; finished work is kept"),
    ],
)
def test_an_interrupted_command_says_what_is_kept(raised, said, capsys):
    @click.group(cls=EntryPoint)
    def verbs():
        pass

    @verbs.command()
    def work():
        raise raised

    with pytest.raises(SystemExit, match="130"):
        verbs.main(["work"])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain"], "Missing argument 'RECIPE'; see `geossl pretrain --help`"),
        (
            ["finetune", "--pair", "a.zarr", "--labels", "b.gpkg"],
            "--pair takes two maps, before and after, but --labels follows the first",
        ),
    ],
)
def test_what_is_missing_is_named(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert said in capsys.readouterr().err
