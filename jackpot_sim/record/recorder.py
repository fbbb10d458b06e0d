"""Batches of rollouts written in the plain schema: one Parquet file a step, one row a token.

recorder = Recorder("rollouts")
recorder.write(step, mask=..., tokens=..., actor_log_probs=..., policy_log_probs=..., advantages=...)

python -m jackpot_sim.diagnose rollouts
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Array, Flags, Ints
from jackpot_sim.core.backend import floating, to_numpy
from jackpot_sim.core.checks import check_axes, check_ids, check_integers, check_mask, check_reals, check_shape

TopKArrays: TypeAlias = tuple[Array, Array]
"""The ids and the log-probs of the k likeliest tokens, both (B, T, k)."""


_ONE_FOR_ALL = ("advantage", "weight_version")
"""The columns in which a completion may have one number for all of its tokens."""


class _Tokens(NamedTuple):
    """The tokens of a batch, in the order in which they are written."""

    present: Flags
    """True on the entries of (B, T) that are tokens."""
    row: Ints
    """The row of each token."""


class Recorder:
    """A folder with one file for each step and rank, which `python -m jackpot_sim.diagnose` reads.

    A file appears under its name when it is complete: a run that is killed leaves none that is cut short. A step that
    is made again after a resumption takes the place of the one before.

    Attributes:
        folder: the folder.
        rank: the number of this process, in the names of files and sequences.
    """

    def __init__(self, folder: str | Path, *, rank: int | None = None) -> None:
        """Takes the folder, which is made with the first file.

        Args:
            folder: the folder.
            rank: the number of this process; None: the variable RANK, which torchrun and others set, or 0.

        Raises:
            TypeError: the folder is no path.
            ValueError: it is a file, or cannot be written.
        """
        self.folder = _writable(folder)
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        self._parts: dict[int, int] = {}

    def write(
        self,
        step: int,
        *,
        mask: Array,
        present: Array | None = None,
        tokens: Array | None = None,
        actor_log_probs: Array | None = None,
        policy_log_probs: Array | None = None,
        advantages: Array | None = None,
        rewards: Array | None = None,
        weight_version: int | Array | None = None,
        entropy: Array | None = None,
        actor_topk: TopKArrays | None = None,
        policy_topk: TopKArrays | None = None,
    ) -> Path | None:
        """Writes a batch of completions, arrays of numpy or tensors on any device; half precision becomes float32.

        A second batch of a step goes to a file of its own.

        Args:
            step: the training step.
            mask: True, or 1, on tokens that are trained on, (B, T).
            present: the same on all tokens, (B, T), where others are there, such as those of tools; None: as `mask`.
            tokens: the token ids, (B, T).
            actor_log_probs: log q of each token by the policy that wrote it, nats, (B, T).
            policy_log_probs: log p of each token by the policy that is trained, likewise.
            advantages: (B, T), or (B,) where all tokens of a completion have the same.
            rewards: (B,).
            weight_version: the number of the weights that wrote the tokens: one, (B,) or (B, T).
            entropy: the entropy of the policy's law at each token, nats, (B, T).
            actor_topk: the actor's likeliest tokens, each (B, T, k): ids and log-probs, likeliest first.
            policy_topk: the policy's, likewise.

        Returns:
            The file; None, and no file, where no token is present.

        Raises:
            TypeError: an array has another dtype than its kind.
            ValueError: a shape does not fit, or there are log-probs of neither policy.
        """
        if actor_log_probs is None and policy_log_probs is None:
            raise ValueError("there are no log-probs: give actor_log_probs, policy_log_probs or both")
        trained = _flags(mask, "mask")
        there = trained if present is None else _flags(present, "present", trained.shape)
        if np.any(trained & ~there):
            raise ValueError("mask marks tokens that present does not")
        if not there.any():
            return None
        tokens_of = _Tokens(there, np.nonzero(there)[0])
        part = self._parts.get(step, 0)
        columns: dict[str, Any] = {
            "sequence": _names(f"{step}-{self.rank}-{part}", tokens_of),
            "position": np.nonzero(there)[1],
            "mask": trained[there],
            "step": np.full(len(tokens_of.row), step),
        }
        for name, values in {
            "actor_log_prob": actor_log_probs,
            "policy_log_prob": policy_log_probs,
            "advantage": advantages,
            "reward": rewards,
            "entropy": entropy,
        }.items():
            if values is not None:
                numbers = to_numpy(floating(check_reals(values, name), name))
                columns[name] = _per_token(numbers, tokens_of, name)
        for name, ids in {"token": tokens, "weight_version": weight_version}.items():
            if ids is not None:
                whole = np.full(len(there), ids) if isinstance(ids, int) else to_numpy(check_integers(ids, name))
                columns[name] = _per_token(whole, tokens_of, name)
        for side, top in {"actor": actor_topk, "policy": policy_topk}.items():
            if top is not None:
                columns |= _top_k(side, top, tokens_of)
        stem = f"step_{step:06d}_rank_{self.rank}"
        path = self.folder / f"{stem}{f'_part_{part}' if part else ''}.parquet"
        write_whole(path, pa.table(columns))
        if part == 0:
            # Those of the run that was resumed: this one may write fewer.
            for other in self.folder.glob(f"{stem}_part_*.parquet"):
                other.unlink(missing_ok=True)
        self._parts[step] = part + 1
        return path


def _writable(folder: str | Path) -> Path:
    """The path of a folder, refused where no file could be written later; nothing is made."""
    if not isinstance(folder, str | Path) or not str(folder):
        raise TypeError(f"rollouts are recorded in a folder: give its path, not {folder!r}")
    path = Path(folder)
    there = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise ValueError(f"rollouts cannot be recorded in {path}: {there} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            return path
    except OSError as error:
        raise ValueError(f"rollouts cannot be recorded in {path}: {error.strerror}") from error


def _flags(values: Array, name: str, shape: tuple[int, ...] | None = None) -> Flags:
    """A mask as booleans, from booleans or numbers 0 and 1."""
    found = to_numpy(values)
    check_axes(found, name, "B", "T")
    if found.dtype != np.bool_:
        if not np.all((found == 0) | (found == 1)):
            raise ValueError(f"{name} must hold 0 and 1 alone")
        found = found != 0
    if shape is not None:
        check_shape(found, shape, name, "one flag per token")
    return np.asarray(check_mask(found, found, name))


def _per_token(values: NDArray[Any], tokens: _Tokens, name: str) -> NDArray[Any]:
    """The values of the tokens, out of (B,) or (B, T), whichever the column may have."""
    if name == "reward" or (name in _ONE_FOR_ALL and values.ndim == 1):
        check_shape(values, tokens.present.shape[:1], name, "one number per completion")
        return np.asarray(values[tokens.row])
    check_shape(values, tokens.present.shape, name, "one number per token")
    return np.asarray(values[tokens.present])


def _names(prefix: str, tokens: _Tokens) -> pa.Array:
    names = pa.array([f"{prefix}-{row}" for row in range(len(tokens.present))])
    return pa.DictionaryArray.from_arrays(pa.array(tokens.row.astype(np.int32)), names)


def _top_k(side: str, top: TopKArrays, tokens: _Tokens) -> dict[str, pa.Array]:
    ids = to_numpy(check_ids(top[0], 1 << 31, f"{side}_topk ids"))
    log_probs = to_numpy(floating(check_reals(top[1], f"{side}_topk log_probs")))
    shape = (*tokens.present.shape, ids.shape[-1])
    parts = {"ids": ids.astype(np.int32), "log_probs": log_probs.astype(np.float32)}
    columns = {}
    for name, part in parts.items():
        check_shape(part, shape, f"{side}_topk {name}", "k entries per token, the same k in ids and log-probs")
        flat = pa.array(part[tokens.present].reshape(-1))
        columns[f"{side}_topk_{name}"] = pa.FixedSizeListArray.from_arrays(flat, ids.shape[-1])
    return columns


def write_whole(path: Path, table: pa.Table) -> None:
    """Writes a file beside its place and moves it there when it is complete and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
