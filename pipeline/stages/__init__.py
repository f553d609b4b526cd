"""Stages: the verbs of the pipeline, free of Ray. Each returns what it made, and running it again is harmless."""
