"""Timings against what people use, as ratios from one run; on demand, never in the tests."""
