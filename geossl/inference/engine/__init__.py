"""The map engine: ``plan`` is what a map is made of, and what of a killed one is done already.

``run`` makes the missing shards, ``workers`` says where; ``source`` is where pixels come from, ``encode`` embeds a
block, ``store`` writes a shard. ``verify`` makes some anew, ``estimate`` is the dry run.
"""
