"""Layers that encoders share: 2D-ALiBi in ``alibi``, attention, masking, patches, transformer blocks."""
