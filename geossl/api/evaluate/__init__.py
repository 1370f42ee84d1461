"""Evaluate encoders: ``run`` is what the shell and a notebook call, ``runner`` fits the probes."""
