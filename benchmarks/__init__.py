"""Timings against what people use today, as ratios from one run; on demand, never inside the tests."""
