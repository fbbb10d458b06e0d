"""Dumps with one known fault each, from small real language models, and clean ones.

A dump is what a framework would have written: tokens that the actor drew, its log-probs as its engine reports them
while decoding against a cache, and the trainer's, from one pass over the whole sequence. All laws are those of trained
networks; the engine computes in float32, bfloat16 or int8 weights, by world. Each fault has three strengths. Where a
fault is not about steps, weights stand still over the dump's eight steps; clean dumps, stale ones and those of a failed
sync come from a policy in reinforcement learning.

The faults, with the cause that they are an instance of, and what sets neighbours apart in the data:

* `temperature`: the actor samples at T and reports the law that it samples from; the trainer scores at T = 1. Tokens
  follow the actor's log-probs (E e^ℓ = 1), and ℓ is a function of log p and the state.
* `raw-scaled`: the tokens are drawn at T and the trainer scores at T, but the engine reports raw log-probs: tokens
  follow the *policy's* log-probs (E e^−ℓ = 1), not those that the actor reports.
* `raw-both`: drawn at T (or, every third dump, from the top-p set), and both sides report the raw law: ℓ is as small as
  without a fault. Only the tokens show it: they are likelier, or less likely, than their entropy says. It is invisible
  without the entropy or the top-k columns.
* `top-p`, `top-k`: drawn from the kept set and renormalised on it; ℓ = log S ≤ 0 at every token.
* `misaligned`: one side is moved by a token, in a share of the sequences.
* `placeholder`: 0.0, +1.0 or NaN instead of log-probs, in a share of the tokens of one side.
* `precision`: weights in int4, fp8-e5m2 or fp8-e4m3.
* `stale`: lags of 0 to 3 versions, said by the versions; strengths are optimiser steps per version.
* `sync-stopped`, `sync-stuck`: from some step on the actor keeps its weights, while the versions go on, or stop too.
* `sync-partial`: from some step on some rows of the last block hold an early checkpoint's weights.
* `finetuned`, `distilled`: the actor is the policy trained on on other text, or a one-layer student.
* `dominated`: one or two sequences in 64 come from a broken engine.
* `template`: the policy scores after another prompt: an end token and the last bytes of the prompt (none, 2 or 8).
* `renamed`: some ids mean another token to the policy.
* `bypass`: the policy's column is a copy of the actor's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

import numpy as np
import torch

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.diagnose.results import CauseName
from jackpot_sim.environments.language_models.formats import Format
from jackpot_sim.environments.language_models.library import Model, Tensor
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.readers.table import TokenTable
from tests.diagnose.lab import STEPS, Columns, Draws, Engine, Lab
from tests.diagnose.worlds import END, VOCAB, partly, quantised

LAGS = 4
"""The lags of a stale dump: 0 to 3."""


class Strength(StrEnum):
    """The strengths of a fault, the full one last."""

    WEAK = "weak"
    HALF = "half"
    FULL = "full"


Planted = Callable[[Lab, Strength], Columns]


def _of(strength: Strength, weak: float, half: float, full: float) -> float:
    return {Strength.WEAK: weak, Strength.HALF: half, Strength.FULL: full}[strength]


def _columns(lab: Lab, draws: Draws, policy: Tensor, actor: Tensor | None = None) -> Columns:
    """Laws of both sides under one version of the weights a step, in which the actor never lags."""
    return Columns(draws.tokens, draws.drawn if actor is None else actor, policy, lab.step)


# --- The sampler ------------------------------------------------------------------------------------------------------


def _heated(lab: Lab, strength: Strength) -> Floats:
    """T of each sequence, (n,): below 1 in dumps with an odd seed."""
    return np.where(lab.seed % 2, _of(strength, 0.9, 0.8, 0.6), _of(strength, 1.1, 1.25, 1.5))


def _tempered(law: Tensor, temperature: Floats) -> Tensor:
    shape = (-1, *(1,) * (law.ndim - 1))
    return torch.log_softmax(law / torch.from_numpy(temperature).float().reshape(shape), -1)


def _at_temperature(lab: Lab, strength: Strength) -> tuple[Draws, Tensor]:
    """Sequences drawn at T, and the policy's own laws along them."""
    heat = _heated(lab, strength)

    def law_of(law: Tensor, *, rows: Ints) -> Tensor:
        return _tempered(law, heat[rows])

    def made() -> tuple[Draws, Tensor]:
        draws = lab.draw([lab.engine.of(lab.world.policy)], law_of=law_of)
        return draws, lab.score(draws, [lab.world.policy])

    return lab.known("temperature", strength, make=made)


