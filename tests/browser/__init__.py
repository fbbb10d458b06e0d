"""Checks of HTML pages in a real browser: `python -m tests.browser`, which is no part of the ordinary tests."""
