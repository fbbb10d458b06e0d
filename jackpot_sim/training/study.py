"""Studies of training: settings × methods × seeds, each a run; read from YAML or TOML.

    name: figure1
    seeds: 5
    steps: 300                                  # fields of every run …
    actor: {kind: frozen, kl: 0.05}
    settings:                                   # … and what changes them: the same for all methods,
      near: {actor: {kl: 0.05}}
      far: {actor: {kl: 0.5}, methods: [tis]}  # a list of methods: those alone
    methods:                                    # or one method's own
      none: {}
      tis: {correction: {kind: tis, clip: 2}}
    quick: {seeds: 1, steps: 40, settings: [near]}   # laid over all of it by --quick; a list chooses by name

Without settings and methods a study is a single run, or one for each seed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from jackpot_sim.environments.files import files_of, fingerprint
from jackpot_sim.environments.language_models.build import Checkpoint
from jackpot_sim.environments.language_models.carried import CARRIED, is_gguf
from jackpot_sim.studies import configuration, plugins
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.estimator_spec import Frozen
from jackpot_sim.studies.kinds import TRAINING, require_kind
from jackpot_sim.studies.plugins import Plugins
from jackpot_sim.studies.provenance import VERSION
from jackpot_sim.training.actors import SmallActor
from jackpot_sim.training.config import LATER, Given, Training

ONLY = "run"
"""The name of the only setting or method where none is named."""

_NAME = r"[\w.+-]+"
_AXES = ("settings", "methods")
_KINDS = {"task": {"kind": "addition"}, "policy": {"kind": "taught"}, "actor": {"kind": "on-policy"}}
"""The kind of a configuration whose fields are given without one."""
_KINDS_AT, _PLACE_IN = configuration.kinds_of(Training), configuration.place_in(Training)


def _as_seeds(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"their number must be at least 1, got {value}")
        return tuple(range(value))
    if not isinstance(value, list | tuple):
        raise ValueError(f"give a list of seeds, or how many, not {value!r}")
    return value


Label = Annotated[str, Field(pattern=f"^{_NAME}$")]

Changes: TypeAlias = Mapping[str, object]
"""The fields that a setting or a method changes."""


def name_of_run(setting: str, method: str, seed: int) -> str:
    """The name of a run's folder."""
    return f"{setting}.{method}.{seed}"


class Run(Frozen):
    """One training run of a study."""

    setting: str
    """The name of its setting."""
    method: str
    """The name of its method."""
    seed: int
    """The seed of models, prompts and draws."""
    training: Training
    """The configuration of the run."""

    @property
    def id(self) -> str:
        """The name of its folder."""
        return name_of_run(self.setting, self.method, self.seed)


