"""Measures of the mismatch itself: summaries of log-ratios with intervals, and estimates of the overlap Z."""
