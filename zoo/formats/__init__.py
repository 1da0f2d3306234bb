"""Readers of other people's checkpoints, one file a format; none of them executes what it reads."""
