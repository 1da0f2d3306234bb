"""Learnable pieces that at least two papers share."""
