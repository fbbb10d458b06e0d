"""The laws that TRL's completions were drawn from, noted while they are drawn: log-probs and likeliest tokens.

TRL passes one number for each token from an engine to its batch, through lists that it cuts and joins where tools are
called. A number here knows the place of its state among the stored top-k, so that those follow it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from jackpot_sim.record.foreign import Passed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pair: TypeAlias = "tuple[Tensor, Tensor]"
"""The ids (int32) and the log-probs (float32, nats) of the likeliest tokens of states, both (..., k)."""

BUCKET = 16
"""The tokens of a vocabulary that share a bucket."""


class Placed(float):
    """The log-prob of a token, which knows its place among the states whose likeliest tokens are stored."""

    __slots__ = ("at",)
    at: int

    def __new__(cls, log_prob: float, at: int) -> Placed:
        """The number with its place."""
        placed = super().__new__(cls, log_prob)
        placed.at = at
        return placed


class Stored:
    """The likeliest tokens at the states of a batch of completions, in the order in which they come."""

    def __init__(self) -> None:
        self._parts: list[Pair] = []
        self._count = 0

    def add(self, ids: Tensor, log_probs: Tensor) -> int:
        """Stores states, ids and log-probs (states, k); the place of the first."""
        first = self._count
        self._parts.append((ids, log_probs))
        self._count += len(ids)
        return first

    def fill(
        self,
        ids: Sequence[Sequence[Sequence[int]]] | None,
        log_probs: Sequence[Sequence[Sequence[float]]] | None,
        lengths: Sequence[int],
        k: int,
        vocab: int,
    ) -> list[list[int]]:
        """Stores the likeliest tokens of whole completions, as a rollout_func returns them; their places.

        Args:
            ids: `topk_ids`: of each token a list, likeliest first.
            log_probs: `topk_logprobs`, likewise.
            lengths: the tokens of each completion.
            k: the likeliest tokens that are kept.
            vocab: the tokens of the policy.

        Raises:
            ValueError: one of the two is missing or of another shape, or as `likeliest_of`.
        """
        if ids is None or log_probs is None:
            raise ValueError("a rollout_func gives topk_ids and topk_logprobs, or neither: one of them is missing")
        widths = [_widths(each) for each in (ids, log_probs)]
        for name, own in zip(("topk_ids", "topk_logprobs"), widths, strict=True):
            if own is None or [*map(len, own)] != [*lengths]:
                raise ValueError(f"{name} must hold a list for each token of each completion, likeliest first")
        if widths[0] != widths[1]:
            raise ValueError("topk_ids and topk_logprobs hold lists of different lengths for the same token")
        k = min([k, *(len(each) for row in ids for each in row)])
        if any(lengths):
            tokens = [list(each)[:k] for row in ids for each in row]
            values = [list(each)[:k] for row in log_probs for each in row]
            self.add(*likeliest_of(tokens, values, vocab, ("topk_ids", "topk_logprobs")))
        ends = accumulate(map(len, ids))
        return [list(range(end - len(row), end)) for end, row in zip(ends, ids, strict=True)]

    def at(self, places: Sequence[Sequence[int]], length: int, device: torch.device) -> Pair | None:
        """The likeliest tokens at the places of completions, (B, length, k); None where nothing is stored.

        Args:
            places: the place of each token; −1 for one of no engine, whose entries mean nothing.
            length: the tokens of the longest completion, with padding.
            device: the device of the result.
        """
        import torch

        if not self._count:
            return None
        k = min(ids.shape[-1] for ids, _ in self._parts)
        ids, log_probs = (torch.cat([each[part][:, :k] for each in self._parts]) for part in (0, 1))
        rows = torch.full((len(places), length), 0)
        for row, own in zip(rows, places, strict=True):
            row[: len(own)] = torch.tensor(own, dtype=torch.long).clamp(min=0)
        return ids[rows.to(ids.device)].to(device), log_probs[rows.to(ids.device)].to(device)


def _widths(rows: Sequence[Sequence[Sequence[float]]]) -> list[list[int]] | None:
    """The length of each token's list in each completion; None where these are no such lists."""
    try:
        return [[len(each) for each in row] for row in rows]
    except TypeError:
        return None


_SURPLUS = 0.02
"""The probability above 1 that rounding may add up to in the likeliest tokens of a state."""