def temperature(lab: Lab, strength: Strength) -> Columns:
    return _columns(lab, *_at_temperature(lab, strength))


def raw_scaled(lab: Lab, strength: Strength) -> Columns:
    draws, law = _at_temperature(lab, strength)
    return _columns(lab, draws, _tempered(law, _heated(lab, strength)), actor=draws.raw)


def raw_both(lab: Lab, strength: Strength) -> Columns:
    heat = _heated(lab, strength)
    top_p = SamplingLaw(top_p=_of(strength, 0.95, 0.85, 0.7))

    def law_of(law: Tensor, *, rows: Ints) -> Tensor:
        cut = torch.from_numpy(lab.seed[rows] % 3 == 0)[:, None]
        return torch.where(cut, _law(top_p, law), _tempered(law, heat[rows]))

    draws = lab.draw([lab.engine.of(lab.world.policy)], law_of=law_of)
    return _columns(lab, draws, lab.score(draws, [lab.world.policy]), actor=draws.raw)


def _law(law: SamplingLaw, log_probs: Tensor) -> Tensor:
    out = law.log_probs(log_probs, single=True)  # type: ignore[arg-type]
    return torch.as_tensor(out)


def _truncated(lab: Lab, sampling: SamplingLaw) -> Columns:
    def law_of(law: Tensor, *, rows: Ints) -> Tensor:
        return _law(sampling, law)

    draws = lab.draw([lab.engine.of(lab.world.policy)], law_of=law_of)
    return _columns(lab, draws, lab.score(draws, [lab.world.policy]))


def top_p(lab: Lab, strength: Strength) -> Columns:
    return _truncated(lab, SamplingLaw(top_p=_of(strength, 0.95, 0.85, 0.7)))


def top_k(lab: Lab, strength: Strength) -> Columns:
    return _truncated(lab, SamplingLaw(top_k=int(_of(strength, 20, 10, 5))))


# --- The columns ------------------------------------------------------------------------------------------------------


def misaligned(lab: Lab, strength: Strength) -> Columns:
    """The policy's column moved back by a token in dumps of even seeds, on by one in those of odd ones."""
    columns = _columns(lab, lab.plain, lab.plain_law)
    policy = columns.of_tokens("policy")
    back, on = np.roll(policy, -1, axis=1), np.roll(policy, 1, axis=1)
    back[:, -1], on[:, 0] = policy[:, -2], policy[:, 1]  # what stands there belongs to no token of the completion
    moved = np.where((lab.seed % 2 == 1)[:, None], on, back)
    some = lab.uniforms("misaligned") < _of(strength, 0.1, 0.4, 1.0)
    return replace(columns, changed={"policy": np.where(some[:, None], moved, policy)})


def placeholder(lab: Lab, strength: Strength) -> Columns:
    """0.0, +1.0 or NaN, by the seed, on the actor's or the policy's side; every fourth full dump is a column of 0.0."""
    columns = _columns(lab, lab.plain, lab.plain_law)
    kind = np.array([0.0, 1.0, np.nan])[lab.seed % 3]
    some = lab.uniforms("placeholder", columns.tokens.shape[1]) < _of(strength, 0.01, 0.05, 0.2)
    whole = (lab.seed % 4 == 3) & (strength is Strength.FULL)
    changed = {}
    for side, here in (("actor", lab.seed % 2 == 0), ("policy", lab.seed % 2 == 1)):
        own = columns.of_tokens(side)
        new = np.where(some & here[:, None], kind[:, None], own)
        changed[side] = np.where((whole & here)[:, None], 0.0, new)
    return replace(columns, changed=changed)


