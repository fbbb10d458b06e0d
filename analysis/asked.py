"""The request of a run, in a few words from its manifest: for lists of runs, and for the feet of figures.

Manifests of other versions may lack a field or have others: then the words are fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jackpot_sim.studies.kinds import DIAGNOSIS, SWEEP, Kind
from jackpot_sim.sweep.labels import kinds_of

Fields = Mapping[str, Any]
"""A part of a configuration as its manifest holds it."""

_NAMED = 5
"""The most things of a kind that are named one by one."""


def in_words(kind: Kind, manifest: Fields) -> dict[str, str]:
    """The request, by headings such as `task` and `seeds`."""
    if kind is DIAGNOSIS:
        return {name: str(value) for name, value in manifest["diagnosis"].items()}
    return of_sweep(manifest) if kind is SWEEP else of_training(manifest.get("config", {}))


def of_training(config: Fields) -> dict[str, str]:
    """The task, the models, the methods, the steps and the seeds of a study of training."""
    grid = _fields(config.get("grid"))
    runs = [_fields(run) for methods in grid.values() for run in _fields(methods).values()]
    asked = {
        "task": _listed(_task(_fields(run.get("task"))) for run in runs),
        "policy": _listed(_model(_fields(run.get("policy"))) for run in runs),
        "actor": _listed(_actor(_fields(run.get("actor"))) for run in runs),
        "settings": _listed(map(str, grid)) if len(grid) > 1 else "",
        "methods": _listed(str(method) for methods in grid.values() for method in _fields(methods)),
        "steps": _ranged([run["steps"] for run in runs if isinstance(run.get("steps"), int)]),
        "seeds": _counted(config.get("seeds")),
    }
    return {name: words for name, words in asked.items() if words}


def of_sweep(manifest: Fields) -> dict[str, str]:
    """The environments, the estimators, the samples and the seeds of a sweep."""
    config, cells = _fields(manifest.get("config")), [_fields(cell) for cell in manifest.get("cells", ())]
    environments = {str(cell.get("environment")): _fields(cell.get("environment")) for cell in cells}
    kinds = [_environment(each) for each in environments.values()]
    counts = {name: kinds.count(name) for name in dict.fromkeys(kinds)}
    models = [name for each in environments.values() for name in (each.get("policy"),) if isinstance(name, str)]
    estimators = [_estimator(_fields(each)) for each in config.get("estimators") or ()]
    samples = config.get("n_samples")
    asked = {
        "environments": _listed(f"{count} × {name}" if count > 1 else name for name, count in counts.items()),
        "policy": _listed(PurePath(name).name for name in models),
        "estimators": _listed(estimators),
        "samples": str(samples or ""),
        "how": _listed(str(each).replace("_", " ") for each in config.get("methods") or ()),
        "seeds": _counted(list({cell.get("seed") for cell in cells})),
    }
    return {name: words for name, words in asked.items() if words}


def sentence(asked: Mapping[str, str], without: Sequence[str] = ()) -> str:
    """The words behind one another.

    >>> sentence({"task": "addition", "methods": "tis", "steps": "300", "seeds": "5"}, without=["methods"])
    'task: addition; steps: 300; seeds: 5'
    """
    return "; ".join(f"{name}: {words}" for name, words in asked.items() if name not in without)


def _task(task: Fields) -> str:
    kind = str(task.get("kind", ""))
    if isinstance(task.get("digits"), int):
        return f"{kind} of {task['digits']} digits"
    source = task.get("dataset") or task.get("name") or task.get("path")
    return f"{kind} {PurePath(str(source)).name}" if source else kind


def _model(model: Fields) -> str:
    if isinstance(model.get("model"), Mapping):
        return _model(model["model"])
    if model.get("path"):
        return PurePath(str(model["path"])).name + (" with LoRA" if model.get("lora") else "")
    size = f" {model['layers']}x{model['hidden']}" if "layers" in model and "hidden" in model else ""
    return f"{model.get('kind', '')}{size}"


def _actor(actor: Fields) -> str:
    kind, source = str(actor.get("kind", "")), _fields(actor.get("source"))
    if source:
        return f"{kind} {source.get('kind', '')}"
    return f"{kind} {_model(actor)}" if "model" in actor or "path" in actor else kind


def _environment(environment: Fields) -> str:
    for origin in ("source", "actor"):  # of a model, it sets the actor apart
        if isinstance(environment.get(origin), Mapping) and "kind" in environment[origin]:
            return kinds_of(str(environment[origin]["kind"]), str(environment.get("kind")))
    base = _fields(environment.get("base")).get("kind")
    return kinds_of(str(environment.get("kind")), None if base is None else str(base))


def _estimator(estimator: Fields) -> str:
    """The kind of an estimator in the forms that its study names."""
    name = str(estimator.get("kind", ""))
    for form in ("rao_blackwell", "centred", "batch_normalize"):
        name = f"{form.replace('_', '-')}({name})" if estimator.get(form) else name
    return name


def _fields(value: object) -> Fields:
    return value if isinstance(value, Mapping) else {}


def _listed(names: Iterable[str]) -> str:
    """Each name once, or how many there are where they are many."""
    once = [name for name in dict.fromkeys(names) if name]
    return (
        ", ".join(once) if len(once) <= _NAMED else f"{', '.join(once[: _NAMED - 1])} and {len(once) - _NAMED + 1} more"
    )


def _ranged(numbers: Sequence[int]) -> str:
    return (
        ""
        if not numbers
        else f"{min(numbers)}"
        if min(numbers) == max(numbers)
        else f"{min(numbers)} to {max(numbers)}"
    )


def _counted(seeds: object) -> str:
    return str(len(seeds)) if isinstance(seeds, Sequence) else ""
