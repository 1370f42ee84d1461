"""What a training run needs beside its method: checkpoints, progress, logs, probes, the page at its end."""