def bypass(lab: Lab, strength: Strength) -> Columns:
    columns = _columns(lab, lab.plain, lab.plain.drawn)
    return replace(columns, changed={"policy": columns.of_tokens("actor")})


def template(lab: Lab, strength: Strength) -> Columns:
    prompts = lab.plain.prompts
    keep = {Strength.WEAK: 8, Strength.HALF: 2, Strength.FULL: 0}[strength]
    end = np.full((len(prompts), 1), END, dtype=np.int64)
    before = np.concatenate([end, prompts[:, prompts.shape[1] - keep :]], axis=1)
    return _columns(lab, lab.plain, lab.score(lab.plain, [lab.world.policy], prompts=before))


def renamed(lab: Lab, strength: Strength) -> Columns:
    """Some of the common ids, rare ones at the weak strength, stand for other tokens in the policy's vocabulary."""
    tokens, prompts = lab.plain.tokens, lab.plain.prompts
    common = np.argsort(-np.bincount(tokens.ravel(), minlength=VOCAB), kind="stable")
    ids = {Strength.WEAK: common[20:21], Strength.HALF: common[8:10], Strength.FULL: common[1:4]}[strength]
    meaning = np.arange(VOCAB, dtype=np.int64)
    meaning[ids] = np.arange(128, 128 + len(ids))  # bytes that no text holds
    draws = replace(lab.plain, tokens=meaning[tokens])
    law = lab.score(draws, [lab.world.policy], prompts=meaning[prompts])
    return _columns(lab, lab.plain, law[..., torch.from_numpy(meaning)])


# --- The weights ------------------------------------------------------------------------------------------------------


def precision(lab: Lab, strength: Strength) -> Columns:
    to = {Strength.WEAK: Format.FP8_E4M3, Strength.HALF: Format.FP8_E5M2, Strength.FULL: Format.INT4}[strength]
    draws = lab.draw([quantised(lab.world.policy, to)])
    return _columns(lab, draws, lab.score(draws, [lab.world.policy]))


def finetuned(lab: Lab, strength: Strength) -> Columns:
    other = lab.world.finetuning.after(int(_of(strength, 20, 50, 120)))
    draws = lab.draw([lab.engine.of(other)])
    return _columns(lab, draws, lab.score(draws, [lab.world.policy]))


def distilled(lab: Lab, strength: Strength) -> Columns:
    other = lab.world.distillation.after(int(_of(strength, 400, 200, 100)))
    draws = lab.draw([lab.engine.of(other)])
    return _columns(lab, draws, lab.score(draws, [lab.world.policy]))


