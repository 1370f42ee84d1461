"""The verbs: what the command line and a notebook call."""
