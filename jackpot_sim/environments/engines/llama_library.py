"""The one adapter to llama.cpp, by its Python package `llama_cpp`: the weights of a GGUF file, and their readers.

The logits after a token do not depend on what is read beside it, to the bit, for three reasons: a sequence has keys and
values of its own, which flash attention adds up in one order; at most `AT_ONCE` tokens are read at a time; and a single
token is never read alone, since llama.cpp has other kernels for one row. Without flash attention, or in larger batches,
logits move with the way of reading, of quantised weights by more than rounding.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_integers, check_same_shape
from jackpot_sim.environments.engines.engine import EngineError
from jackpot_sim.environments.fields import check_count
from jackpot_sim.requirements import imported, require

_Pointer: TypeAlias = Any
"""A pointer of C, or a structure of llama.cpp."""

AT_ONCE = 32
"""Tokens that are read at a time: flash attention adds in another order from 64 tokens of a sequence on."""

_ERROR = 4
"""The level of errors in the log of llama.cpp."""

_said: list[str] = []
"""The errors that llama.cpp has logged since its last call began."""

_callbacks: list[object] = []
"""The function that llama.cpp logs with, for as long as the process lives."""


class KVFormat(StrEnum):
    """The number format of the keys and values that attention reads."""

    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"

    @property
    def number(self) -> int:
        """The format as a `ggml_type`."""
        return {"f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2}[self]


@functools.cache
def library() -> ModuleType:
    """The module `llama_cpp`, whose log goes into its errors and nowhere else.

    Raises:
        RequirementError: it is missing, broken, or older than this project needs.
    """
    require("llama-cpp-python", purpose="an actor that llama.cpp runs")
    module = imported("llama_cpp")

    def keep(level: int, text: bytes, _: object) -> None:
        if level == _ERROR:
            _said.append(text.decode(errors="replace").strip())

    _callbacks.append(module.llama_log_callback(keep))
    module.llama_log_set(_callbacks[-1], ctypes.c_void_p(0))
    module.llama_backend_init()
    return module


class Weights:
    """A model that llama.cpp has loaded; its memory is given back with the object.

    Attributes:
        path: the GGUF file.
        vocab: the number of tokens.
        context: the most tokens of a sequence for which the model was trained.
    """

    def __init__(self, path: Path) -> None:
        """The model in a GGUF file, on the CPU.

        Raises:
            RequirementError: llama_cpp is missing or too old.
            ValueError: the file is not there, or llama.cpp cannot read it.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{path}: no such file: give a GGUF file")
        options = library().llama_model_default_params()
        options.n_gpu_layers = 0
        _said.clear()
        self._model = library().llama_model_load_from_file(str(self.path).encode(), options)
        if not self._model:
            raise ValueError(f"{path}: llama.cpp cannot read a GGUF file: {_reason()}")
        weakref.finalize(self, library().llama_model_free, self._model)
        self._tokens = library().llama_model_get_vocab(self._model)
        self.vocab = int(library().llama_vocab_n_tokens(self._tokens))
        self.context = int(library().llama_model_n_ctx_train(self._model))

    def token_texts(self) -> list[str]:
        """The text of each token as the file has it, by id; (vocab,)."""
        text = library().llama_vocab_get_text
        return [text(self._tokens, each).decode(errors="replace") for each in range(self.vocab)]

    @contextmanager
    def reader(self, sequences: int, positions: int, *, threads: int, kv: KVFormat = KVFormat.F16) -> Iterator[Reader]:
        """A context of so many sequences of so many tokens each, freed at the end.

        Raises:
            ValueError: a count is out of range, or llama.cpp cannot make such a context.
        """
        for name, count in (("sequences", sequences), ("positions", positions), ("threads", threads)):
            check_count(name, count, 1)
        _said.clear()
        context = library().llama_init_from_model(self._model, self._options(sequences, positions, threads, kv))
        if not context:
            raise ValueError(f"{self.path}: llama.cpp cannot make a context: {_reason()}")
        batch = library().llama_batch_init(AT_ONCE, 0, 1)
        try:
            yield Reader(context, batch, self.vocab)
        finally:
            library().llama_batch_free(batch)
            library().llama_free(context)

    def _options(self, sequences: int, positions: int, threads: int, kv: KVFormat) -> _Pointer:
        options = library().llama_context_default_params()
        slots = sequences + 1  # one for `Reader._single`
        options.n_seq_max, options.n_ctx = slots, slots * _rounded_up(positions)
        # One output for each sequence must fit a batch, or llama.cpp ends the process.
        options.n_batch, options.n_ubatch = max(AT_ONCE, slots), AT_ONCE
        options.n_threads = options.n_threads_batch = threads
        options.type_k = options.type_v = kv.number
        options.kv_unified = False
        if hasattr(options, "flash_attn_type"):
            options.flash_attn_type = library().LLAMA_FLASH_ATTN_TYPE_ENABLED
        else:
            options.flash_attn = True
        return options


