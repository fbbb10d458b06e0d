"""A study: environments × seeds × estimators × denominators, read from YAML or TOML.

A list in the place of any value of an environment or of an estimator is an axis of the grid:
`{kind: logit-noise, sigma: [0.1, 0.2]}` is two environments, `{kind: tis, clip: [1.5, 2, 5]}` three
estimators.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from jackpot_sim.environments.files import files_of, fingerprint
from jackpot_sim.environments.rollouts.shorthand import spelt_out
from jackpot_sim.environments.sources.kinds import REAL_SOURCES, TINY_SOURCES
from jackpot_sim.environments.states.families import FAMILIES
from jackpot_sim.environments.worlds import Sizes
from jackpot_sim.estimators import Denominator, UpdateTarget
from jackpot_sim.studies import configuration
from jackpot_sim.studies.configuration import Location, expand, kinds_of, place_in
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.estimator_spec import EstimatorSpec, Frozen
from jackpot_sim.studies.plugins import Plugins, digests
from jackpot_sim.studies.provenance import VERSION
from jackpot_sim.sweep.worlds import BY_KIND, TRAITS, Environment, identity, kinds_with

MOST_SEEDS = 1_000_000

_COLUMN = 2**63
"""The least number that a column of whole numbers cannot hold."""

_KNOBS = {family.knob_name for family in FAMILIES} | {source.knob_name for source in (*TINY_SOURCES, *REAL_SOURCES)}


class Method(StrEnum):
    """The method by which moments are measured."""

    EXACT = "exact"
    MONTE_CARLO = "monte_carlo"


def _as_environments(value: object) -> list[object]:
    return [spelt_out(each) for each in expand(value)]


def _as_seeds(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"give a list of seeds, or how many, not {value!r}")
    if not 1 <= value <= MOST_SEEDS:
        raise ValueError(f"their number must lie between 1 and {MOST_SEEDS}, got {value}")
    return tuple(range(value))


class NormalizerStudy(Frozen):
    """A comparison of the ways to estimate Z(λ) from a few tokens of each law with the exact one."""

    k: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (20,)
    """Tokens kept of each law."""
    lam: Annotated[float, Field(gt=0)] = 1.0
    """λ."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Tokens that κ and the calibration see at once; None: all."""


_SIZES = Sizes()


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


