"""Rates, and the counts of what cells share; all numbers are made up."""

from __future__ import annotations

import pytest

from jackpot_sim.environments.engines import sharing
from jackpot_sim.sweep import spec
from jackpot_sim.sweep.costs import Kept, Rate, Rehearsed
from jackpot_sim.sweep.plan import cells
from jackpot_sim.sweep.stages import (
    ACTOR_LOADING,
    GRADIENTS,
    LOADING,
    OWN_GRADIENTS,
    OWN_SCORING,
    POLICY_WRITES,
    SCORING,
    Shared,
    Step,
    steps,
)


def study(**changes: object) -> spec.Study:
    actor = {"kind": "weight-noise", "sigma": [0.1, 0.2]}
    env = {"kind": "hf", "policy": "policy", "actor": actor, "prompts": {"kind": "file", "path": "prompts.txt"}}
    return spec.parse(
        {"env": env | {"length": 10, "batch_size": 4} | changes, "estimators": ["none"]}
        | {"seeds": 2, "n_samples": 2, "replicates": 3}
    )


def passes(shared: Shared, **changes: object) -> dict[str, Step]:
    """The steps by their names; of those of one name the first."""
    asked = study(**changes)
    return {each.name: each for each in reversed(steps(asked.env[0], asked, 5, shared))}  # type: ignore[arg-type]


def test_a_rate_goes_through_its_points() -> None:
    """10 s, 1 s a rollout and 0.5 s a token."""
    exact = Rate.of([(4, 2.0, 18.0), (4, 10.0, 34.0), (8, 10.0, 58.0)])
    assert exact.seconds(100, 20.0) == pytest.approx(10 + 100 + 1000)
    assert exact.seconds(0, 20.0) == 0.0
    assert Rate.of([(4, 2.0, 3.0), (4, 10.0, 7.0)]).seconds(8, 100.0) == pytest.approx(2 * 52.0)


def test_noise_makes_no_part_of_a_rate_negative() -> None:
    assert 0.5 < Rate.of([(4, 2.0, 3.0), (4, 10.0, 2.0)]).seconds(1, 50.0) < 0.75
    assert Rate.of([(3, 1.0, 3.0)]).seconds(3, 5.0) == pytest.approx(15.0)


def test_what_costs_the_same_for_any_number_of_rollouts_is_not_multiplied() -> None:
    fixed = Rate.of([(3, 2.0, 1.0), (15, 2.0, 1.01), (15, 16.0, 1.02)])
    assert fixed.seconds(3000, 16.0) < 10.0
    assert Rate.of([(15, 2.0, 1.01), (15, 16.0, 1.02)]).seconds(3000, 16.0) > 100.0


def test_each_model_reads_the_others_rollouts_and_keeps_its_own() -> None:
    own = passes(Shared())
    assert (own[SCORING].passes, own[OWN_SCORING].passes) == (1, 1)
    assert (own[OWN_GRADIENTS].passes, own[GRADIENTS].passes) == (0, 0)
    assert own[SCORING].tokens(7.0, 10.0) == 30 * 10.0 + 5 * 7.0
    assert own[POLICY_WRITES].tokens(7.0, 10.0) == 30 * 10.0 + 15 * 7.0
    anew = passes(Shared(states=False, actor_states=False))
    assert [anew[each].passes for each in (SCORING, OWN_SCORING, OWN_GRADIENTS, GRADIENTS)] == [2, 2, 1, 1]
    assert passes(Shared(), block="*")[GRADIENTS].passes == 1
    served = passes(Shared(actor_states=False, whole_laws=False))
    assert served[SCORING].passes == 1
    assert OWN_SCORING not in served


def test_a_later_cell_loads_and_writes_no_policy() -> None:
    later = passes(Shared(loaded=True, written=True))
    assert (later[POLICY_WRITES].rollouts, later[OWN_GRADIENTS].rollouts) == (0, 0)
    assert later[POLICY_WRITES].tokens(7.0, 10.0) == 0
    assert ACTOR_LOADING in later
    assert LOADING not in later
    assert LOADING in passes(Shared())


@pytest.mark.parametrize(
    ("own_bytes", "as_is", "written"),
    [
        (1, True, [False, False, True, True]),
        (sharing.LIMIT, True, [False, False, False, False]),
        (1, False, [False] * 4),
    ],
    ids=["kept", "too many", "of its own policy"],
)
def test_the_policys_rollouts_are_those_of_its_seed_while_they_are_kept(
    own_bytes: int, as_is: bool, written: list[bool]
) -> None:
    rehearsed = Rehearsed({}, {}, 5, 7.0, 10.0, as_is, own_bytes, Shared(), 1.0)
    kept = Kept()
    found = [kept.before(each, rehearsed) for each in cells(study())]
    assert [each.loaded for each in found] == [False, True, True, True]
    assert [each.written for each in found] == written


def test_rollouts_of_a_cells_own_policy_serve_no_other() -> None:
    kept, (cell, *_) = Kept(), cells(study())
    for as_is, written in ((False, False), (True, False), (False, False), (True, True)):
        rehearsed = Rehearsed({}, {}, 5, 7.0, 10.0, as_is, 1, Shared(), 1.0)
        assert kept.before(cell, rehearsed).written == written
