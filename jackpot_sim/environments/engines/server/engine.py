"""The engine that is a server: it writes rollouts and shows its likeliest tokens, never a whole law."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_integers, check_reals
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.engines.engine import Order
from jackpot_sim.environments.engines.server import told as conversions
from jackpot_sim.environments.engines.server.ask import Ask, Rollout, ServerError, likeliest
from jackpot_sim.environments.engines.server.client import Client
from jackpot_sim.environments.engines.server.flavour import Flavour, Told
from jackpot_sim.environments.engines.server.flavours import Found, found
from jackpot_sim.environments.engines.server.journal import Journal
from jackpot_sim.environments.engines.server.vocabulary import Vocabulary
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.library import Tokenizer

LOG = logging.getLogger(__name__)

USUAL_TOPK = 20
"""The most likeliest tokens that are asked for by default: vLLM refuses more, unless it was started otherwise."""
_ALMOST_ALL = 1 - 1e-3
"""The mass of a row that holds all tokens that a sampler kept, up to the server's rounding."""


@dataclass(frozen=True, eq=False)
class ServerEngine:
    """An `Engine` over HTTP.

    Attributes:
        client: the connection.
        vocab: the number of the policy's tokens, which the server's have to be.
        tokenizer: the policy's, for servers that speak text.
        flavour: the kind of server, or auto.
        model: the model's name there; None: the only one.
        topk: the most likeliest tokens to ask for, where the order says more.
        told: the law whose log-probs the server returns; None: its flavour's.
        concurrency: requests at a time.
    """

    client: Client
    vocab: int
    tokenizer: Tokenizer | None = None
    flavour: str = "auto"
    model: str | None = None
    topk: int = USUAL_TOPK
    told: Told | None = None
    concurrency: int = 8

    def check(self, prompts: Sequence[Ints], prompt: Ints, length: int) -> None:
        """Refuses prompts as `Engine.check` does, and a server that cannot be reached or has another model."""
        longest = 0
        check_integers(prompt, "prompt", "n")
        if prompt.min() < 0 or prompt.max() >= len(prompts):
            raise ServerError(f"prompt holds {prompt.min()} to {prompt.max()}: there are {len(prompts)} prompts")
        for number in np.unique(prompt).tolist():
            ids = prompts[number]
            check_integers(ids, f"prompt {number}", "length of a prompt")
            if not len(ids) or ids.min() < 0 or ids.max() >= self.vocab:
                raise ServerError(f"prompt {number} must hold tokens from 0 to {self.vocab - 1}")
            longest = max(longest, len(ids))
        positions = self._found.positions
        if positions is not None and longest + length > positions:
            raise ServerError(
                f"{self.client.root} reads {positions} tokens, and prompt and rollout have up to {longest + length}: "
                "serve it with a longer context"
            )

    def write(self, prompts: Sequence[Ints], prompt: Ints, uniforms: Floats, order: Order) -> Written:
        """Rollouts of the server's own sampler, seeded by the uniforms, with log-probs of the law sampled from.

        Raises:
            ServerError: the order cannot be met, or the server fails; what has arrived is kept, and the same order
                goes on from there.
        """
        check_reals(uniforms, "uniforms", "n", "length")
        self.check(prompts, prompt, uniforms.shape[1])
        if order.support and order.sampling.cuts:
            raise ServerError(f"{self.client.root} does not tell which tokens its sampler kept: leave support out")
        asks = self.asks(prompts, prompt, uniforms, order)
        told = self.told_of(asks[0])
        with _said_by(self.client.root):
            conversions.check_told(told, order.sampling, asks[0].topk)
        rollouts, journal = self.rollouts(asks, order.report)
        if empty := sum(not each.tokens for each in rollouts):
            raise ServerError(
                f"{empty} of {len(rollouts)} rollouts are empty, since {self.client.root} tells no log-prob of "
                f"{self._speaker.hides}: serve the model where all tokens come back (vLLM, SGLang)"
            )
        written = self._written(prompt, uniforms.shape, rollouts, asks[0], told)
        journal.delete()
        return written

    def asks(self, prompts: Sequence[Ints], prompt: Ints, uniforms: Floats, order: Order) -> list[Ask]:
        """The requests of an order, one for each of the prompts numbered `prompt`, (n,)."""
        k = min(order.topk, self.topk, self.vocab)
        processed = self.told is not Told.RAW and not order.sampling.is_plain
        return [
            Ask(
                prompt=tuple(prompts[number].tolist()),
                length=uniforms.shape[1],
                seed=_seed(row),
                sampling=order.sampling,
                end_tokens=order.end_tokens,
                topk=k,
                processed=processed,
            )
            for number, row in zip(prompt.tolist(), uniforms, strict=True)
        ]

    def told_of(self, ask: Ask) -> Told:
        """The law whose log-probs come back."""
        return self._speaker.told(ask) if self.told is None else self.told

    def rollouts(
        self, asks: Sequence[Ask], report: Callable[[int], None] | None = None
    ) -> tuple[list[Rollout], Journal]:
        """The rollouts that are asked for, as the server tells them, and the journal to delete when they are safe.

        Raises:
            ServerError: the server fails; the sentence says how many rollouts are kept.
        """
        speaker, root = self._speaker, self.client.root
        self.client.stopped.clear()
        with _said_by(root):
            bodies = [speaker.body(ask) for ask in asks]
        journal = Journal.of(f"{root}{speaker.path}", [self._found.model, *bodies])

        def one(place: int) -> Rollout:
            answer = self.client.post(speaker.path, bodies[place])
            with _said_by(root):
                return _checked(speaker, speaker.read(answer, asks[place]), asks[place], self.vocab)

        with journal.held():
            done = journal.read()
            pool = ThreadPoolExecutor(self.concurrency)
            waiting = {pool.submit(one, at): at for at in range(len(asks)) if at not in done}
            try:
                self._collect(waiting, done, journal, report)
            except ServerError as error:
                self.client.stopped.set()
                pool.shutdown(cancel_futures=True)
                self._keep_the_rest(waiting, done, journal)
                raise ServerError(
                    f"{error}; {len(done)} of {len(asks)} rollouts are kept, and the same command goes on from there"
                ) from error
            except BaseException:
                self.client.stopped.set()  # no retries that nobody waits for
                raise
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        out = [done[at] for at in range(len(asks))]
        if short := sum(not _ends(rollout, ask) for rollout, ask in zip(out, asks, strict=True)):
            LOG.warning(
                "%d of %d rollouts stop before a token whose log-prob %s does not tell: %s",
                *(short, len(out), root, speaker.hides),
            )
        return out, journal

    @staticmethod
    def _collect(
        waiting: dict[Future[Rollout], int],
        done: dict[int, Rollout],
        journal: Journal,
        report: Callable[[int], None] | None,
    ) -> None:
        for future in as_completed(waiting):
            place = waiting[future]
            done[place] = future.result()
            journal.keep(place, done[place])
            if report is not None:
                report(len(done))

    @staticmethod
    def _keep_the_rest(waiting: dict[Future[Rollout], int], done: dict[int, Rollout], journal: Journal) -> None:
        """Keeps what has arrived beside the failure."""
        for future, place in waiting.items():
            if place not in done and future.done() and not future.cancelled() and future.exception() is None:
                done[place] = future.result()
                journal.keep(place, done[place])

    def _written(
        self, prompt: Ints, shape: tuple[int, ...], rollouts: Sequence[Rollout], ask: Ask, told: Told
    ) -> Written:
        tokens: Ints = np.zeros(shape, dtype=np.int64)
        mask: Flags = np.zeros(shape, dtype=np.bool_)
        log_probs: Floats = np.zeros(shape)
        raw: Floats | None = np.zeros(shape)
        rows: list[list[Mapping[int, float]]] = []
        for at, rollout in enumerate(rollouts):
            live = slice(len(rollout.tokens))
            with _said_by(self.client.root):
                own = conversions.processed(rollout, told, ask.sampling)
                rows.append([_full(row, ask) for row in own.top])
            tokens[at, live], mask[at, live], log_probs[at, live] = rollout.tokens, True, own.log_probs
            model_own = conversions.raw(rollout, told, ask.sampling)
            raw = None if raw is None or model_own is None else raw
            if raw is not None and model_own is not None:
                raw[at, live] = model_own
        return Written(prompt, tokens, mask, log_probs, raw, _topk(rows, shape, ask.topk))

    @cached_property
    def _found(self) -> Found:
        return found(self.client, self.flavour, self.model)

    @cached_property
    def _speaker(self) -> Flavour:
        kind = self._found.flavour
        vocabulary = None if kind.speaks_ids or self.tokenizer is None else Vocabulary(self.tokenizer)
        return kind(self._found.model, vocabulary)


