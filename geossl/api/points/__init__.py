"""Laser scans: ``embed`` and ``classify``; ``scans`` is what they share."""
