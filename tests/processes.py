"""Processes of their own for tests, forked from one that has imported torch and GDAL already: that costs seconds."""

import multiprocessing
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "geossl.api.finetune",
        "geossl.api.segment",
        "geossl.api.export",
        "geossl.api.pretrain.run",
        "geossl.inference.engine.run",
        "rio_cogeo.cogeo",
        "pytest",
    ]
)


def start(function, *arguments):
    """A running process that calls a function of a module."""
    process = FORKS.Process(target=function, args=arguments)
    process.start()
    return process


def kill_when(process, happened):
    """End a process by force once something has happened; it must not have ended by itself."""
    while not happened():
        process.join(0.01)
        assert process.is_alive()
    process.kill()
    process.join()


def peak_memory(function, *arguments):
    """Most memory in kB that a call takes in a process of its own (Linux)."""
    ours, theirs = FORKS.Pipe(duplex=False)
    process = start(measured, theirs, function, arguments)
    theirs.close()
    peak = ours.recv()
    process.join()
    return peak


def measured(answer, function, arguments):
    function(*arguments)
    status = Path("/proc/self/status").read_text()
    answer.send(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]))
