"""Fit a classifier or regressor of the ground on labels: ``run`` is what the shell and a notebook call."""
