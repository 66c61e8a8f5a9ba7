"""Detectors of out-of-distribution images."""
