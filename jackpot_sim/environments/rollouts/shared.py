"""The policy that was loaded last, with what its engine keeps: the cells of a study mostly share it.

One policy is kept, until another is asked for, so that memory holds no more than a cell needs. What its engine gives
again is to the bit what it would make anew: figures do not depend on the cells that came before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from jackpot_sim.environments.engines.sharing import SharingEngine
from jackpot_sim.environments.language_models.checkpoints import Loaded, Precision, load
from jackpot_sim.environments.language_models.scoring import CausalLM

_Key: TypeAlias = tuple[object, ...]

_LAST: dict[_Key, tuple[Loaded, SharingEngine]] = {}
"""The policy that was asked for last, by everything that decides what it computes."""


def policy_of(source: str, *, precision: Precision, device: str, threads: int) -> tuple[Loaded, SharingEngine]:
    """A policy and its engine: those of before, if the same is asked for.

    Args:
        source: as `checkpoints.load` takes it.
        precision: the number format.
        device: the device.
        threads: torch's threads, on which the last digits depend.

    Raises:
        ValueError: as `checkpoints.load`.
    """
    key = source, precision, device, threads, _stamps(Path(source).expanduser())
    if key not in _LAST:
        _LAST.clear()  # before the next one is loaded
        loaded = load(source, precision=precision, device=device)
        _LAST[key] = loaded, SharingEngine(CausalLM(loaded.model))
    return _LAST[key]


def forget() -> None:
    """Forgets the policy, so that the next one is loaded anew."""
    _LAST.clear()


def _stamps(path: Path) -> _Key:
    """The files of a checkpoint with their sizes and times, if they are local."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple((str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in files if each.is_file())
