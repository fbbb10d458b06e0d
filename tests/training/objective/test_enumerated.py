"""The update of the policy against its exact mean: every sequence of a tiny model, every mask, its own code path.

`Trainer._updated` is what runs. A loss is linear in the advantages, so one minibatch of all n sequences, each with
n·q(y)·A(y) in the place of A(y), gives the mean over y ~ q; a pattern of masks goes in by its probability likewise.
What it is compared with comes from tables over prefixes, the derivatives of log p there, and the loops of
`tests/estimators/brute.py`.
"""

from __future__ import annotations

import copy
import itertools
import math
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim import estimators
from jackpot_sim.core.sequences import Enumeration, SequenceLaws
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.environments.language_models.derivatives import log_prob_features
from jackpot_sim.environments.language_models.library import in_double
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.estimators import Correction, Level, UpdateTarget
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.training.config import Sampling, Training, Update
from jackpot_sim.training.loop.measures import Means
from jackpot_sim.training.loop.passes import PaddedSequences, model_pass
from jackpot_sim.training.loop.trainer import Trainer
from jackpot_sim.training.objective import Aggregation, Divisor, Proposed
from tests.cases import each
from tests.contracts.test_corrections import DEFAULTS, MODERATE
from tests.estimators import brute

PROMPT = np.array([[0, 1]])
NEVER = 1e-300
"""A learning rate that leaves every weight as it is."""
EXACT, STORED = 1e-9, 1e-6
"""Of the gradient's norm: what float64 keeps, and what a law stored in float32 does."""

CORRECTIONS = [correction for correction in DEFAULTS + MODERATE if not correction.looks_at_batch]
every_correction = each("correction", CORRECTIONS)