def most_sequences() -> int:
    """The most sequences of one reader."""
    return int(library().llama_max_parallel_sequences()) - 1


class Reader:
    """A context of llama.cpp: the keys and values of some sequences, numbered from 0."""

    def __init__(self, context: _Pointer, batch: _Pointer, vocab: int) -> None:
        """For `Weights.reader` alone, which frees what it gives."""
        self._context, self._batch, self._vocab = context, batch, vocab
        self._memory = library().llama_get_memory(context)

    def extend(self, sequence: int, place: int, tokens: Ints, first: int = 0) -> Floats:
        """Logits after new tokens of one sequence but the `first` ones, float32 (new − first, vocab).

        Args:
            sequence: the sequence; those after it are lost where only one token is new.
            place: the number of tokens that it has.
            tokens: ids, (new,).
            first: so many of the new tokens are read and give no logits.

        Raises:
            EngineError: llama.cpp fails.
        """
        check_integers(tokens, "tokens", "new")
        new = np.arange(len(tokens))
        return self._read(tokens, place + new, np.full_like(new, sequence), new >= first)

    def step(self, tokens: Ints, places: Ints) -> Floats:
        """Logits after one more token of each of the first sequences, float32 (sequences, vocab).

        Args:
            tokens: ids, (sequences,); a single one loses the second sequence.
            places: the number of tokens that each sequence has, (sequences,).

        Raises:
            EngineError: llama.cpp fails.
        """
        check_same_shape(check_integers(tokens, "tokens", "sequences"), places, "tokens", "places")
        return self._read(tokens, places, np.arange(len(tokens)), np.ones(len(tokens), dtype=np.bool_))

    def copy(self, origin: int, to: int) -> None:
        """Makes sequence `to` a copy of sequence `origin`."""
        library().llama_memory_seq_cp(self._memory, origin, to, -1, -1)

    def cut(self, sequence: int, length: int) -> bool:
        """Cuts a sequence to its first tokens; False where the model keeps a state that cannot go back."""
        return bool(library().llama_memory_seq_rm(self._memory, sequence, length, -1))

    def clear(self) -> None:
        """Empties all sequences."""
        library().llama_memory_clear(self._memory, True)

    def _read(self, tokens: Ints, places: Ints, sequences: Ints, wanted: Flags) -> Floats:
        if len(tokens) == 1:
            return self._single(int(tokens[0]), int(places[0]), int(sequences[0]))
        parts = np.array_split(np.arange(len(tokens)), -(-len(tokens) // AT_ONCE))  # none of a single token
        return np.concatenate(
            [self._decode(tokens[part], places[part], sequences[part], wanted[part]) for part in parts]
        )

    def _single(self, token: int, place: int, sequence: int) -> Floats:
        """The logits after a token, which the first token of another sequence is read beside."""
        self.cut(sequence + 1, 0)
        pair = np.array([token, 0]), np.array([place, 0]), np.array([sequence, sequence + 1])
        logits = self._decode(*pair, np.array([True, True]))[:1]
        self.cut(sequence + 1, 0)
        return logits

    def _decode(self, tokens: Ints, places: Ints, sequences: Ints, wanted: Flags) -> Floats:
        """Logits after the tokens wanted, of `AT_ONCE` tokens at most: of one sequence, or one each of neighbours."""
        batch, asked_for = self._batch, wanted
        if np.count_nonzero(wanted) == 1:
            # The last layer and the head read those that are wanted alone, and never a single one.
            wanted = wanted | np.isin(np.arange(len(wanted)), [0, 1 if wanted[0] else 0])
        batch.n_tokens = len(tokens)
        for at, (token, place, sequence, asked) in enumerate(
            zip(tokens.tolist(), places.tolist(), sequences.tolist(), wanted.tolist(), strict=True)
        ):
            batch.token[at], batch.pos[at], batch.logits[at] = token, place, asked
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
        _said.clear()
        if status := library().llama_decode(self._context, batch):
            raise EngineError(f"llama.cpp cannot read {len(tokens)} tokens (status {status}): {_reason()}")
        count = int(np.count_nonzero(wanted))
        if not count:
            return np.empty((0, self._vocab), dtype=np.float32)
        pointer = library().llama_get_logits(self._context)
        # The next call writes over the original.
        return np.ctypeslib.as_array(pointer, shape=(count, self._vocab))[asked_for[wanted]].copy()


def _rounded_up(positions: int) -> int:
    """The size that llama.cpp gives to the keys and values of a sequence: a multiple of 256."""
    return -(-positions // 256) * 256


def _reason() -> str:
    """The failure of the last call, as llama.cpp has logged it."""
    return _said[0] if _said else "it does not say why"