@contextmanager
def _said_by(root: str) -> Iterator[None]:
    """A block whose errors begin with the server's address."""
    try:
        yield
    except ServerError as error:
        raise ServerError(f"{root}: {error}") from error


def _seed(uniforms: Floats) -> int:
    """A seed below 2³¹, which all servers take, out of the random numbers of a rollout."""
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(uniforms).tobytes()).digest()[:4], "big") >> 1


def _checked(speaker: Flavour, rollout: Rollout, ask: Ask, vocab: int) -> Rollout:
    """The rollout up to its first end token, its likeliest tokens in order and k of them.

    Raises:
        ServerError: the numbers of tokens differ, one is none of the policy's, or it ends neither at an end token nor
            at the greatest length.
    """
    tokens = list(rollout.tokens)
    if any(not 0 <= token < vocab for token in tokens):
        raise ServerError(f"it wrote token {max(tokens)}, and the policy has {vocab}: serve the policy's own tokenizer")
    if any(value > 1e-4 or value == -np.inf for value in rollout.log_probs):
        raise ServerError(f"it gives a log-prob of {max(rollout.log_probs):g} to a token that it sampled")
    end = next((at + 1 for at, token in enumerate(tokens) if token in ask.end_tokens), None)
    if (
        end is None
        and not rollout.cut
        and len(tokens) != ask.length
        and (len(tokens) > ask.length or speaker.returns_end)
    ):
        raise ServerError(
            f"it ended a rollout after {len(tokens)} of {ask.length} tokens, and not at an end token of the policy "
            f"({', '.join(map(str, sorted(ask.end_tokens))) or 'which has none'}): its context is too short, or its "
            "model has other end tokens"
        )
    rows = [_full(likeliest(row, ask.topk), ask) for row in rollout.top[:end]]
    return Rollout(tokens[:end], rollout.log_probs[:end], rows)


