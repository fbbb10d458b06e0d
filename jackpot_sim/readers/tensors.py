"""Files of torch, read without running anything in them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import BinaryIO

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.foreign import Foreign
from jackpot_sim.readers.stand_ins import NAMES, plain
from jackpot_sim.requirements import imported, require


def load(file: str | Path | BinaryIO, place: str) -> Foreign:
    """The content of a file of `torch.save`: tensors on the CPU, arrays, numbers and text in dictionaries and lists.

    Args:
        file: the file, or a stream of it that can seek.
        place: the file, as errors name it.

    Raises:
        DumpError: the file is broken, or names a class or function other than those of tensors and of batches that are
            known.
        RequirementError: torch is missing.
    """
    require("torch", purpose="a file of torch.save")
    imported("torch")
    return _guarded(file, place)


def _guarded(file: str | Path | BinaryIO, place: str) -> Foreign:
    import torch

    known = [(stand_in, name) for name, stand_in in NAMES.items()]
    try:
        with torch.serialization.safe_globals(known):  # type: ignore[arg-type]
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        return plain(loaded, load_bytes)
    except DumpError:
        raise
    except FileNotFoundError as error:
        raise DumpError(f"{place}: there is no such file") from error
    except Exception as error:  # a broken file has many ways to fail
        raise DumpError(f"{place}: {_reason(error)}") from error


def load_bytes(raw: bytes) -> Foreign:
    """The content of these bytes of `torch.save`, likewise."""
    return _guarded(io.BytesIO(raw), "a tensor in it")


def _reason(error: Exception) -> str:
    """The failure in one sentence; torch's own has many lines, and advice to run what is in the file."""
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]+)|global(?:s)? (?:function )?[`']?([\w.]+\.[\w.]+)", text)
    if named and ("nsupported" in text or "blocked" in text):
        return refusal(named[1] or named[2])
    return f"it cannot be read as a file of torch.save ({in_a_line(error)})"


def in_a_line(error: Exception) -> str:
    """An error's first words, for a sentence that says more."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 120 else f"{words[:120]}…"


def refusal(name: str) -> str:
    """The sentence that refuses a name."""
    return (
        f"it names {name}, which is no tensor, array or batch that is known, and nothing in a dump is ever run: save "
        "its fields as a dictionary of tensors with torch.save"
    )
