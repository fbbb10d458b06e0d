"""From the log-probs that a server returns to those of the law that it sampled from, and to those of its model's own.

At temperature 1 and without cuts all are one. Cuts alone scale the law of the kept tokens by their mass, which the
likeliest tokens tell if they hold all that is kept. Another temperature's normaliser takes the whole vocabulary, which
no server returns: there the server has to return the wanted ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jackpot_sim.environments.engines.server.ask import Rollout, ServerError
from jackpot_sim.environments.engines.server.flavour import Told
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw


def needs_top(told: Told, sampling: SamplingLaw) -> bool:
    """True if the mass of the kept tokens has to be found out of the likeliest ones."""
    return told is not Told.PROCESSED and sampling.cuts


def check_told(told: Told, sampling: SamplingLaw, topk: int) -> None:
    """Refuses a server whose log-probs cannot become those of the law that it samples from.

    Raises:
        ServerError: says how to start it.
    """
    if told is Told.RAW and sampling.temperature != 1:
        raise ServerError(
            f"it returns raw log-probs, which tell nothing about a temperature of {sampling.temperature:g}: start it "
            "to return processed ones (vLLM: --logprobs-mode processed_logprobs) and say log_probs: processed, or "
            "sample at temperature 1"
        )
    if needs_top(told, sampling) and not topk:
        raise ServerError(
            f"it returns {told} log-probs, and without likeliest tokens the mass that top_k and top_p keep is not "
            "known: ask for likeliest tokens (topk), or let it return processed log-probs"
        )


def processed(rollout: Rollout, told: Told, sampling: SamplingLaw) -> Rollout:
    """The rollout with the log-probs of the law that was sampled from.

    Raises:
        ServerError: the likeliest tokens do not hold all that is kept, or a token was sampled that is not.
    """
    if not needs_top(told, sampling):
        return rollout
    log_probs, rows = [], []
    for token, value, row in zip(rollout.tokens, rollout.log_probs, rollout.top, strict=True):
        kept = _kept(row, sampling)
        if token not in kept:
            raise ServerError(
                f"it sampled token {token}, which top_k={sampling.top_k} and top_p={sampling.top_p:g} leave out: its "
                "log-probs are of another kind than `log_probs` says, or it samples in another order"
            )
        mass = math.log(math.fsum(map(math.exp, kept.values())))
        log_probs.append(value - mass)
        rows.append({each: other - mass for each, other in kept.items()})
    return Rollout(rollout.tokens, log_probs, rows)


def raw(rollout: Rollout, told: Told, sampling: SamplingLaw) -> Sequence[float] | None:
    """The log-probs of the model's own law, None where the server does not tell them."""
    own = told is Told.RAW or (told is Told.TEMPERED and sampling.temperature == 1) or sampling.is_plain
    return rollout.log_probs if own else None


def _kept(row: Mapping[int, float], sampling: SamplingLaw) -> dict[int, float]:
    """The tokens that the sampler keeps of a row, the likeliest first, with their log-probs as they are."""
    if sampling.top_k is not None and len(row) < sampling.top_k:
        raise _too_few(row, f"top_k={sampling.top_k}")
    candidates = list(row.items())[: sampling.top_k]
    if sampling.top_p == 1:
        return dict(candidates)
    whole = math.fsum(math.exp(value) for _, value in candidates) if sampling.top_k is not None else 1.0
    out: dict[int, float] = {}
    mass = 0.0
    for token, value in candidates:
        if mass >= sampling.top_p * whole:
            break
        out[token] = value
        mass += math.exp(value)
    if mass < sampling.top_p * whole:
        raise _too_few(row, f"top_p={sampling.top_p:g}")
    return out


def _too_few(row: Mapping[int, float], cut: str) -> ServerError:
    return ServerError(
        f"the {len(row)} likeliest tokens that it returns do not hold all that {cut} keeps, so that the mass of these "
        "is not known: ask for more (topk), or let it return processed log-probs"
    )