class Study(Frozen):
    """A grid of cells, each an environment and a seed, with every estimator measured in every cell."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "study"
    """Names the default output folder."""
    plugins: Plugins = ()
    """Files or modules that register corrections of your own."""
    env: Annotated[tuple[Annotated[Environment, Field(discriminator="kind")], ...], BeforeValidator(_as_environments)]
    """The environments."""
    estimators: Annotated[tuple[EstimatorSpec, ...], BeforeValidator(expand)]
    """The estimators, by name or with parameters."""
    denominators: tuple[Denominator, ...] | None = None
    """The divisors of the weighted sums; null: proposed, and the framework's own for its presets."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=_COLUMN)], ...], BeforeValidator(_as_seeds)] = tuple(
        range(_SIZES.seeds)
    )
    """A list of seeds, or their number: 3 means 0, 1 and 2; by default 3, and 1 if all models are real."""
    n_samples: Annotated[int, Field(ge=1, lt=_COLUMN)] = _SIZES.n_samples
    """Proposals per state or prompt, for the MSE and for Monte Carlo; by default 256, and 8 if all models are real."""
    methods: tuple[Method, ...] = (Method.EXACT,)
    """Closed forms, simulation, or both side by side. Sequences too many to enumerate are always simulated."""
    replicates: Annotated[int, Field(ge=3, lt=_COLUMN)] = _SIZES.replicates
    """Simulated updates behind each Monte Carlo figure, at least 3; by default 32, and 4 if all models are real."""
    normalizers: NormalizerStudy | None = None
    """A comparison of ways to estimate Z beside the estimators; not on small-lm."""

    best_thresholds: bool = False
    """The best threshold of each estimator that has one, beside the one given; for exact figures only."""

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, value: object) -> object:
        """The sizes that all environments have in common: tables of laws are cheap, and real models are not."""
        if not isinstance(value, Mapping):
            return value
        kinds = [each.get("kind") if isinstance(each, Mapping) else None for each in _as_list(value.get("env"))]
        sizes = {BY_KIND[kind].sizes if isinstance(kind, str) and kind in BY_KIND else _SIZES for kind in kinds}
        return {**dataclasses.asdict(sizes.pop()), **value} if len(sizes) == 1 else value

    @model_validator(mode="after")
    def _some_and_distinct(self) -> Study:
        for field in ("env", "estimators", "denominators", "seeds", "methods"):
            items = getattr(self, field)
            if items is None:
                continue
            if not items:
                raise ValueError(f"{field} is empty")
            seen: list[object] = []
            for item in items:
                same = identity(dataclasses.asdict(item)) if field == "env" else getattr(item, "label", item)
                if same in seen:
                    raise ValueError(f"{field} holds {getattr(item, 'label', item)} twice")
                seen.append(same)
        return self

    @model_validator(mode="after")
    def _fitting(self) -> Study:
        """Refuses what the world of an environment does not offer."""
        for world, kind in {env.world: env.kind for env in self.env}.items():
            traits = TRAITS[world]
            for spec in self.estimators:
                if spec.needs_sequences and not traits.whole_sequences:
                    kinds = kinds_with("whole_sequences")
                    raise ValueError(f"{spec.label} looks at whole sequences: it needs env.kind {kinds}, not {kind}")
                if spec.acceptance_rate is not None and not traits.budgets:
                    raise ValueError(f"{spec.label}: an acceptance_rate needs independent states; with {kind} give lam")
                if spec.target is not UpdateTarget.REFERENCE and not traits.p_new:
                    kinds = kinds_with("p_new")
                    raise ValueError(
                        f"{spec.label}: only {kinds} has an update that tells p_new from p_ref, not {kind}"
                    )
            if self.normalizers is not None and not traits.normalizers:
                raise ValueError(f"normalizers are compared on states and on hf: the vocabulary of {kind} has no tail")
        return self

    @model_validator(mode="after")
    def _with_thresholds(self) -> Study:
        """Refuses best thresholds where there are none, or no exact figures to compare them by."""
        if not self.best_thresholds:
            return self
        if without := [env.kind for env in self.env if not TRAITS[env.world].thresholds]:
            raise ValueError(f"best_thresholds need independent states, which {without[0]} has not: leave them out")
        if Method.EXACT not in self.methods:
            raise ValueError("best_thresholds are compared by exact figures: add exact to methods")
        if not any(spec.has_threshold for spec in self.estimators):
            raise ValueError(
                "best_thresholds: none of the estimators has a threshold to choose: add one, for instance tis, mis, "
                "obrs or jackpot (without an acceptance_rate, which decides lam)"
            )
        return self

    def denominators_of(self, spec: EstimatorSpec) -> tuple[Denominator, ...]:
        """The denominators with which an estimator is measured: the study's, or where it names none its own."""
        return (spec.denominator,) if self.denominators is None else self.denominators

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the corrections in the study."""
        return tuple(dict.fromkeys(kind for spec in self.estimators for kind in spec.kinds))

    @cached_property
    def corrections(self) -> dict[str, str]:
        """A digest of each correction in the study that is not ours, by its name."""
        return digests(self.kinds)

    def with_added(self, forms: Iterable[EstimatorSpec]) -> Study:
        """The study with those of these forms of its estimators that it does not hold yet.

        Raises:
            StudyError: the world of an environment does not offer one.
        """
        together = list(self.estimators)
        together.extend(each for each in forms if each not in together)
        study = self.model_copy(update={"estimators": tuple(together)})
        try:
            return Study._fitting(study)  # type: ignore[operator, no-any-return]
        except ValueError as error:
            raise StudyError(str(error)) from error

    @cached_property
    def config_hash(self) -> str:
        """A digest of all that the records depend on: this study, contents of files and plug-ins, and our version.

        Raises:
            StudyError: a file that it names cannot be read.
        """
        try:
            files = fingerprint(files_of(self.env))
        except (ValueError, OSError) as error:
            raise StudyError(str(error)) from error
        fields = self.model_dump(mode="json")
        divisors = [self.denominators_of(spec) for spec in self.estimators]
        # Where all estimators have the same denominators, it does not matter who named them.
        denominators = divisors[0] if len(set(divisors)) == 1 else divisors
        content = fields | {"env": [identity(env) for env in fields["env"]], "denominators": denominators}
        del content["plugins"]  # their contents count, not their places
        text = json.dumps([content, files, VERSION, *filter(None, [self.corrections])], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def bundled(name: str = "default") -> dict[str, object]:
    """The mapping of a configuration that ships with the package."""
    return configuration.read_mapping(Path(str(resources.files("jackpot_sim.sweep") / f"{name}.yaml")))


def with_overrides(
    mapping: Mapping[str, object], fields: Mapping[str, object], env: Mapping[str, object]
) -> dict[str, object]:
    """`mapping` with some fields replaced, and its environments changed.

    An `env` that names a `kind` replaces all environments; any other is laid over each of them, and
    there a target KL takes the place of a knob and a knob that of a target KL.
    """
    merged = {**mapping, **fields}
    if env:
        merged["env"] = dict(env) if "kind" in env else _laid_over(mapping.get("env"), env)
    return merged


def _laid_over(below: object, above: Mapping[str, object]) -> object:
    if isinstance(below, list | tuple):
        return [_laid_over(each, above) for each in below]
    if not isinstance(below, Mapping):
        return dict(above)
    rivals = {"target_kl"} if _KNOBS & set(above) else _KNOBS if "target_kl" in above else set()
    out = {key: value for key, value in below.items() if key not in rivals}
    for key, value in above.items():
        out[key] = _laid_over(out.get(key), value) if isinstance(value, Mapping) else value
    return out


def parse(mapping: Mapping[str, object]) -> Study:
    """The study that a mapping describes.

    Raises:
        StudyError: a field is unknown, missing or out of range; the message names the first one.
    """
    several = isinstance(env := mapping.get("env"), list | tuple) and len(env) > 1

    def place(location: Location) -> str:
        # One environment has no number, though the grid that it spans has.
        return _PLACE_IN(location if several or location[:1] != ("env",) else [location[0], *location[2:]])

    return configuration.parse(Study, mapping, kinds_of(Study), place)


_PLACE_IN = place_in(Study)
