"""The environments of a study, and what is measured in the world of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, get_args

from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.environments.sequences.small_lm import SmallLM
from jackpot_sim.environments.states.families import MismatchFamily
from jackpot_sim.environments.worlds import World

Environment: TypeAlias = MismatchFamily | SmallLM | HuggingFace

BY_KIND: dict[str, type[Environment]] = {each.kind: each for each in get_args(Environment)}
"""The environments by their kinds."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The features of a study that its world decides."""

    study: str
    """The bundled study of an environment that is given without one."""
    budgets: bool = False
    """λ can be solved for an acceptance rate."""
    whole_sequences: bool = False
    """Tokens stand in sequences, and these in batches, for corrections that look at either."""
    p_new: bool = False
    """The update distinguishes p_new, the policy being trained, from p_ref, the one before the update."""
    normalizers: bool = False
    """Ways to estimate Z can be compared: laws have a tail beyond their top-k."""
    thresholds: bool = False
    """The best threshold of an estimator can be found, by exact figures at any threshold."""
    diagnostics: bool = False
    """Rollouts are summarised in a table of diagnostics."""
    one_at_a_time: bool = False
    """A cell fills the memory by itself."""


TRAITS = {
    World.STATES: Traits(study="default", budgets=True, normalizers=True, thresholds=True),
    World.SEQUENCES: Traits(study="sequences", whole_sequences=True, p_new=True),
    World.ROLLOUTS: Traits(study="hf", whole_sequences=True, normalizers=True, diagnostics=True, one_at_a_time=True),
}


def kinds_with(trait: str) -> str:
    """The kinds of environments whose world has a trait, for a sentence: `small-lm or hf`."""
    return " or ".join(kind for kind, each in BY_KIND.items() if getattr(TRAITS[each.world], trait))


def world_of(kind: object) -> World:
    """The world of a kind of environment, or of the `base_kind` of records: that of a base law is `states`."""
    return BY_KIND[kind].world if isinstance(kind, str) and kind in BY_KIND else World.STATES


def identity(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields of an environment that say what it is, without those that say how it is run.

    Fields that came later are left out at the value that changes nothing: names and draws of older records stay.
    """
    kind = BY_KIND[str(fields["kind"])]
    run_by, later = getattr(kind, "RUN_BY", ()), getattr(kind, "LATER", {})
    return {
        name: value
        for name, value in fields.items()
        if name not in run_by and not (name in later and value == later[name])
    }
