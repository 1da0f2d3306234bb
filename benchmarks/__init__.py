"""The harness: datasets, training, evaluation, metrics, latency, cost and the Records of what was measured."""
