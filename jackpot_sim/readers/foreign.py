"""The type of what users' files hold."""

from __future__ import annotations

from typing import Any, TypeAlias

Foreign: TypeAlias = Any
"""An object out of a user's file: dictionaries, lists, numbers, strings, arrays; anything, until it is checked."""