def likeliest_of(
    ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float | None]], vocab: int, names: tuple[str, str]
) -> Pair:
    """The likeliest tokens of states that another program gave, checked.

    Args:
        ids: k tokens of each state, likeliest first.
        log_probs: their log-probs, nats; None, or −inf, where there is none.
        vocab: the tokens of the policy, below which all ids lie.
        names: the program's names for the two.

    Raises:
        ValueError: ids are no whole numbers, lie outside the vocabulary or stand twice in a state; log-probs are no
            numbers, above 0, not in order, or add up to more than a law; or a state has none.
    """
    import torch

    own, of = names
    try:
        tokens = torch.tensor(ids)
        values = torch.tensor([[-torch.inf if each is None else each for each in row] for row in log_probs]).float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{own} and {of} must hold lists of numbers: {' '.join(str(error).split())}") from error
    if not tokens.numel():
        raise ValueError(f"{own} has an empty list: give at least one of the likeliest tokens at each state")
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"{own} must hold whole numbers, got {tokens.dtype}")
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= vocab:
        outside = least if least < 0 else most
        raise ValueError(f"{own} holds {outside}, and the policy's tokens are 0 to {vocab - 1}")
    ordered = tokens.sort(-1).values
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise ValueError(f"{own} names a token twice at one state")
    if bool((~(values <= 0.1)).any()) or bool((values.exp().sum(-1) > 1 + _SURPLUS).any()):
        raise ValueError(f"{of} must be log-probs: at most 0, with probabilities that add up to at most 1 at a state")
    known = values[:, 1:].isfinite() & values[:, :-1].isfinite()
    if bool((known & (values[:, 1:] > values[:, :-1] + 1e-3)).any()):
        raise ValueError(f"{of} rises within a state: list the likeliest token first")
    return tokens.int(), values


