"""Self-supervised methods, one file each: its losses; ``base`` has the step, ``losses`` what several share.

MAE is ``mr_mae`` without a teacher. Recipes are in ``geossl.recipe``, and ``geossl.api.pretrain`` puts both together.
"""
