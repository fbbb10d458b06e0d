"""One estimator of a study: a correction by name, its parameters, and the wrappers around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from jackpot_sim import estimators
from jackpot_sim.core.arrays import Array
from jackpot_sim.estimators import Correction, Denominator, UpdateTarget
from jackpot_sim.estimators.corrections import presets, registry
from jackpot_sim.estimators.corrections.presets import Preset
from jackpot_sim.estimators.sequences.updates import require_target


class Frozen(BaseModel):
    """A part of a study: its fields are known and do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _as_number(value: object) -> object:
    """A parameter as a number, where a file wrote a number as text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


Parameter: TypeAlias = Annotated[bool | float | str, BeforeValidator(_as_number)]
"""A number, a flag, or the name of a choice."""


class EstimatorSpec(Frozen):
    """One estimator. In a file its parameters stand beside `kind`; a bare name takes the defaults."""

    kind: str
    """A name from `estimators.names()`, or a preset, `framework:rule`."""
    parameters: dict[str, Parameter] = {}
    """The arguments of `estimators.get` besides the name."""
    acceptance_rate: float | None = None
    """The share of accepted tokens that λ is solved for; None: λ is a parameter."""
    per_state: bool = True
    """With `acceptance_rate`: one λ for each state; False: one for the whole batch."""
    rao_blackwell: bool = False
    """Replace the mask by its mean."""
    centred: bool = False
    """Subtract from each token's term its mean over the actor's law at that state."""
    batch_normalize: bool = False
    """Divide the weights by their mean over the batch."""
    masked_by: EstimatorSpec | None = None
    """Another estimator beside this one: accept probabilities and weights of the two are multiplied."""
    target: UpdateTarget = UpdateTarget.REFERENCE
    """The policy that the weights aim at where sequences are updated: p_ref, the one before the update, or p_new."""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: object) -> object:
        if isinstance(value, str):
            return {"kind": value}
        if not isinstance(value, Mapping):
            return value
        own = {key: item for key, item in value.items() if key in cls.model_fields}
        beside = {key: item for key, item in value.items() if key not in cls.model_fields}
        nested = own.get("parameters", {})
        if not isinstance(nested, Mapping):
            return own
        if twice := [str(key) for key in beside if key in nested]:
            raise ValueError(f"{', '.join(twice)} is given twice")
        return own | {"parameters": dict(nested) | beside}

    @model_validator(mode="after")
    def _known(self) -> EstimatorSpec:
        if self.masked_by is not None:
            if self.acceptance_rate is not None or self.masked_by.acceptance_rate is not None:
                raise ValueError("an acceptance_rate is not solved for together with masked_by: give lam")
            if self.masked_by.target is not UpdateTarget.REFERENCE:
                raise ValueError("masked_by takes no target: give it beside masked_by, for both")
        if self.acceptance_rate is not None:
            if "lam" in self.parameters:
                raise ValueError("give lam or acceptance_rate, not both")
            if not 0 < self.acceptance_rate <= 1:
                raise ValueError(f"acceptance_rate must lie in (0, 1], got {self.acceptance_rate}")
            if "lam" not in self.correction().parameters():
                raise ValueError(f"{self.kind} has no lam: an acceptance_rate fits obrs and jackpot")
        require_target(self.correction(), self.target)
        for name in registry.plugged_in([self.kind]):
            if hidden := registry.defaults(registry.registered(name)).keys() & type(self).model_fields.keys():
                raise ValueError(f"{name}: give its parameter {min(hidden)} another name, studies mean their own by it")
        return self

    def correction(self) -> Correction:
        """The correction, at the λ given."""
        correction = estimators.get(self.kind, **self.parameters)
        if self.masked_by is not None:
            correction = estimators.combined(correction, self.masked_by.correction())
        if self.rao_blackwell:
            correction = estimators.rao_blackwell(correction)
        if self.centred:
            correction = estimators.centred(correction)
        return estimators.batch_normalize(correction) if self.batch_normalize else correction

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the corrections that it is made of."""
        return (self.kind, *(self.masked_by.kinds if self.masked_by is not None else ()))

    @property
    def has_threshold(self) -> bool:
        """True if one number of it may be chosen for the least MSE; a budget decides λ, and a centred form has none."""
        correction = self.correction()
        chosen = self.acceptance_rate is not None or correction.subtracts_mean
        return correction.threshold_parameter is not None and not chosen

    @property
    def needs_sequences(self) -> bool:
        """True if the weights depend on whole sequences, or on the batch."""
        return not self.correction().is_per_token

    def correction_for(self, policy_log_probs: Array, actor_log_probs: Array) -> Correction:
        """The correction for these states, with λ solved for where a budget was given.

        Args:
            policy_log_probs: log p, shape (states, vocab), nats.
            actor_log_probs: log q, the same shape, nats.

        Raises:
            ValueError: the acceptance rate is not attainable.
        """
        if self.acceptance_rate is None:
            return self.correction()
        return estimators.at_budget(
            self.correction(), policy_log_probs, actor_log_probs, self.acceptance_rate, self.per_state
        )

    @property
    def preset(self) -> Preset | None:
        """The preset that it is, if it is one."""
        return presets.named(self.kind)

    @property
    def denominator(self) -> Denominator:
        """Its own denominator: a preset's, or `proposed`."""
        return Denominator.PROPOSED if self.preset is None else self.preset.denominator

    @property
    def draws_a_mask(self) -> bool:
        """True if a token is kept by chance, so that `rao_blackwell` has noise to remove."""
        return self.correction().draws_mask

    @property
    def label(self) -> str:
        """The name in tables and figures, for instance `rao-blackwell(jackpot(c1=4))`."""
        parts = [f"{name}={_short(value)}" for name, value in sorted(self.parameters.items())]
        if self.acceptance_rate is not None:
            parts.append(f"acceptance={self.acceptance_rate:.12g}{'' if self.per_state else ' of batch'}")
        if self.target is not UpdateTarget.REFERENCE:
            parts.append(f"target={self.target}")
        label = f"{self.kind}({', '.join(parts)})" if parts else self.kind
        if self.masked_by is not None:
            label = f"{label} & {self.masked_by.label}"
        if self.rao_blackwell:
            label = f"rao-blackwell({label})"
        if self.centred:
            label = f"centred({label})"
        return f"batch-normalize({label})" if self.batch_normalize else label


def _short(value: float | str) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value).lower()
