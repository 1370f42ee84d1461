"""Encoders of others in (``wrap``, ``networks``, ``programs``) and ours out (``exporting``)."""
