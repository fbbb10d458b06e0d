"""The engine that is llama.cpp in process: a GGUF file writes the rollouts, and its whole laws are read.

The same numbers decide the tokens as with a model of transformers: llama.cpp gives logits, and the sampler is ours. So
the law that the actor samples from is known exactly.

A rollout does not depend on the others of its batch, nor does a law on whether it is written or read, to the bit: see
`llama_library`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_reals
from jackpot_sim.environments.engines.engine import Order
from jackpot_sim.environments.engines.llama_library import KVFormat, Reader, Weights, most_sequences
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.completions import Completions, checked_ids
from jackpot_sim.environments.language_models.generation import Pages, Written
from jackpot_sim.environments.language_models.library import Tensor
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.streaming import StreamedLaws


@dataclass(frozen=True, eq=False)
class LlamaCpp:
    """The `LawEngine` of a GGUF file.

    Attributes:
        weights: the model.
        threads: llama.cpp's threads; None: as many as torch's.
        kv: the number format of keys and values; llama.cpp's own is f16.
        device: torch's device, on which laws are made of logits: that of the policy, whose laws they meet.
    """

    weights: Weights
    threads: int | None = None
    kv: KVFormat = KVFormat.F16
    device: str = "cpu"

    def check(self, prompts: Sequence[Ints], prompt: Ints, length: int) -> None:
        """Refuses prompts as `Engine.check` does."""
        self._check_context(max(map(len, prompts)) + length)
        checked_ids(self.weights.vocab, prompts, prompt, (len(prompt), length))

    def write(self, prompts: Sequence[Ints], prompt: Ints, uniforms: Floats, order: Order) -> Written:
        """Rollouts as `generation.generate` writes them: a prompt is read once in a batch, and its rollouts together.

        Raises:
            ValueError: a token is none of the vocabulary, the context is too short, a shape is off, or llama.cpp fails
                or gives NaN.
        """
        check_reals(uniforms, "uniforms", "n", "length")
        checked = checked_ids(self.weights.vocab, prompts, prompt, uniforms.shape)
        longest = max(map(len, checked)) + uniforms.shape[1]
        self._check_context(longest)
        pages = Pages(uniforms, order.sampling, order.end_tokens, order.topk, order.support, self.weights.vocab)
        size = min(order.batch_size, len(uniforms), most_sequences())
        with self.weights.reader(size, longest, threads=self._threads(), kv=self.kv) as reader:
            for start in range(0, len(uniforms), size):
                rows = np.arange(start, min(start + size, len(uniforms)))
                self._write(reader, checked, prompt[rows], rows, pages)
                if order.report is not None:
                    order.report(int(rows[-1]) + 1)
        return pages.written(prompt)

    def laws(
        self, prompts: Sequence[Ints], written: Written, *, sampling: SamplingLaw, batch_size: int, rows: int
    ) -> Iterator[StreamedLaws]:
        """The laws of `LawEngine.laws`, in the blocks of `streaming.laws`."""
        ids = Completions.of_ids(self.weights.vocab, prompts, written.prompt, written.tokens, written.mask)
        check_count("batch_size", batch_size, 1)
        check_count("rows", rows, 1)
        self._check_context(ids.positions)
        with self.weights.reader(1, ids.positions, threads=self._threads(), kv=self.kv) as reader:
            scan = _Scan(reader, ids)
            for start in range(0, len(ids.tokens), batch_size):
                row, step, _ = ids.take(slice(start, start + batch_size)).places()
                for first in range(0, len(row), rows):
                    sequence, steps = start + row[first : first + rows], step[first : first + rows]
                    yield StreamedLaws(sequence, steps, sampling.log_probs(self._tensor(scan.logits(sequence, steps))))

    def _write(self, reader: Reader, prompts: Sequence[Ints], prompt: Ints, rows: Ints, pages: Pages) -> None:
        """Writes the sequences `rows`, each after its prompt, as one batch."""
        distinct, first, which = np.unique(prompt, return_index=True, return_inverse=True)
        # The first rollout of a prompt reads it. Those lie side by side, since a gap costs another pass.
        line = np.concatenate([first, np.setdiff1d(np.arange(len(rows)), first)])
        rows, which = rows[line], which[line]
        scores = _prompt_logits(reader, [prompts[each] for each in distinct])[which]
        for slot in range(len(distinct), len(rows)):
            reader.copy(int(which[slot]), slot)
        place = np.array([len(prompts[each]) for each in distinct])[which]
        for step in range(pages.length):
            drawn, going_on = pages.draw(rows, step, self._tensor(scores))
            if step + 1 == pages.length or not going_on.any():
                return
            slots = _closed_up(reader, going_on)
            rows, drawn, place = rows[slots], drawn[slots], place[slots]
            scores = reader.step(drawn, place + step)

    def _tensor(self, logits: Floats) -> Tensor:
        import torch

        return torch.from_numpy(logits).to(self.device)

    def _threads(self) -> int:
        import torch

        return torch.get_num_threads() if self.threads is None else self.threads

    def _check_context(self, positions: int) -> None:
        if positions > self.weights.context:
            raise ValueError(
                f"{self.weights.path} reads at most {self.weights.context} tokens: prompt and new tokens together "
                f"would be {positions}"
            )


class _Scan:
    """The reading of completions from the first token to the last, each prompt once for those side by side."""

    def __init__(self, reader: Reader, ids: Completions) -> None:
        self._reader, self._ids = reader, ids
        self._prompt = -1
        self._first: Floats
        """The logits after the prompt that is in the context, (1, vocab)."""

    def logits(self, sequence: Ints, step: Ints) -> Floats:
        """Logits at the next tokens, (rows, vocab); rows run through sequences, and in each through its steps."""
        starts = np.flatnonzero(np.diff(sequence, prepend=-1))
        return np.concatenate(
            [
                self._of(int(sequence[some[0]]), int(step[some[0]]), int(step[some[-1]]) + 1)
                for some in np.split(np.arange(len(sequence)), starts[1:])
            ]
        )

    def _of(self, row: int, start: int, stop: int) -> Floats:
        """Logits at the steps from `start` to `stop` of a sequence that was read up to there."""
        parts = []
        if start == 0:
            self._go_to(int(self._ids.prompt[row]))
            parts, start = [self._first], 1
        tokens = self._ids.tokens[row, start - 1 : stop - 1]
        if len(tokens):
            parts.append(self._reader.extend(0, len(self._ids.prompts[self._prompt]) + start - 1, tokens))
        return np.concatenate(parts)

    def _go_to(self, prompt: int) -> None:
        """The end of a prompt, as if nothing had been read after it."""
        ids = self._ids.prompts[prompt]
        if prompt != self._prompt or not self._reader.cut(0, len(ids)):
            self._first, self._prompt = _prompt_logits(self._reader, [ids]), prompt


def _prompt_logits(reader: Reader, prompts: Sequence[Ints]) -> Floats:
    """Logits after each prompt, (prompts, vocab). Sequence i now holds prompt i alone, and other ones are empty."""
    reader.clear()
    return np.concatenate([reader.extend(at, 0, ids, len(ids) - 1) for at, ids in enumerate(prompts)])


def _closed_up(reader: Reader, going_on: Flags) -> Ints:
    """The former place of each sequence that goes on, once they lie side by side again."""
    count = int(np.count_nonzero(going_on))
    slots = np.arange(count)
    gaps, last = np.flatnonzero(~going_on[:count]), count + np.flatnonzero(going_on[count:])
    for gap, moved in zip(gaps.tolist(), last.tolist(), strict=True):
        reader.copy(moved, gap)
    slots[gaps] = last
    return slots
