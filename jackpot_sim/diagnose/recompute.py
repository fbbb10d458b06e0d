"""The log-probs of a side that a dump lacks, recomputed with a checkpoint of the weights of its training step.

Dumps of inference servers hold the actor's side alone. The checkpoint reads prompt and completion as they stand, so
that the dump needs both: token ids, or text, of which the checkpoint's tokenizer must make the very tokens of the dump.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.backend import namespace, to_numpy
from jackpot_sim.core.numerics import mul_exp
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.build import check_positions
from jackpot_sim.environments.language_models.checkpoints import Loaded, Precision, load, resolved_device
from jackpot_sim.environments.language_models.completions import right_padded
from jackpot_sim.environments.language_models.library import Tokenizer
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.streaming import laws
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import Refuse, raises
from jackpot_sim.readers.sequence import DumpedSequence
from jackpot_sim.requirements import require

LOG = logging.getLogger(__name__)

Side: TypeAlias = Literal["policy", "actor"]

_SORTED = 16
"""Batches' worth of sequences that are sorted by length together."""
_NUMBERS = 1 << 23
"""Numbers in the laws that are held at once."""


class TokenizerMismatchError(DumpError):
    """The checkpoint's tokens are others than the dump's: another tokenizer, chat template or vocabulary."""


@dataclass(frozen=True)
class Recompute:
    """The choices of a recomputation.

    Attributes:
        checkpoint: a folder as `save_pretrained` leaves it, a GGUF file, the name of a carried model, a hub id, or a
            model that is loaded already.
        side: the side that the checkpoint stands for.
        sampling: from the model's logits to the law of that side: the run's temperature, and for an actor its cuts.
        precision: the number format that the model computes in.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        tokens: tokens, padding included, that go through the layers at a time; a longer sequence goes alone.
        anew: True also recomputes where the dump has that side; otherwise such sequences stay as they are.
    """

    checkpoint: str | Path | Loaded
    _: KW_ONLY
    side: Side = "policy"
    sampling: SamplingLaw = field(default_factory=SamplingLaw)
    precision: Precision = Precision.FP32
    device: str = "auto"
    tokens: int = 1 << 13
    anew: bool = False

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens, 1)

    def sequences(self, sequences: Iterable[DumpedSequence], refuse: Refuse = raises) -> Iterator[DumpedSequence]:
        """The sequences with that side's log-probs and, for the policy, entropy and as many likeliest tokens as the
        actor's are; in their order.

        Args:
            sequences: the dump's sequences.
            refuse: the answer to a sequence that cannot be recomputed, which is then left out.

        Raises:
            DumpError: from `refuse`: a sequence has no prompt or no tokens, or does not fit the context. One that is a
                `TokenizerMismatchError` is evidence of another tokenizer.
            ValueError: the checkpoint cannot be read.
        """
        require("torch", "transformers", purpose="recomputing log-probs")
        loaded = self._loaded()
        done, steps = 0, 0
        seen: set[int | None] = set()
        for window in _windows(sequences, self.tokens * _SORTED):
            seen |= {each.step for each in window}
            if steps < 2 <= len(seen):
                LOG.warning("the dump holds several training steps, and %s stands for all of them", loaded.name)
            steps, done = len(seen), done + len(window)
            yield from self._window(window, loaded, refuse)
            LOG.info("recomputed %d sequences", done)

    def _loaded(self) -> Loaded:
        if isinstance(self.checkpoint, Loaded):
            return self.checkpoint
        LOG.info("loading %s", self.checkpoint)
        return load(self.checkpoint, precision=self.precision, device=resolved_device(self.device))

    def _window(self, window: Sequence[DumpedSequence], loaded: Loaded, refuse: Refuse) -> list[DumpedSequence]:
        """Some sequences, recomputed where they are wanted; without those that cannot be."""
        tasks = [_task(at, each, loaded, refuse) for at, each in enumerate(window) if self._wanted(each)]
        new: dict[int, DumpedSequence | None] = {
            at: None if self._wanted(each) else each for at, each in enumerate(window)
        }
        for batch in _batches([task for task in tasks if task is not None], self.tokens):
            new |= self._recomputed(batch, loaded)
        return [each for each in new.values() if each is not None]

    def _wanted(self, sequence: DumpedSequence) -> bool:
        return self.anew or getattr(sequence, f"{self.side}_log_probs") is None

    def _recomputed(self, batch: Sequence[_Task], loaded: Loaded) -> dict[int, DumpedSequence]:
        """The sequences of a batch, by their place in the window."""
        tokens, mask = right_padded([task.token for task in batch])
        k = max(task.k for task in batch) if self.side == "policy" else 0
        parts: list[tuple[Floats, Floats, TopK | None]] = []
        rows: list[Ints] = []
        for block in laws(
            CausalLM(loaded.model),
            [task.prompt for task in batch],
            np.arange(len(batch)),
            tokens,
            mask,
            sampling=self.sampling,
            batch_size=len(batch),
            rows=max(1, _NUMBERS // int(loaded.model.config.get_text_config().vocab_size)),
        ):
            rows.append(block.sequence)
            parts.append(_figures(block.log_probs, tokens[block.sequence, block.step], k))
        owner = np.concatenate(rows)
        out = {}
        for number, task in enumerate(batch):
            own = owner == number
            log_probs, entropy = (np.concatenate([part[which] for part in parts])[own] for which in (0, 1))
            new: dict[str, Any] = {f"{self.side}_log_probs": log_probs, "token": task.token, "prompt": task.prompt}
            if self.side == "policy":
                new["entropy"] = entropy
                new["policy_topk"] = _topk([part[2] for part in parts if part[2] is not None], own, task.k)
            out[task.at] = dataclasses.replace(task.sequence, **new)
        return out


def with_policy(
    sequences: Iterable[DumpedSequence], checkpoint: str | Path, *, refuse: Refuse = raises, **options: Any
) -> Iterator[DumpedSequence]:
    """The sequences with log p of each token by a checkpoint of the policy; see `Recompute` for options and errors."""
    return Recompute(checkpoint, **options).sequences(sequences, refuse)


@dataclass(frozen=True, eq=False)
class _Task:
    """A sequence to be recomputed: its place in the window, and its tokens."""

    at: int
    sequence: DumpedSequence
    prompt: Ints
    token: Ints

    @property
    def k(self) -> int:
        """The number of the actor's likeliest tokens."""
        return 0 if self.sequence.actor_topk is None else self.sequence.actor_topk.k

    @property
    def length(self) -> int:
        """The tokens that the model reads."""
        return len(self.prompt) + len(self.token)


def _task(at: int, sequence: DumpedSequence, loaded: Loaded, refuse: Refuse) -> _Task | None:
    try:
        prompt, token = _ids(sequence, loaded)
        if sequence.position is not None and not np.array_equal(sequence.position, np.arange(len(token))):
            raise DumpError(f"{sequence.place}: tokens between those of the dump are missing, and no model can read it")
        _check(sequence, np.concatenate([prompt, token]), loaded)
    except DumpError as error:
        refuse(error)
        return None
    return _Task(at, sequence, prompt, token)


def _check(sequence: DumpedSequence, ids: Ints, loaded: Loaded) -> None:
    vocab = int(loaded.model.config.get_text_config().vocab_size)
    if ids.min() < 0 or ids.max() >= vocab:
        raise TokenizerMismatchError(
            f"{sequence.place}: token {int(ids.max() if ids.max() >= vocab else ids.min())} is none of the {vocab} "
            f"tokens of {loaded.name}: the checkpoint has another tokenizer than the dump"
        )
    try:
        check_positions(loaded.model, len(ids), loaded.name)
    except ValueError as error:
        raise DumpError(f"{sequence.place}: {error}") from error


def _ids(sequence: DumpedSequence, loaded: Loaded) -> tuple[Ints, Ints]:
    """The token ids of prompt and completion.

    Raises:
        DumpError: they are neither there, nor made by the tokenizer out of the text.
    """
    prompt, token = sequence.prompt, sequence.token
    if prompt is None:
        if sequence.prompt_text is None:
            raise DumpError(
                f"{sequence.place}: the prompt is missing, without which no log-prob can be recomputed: add "
                "prompt_token_ids (vLLM returns them for return_token_ids), or prompt as text"
            )
        prompt = np.asarray(_tokenizer(sequence, loaded)(sequence.prompt_text)["input_ids"], dtype=np.int64)
    if not len(prompt):
        raise DumpError(f"{sequence.place}: the prompt is empty, and the first token has no law after nothing")
    return prompt, _of_text(sequence, _tokenizer(sequence, loaded), loaded.name) if token is None else token


def _tokenizer(sequence: DumpedSequence, loaded: Loaded) -> Tokenizer:
    if loaded.tokenizer is None:
        raise DumpError(
            f"{sequence.place}: prompt or tokens are text, and there is no tokenizer beside {loaded.name}: dump token "
            "ids, or save the tokenizer beside the checkpoint"
        )
    return loaded.tokenizer


def _of_text(sequence: DumpedSequence, tokenizer: Tokenizer, checkpoint: str) -> Ints:
    """The ids that the tokenizer makes of the completion's text, refused unless they are the dump's tokens."""
    if sequence.text is None:
        raise DumpError(f"{sequence.place}: the tokens are missing: dump their ids, or their text")
    ids = tokenizer("".join(sequence.text), add_special_tokens=False)["input_ids"]
    told = [_spelt(tokenizer, each) for each in ids]
    for at, (pieces, text) in enumerate(itertools.zip_longest(told, sequence.text, fillvalue=None)):
        if pieces is None or text not in pieces:
            raise TokenizerMismatchError(
                f"{sequence.place}: token {at} is {text!r} in the dump and {pieces and pieces[0]!r} by the tokenizer "
                f"of {checkpoint}: it is another one, or the text was not written in its own tokens; dump token ids"
            )
    return np.asarray(ids, dtype=np.int64)


def _spelt(tokenizer: Tokenizer, token: int) -> tuple[str, str]:
    """A token as servers write it: decoded, or as the vocabulary has it."""
    return tokenizer.decode([token]), tokenizer.convert_ids_to_tokens(token)


def _windows(sequences: Iterable[DumpedSequence], tokens: int) -> Iterator[list[DumpedSequence]]:
    """Runs of sequences of about so many tokens."""
    window: list[DumpedSequence] = []
    held = 0
    for sequence in sequences:
        window.append(sequence)
        held += sum(
            len(each)
            for each in (sequence.prompt, sequence.token if sequence.token is not None else sequence.text)
            if each is not None
        )
        if held >= tokens:
            yield window
            window, held = [], 0
    if window:
        yield window


def _batches(tasks: Sequence[_Task], tokens: int) -> Iterator[list[_Task]]:
    """Tasks of like length, of so many tokens with padding; one alone where it is longer."""
    batch: list[_Task] = []
    for task in sorted(tasks, key=lambda each: each.length):
        if batch and (len(batch) + 1) * task.length > tokens:
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def _figures(law: Any, token: Ints, k: int) -> tuple[Floats, Floats, TopK | None]:
    """log p of each token, the entropy of its law, and the k likeliest tokens, out of laws (rows, vocab)."""
    xp = namespace(law)
    ids = xp.asarray(token[:, None], device=law.device)
    log_probs = xp.take_along_axis(law, ids, axis=-1)[:, 0]
    entropy = -xp.sum(mul_exp(law, law), axis=-1)
    top = TopK.of(law, k) if k else None
    return (
        np.asarray(to_numpy(log_probs), dtype=np.float64),
        np.asarray(to_numpy(entropy), dtype=np.float64),
        None if top is None else TopK(to_numpy(top.ids), to_numpy(top.log_probs)),
    )


def _topk(parts: Sequence[TopK], own: Any, k: int) -> TopK | None:
    if not k:
        return None
    ids, log_probs = (np.concatenate([getattr(part, name) for part in parts])[own] for name in ("ids", "log_probs"))
    return TopK(ids, log_probs).first(k)
