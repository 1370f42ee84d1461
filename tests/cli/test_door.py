"""What is said where a command is interrupted."""

import click
import pytest

from geossl.cli.door import Door


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (KeyboardInterrupt("stopped at step 3; resume=true resumes it"), "geossl: stopped at step 3; resume=true"),
        (KeyboardInterrupt(), "geossl: interrupted; finished work is kept"),
        (click.Abort(), "geossl: interrupted; finished work is kept"),
    ],
)
def test_an_interrupted_command_says_what_is_kept(raised, said, capsys):
    @click.group(cls=Door)
    def door():
        pass

    @door.command()
    def work():
        raise raised

    with pytest.raises(SystemExit, match="130"):
        door.main(["work"])
    assert said in capsys.readouterr().err
