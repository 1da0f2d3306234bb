"""The commands of `python -m benchmarks`, a file a kind."""
