"""The tokens as causes look at them: deviations from what a law expects, lags, and what is usual at a probability."""

from __future__ import annotations

import dataclasses

import numpy as np

from jackpot_sim.core.topk import TopK
from jackpot_sim.diagnose.causes.view import View
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from tests.cases import each
from tests.diagnose.causes.dumps import VOCAB, Dump


def test_the_deviation_is_the_same_from_the_entropy_and_from_a_top_k_of_the_whole_vocabulary() -> None:
    dump = Dump(0, noise=0.0)
    whole = dump.table(policy_topk=TopK.of(dump.law, VOCAB))
    from_topk = View(dataclasses.replace(whole, entropy=None)).deviation
    from_entropy = View(whole).deviation
    assert from_topk is not None
    assert from_entropy is not None
    assert np.allclose(from_topk, from_entropy, atol=1e-5)


@each("k", [1, 3, 12])
def test_the_deviation_has_mean_0_for_any_k_where_tokens_follow_the_law(k: int) -> None:
    dump = Dump(1)
    values = View(dump.table(actor_topk=TopK.of(dump.law, k))).actor_deviation
    assert values is not None
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))


def test_a_list_to_which_the_sampled_token_was_added_says_nothing() -> None:
    dump = Dump(2)
    table = dump.table(actor_topk=TopK.of(dump.law, 3))
    assert table.token is not None
    assert table.actor_topk is not None
    ids, log_probs = np.array(table.actor_topk.ids), np.array(table.actor_topk.log_probs)
    ids[:, -1] = table.token
    added = dataclasses.replace(table, actor_topk=TopK(ids, log_probs))
    assert View(added).actor_deviation is None


def test_a_law_that_was_cut_may_have_all_tokens_on_the_list() -> None:
    dump = Dump(3)
    cut = np.asarray(SamplingLaw(top_k=3).log_probs(dump.law))
    values = View(dump.table(actor=lambda law, _: cut, actor_topk=TopK.of(cut, 8))).actor_deviation
    assert values is not None
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))


def test_a_column_with_gaps_zeros_or_negative_numbers_holds_no_entropy() -> None:
    table = Dump(4).table()
    assert table.entropy is not None
    assert View(table).entropy is not None
    seventh = np.arange(len(table)) == 7
    for column in (
        np.where(seventh, np.nan, table.entropy),
        np.where(seventh, -0.1, table.entropy),
        np.zeros(len(table)),
    ):
        assert View(dataclasses.replace(table, entropy=column)).entropy is None


def test_the_lag_needs_steps_and_versions() -> None:
    dump = Dump(5)
    dump.version = dump.step - 2
    table = dump.table()
    lag = View(table).lag
    assert lag is not None
    assert set(lag) == {2.0}
    assert View(dataclasses.replace(table, weight_version=None)).lag is None
    assert View(dataclasses.replace(table, step=None)).lag is None


def test_what_is_usual_is_the_mean_over_tokens_as_likely() -> None:
    view = View(Dump(6).table())
    usual = view.usual(-view.actor)
    assert np.all(np.diff(usual[np.argsort(view.actor)]) <= 0)
    assert np.isclose(usual.mean(), -view.actor.mean())
    likely = view.actor > np.median(view.actor)
    assert np.isnan(view.usual(-view.actor, among=likely)[view.actor < np.quantile(view.actor, 0.2)]).all()
