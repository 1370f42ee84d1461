"""Graphs: ``build`` makes them from what a user has, ``embed`` embeds and clusters their nodes."""
