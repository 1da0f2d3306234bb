"""Detectors that propose regions and then classify them."""
