"""Detectors that predict a box at every pixel of a map."""
