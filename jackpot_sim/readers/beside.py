"""The files that frameworks write beside their dumps, which are passed over where a folder is read."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

_NAMES = ("STABLE", "*_metadata.jsonl", "val_data_step*.jsonl")
"""prime-rl's sign that a step is written, open-instruct's record of the run, and NeMo-RL's validation."""
_FOLDERS = ("dashboard", "dashboard_columns", "policy_loss_debug", "tokenizer", "trajectory")
"""Folders of miles beside `rollout_data` and `train_data`, which say the same once more, or nothing of log-probs."""


def beside(path: Path) -> bool:
    """True for a file that a framework writes beside its dump."""
    if any(fnmatch(path.name, name) for name in _NAMES):
        return True
    details = path.parent.parent
    return path.parent.name in _FOLDERS and any((details / name).is_dir() for name in ("rollout_data", "train_data"))