class Study(Frozen):
    """Settings × methods × seeds."""

    name: Label = "training"
    """The name of the study, and of its default output folder."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_as_seeds)] = (0,)
    """A list of seeds, or how many: 3 means 0, 1 and 2."""
    plugins: Plugins = ()
    """Files or modules that register corrections of your own."""
    grid: dict[Label, dict[Label, Training]]
    """The methods of each setting."""

    @model_validator(mode="after")
    def _some(self) -> Study:
        if not self.seeds or not self.grid or not all(self.grid.values()):
            raise ValueError("a study needs at least one seed, one setting and one method")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds holds one twice")
        folders = [run.id for run in self.runs]
        if twice := sorted({name for name in folders if folders.count(name) > 1}):
            raise ValueError(f"two runs would both be called {twice[0]}: give settings or methods other names")
        return self

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs in order: one seed of all methods before the next seed, so that a study cut short compares all."""
        return tuple(
            Run(setting=setting, method=method, seed=seed, training=training)
            for seed in self.seeds
            for setting, methods in self.grid.items()
            for method, training in methods.items()
        )

    @cached_property
    def corrections(self) -> dict[str, str]:
        """A digest of each correction in the study that is not ours, by its name."""
        return plugins.digests(kind for run in self.runs for kind in run.training.correction.kinds)

    @cached_property
    def config_hash(self) -> str:
        """A digest of all that runs depend on besides their seeds: settings, methods, files, plug-ins, and our version.

        The seeds are not part of it, so that a study can be extended by more of them.

        Raises:
            StudyError: a file that the study names cannot be read.
        """
        try:
            contents = fingerprint(files_of([_reads(run.training) for run in self.runs]))
        except (ValueError, OSError) as error:
            raise StudyError(str(error)) from error
        fields = self.model_dump(mode="json", exclude={"seeds", "plugins"})
        for run in (run for methods in fields["grid"].values() for run in methods.values()):
            for name in [name for name, default in LATER.items() if run[name] == default]:
                del run[name]
        text = json.dumps([fields, contents, VERSION, *filter(None, [self.corrections])], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _reads(training: Training) -> tuple[object, ...]:
    """The parts of a run that may name files: its task and its checkpoints.

    A name on the hub stands for itself, and so does that of a carried model, whose digest the registry holds: a study's
    records are read where the model is missing.
    """
    policy, actor = training.policy, training.actor
    given = isinstance(policy, Given) and (Path(policy.path).is_dir() or is_gguf(policy.path))
    own = given and isinstance(policy, Given) and policy.path not in CARRIED
    local = [Checkpoint(path=Path(policy.path))] if isinstance(policy, Given) and own else []
    return (training.task, *local, *([actor.model] if isinstance(actor, SmallActor) else []))


def read(path: Path | None, overrides: Mapping[str, object] | None = None, *, quick: bool = False) -> Study:
    """The study in a file, or the default run without one.

    Args:
        path: a YAML or TOML file.
        overrides: fields of every run, laid over all else.
        quick: whether the fields under `quick` are laid over it.

    Raises:
        StudyError: the file cannot be read, or a field is unknown or out of range.
    """
    mapping = {"name": path.stem} | configuration.read_mapping(path) if path else {}
    if path:
        require_kind(TRAINING, path, mapping)
    return of_mapping(mapping, overrides or {}, quick=quick)


def of_mapping(mapping: Mapping[str, object], overrides: Mapping[str, object], *, quick: bool = False) -> Study:
    """The study that a mapping describes, see `read`.

    Raises:
        StudyError: a field is unknown or out of range; the message names it.
    """
    shortened = mapping.get("quick") or {}
    if not isinstance(shortened, Mapping):
        raise StudyError(f"quick: give the fields that it changes, not {shortened!r}")
    if quick and not shortened:
        raise StudyError("the study has no quick version: give fields under quick, or run it without --quick")
    whole = spelt_out({key: value for key, value in mapping.items() if key != "quick"})
    shortened = spelt_out(shortened)
    if quick:
        listed = [axis for axis in _AXES if isinstance(shortened.get(axis), list)]
        chosen = {axis: _chosen(_named(whole.get(axis), axis), f"quick.{axis}", shortened[axis]) for axis in listed}
        whole = laid_over(whole, {key: value for key, value in shortened.items() if key not in chosen}) | chosen
    study: dict[str, object] = {key: whole.pop(key) for key in ("name", "seeds") if key in whole}
    study |= {key: overrides[key] for key in ("name", "seeds") if key in overrides}
    study["plugins"] = plugins.loaded_of(whole.pop("plugins", None), overrides.get("plugins"))
    own = spelt_out({key: value for key, value in overrides.items() if key not in ("name", "seeds", "plugins")})
    whole = laid_over(_KINDS, whole)
    settings, methods = (_named(whole.pop(axis, None), axis) for axis in _AXES)
    grid = {}
    for setting, changes in settings.items():
        below = laid_over(whole, {key: value for key, value in changes.items() if key != "methods"})
        mine = _chosen(methods, f"settings.{setting}.methods", changes.get("methods", list(methods)))
        grid[setting] = {
            method: _training(laid_over(laid_over(below, more), own), f"{setting}, {method}")
            for method, more in mine.items()
        }
    return configuration.parse(Study, study | {"grid": grid})


def laid_over(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """`above` laid over `below`, mapping by mapping; a mapping of another kind replaces the one below."""
    if "kind" in above and above["kind"] != below.get("kind"):
        return dict(above)
    return dict(below) | {key: _value_over(below.get(key), value) for key, value in above.items()}


def _value_over(below: object, above: object) -> object:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return laid_over(below, above)
    return above


_SHORT: dict[tuple[str, ...], Callable[[str], Mapping[str, object]]] = {
    ("task",): lambda kind: {"kind": kind},
    ("task", "prompts"): lambda path: {"kind": "file", "path": path},
    ("task", "reward"): lambda kind: {"kind": kind},
    ("policy",): lambda path: {"kind": "checkpoint", "path": path},
    ("actor",): lambda kind: {"kind": kind},
    ("actor", "model"): lambda path: {"kind": "checkpoint", "path": path},
    ("actor", "source"): lambda kind: {"kind": kind},
}
"""The configuration for which a text in its place stands."""

_OF_PATHS = {where: made("")["kind"] for where, made in _SHORT.items() if "path" in made("")}
"""The places where a text is a path, with the kind that it belongs to."""
PATHS = frozenset(where[-1] for where in _OF_PATHS)
"""Their last names."""

_MISSING_KINDS = {("task", "prompts"): "file", ("actor", "model"): "qwen3"}
"""The kind of a configuration that is given by its fields alone."""


def spelt_out(mapping: Mapping[str, object], above: tuple[str, ...] = ()) -> dict[str, object]:
    """The fields with their short forms written out.

    >>> spelt_out({"actor": "stale", "policy": "models/policy", "steps": 3})
    {'actor': {'kind': 'stale'}, 'policy': {'kind': 'checkpoint', 'path': 'models/policy'}, 'steps': 3}
    """
    out: dict[str, object] = {}
    for name, value in mapping.items():
        where = (*above, str(name))
        if isinstance(value, str) and where in _SHORT:
            value = _SHORT[where](value)
        if isinstance(value, Mapping) and "path" in value and where in _OF_PATHS:
            value = {"kind": _OF_PATHS[where], **value}
        out[name] = spelt_out(value, where) if isinstance(value, Mapping) else value
    return out


def _with_kinds(mapping: Mapping[str, object]) -> dict[str, object]:
    """The fields, with the kinds of configurations that are given by their fields alone."""
    out = dict(mapping)
    for (outer, inner), kind in _MISSING_KINDS.items():
        fields = out.get(outer)
        if isinstance(fields, Mapping) and isinstance(fields.get(inner), Mapping):
            out[outer] = {**fields, inner: {"kind": kind, **fields[inner]}}
    return out


def _chosen(named: Mapping[str, Changes], where: str, names: object) -> dict[str, Changes]:
    """The settings or methods of these names."""
    if not isinstance(names, list) or not names:
        raise StudyError(f"{where}: give a list of names, of {', '.join(named)}")
    if unknown := [str(name) for name in names if name not in named]:
        raise StudyError(f"{where}: there is no {unknown[0]} (there are {', '.join(named)})")
    return {name: named[name] for name in names}


def _named(value: object, axis: str) -> dict[str, Changes]:
    """The settings or methods by name."""
    if value is None:
        return {ONLY: {}}
    if not (value and isinstance(value, Mapping) and all(isinstance(each, Mapping | None) for each in value.values())):
        raise StudyError(f"{axis}: give a name to each, and the fields that it changes")
    if bad := [name for name in value if not re.fullmatch(_NAME, str(name))]:
        raise StudyError(f"{axis}: {bad[0]!r} names a folder: give letters, digits and _ . + - alone")
    return {str(name): spelt_out(changes or {}) for name, changes in value.items()}


def _training(mapping: Mapping[str, object], where: str) -> Training:
    try:
        if unknown := [key for key in mapping if key not in Training.model_fields]:
            known = ("name", "seeds", "settings", "methods", "quick", *Training.model_fields)
            near = difflib.get_close_matches(str(unknown[0]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise StudyError(f"{unknown[0]}: there is no such field{hint} (there are {', '.join(known)})")
        return configuration.parse(Training, _with_kinds(mapping), _KINDS_AT, _PLACE_IN)
    except StudyError as error:
        raise StudyError(str(error) if where == f"{ONLY}, {ONLY}" else f"{where}: {error}") from error
