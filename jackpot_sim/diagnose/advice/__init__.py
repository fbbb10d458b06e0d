"""Verdict and advice: a correction and its threshold for a stated target, and the lines to paste."""
