"""Detectors from before deep learning."""
