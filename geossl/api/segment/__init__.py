"""Classify or measure a region: ``run`` is what the shell and a notebook call."""
