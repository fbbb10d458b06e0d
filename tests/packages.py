"""Installed packages as a test wants them to be: absent, or of another version."""

from __future__ import annotations

from importlib import metadata

import pytest


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Package metadata without one of the packages."""
    _answer(monkeypatch, name, None)


def with_version(monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    """Package metadata in which one of the packages has another version."""
    _answer(monkeypatch, name, version)


def _answer(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    installed = metadata.version

    def answer(asked: str) -> str:
        if asked != name:
            return installed(asked)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", answer)