def _ends(rollout: Rollout, ask: Ask) -> bool:
    """True if a rollout ends as the policy's do."""
    return len(rollout.tokens) == ask.length or bool(rollout.tokens and rollout.tokens[-1] in ask.end_tokens)


def _full(row: Mapping[int, float], ask: Ask) -> Mapping[int, float]:
    """A row of k tokens: those that no sampler keeps stand at −inf behind.

    Raises:
        ServerError: the server returned fewer, though there are more.
    """
    if len(row) >= ask.topk:
        return row
    if not ask.sampling.cuts or sum(map(np.exp, row.values())) < _ALMOST_ALL:
        raise ServerError(
            f"it returns the {len(row)} likeliest tokens where {ask.topk} were asked for: raise its limit (vLLM: "
            "--max-logprobs, TGI: --max-top-n-tokens), or ask for fewer (topk)"
        )
    unnamed = (token for token in range(2 * ask.topk) if token not in row)
    return {**row, **{next(unnamed): -np.inf for _ in range(ask.topk - len(row))}}


def _topk(rows: Sequence[Sequence[Mapping[int, float]]], shape: tuple[int, ...], k: int) -> TopK | None:
    if not k:
        return None
    ids: Ints = np.zeros((*shape, k), dtype=np.int64)
    values: Floats = np.full((*shape, k), -np.inf)
    for at, rollout in enumerate(rows):
        for step, row in enumerate(rollout):
            ids[at, step], values[at, step] = list(row), list(row.values())
    return TopK(ids.astype(np.int32), values.astype(np.float32))
