"""What a study is: environments × seeds × estimators × denominators, read from YAML or TOML.

A list in the place of any value of an environment or of an estimator is an axis of the grid:
`{kind: logit-noise, sigma: [0.1, 0.2]}` is two environments, `{kind: tis, clip: [1.5, 2, 5]}` three
estimators.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import tomllib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from jackpot_sim import estimators
from jackpot_sim.environments.advantage import Advantage
from jackpot_sim.environments.categorical import BaseLaw
from jackpot_sim.environments.files import files_of, fingerprint
from jackpot_sim.environments.language_models.build import LanguageModel
from jackpot_sim.environments.mismatch import FAMILIES, MismatchFamily
from jackpot_sim.environments.reward import Reward
from jackpot_sim.environments.small_lm import SmallLM
from jackpot_sim.environments.sources import SOURCES
from jackpot_sim.estimators import Correction, Denominator, UpdateTarget
from jackpot_sim.estimators.updates import require_target
from jackpot_sim.sweep.errors import StudyError

VERSION = metadata.version("jackpot-sim")
MOST_SEEDS = 1_000_000

_COLUMN = 2**63
"""What a column of whole numbers cannot hold."""


_KNOBS = {family.knob_name for family in FAMILIES} | {source.knob_name for source in SOURCES}
_UNKNOWN_FIELD = ("extra_forbidden", "unexpected_keyword_argument")


class Method(StrEnum):
    """How moments are measured."""

    EXACT = "exact"
    MONTE_CARLO = "monte_carlo"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _as_number(value: Any) -> Any:
    """A parameter that a file wrote as text and that reads as a number."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


Parameter: TypeAlias = Annotated[bool | float | str, BeforeValidator(_as_number)]
"""A number, a flag, or the name of a choice."""


class EstimatorSpec(_Frozen):
    """One estimator. In a file its parameters stand beside `kind`; a bare name takes the defaults."""

    kind: str
    """A name from `estimators.names()`."""
    parameters: dict[str, Parameter] = {}
    """What `estimators.get` takes besides the name."""
    acceptance_rate: float | None = None
    """Solve λ for this share of accepted tokens instead of giving it."""
    per_state: bool = True
    """With `acceptance_rate`: one λ for each state, or one for the whole batch."""
    rao_blackwell: bool = False
    """Replace the mask by its mean."""
    batch_normalize: bool = False
    """Divide the weights by their mean over the batch."""
    masked_by: EstimatorSpec | None = None
    """Another estimator beside this one: accept probabilities and weights of the two are multiplied."""
    target: UpdateTarget = UpdateTarget.REFERENCE
    """What Jackpot leads to where sequences are updated: p_ref, the policy before the update, or p_new."""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if not isinstance(value, Mapping):
            return value
        own = {key: item for key, item in value.items() if key in cls.model_fields}
        beside = {key: item for key, item in value.items() if key not in cls.model_fields}
        inside = own.get("parameters", {})
        if not isinstance(inside, Mapping):
            return own
        if twice := [str(key) for key in beside if key in inside]:
            raise ValueError(f"{', '.join(twice)} is given twice")
        return own | {"parameters": dict(inside) | beside}

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
        return self

    def correction(self) -> Correction:
        """The correction, at the λ given."""
        correction = estimators.get(self.kind, **self.parameters)
        if self.masked_by is not None:
            correction = estimators.combined(correction, self.masked_by.correction())
        if self.rao_blackwell:
            correction = estimators.rao_blackwell(correction)
        return estimators.batch_normalize(correction) if self.batch_normalize else correction

    @property
    def needs_sequences(self) -> bool:
        """Whether it looks at whole sequences, or at the batch."""
        return not self.correction().is_per_token

    def correction_for(self, policy_log_probs: Any, actor_log_probs: Any) -> Correction:
        """The correction for these states, with λ solved for where a budget was given."""
        if self.acceptance_rate is None:
            return self.correction()
        return estimators.at_budget(
            self.correction(), policy_log_probs, actor_log_probs, self.acceptance_rate, self.per_state
        )

    @property
    def draws_a_mask(self) -> bool:
        """Whether a token is kept by chance, so that there is noise for `rao_blackwell` to remove."""
        return self.correction().draws_mask

    @property
    def label(self) -> str:
        """How tables and figures name it, for instance `rao-blackwell(jackpot(c1=4))`."""
        told = [f"{name}={_told(value)}" for name, value in sorted(self.parameters.items())]
        if self.acceptance_rate is not None:
            told.append(f"acceptance={self.acceptance_rate:.12g}{'' if self.per_state else ' of batch'}")
        if self.target is not UpdateTarget.REFERENCE:
            told.append(f"target={self.target}")
        label = f"{self.kind}({', '.join(told)})" if told else self.kind
        if self.masked_by is not None:
            label = f"{label} & {self.masked_by.label}"
        if self.rao_blackwell:
            label = f"rao-blackwell({label})"
        return f"batch-normalize({label})" if self.batch_normalize else label


