"""Detectors that classify places directly, by year: YOLO to CenterNet."""