def moved(model: Any, generator: np.random.Generator, share: float) -> Any:
    """The model with noise on its matrices."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.ndim == 2:
                weight += share * weight.std() * torch.from_numpy(generator.normal(size=tuple(weight.shape)))
    return other


class Case:
    """A policy, what it was before the update, an actor, and every sequence with an advantage."""

    def __init__(self, tree: PrefixTree, updated: bool, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        config = TinyQwen3(hidden=8, layers=1, heads=1, kv_heads=1, context=8, initial_scale=25)
        self.tree = tree
        self.policy = build(config, tree.vocab, generator)
        self.before = moved(self.policy, generator, 0.15) if updated else self.policy
        self.actor = moved(self.policy, generator, 0.3)
        self.new, self.ref, self.q = (
            CausalLM(each).log_probs(PROMPT, tree)[0] for each in (self.policy, self.before, self.actor)
        )
        self.paths = tree.sequences
        self.advantage = generator.normal(size=len(self.paths))
        self.mask = self.paths.mask
        self.chance = np.exp(self.paths.log_probs(self.q))
        self.written = PaddedSequences.of(
            [PROMPT[0]], np.zeros(len(self.paths), dtype=np.int64), self.paths.token, self.mask, "cpu"
        )

    @cached_property
    def features(self) -> Any:
        """∂ log p_new(x|s)/∂θ, (prefixes, vocab, parameters)."""
        return log_prob_features(self.policy, PROMPT, self.tree)[0]

    @cached_property
    def true_gradient(self) -> Any:
        """Of Σ_y p(y) A(y), through whole forward passes and no code of the training."""
        tokens = torch.as_tensor(self.paths.token)
        read = torch.cat([torch.as_tensor(PROMPT).expand(len(tokens), -1), tokens], 1)
        self.policy.zero_grad()
        with in_double(self.policy):
            logits = self.policy(read).logits[:, PROMPT.shape[1] - 1 : -1]
        found = torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]
        whole = torch.where(torch.as_tensor(self.mask), found, 0.0).sum(-1).exp()
        (whole * torch.as_tensor(self.advantage)).sum().backward()
        return gradient_of(self.policy)

    @cached_property
    def proposed(self) -> Proposed:
        """All sequences, each with its own A."""
        with in_double(self.policy), torch.no_grad():
            reference, actor = (model_pass(each, self.written) for each in (self.before, self.actor))
        topk = TopK.of(actor.law(), self.tree.vocab)
        return Proposed(
            actor_log_probs=actor.log_probs,
            reference_log_probs=reference.log_probs,
            mask=self.written.mask,
            advantage=torch.as_tensor(self.advantage),
            topk=topk,
            reference_on_topk=reference.on(topk),
            uniforms=torch.full(self.mask.shape, 0.5, dtype=torch.float64),
        )

    def gradient(
        self,
        correction: Correction,
        target: UpdateTarget = UpdateTarget.REFERENCE,
        rows: Any = None,
        denominator: Divisor = Divisor.PROPOSED,
        **changes: Any,
    ) -> Any:
        """The gradient that one update leaves, of the loss; `rows` make its minibatch."""
        spec = EstimatorSpec(kind="none" if target is UpdateTarget.REFERENCE else "jackpot", target=target)
        config = Training(
            correction=spec,
            rollout=Sampling(topk=self.tree.vocab),
            update=Update(
                learning_rate=NEVER,
                clip=None,
                max_grad_norm=None,
                aggregation=Aggregation.SEQUENCE_SUM,
                denominator=denominator,
            ),
        )
        texts: Any = SimpleNamespace(task=SimpleNamespace(rewards=None), tokenizer=None)
        trainer = Trainer(config, texts, self.policy, None, 0)
        rows = torch.arange(len(self.paths)) if rows is None else torch.as_tensor(rows)
        given = Proposed(
            **{name: getattr(self.proposed, name) for name in self.proposed.__dataclass_fields__} | changes
        )
        with in_double(self.policy):
            trainer._updated(self.written.take(rows), given.take(rows), correction, Means())
        return gradient_of(self.policy)

    def mean(self, correction: Correction, target: UpdateTarget = UpdateTarget.REFERENCE) -> Any:
        """The mean over y ~ q and over all masks, pattern by pattern."""
        weighted = len(self.paths) * self.chance * self.advantage
        if not correction.draws_mask:
            return self.gradient(correction, target, advantage=torch.as_tensor(weighted))
        accept = np.zeros(self.mask.shape)
        for row, pairs in enumerate(self.pairs(correction, target)):
            accept[row, : len(pairs)] = [a for a, _ in pairs]
        total = np.zeros_like(self.true_gradient)
        for pattern in itertools.product((True, False), repeat=self.mask.shape[1]):
            probability = np.where(pattern, accept, 1 - accept).prod(-1)
            uniforms = torch.where(torch.tensor(pattern), 0.0, 1.0).double().expand(self.mask.shape)
            advantage = torch.as_tensor(weighted * probability)
            total += self.gradient(correction, target, uniforms=uniforms, advantage=advantage)
        return total

    def pairs(self, correction: Correction, target: UpdateTarget = UpdateTarget.REFERENCE) -> list[Any]:
        """(a, w) of every token of every sequence, by the tables of brute force."""
        aim = self.ref if target is UpdateTarget.REFERENCE else self.new
        parameters, found = correction.parameters(), []
        for cells, advantage in zip(self.cells, self.advantage, strict=True):
            logs = [float(aim[s, x] - self.q[s, x]) for s, x in cells]
            if correction.level is Level.SEQUENCE:
                found.append(brute.SEQUENCE_TABLE[correction.name](logs, float(advantage), **parameters))
                continue
            lam = correction.overlap_lam or 1.0
            zs = [float(np.minimum(np.exp(self.q[s]), np.exp(aim[s]) / lam).sum()) for s, _ in cells]
            rule, laws = brute.rule_of(correction), (np.exp(aim), np.exp(self.q))
            both = [[float(law[s, x]) for law in laws] for s, x in cells]
            rules = [
                rule(brute.Seen(math.exp(l), z, p, q, float(advantage)))
                for l, z, (p, q) in zip(logs, zs, both, strict=True)
            ]
            if target is UpdateTarget.POLICY:
                back = [min(math.exp(self.ref[s, x] - self.new[s, x]), parameters["c2"]) for s, x in cells]
                rules = [(a, w * f) for (a, w), f in zip(rules, back, strict=True)]
            found.append(rules)
        return found

    @cached_property
    def cells(self) -> list[list[tuple[int, int]]]:
        """(prefix, token) along every sequence."""
        columns = zip(self.paths.prefix, self.paths.token, self.mask, strict=True)
        return [list(zip(s[live].tolist(), x[live].tolist(), strict=True)) for s, x, live in columns]

    def summed(self, factors: list[list[float]], chance: Any, ratio: bool = True) -> Any:
        """Σ_y chance(y) A(y) Σ_t factor · p_new/p_ref · ∂ log p_new(y_t|s_t)."""
        total = np.zeros(self.features.shape[-1])
        for cells, row, weight in zip(self.cells, factors, chance * self.advantage, strict=True):
            for (s, x), factor in zip(cells, row, strict=True):
                surrogate = math.exp(self.new[s, x] - self.ref[s, x]) if ratio else 1.0
                total += weight * factor * surrogate * self.features[s, x]
        return total


def gradient_of(model: Any) -> Any:
    return torch.cat([weight.grad.flatten() for weight in model.parameters()]).numpy()


def assert_near(found: Any, expected: Any, share: float) -> None:
    assert np.linalg.norm(found - expected) <= share * np.linalg.norm(expected)


def tolerance(correction: Correction) -> float:
    return EXACT if correction.overlap_lam is None else STORED


TREES = {"an end token": PrefixTree(3, 3, 2), "no end token": PrefixTree(4, 2, None)}


@pytest.fixture(scope="module", params=list(itertools.product(TREES, (False, True))), ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    tree, updated = request.param
    return Case(TREES[tree], updated)


@pytest.fixture(scope="module")
def still() -> Case:
    """p_new is p_ref."""
    return Case(TREES["an end token"], False)


@pytest.fixture(scope="module")
def under_way() -> Case:
    """p_new has left p_ref."""
    return Case(TREES["an end token"], True)


# ------------------------------------------------------------------- the cases themselves


def test_the_cases_are_far_from_trivial(case: Case) -> None:
    assert case.chance.sum() == pytest.approx(1, abs=1e-12)
    ratio = np.exp(case.ref - case.q)
    assert ratio.max() > 1.5
    assert ratio.min() < 0.7
    assert np.allclose(case.new, case.ref) == (case.before is case.policy)
    assert np.linalg.norm(case.true_gradient) > 0.05


def test_two_ways_to_the_policy_gradient_agree(still: Case) -> None:
    ones = [[1.0] * len(cells) for cells in still.cells]
    policy = np.exp(still.paths.log_probs(still.new))
    assert_near(still.summed(ones, policy, ratio=False), still.true_gradient, EXACT)


# ------------------------------------------------------------------- what is unbiased


def test_sequence_importance_sampling_gives_the_policy_gradient(still: Case) -> None:
    assert_near(still.mean(estimators.get("sequence-is")), -still.true_gradient, EXACT)


def test_an_update_of_the_policy_s_own_sequences_is_the_policy_gradient(still: Case) -> None:
    own = np.exp(still.paths.log_probs(still.new)) * len(still.paths) * still.advantage
    found = still.gradient(
        estimators.get("is"), advantage=torch.as_tensor(own), actor_log_probs=still.proposed.reference_log_probs
    )
    assert_near(found, -still.true_gradient, EXACT)


def test_without_a_correction_it_is_not(still: Case) -> None:
    found = still.mean(estimators.get("none"))
    assert np.linalg.norm(found + still.true_gradient) > 0.05 * np.linalg.norm(still.true_gradient)


# ------------------------------------------------------------------- every correction


def test_every_registered_correction_is_in_the_list() -> None:
    tested = {correction.name for correction in CORRECTIONS}
    assert set(estimators.names()) - tested == {"m2po"}  # it looks at the batch: see below


@every_correction
def test_the_mean_update_is_that_of_the_table(case: Case, correction: Correction) -> None:
    factors = [[a * w for a, w in row] for row in case.pairs(correction)]
    assert_near(case.mean(correction), -case.summed(factors, case.chance), tolerance(correction))


@every_correction
def test_rao_blackwell_has_the_same_mean(under_way: Case, correction: Correction) -> None:
    inner, smooth = under_way.mean(correction), under_way.mean(estimators.rao_blackwell(correction))
    assert_near(smooth, inner, STORED)


@every_correction
def test_its_bias_is_what_the_referee_says(still: Case, correction: Correction) -> None:
    found = still.mean(correction) + still.true_gradient
    enumeration = Enumeration(SequenceLaws(still.new, still.q, still.new), still.paths, still.advantage)
    expected = estimators.enumerated.exact([enumeration], correction, features=[still.features])
    share = float(found @ found / (still.true_gradient @ still.true_gradient))
    assert share == pytest.approx(float(expected.bias) ** 2, rel=1e-4, abs=1e-12)


# ------------------------------------------------------------------- centred corrections


def mean_terms(
    case: Case, correction: Correction, target: UpdateTarget = UpdateTarget.REFERENCE, advantage: float = 1.0
) -> Any:
    """Σ_v q·a·w·(p_new/p_ref)·∂ log p_new(v)/∂θ at each prefix by the tables of brute force, (prefixes, parameters)."""
    aim = case.ref if target is UpdateTarget.REFERENCE else case.new
    lam, rule, out = correction.overlap_lam or 1.0, brute.rule_of(correction), []
    for q, p, ref, new, features in zip(*map(np.exp, (case.q, aim, case.ref, case.new)), case.features, strict=True):
        z = float(np.minimum(q, p / lam).sum())
        seen = [brute.Seen(pv / qv, z, pv, qv, advantage) for pv, qv in zip(p.tolist(), q.tolist(), strict=True)]
        back = np.minimum(ref / new, correction.parameters()["c2"]) if target is UpdateTarget.POLICY else 1.0
        out.append((q * [a * w for a, w in map(rule, seen)] * back * new / ref) @ features)
    return np.array(out)


def without_means(case: Case, correction: Correction, target: UpdateTarget = UpdateTarget.REFERENCE) -> Any:
    """Σ_y q(y) A(y) Σ_t h(s_t), with the sign of A(y) where h depends on it."""
    means = {sign: mean_terms(case, correction, target, sign) for sign in (-1.0, 1.0)}
    weights = zip(case.chance * case.advantage, case.cells, strict=True)
    return sum(weight * means[math.copysign(1.0, weight)][s] for weight, cells in weights for s, _ in cells)


@each("correction", [correction for correction in CORRECTIONS if correction.is_per_token])
def test_a_centred_update_lacks_the_mean_of_each_state(case: Case, correction: Correction) -> None:
    factors = [[a * w for a, w in row] for row in case.pairs(correction)]
    plain, subtracted = case.summed(factors, case.chance), without_means(case, correction)
    smooth = estimators.centred(estimators.rao_blackwell(correction))
    assert np.linalg.norm(case.mean(smooth) + plain - subtracted) <= STORED * np.linalg.norm(plain)


@pytest.mark.parametrize("target", list(UpdateTarget))
def test_a_centred_update_that_aims_elsewhere(under_way: Case, target: UpdateTarget) -> None:
    jackpot = estimators.get("jackpot", c1=0.6, c2=1.05)
    factors = [[a * w for a, w in row] for row in under_way.pairs(jackpot, target)]
    subtracted = without_means(under_way, jackpot, target)
    assert np.linalg.norm(subtracted) > 1e-3
    expected = under_way.summed(factors, under_way.chance) - subtracted
    smooth = estimators.centred(estimators.rao_blackwell(jackpot))
    assert_near(under_way.mean(smooth, target), -expected, 10 * STORED)


@pytest.mark.parametrize("name", ["none", "tis", "jackpot"])
def test_a_constant_advantage_moves_nothing_once_centred(under_way: Case, name: str) -> None:
    smooth = estimators.rao_blackwell(estimators.get(name))
    constant = torch.as_tensor(len(under_way.paths) * under_way.chance)
    found, centred = (
        under_way.gradient(correction, advantage=constant) for correction in (smooth, estimators.centred(smooth))
    )
    assert np.linalg.norm(found) > 0.01
    assert np.linalg.norm(centred) < STORED * np.linalg.norm(found)


# ------------------------------------------------------------------- jackpot's two targets


@pytest.mark.parametrize("target", list(UpdateTarget))
@pytest.mark.parametrize("parameters", [{}, {"c1": 0.6, "c2": 1.05}, {"lam": 1.7}], ids=str)
def test_jackpot_leads_where_it_says(case: Case, target: UpdateTarget, parameters: dict[str, float]) -> None:
    jackpot = estimators.get("jackpot", **parameters)
    factors = [[a * w for a, w in row] for row in case.pairs(jackpot, target)]
    assert_near(case.mean(jackpot, target), -case.summed(factors, case.chance), STORED)


@pytest.mark.parametrize("target", list(UpdateTarget))
def test_unclipped_jackpot_is_z_times_importance_sampling(under_way: Case, target: UpdateTarget) -> None:
    """I2: whatever it aims at, the update is that of Z(s)·p_new/q, with Z the overlap of the aim."""
    jackpot = estimators.get("jackpot", c1=math.inf, c2=math.inf)
    aim = under_way.ref if target is UpdateTarget.REFERENCE else under_way.new
    z = np.minimum(np.exp(aim), np.exp(under_way.q)).sum(-1)
    factors = [[z[s] * math.exp(under_way.new[s, x] - under_way.q[s, x]) for s, x in row] for row in under_way.cells]
    assert_near(under_way.mean(jackpot, target), -under_way.summed(factors, under_way.chance, ratio=False), STORED)


def test_the_two_targets_differ(under_way: Case) -> None:
    jackpot = estimators.get("jackpot")
    one, other = (under_way.mean(jackpot, target) for target in UpdateTarget)
    assert np.linalg.norm(one - other) > 1e-3 * np.linalg.norm(one)


# ------------------------------------------------------------------- what looks at the batch


def second_moment(logs: list[list[float]], threshold: float) -> list[list[float]]:
    """M2PO over a batch, the largest ℓ² dropped first; of those that are tied each stays as often as another."""
    squares = [round(l * l, 12) for row in logs for l in row]
    kept = sorted(squares)
    while kept and sum(kept) / len(kept) > threshold:
        kept.pop()
    return [[kept.count(round(l * l, 12)) / squares.count(round(l * l, 12)) for l in row] for row in logs]


def normalised(logs: list[list[float]], clip: float) -> list[list[float]]:
    """TIS over its mean over the tokens of a batch."""
    weights = [[min(math.exp(l), clip) for l in row] for row in logs]
    mean = np.mean([w for row in weights for w in row])
    return [[w / mean for w in row] for row in weights]


@pytest.mark.parametrize(
    ("correction", "rule"),
    [
        (estimators.get("m2po", threshold=0.05), lambda logs: second_moment(logs, 0.05)),
        (estimators.batch_normalize(estimators.get("tis", clip=1.1)), lambda logs: normalised(logs, 1.1)),
    ],
    ids=["m2po", "batch-normalize"],
)
def test_batches_of_two_have_the_mean_of_all_pairs(correction: Correction, rule: Any) -> None:
    """Such a correction has no weights of a sequence alone, and so another mean for every size of batch."""
    case = Case(PrefixTree(3, 2, 2), True)
    logs = [[float(case.ref[s, x] - case.q[s, x]) for s, x in row] for row in case.cells]
    smooth, count, seen = estimators.rao_blackwell(correction), len(case.paths), set()
    found, expected = np.zeros_like(case.true_gradient), np.zeros(case.features.shape[-1])
    for pair in itertools.product(range(count), repeat=2):
        chance = float(case.chance[pair[0]] * case.chance[pair[1]])
        found += chance * case.gradient(smooth, rows=pair)
        factors = [[0.0] * len(row) for row in logs], [[0.0] * len(row) for row in logs]
        for factor, row, weights in zip(factors, pair, rule([logs[i] for i in pair]), strict=True):
            factor[row] = weights
            seen |= set(weights)
            expected += chance / 2 * case.summed(factor, np.ones(count))
    assert_near(found, -expected, EXACT)
    assert len(seen) > 2  # ties among them


# ------------------------------------------------------------------- denominators and aggregation


@pytest.mark.parametrize("name", ["tis", "sequence-tis", "obrs"])
@pytest.mark.parametrize("denominator", list(Divisor))
def test_the_denominator_divides_the_whole_update(under_way: Case, name: str, denominator: Divisor) -> None:
    correction = estimators.get(name)
    uniforms = torch.as_tensor(np.random.default_rng(4).random(under_way.mask.shape))
    pairs = under_way.pairs(correction)
    mask = [
        [u < a for (a, _), u in zip(row, line, strict=False)]
        for row, line in zip(pairs, uniforms.tolist(), strict=True)
    ]
    kept = [
        [w if u < a else 0.0 for (a, w), u in zip(row, line, strict=False)]
        for row, line in zip(pairs, uniforms.tolist(), strict=True)
    ]
    divisor = {
        Divisor.PROPOSED: 1.0,
        Divisor.ACCEPTED: np.mean([m for row in mask for m in row]),
        Divisor.KEPT_SEQUENCES: np.mean([any(row) for row in mask]),
        Divisor.BATCH_NORMALIZED: np.mean(
            [np.mean(row) for row in kept] if name == "sequence-tis" else [w for row in kept for w in row]
        ),
    }[denominator]
    found = under_way.gradient(correction, denominator=denominator, uniforms=uniforms)
    uniform = np.full(len(under_way.paths), 1 / len(under_way.paths))
    assert_near(found, -under_way.summed(kept, uniform) / divisor, EXACT)
    if not correction.fits_a_table:
        return
    found -= under_way.gradient(estimators.centred(correction), denominator=denominator, uniforms=uniforms)
    means = mean_terms(under_way, correction)
    expected = [a * means[s] for a, row in zip(under_way.advantage, under_way.cells, strict=True) for s, _ in row]
    assert_near(found, -np.sum(expected, 0) / len(under_way.paths) / divisor, STORED)
