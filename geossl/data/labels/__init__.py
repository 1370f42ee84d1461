"""What a user knows of the ground: ``ground_truth`` reads it, ``blocks`` splits it without leaks.

``patches`` and ``chips`` are what heads and decoders learn from.
"""
