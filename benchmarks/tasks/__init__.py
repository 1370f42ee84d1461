"""The tasks of ``encoder_tasks.py``, one file each: real labels that no encoder of ours is trained on."""
