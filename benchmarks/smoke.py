"""Does every benchmark still start? Each script here is loaded and asked for its help, all in one process.

A script that imports something that has moved, or whose options clash, is named with the error; exit code 1 if there is
one. What a script computes is not run.

Run: python benchmarks/smoke.py
"""

import contextlib
import io
import runpy
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent


def failure(path):
    """What went wrong when a script was asked for its help; None if nothing did."""
    sys.argv = [str(path), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            return None if not end.code and "usage:" in said.getvalue() else errors.getvalue() or f"exit {end.code}"
        except Exception as error:  # whatever a script does wrong is what is looked for
            return f"{type(error).__name__}: {error}"
    return "has no --help: it ran"


def main():
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(HERE))
    paths = [path for path in sorted(HERE.glob("*.py")) if path.name != Path(__file__).name and is_script(path)]
    found = {path.name: failure(path) for path in paths}
    for name, what in found.items():
        if what:
            print(f"{name}: {what.strip().splitlines()[-1]}")
    print(f"{sum(what is None for what in found.values())} of {len(found)} benchmarks start")
    sys.exit(any(found.values()))


def is_script(path):
    """Whether a file is run by hand; the others are imported, or started by one of these."""
    return all(part in path.read_text() for part in ('__name__ == "__main__"', "argparse"))


if __name__ == "__main__":
    main()
