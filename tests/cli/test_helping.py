import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import geossl
from geossl.cli import main
from geossl.cli.helping import GROUPS, SHELLS


@pytest.mark.parametrize("verb", ["finetune", "embed", "segment", "evaluate", "similar", "change"])
def test_help_lists_every_option_once(verb):
    text = CliRunner().invoke(main, [verb, "--help"]).output
    names = [opt for p in main.commands[verb].params if isinstance(p, click.Option) for opt in p.opts if opt != "-h"]
    for name in names:
        assert sum(line.strip().split()[:1] == [name] for line in text.splitlines()) == 1, name
    headings = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Options"
    assert set(headings[1:]) <= {*GROUPS}
    assert (len(headings) > 2) == (len(names) > 12)


def test_the_number_of_chips_and_of_windows_are_found_where_they_belong():
    by_verb = {verb: CliRunner().invoke(main, [verb, "--help"]).output for verb in ("finetune", "embed")}
    assert by_verb["finetune"].index("--head linear-upsample or unet:") < by_verb["finetune"].index("--batch-size")
    assert by_verb["embed"].index("Grid, memory and speed:") < by_verb["embed"].rindex("--batch-size")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_printed_for_each_shell(shell):
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert f"_GEOSSL_COMPLETE={shell}_complete" in done.output


def test_another_shell_is_one_line():
    done = CliRunner().invoke(main, ["completion", "tcsh"])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "bash" in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [("geossl fine", ["finetune"]), ("geossl finetune --pa", ["--pair"]), ("geossl segment --mo", ["--model"])],
)
def test_bash_completes_verbs_and_options(tmp_path, typed, expected):
    (tmp_path / "geossl").write_text(f"#!/bin/sh\nexec {sys.executable} -m geossl\n")
    (tmp_path / "geossl").chmod(0o755)
    words = typed.split()
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    script += (
        f'\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _geossl_completion geossl; echo "${{COMPREPLY[@]}}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(Path(geossl.__file__).parents[1])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == expected, done.stderr