def _told(value: float | str) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value).lower()


def expand(value: Any, name: str = "") -> list[Any]:
    """All combinations of the lists inside nested mappings.

    Raises:
        ValueError: a list is empty, and so would empty the grid; `name` says whose it is.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"{name or 'the list'} is empty")
        return [each for item in value for each in expand(item, name)]
    if isinstance(value, Mapping):
        axes = [[(key, each) for each in expand(item, str(key))] for key, item in value.items()]
        return [dict(combination) for combination in itertools.product(*axes)]
    return [value]


def _as_seeds(value: Any) -> Any:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 1 <= value <= MOST_SEEDS:
        raise ValueError(f"their number must lie between 1 and {MOST_SEEDS}, got {value}")
    return tuple(range(value))


Environment: TypeAlias = MismatchFamily | SmallLM


class Study(_Frozen):
    """A grid of cells, each an environment and a seed, with every estimator measured in every cell."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "study"
    """Names the default output folder."""
    env: Annotated[tuple[Annotated[Environment, Field(discriminator="kind")], ...], BeforeValidator(expand)]
    """The environments."""
    estimators: Annotated[tuple[EstimatorSpec, ...], BeforeValidator(expand)]
    """The estimators, by name or with parameters."""
    denominators: tuple[Denominator, ...] = (Denominator.PROPOSED,)
    """What the weighted sums are divided by."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=_COLUMN)], ...], BeforeValidator(_as_seeds)] = (0, 1, 2)
    """A list of seeds, or how many: 3 means 0, 1 and 2."""
    n_samples: Annotated[int, Field(ge=1, lt=_COLUMN)] = 256
    """Proposals per state, for the MSE and for Monte Carlo."""
    methods: tuple[Method, ...] = (Method.EXACT,)
    """Closed forms, simulation, or both side by side. Sequences too many to enumerate are always simulated."""
    replicates: Annotated[int, Field(ge=3, lt=_COLUMN)] = 32
    """Simulated updates behind each Monte Carlo figure."""

    @model_validator(mode="after")
    def _some_and_distinct(self) -> Study:
        for field in ("env", "estimators", "denominators", "seeds", "methods"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty")
            seen: list[Any] = []
            for item in getattr(self, field):
                if item in seen:
                    raise ValueError(f"{field} holds {getattr(item, 'label', item)} twice")
                seen.append(item)
        return self

    @model_validator(mode="after")
    def _fitting(self) -> Study:
        states = next((env.kind for env in self.env if not isinstance(env, SmallLM)), None)
        sequences = any(isinstance(env, SmallLM) for env in self.env)
        for spec in self.estimators:
            if states and spec.needs_sequences:
                raise ValueError(f"{spec.label} looks at whole sequences: it needs env.kind small-lm, not {states}")
            if sequences and spec.acceptance_rate is not None:
                raise ValueError(f"{spec.label}: an acceptance_rate needs independent states; with small-lm give lam")
            if states and spec.target is not UpdateTarget.REFERENCE:
                raise ValueError(f"{spec.label}: only small-lm has an update that tells p_new from p_ref, not {states}")
        return self

    @cached_property
    def config_hash(self) -> str:
        """A digest of all that the records depend on: this study, the contents of its files, and our version.

        Raises:
            StudyError: a file that it names cannot be read.
        """
        try:
            contents = fingerprint(files_of(self.env))
        except (ValueError, OSError) as error:
            raise StudyError(str(error)) from error
        text = json.dumps([self.model_dump(mode="json"), contents, VERSION], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def bundled(name: str = "default") -> dict[str, Any]:
    """The mapping of a configuration that ships with the package."""
    return read_mapping(Path(str(resources.files("jackpot_sim.sweep") / f"{name}.yaml")))


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or TOML file.

    Raises:
        StudyError: it cannot be read, is neither YAML nor TOML by its suffix, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            mapping: Any = tomllib.loads(text)
        elif path.suffix in (".yaml", ".yml"):
            mapping = yaml.safe_load(text)
        else:
            raise StudyError(f"config {path} must end in .yaml, .yml or .toml")
    except OSError as error:
        raise StudyError(f"config {path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # PyYAML lets ValueError through, for 2020-13-45
        raise StudyError(f"config {path} cannot be parsed: {' '.join(str(error).split())}") from error
    if not isinstance(mapping, dict):
        raise StudyError(f"config {path} must hold a mapping of study fields, not {type(mapping).__name__}")
    return mapping


def with_overrides(mapping: dict[str, Any], fields: Mapping[str, Any], env: Mapping[str, Any]) -> dict[str, Any]:
    """`mapping` with some fields replaced, and its environments changed.

    An `env` that names a `kind` replaces all environments; any other is laid over each of them, and
    there a target KL takes the place of a knob and a knob that of a target KL.
    """
    merged = mapping | dict(fields)
    if env:
        merged["env"] = dict(env) if "kind" in env else _laid_over(mapping.get("env"), env)
    return merged


def _laid_over(below: Any, above: Mapping[str, Any]) -> Any:
    if isinstance(below, list | tuple):
        return [_laid_over(each, above) for each in below]
    if not isinstance(below, Mapping):
        return dict(above)
    rivals = {"target_kl"} if _KNOBS & set(above) else _KNOBS if "target_kl" in above else set()
    out = {key: value for key, value in below.items() if key not in rivals}
    for key, value in above.items():
        out[key] = _laid_over(out.get(key), value) if isinstance(value, Mapping) else value
    return out


def parse(mapping: Mapping[str, Any]) -> Study:
    """The study that a mapping describes.

    Raises:
        StudyError: a field is unknown, missing or out of range; the message names the first one.
    """
    try:
        return Study.model_validate(mapping)
    except ValidationError as error:
        # A misspelt field often leaves another one missing: the misspelling is what to mend.
        found = sorted(error.errors(include_url=False), key=lambda each: each["type"] not in _UNKNOWN_FIELD)
        raise StudyError(_sentence(found[0], len(found))) from error


def _that_there_are(location: Sequence[Any]) -> str:
    """The fields of the configuration in which an unknown one was found, named by the last kind on the way."""
    kinds = [part for part in location[:-1] if part in _CONFIGURATIONS]
    if not kinds:
        return ""
    names = [field.name for field in dataclasses.fields(_CONFIGURATIONS[kinds[-1]]) if field.name != "kind"]
    return f" ({kinds[-1]} has {', '.join(names)})"


_CONFIGURATIONS: dict[Any, type[Any]] = {
    vars(each)["kind"]: each
    for union in (FAMILIES, SOURCES, get_args(BaseLaw), get_args(Advantage), get_args(Reward), get_args(LanguageModel))
    for each in union
} | {"small-lm": SmallLM}


def _sentence(error: Any, count: int) -> str:
    location, message, kind = error["loc"], error["msg"], error["type"]
    where = ".".join(str(part) for part in location) or "study"
    message = message.removeprefix("Value error, ")
    if kind in _UNKNOWN_FIELD:
        message = "there is no such field" + _that_there_are(location)
    elif kind == "union_tag_invalid":
        known = [tag.strip().strip("'") for tag in error["ctx"]["expected_tags"].split(",")]
        near = difflib.get_close_matches(str(error["ctx"]["tag"]).replace("_", "-"), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        message = f"there is no kind {error['ctx']['tag']!r}{hint} (known: {', '.join(known)})"
    elif kind == "union_tag_not_found":
        message = "its kind is missing"
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{where}: {message}{more}"
