"""The interface of an engine, and the engine that is a model of transformers.

An engine writes rollouts and returns the log-probs of their tokens. One that also gives its whole law at any token of
any rollout allows figures that are exact at every state visited; a server shows its likeliest tokens alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models import generation, streaming
from jackpot_sim.environments.language_models.build import check_positions
from jackpot_sim.environments.language_models.completions import checked_prompts
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.library import Model, Tensor
from jackpot_sim.environments.language_models.reading import Reader
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.streaming import StreamedLaws


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order of rollouts: everything about them but the prompts and the random numbers.

    Attributes:
        sampling: from the engine's logits to the law that it samples from.
        end_tokens: a rollout ends with the first of these, or at its greatest length.
        batch_size: rollouts that are written at a time; the results do not depend on it.
        topk: the number of likeliest tokens to return of every law; 0 returns none.
        support: whether to return the tokens that the sampler kept, where it cuts any.
        together: whether a model may write the rollouts of a prompt in one row, see `generation.generate`.
        report: called with the number of rollouts written so far.

    Raises:
        ValueError: a number is out of range.
    """

    sampling: SamplingLaw
    end_tokens: frozenset[int]
    batch_size: int
    topk: int = 0
    support: bool = False
    together: bool = False
    report: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size, 1)
        check_count("topk", self.topk, 0)


class EngineError(ValueError):
    """The failure of an engine that no law explains, as of a server that is away: the same order may succeed later."""


class Engine(Protocol):
    """Writes rollouts of prompts, and returns what a rollout server returns of them."""

    def check(self, prompts: Sequence[Ints], prompt: Ints, length: int) -> None:
        """Refuses prompts that the engine cannot continue by `length` tokens.

        Raises:
            ValueError: a token is none of its vocabulary, or its context is too short.
        """

    def write(self, prompts: Sequence[Ints], prompt: Ints, uniforms: Floats, order: Order) -> Written:
        """A rollout after each of the prompts numbered `prompt`.

        Args:
            prompts: ids of each prompt, (its length,).
            prompt: the index of the prompt of each rollout, (n,).
            uniforms: the random numbers in [0, 1) that decide the rollouts, (n, greatest length). An engine that draws
                by itself takes its seeds from them.
            order: everything else.

        Raises:
            ValueError: the order cannot be met.
            EngineError: it can, and the engine failed.
        """


@runtime_checkable
class LawEngine(Engine, Protocol):
    """An engine that gives its whole law at every token of rollouts, its own or another's."""

    def laws(
        self, prompts: Sequence[Ints], written: Written, *, sampling: SamplingLaw, batch_size: int, rows: int
    ) -> Iterator[StreamedLaws]:
        """The law at every token of `written`, in blocks that depend on the mask and the two sizes alone.

        Args:
            prompts: ids of each prompt, (its length,).
            written: the rollouts.
            sampling: from the engine's logits to the law.
            batch_size: sequences that are read at a time.
            rows: laws at a time.

        Raises:
            ValueError: a rollout cannot be read. All are raised before the first law.
        """


@dataclass(frozen=True, eq=False)
class ModelEngine:
    """The `LawEngine` of a model of transformers.

    Attributes:
        scorer: the model and its cache.
    """

    scorer: CausalLM

    @classmethod
    def of(cls, model: Model) -> ModelEngine:
        """The engine of a model with transformers' own cache."""
        return cls(CausalLM(model))

    def check(self, prompts: Sequence[Ints], prompt: Ints, length: int) -> None:
        """Refuses prompts as `Engine.check` does."""
        check_positions(self.scorer.model, max(map(len, prompts)) + length, "the model")
        checked_prompts(self.scorer.model, prompts, prompt, (len(prompt), length))

    def write(self, prompts: Sequence[Ints], prompt: Ints, uniforms: Floats, order: Order) -> Written:
        """Rollouts as `generation.generate` writes them."""
        return self._generated(prompts, prompt, uniforms, order, states=False)

    def laws(
        self, prompts: Sequence[Ints], written: Written, *, sampling: SamplingLaw, batch_size: int, rows: int
    ) -> Iterator[StreamedLaws]:
        """Laws as `streaming.laws` makes them."""
        return self._streamed(prompts, written, sampling, batch_size, rows)

    def _generated(
        self, prompts: Sequence[Ints], prompt: Ints, uniforms: Floats, order: Order, *, states: bool
    ) -> Written:
        """Rollouts, with the writer's states where they are wanted."""
        return generation.generate(
            self.scorer,
            prompts,
            prompt,
            uniforms,
            sampling=order.sampling,
            end_tokens=order.end_tokens,
            batch_size=order.batch_size,
            topk=order.topk,
            support=order.support,
            states=states,
            together=order.together,
            report=order.report,
        )

    def _streamed(
        self,
        prompts: Sequence[Ints],
        written: Written,
        sampling: SamplingLaw,
        batch_size: int,
        rows: int,
        reader: Reader | None = None,
        states: Tensor | None = None,
    ) -> Iterator[StreamedLaws]:
        """The laws at every token of rollouts, from states where there are some."""
        return streaming.laws(
            self.scorer,
            prompts,
            written.prompt,
            written.tokens,
            written.mask,
            sampling=sampling,
            batch_size=batch_size,
            rows=rows,
            reader=reader,
            states=states,
        )


def engine_of(actor: CausalLM | Engine) -> Engine:
    """The engine of an actor: itself, or that of a model."""
    return ModelEngine(actor) if isinstance(actor, CausalLM) else actor