def dominated(lab: Lab, strength: Strength) -> Columns:
    """The last sequence of a dump's first half, and at full strength one of the second, come from a broken engine."""
    size = lab.world.family.sequences
    here = np.tile(np.arange(size), len(lab.seeds))
    first = keyed_rows(lab, size)
    some = (here == first) | ((strength is Strength.FULL) & (here == (first + size // 2) % size))
    broken = partly(lab.world.policy, lab.world.early, {Strength.WEAK: 0.25}.get(strength, 1.0))
    draws = lab.draw([lab.engine.of(lab.world.policy), broken], some.astype(np.int64))
    return _columns(lab, draws, lab.score(draws, [lab.world.policy]))


def keyed_rows(lab: Lab, size: int) -> Ints:
    """A sequence's number within its dump, drawn for each dump and given to all of its sequences, (n,)."""
    return np.repeat((lab.uniforms("which").reshape(-1, size)[:, 0] * size).astype(np.int64), size)


# --- Weights that move ------------------------------------------------------------------------------------------------


def _policies(lab: Lab, per_version: int, versions: int) -> list[Model]:
    return [lab.world.ascent.after(per_version * each) for each in range(versions)]


def moving(lab: Lab, engine: Engine) -> Columns:
    """A clean dump: the policy learns, and the actor has its weights at every step."""
    policies = _policies(lab, 2, STEPS)
    draws = lab.draw([engine.of(each) for each in policies], lab.step)
    return _columns(lab, draws, lab.score(draws, policies, lab.step))


def stale(lab: Lab, strength: Strength) -> Columns:
    policies = _policies(lab, int(_of(strength, 1, 2, 4)), STEPS + LAGS - 1)
    now = lab.step + LAGS - 1
    version = now - np.floor(lab.uniforms("lag") * LAGS).astype(np.int64)
    draws = lab.draw([lab.engine.of(each) for each in policies], version)
    law = lab.score(draws, policies, now)
    return Columns(draws.tokens, draws.drawn, law, version - (LAGS - 1))


def _failing(lab: Lab) -> Ints:
    """The step from which on the sync fails, of each sequence's dump, (n,): 2, 3 or 4."""
    return 2 + lab.seed % 3


def sync_stopped(lab: Lab, strength: Strength) -> Columns:
    """Versions go on, as the engine believes."""
    return _stopped(lab, strength, lab.step)


def sync_stuck(lab: Lab, strength: Strength) -> Columns:
    """Versions stop with the weights."""
    return _stopped(lab, strength, _held(lab))


def _held(lab: Lab) -> Ints:
    return np.minimum(lab.step, _failing(lab) - 1)


def _stopped(lab: Lab, strength: Strength, version: Ints) -> Columns:
    policies = _policies(lab, int(_of(strength, 1, 2, 4)), STEPS)

    def made() -> tuple[Draws, Tensor]:
        draws = lab.draw([lab.engine.of(each) for each in policies], _held(lab))
        return draws, lab.score(draws, policies, lab.step)

    draws, law = lab.known("stopped", strength, make=made)
    return Columns(draws.tokens, draws.drawn, law, version)


def sync_partial(lab: Lab, strength: Strength) -> Columns:
    policies = _policies(lab, 1, STEPS)
    share = _of(strength, 0.125, 0.25, 0.5)
    engines = [lab.engine.of(each) for each in policies]
    broken = [lab.engine.of(partly(each, lab.world.early, share)) for each in policies]
    draws = lab.draw([*engines, *broken], lab.step + STEPS * (lab.step >= _failing(lab)))
    return _columns(lab, draws, lab.score(draws, policies, lab.step))


FAULTS: dict[str, tuple[CauseName, Planted]] = {
    "temperature": (CauseName.TEMPERATURE, temperature),
    "top-p": (CauseName.TRUNCATED_SAMPLING, top_p),
    "top-k": (CauseName.TRUNCATED_SAMPLING, top_k),
    "raw-scaled": (CauseName.RAW_LOG_PROBS, raw_scaled),
    "raw-both": (CauseName.RAW_LOG_PROBS, raw_both),
    "misaligned": (CauseName.MISALIGNED, misaligned),
    "placeholder": (CauseName.PLACEHOLDER, placeholder),
    "precision": (CauseName.PRECISION, precision),
    "stale": (CauseName.STALE, stale),
    "sync-stopped": (CauseName.WEIGHT_SYNC, sync_stopped),
    "sync-stuck": (CauseName.WEIGHT_SYNC, sync_stuck),
    "sync-partial": (CauseName.WEIGHT_SYNC, sync_partial),
    "finetuned": (CauseName.OTHER_MODEL, finetuned),
    "distilled": (CauseName.OTHER_MODEL, distilled),
    "dominated": (CauseName.DOMINATED, dominated),
    "template": (CauseName.TOKENIZER, template),
    "renamed": (CauseName.TOKENIZER, renamed),
    "bypass": (CauseName.BYPASS, bypass),
}
"""The faults by name, each with the cause that it is an instance of."""


def faulty(lab: Lab, fault: str, strength: Strength) -> list[TokenTable]:
    """The dumps of a fault, one a seed of the lab."""
    return lab.tables(FAULTS[fault][1](lab, strength))


def clean(lab: Lab, engine: Engine) -> list[TokenTable]:
    """Dumps without a fault, one a seed of the lab."""
    return lab.tables(moving(lab, engine))


def bare(table: TokenTable) -> TokenTable:
    """The dump without the columns that most frameworks do not write: no entropy, versions or top-k."""
    return replace(table, entropy=None, weight_version=None, actor_topk=None, policy_topk=None)
