"""What stands on an encoder: heads and decoders to classes or amounts; ``segmenter`` is all in one file."""