class Law:
    """The laws that `generate` draws from, seen by a processor of logits that stands behind all others.

    One law is held at a time. The token drawn from it is seen with the next, and that of the last in the completion.
    The probabilities are those that the tokens are drawn from, where the drawing was seen, and else the softmax.
    """

    def __init__(self, topk: int = 0) -> None:
        self.calls = 0
        self._topk = topk
        self._scores: Tensor | None = None
        self._law: Tensor | None = None
        self._drawn: list[Tensor] = []
        self._likeliest: list[Pair] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Sees the laws of the next tokens, and gives them back as they are."""
        if self._scores is not None:
            self._settle(input_ids[:, -1:])
        self._scores, self._law = scores, None
        self.calls += 1
        return scores

    def drawing_from(self, law: Tensor) -> None:
        """Sees the probabilities that tokens are about to be drawn from, (B, vocab)."""
        if self._scores is not None and law.shape == self._scores.shape:
            self._law = law

    def _settle(self, drawn: Tensor) -> None:
        """Keeps what is needed of the law before, from which these tokens were drawn, (B, 1)."""
        assert self._scores is not None
        law = self._scores.float().softmax(-1) if self._law is None else self._law.float()
        self._drawn.append(law.gather(1, drawn).log())
        if self._topk:
            ids, probs = likeliest(law, self._topk)
            self._likeliest.append((ids, probs.log()))

    def of(self, completions: Sequence[Sequence[int]], stored: Stored) -> list[list[float]]:
        """The log-prob of each token of the completions, with its place among the likeliest, which go to `stored`."""
        import torch

        if self._scores is None:
            return []
        # Of a completion that ended before others, the token after its end does not count.
        ends = [completion[-1:] or [0] for completion in completions]
        self._settle(torch.tensor(ends, device=self._scores.device))
        self._scores = self._law = None
        seen: list[list[float]] = torch.cat(self._drawn, dim=1).tolist()
        own = [row[: len(completion)] for row, completion in zip(seen, completions, strict=True)]
        if not self._topk:
            return own
        ids, log_probs = (torch.stack([each[part] for each in self._likeliest], 1).flatten(0, 1) for part in (0, 1))
        first, width = stored.add(ids, log_probs), len(self._likeliest)
        return [
            [Placed(log_prob, first + row * width + at) for at, log_prob in enumerate(each)]
            for row, each in enumerate(own)
        ]


def likeliest(law: Tensor, k: int) -> Pair:
    """The k likeliest tokens of laws (n, vocab), and their figures there; among ties, which decide nothing, any.

    They lie in the k buckets with the largest maxima, so that a sort of k buckets does for one of the vocabulary. A
    bucket's tokens lie apart by the number of buckets: maxima of neighbouring buckets are then taken side by side.
    """
    import torch

    buckets = law.shape[-1] // BUCKET
    if buckets <= 2 * k:
        log_probs, ids = law.topk(min(k, law.shape[-1]), dim=-1)
        return ids.int(), log_probs
    whole = law[:, : buckets * BUCKET].reshape(-1, BUCKET, buckets)
    best = whole.amax(1).topk(k, dim=-1, sorted=False).indices
    some = whole.gather(2, best[:, None].expand(-1, BUCKET, -1)).flatten(1)
    ids = (best[:, None] + buckets * torch.arange(BUCKET, device=law.device)[:, None]).flatten(1)
    if rest := law.shape[-1] - buckets * BUCKET:
        some = torch.cat([some, law[:, -rest:]], dim=-1)
        behind = torch.arange(law.shape[-1] - rest, law.shape[-1], device=law.device)
        ids = torch.cat([ids, behind.expand(len(law), -1)], dim=-1)
    log_probs, at = some.topk(k, dim=-1)
    return ids.gather(1, at).int(), log_probs


@contextmanager
def noting(topk: int = 0) -> Iterator[Law]:
    """A processor of logits at work in all generations of transformers that run inside; it changes nothing."""
    import torch
    from transformers import GenerationMixin

    law = Law(topk)
    if not hasattr(GenerationMixin, "_get_logits_processor"):  # of another version: the actor's side is left out
        yield law
        return

    def with_law(built: Callable[..., Any], *args: Passed, **kwargs: Passed) -> Passed:
        processors = built(*args, **kwargs)
        processors.append(law)
        return processors

    def drawing(draw: Callable[..., Any], probs: Tensor, *args: Passed, **kwargs: Passed) -> Passed:
        law.drawing_from(probs)
        return draw(probs, *args, **kwargs)

    with _around(GenerationMixin, "_get_logits_processor", with_law), _around(torch, "multinomial", drawing):
        yield law


@contextmanager
def _around(owner: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """A function with another around it, which takes it as its first argument."""
    before = getattr(owner, name)

    @functools.wraps(before)
    def wrapped(*args: Passed, **kwargs: Passed) -> Passed:
        return wrapper(before, *args, **kwargs)

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def asking(engine: Any, topk: int, stored: Stored, vocab: int) -> Iterator[None]:
    """TRL's client of vLLM at work with so many likeliest tokens; to TRL it returns the sampled token's alone."""
    if engine is None or not topk or not hasattr(engine, "logprobs"):
        yield
        return
    generate: Callable[..., Any] = engine.generate
    before = {name: vars(engine)[name] for name in ("logprobs", "generate") if name in vars(engine)}

    def with_topk(*args: Passed, **kwargs: Passed) -> Passed:
        prompts, completions, log_probs, ids = generate(*args, **kwargs)
        return prompts, completions, placed(completions, log_probs, ids, topk, stored, vocab), ids

    engine.logprobs, engine.generate = topk, with_topk
    try:
        yield
    finally:
        del engine.generate
        vars(engine).update(before)


def placed(
    completions: Sequence[Sequence[int]],
    log_probs: Sequence[Sequence[Sequence[float | None]]] | None,
    ids: Sequence[Sequence[Sequence[int]]] | None,
    topk: int,
    stored: Stored,
    vocab: int,
) -> list[list[list[float | None]]] | None:
    """The sampled tokens' log-probs out of an engine's lists, one in each list, with the likeliest put in `stored`.

    An engine lists the likeliest tokens and the sampled one, likeliest first; None stands for a log-prob that it could
    not compute, and stays.

    Args:
        completions: the tokens.
        log_probs: of each token a list, nats.
        ids: the tokens that these are of.
        topk: the likeliest tokens that are kept; fewer where a list is shorter.
        stored: takes them.
        vocab: the tokens of the policy.

    Raises:
        ValueError: a list does not hold the sampled token, or as `likeliest_of`.
    """
    if log_probs is None or ids is None:
        return None
    flat = [pair for row in zip(ids, log_probs, strict=True) for pair in zip(*row, strict=True)]
    if not flat:
        return [[] for _ in completions]
    k = min([topk, *(len(its) for its, _ in flat)])
    kept = ([its[:k] for its, _ in flat], [its[:k] for _, its in flat])
    first = stored.add(*likeliest_of(*kept, vocab, ("the engine's token ids", "the engine's log-probs")))
    found: list[list[list[float | None]]] = []
    for completion, its_ids, its_log_probs in zip(completions, ids, log_probs, strict=True):
        own: list[list[float | None]] = []
        for token, of_ids, of_log_probs in zip(completion, its_ids, its_log_probs, strict=True):
            if token not in of_ids:
                raise ValueError(f"the engine's lists have no log-prob of token {token}, which it wrote itself")
            sampled = of_log_probs[list(of_ids).index(token)]
            own.append([None if sampled is None else Placed(sampled, first)])
            first += 1
        found.append(own)
    return found


def places(log_probs: Sequence[Sequence[object]]) -> list[list[int]]:
    """The places of tokens by their log-probs as TRL holds them; −1 where there is none."""
    return [[getattr(each, "at", -1) for each in row] for row in log_probs]
