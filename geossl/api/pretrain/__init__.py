"""Pretrain: ``run`` is what the shell and a notebook call; a method's own file makes it from its recipe.

``images`` and ``graphs`` are shared by several methods, ``initial`` and ``teachers`` bring weights.
"""
