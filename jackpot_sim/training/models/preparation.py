"""The first models of runs, made once for all runs that share them, and kept in a folder.

    MODELS/KEY/policy               a checkpoint, as save_pretrained writes it
    MODELS/KEY/actor-3x64-0.05      distilled from it to that KL, one for each distance that the study asks for

KEY is a digest of all that decides the weights: task, policy, seed, and the source of the code that makes them, its
comments included. A folder is written under another name and then renamed, so that it is whole or missing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from jackpot_sim.environments.language_models import checkpoints
from jackpot_sim.environments.language_models.build import Checkpoint, Model, TinyQwen3, check_same_vocabulary
from jackpot_sim.environments.language_models.checkpoints import Loaded
from jackpot_sim.environments.language_models.library import Tokenizer, quiet
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.estimator_spec import Frozen
from jackpot_sim.studies.files import LOCK
from jackpot_sim.studies.provenance import VERSION, source_digest
from jackpot_sim.training.actors import SmallActor
from jackpot_sim.training.config import Given, Taught, Training
from jackpot_sim.training.models.adapters import adapted
from jackpot_sim.training.models.pretraining import distilled, taught
from jackpot_sim.training.models.texts import Texts
from jackpot_sim.training.study import Run
from jackpot_sim.training.tasks.characters import character_tokenizer

MADE_BY = (
    *("core", "environments/fields.py", "environments/prefix_tree.py", "environments/randomness.py"),
    *("environments/engines/engine.py", "environments/language_models"),
    *("training/models", "training/tasks", "training/loop/passes.py", "training/loop/packing.py"),
    *("training/objective/batch.py", "training/objective/loss.py"),
)
"""The source that decides the weights of first models: it builds them, writes problems and rollouts, and descends."""

_USUAL = TinyQwen3(heads=2, kv_heads=2, initial_scale=5.0)
"""An actor that its name describes by layers and width alone."""


class Pair(Frozen):
    """A taught policy, with the sizes and distances of the actors that are distilled from it."""

    training: Training
    """A run that begins with this policy; only its task and its policy matter."""
    seed: int
    """The seed of the weights and of the data."""
    actors: tuple[tuple[TinyQwen3, tuple[float, ...]], ...]
    """The sizes of the actors, each with its distances: KLs, nats per token."""

    @property
    def key(self) -> str:
        """The name of the folder of its models."""
        return key_of(self.training, self.seed)


def key_of(training: Training, seed: int) -> str:
    """The name of the folder of a run's first models, which changes with the code that makes them."""
    fields = training.model_dump(mode="json", include={"task", "policy"}) | {"precision": training.weights}
    text = json.dumps([fields, seed, training.rollout.length, VERSION, source_digest(*MADE_BY)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _actor_name(config: TinyQwen3, kl: float) -> str:
    name = f"actor-{config.layers}x{config.hidden}-{kl:g}"
    usual = replace(_USUAL, layers=config.layers, hidden=config.hidden)
    if config == usual and float(f"{kl:g}") == kl:
        return name
    rest = hashlib.sha256(f"{config} {kl!r}".encode()).hexdigest()[:8]  # of the fields that the name leaves out
    return f"{name}-{rest}"


def pairs(runs: Iterable[Run]) -> tuple[Pair, ...]:
    """The models that these runs begin with, each once."""
    by_key: dict[str, tuple[Run, dict[TinyQwen3, set[float]]]] = {}
    for run in runs:
        if not isinstance(run.training.policy, Taught):
            continue
        _, actors = by_key.setdefault(key_of(run.training, run.seed), (run, {}))
        actor = run.training.actor
        if isinstance(actor, SmallActor) and isinstance(actor.model, TinyQwen3):
            assert actor.kl is not None  # see SmallActor
            actors.setdefault(actor.model, set()).add(actor.kl)
    return tuple(
        Pair(
            training=run.training,
            seed=run.seed,
            actors=tuple((model, tuple(sorted(kls))) for model, kls in actors.items()),
        )
        for run, actors in by_key.values()
    )


def prepare(pair: Pair, models: Path, report: Callable[[str], None] = lambda _: None) -> None:
    """Makes the missing models of a pair; one process at a time, since studies may share the folder.

    Raises:
        StudyError: the policy cannot be taught, or an actor does not come near enough.
    """
    folder = models / pair.key
    folder.mkdir(parents=True, exist_ok=True)
    training, texts = pair.training, _texts(pair.training, None)
    with FileLock(folder / LOCK), torch_threads(1):
        if not (folder / "policy").is_dir():
            assert isinstance(training.policy, Taught)
            model = taught(training.policy, texts, training.weights, pair.seed, report)
            save_model(model, texts.tokenizer, folder / "policy")
        policy = checkpoints.load(folder / "policy", precision=training.weights, device="cpu").model
        for config, kls in pair.actors:
            if all((folder / _actor_name(config, kl)).is_dir() for kl in kls):
                continue
            for kl, actor in distilled(config, policy, texts, kls, training.weights, pair.seed, report).items():
                if not (folder / _actor_name(config, kl)).is_dir():
                    save_model(actor, texts.tokenizer, folder / _actor_name(config, kl))


def save_model(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Saves a model with its tokenizer as `save_pretrained` does, in place of what the folder held."""
    unfinished = folder.parent / f".{folder.name}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    with quiet():
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def beginning(run: Run, models: Path) -> tuple[Texts, Model, Model | None]:
    """The task in tokens, the policy, and the actor's own model, None where the policy or a copy of it writes.

    Raises:
        StudyError: a checkpoint cannot be read, or does not fit.
    """
    training = run.training
    try:
        policy = _policy(run, models)
        texts = _texts(training, policy)
        actor = _actor(run, models, policy)
    except ValueError as error:
        raise StudyError(str(error)) from error
    return texts, policy.model, None if actor is None else actor.model


def _policy(run: Run, models: Path) -> Loaded:
    config = run.training.policy
    source = config.path if isinstance(config, Given) else _first(run, models, "policy")
    loaded = checkpoints.load(source, precision=run.training.weights, device=run.training.device)
    if isinstance(config, Given) and config.lora is not None:
        adapted(loaded.model, config.lora, keyed_generator(run.seed, "weights", "lora"))
    return loaded


def _first(run: Run, models: Path, name: str) -> Path:
    """The folder of a first model that was prepared.

    Raises:
        StudyError: it is missing: a process that begins after an edit of the source has another key.
    """
    folder = models / key_of(run.training, run.seed) / name
    if not folder.is_dir():
        raise StudyError(
            f"{run.id}: its first model {folder} is missing: it was removed, or the source of jackpot_sim changed, "
            "while the study ran; the same command makes it"
        )
    return folder


def _actor(run: Run, models: Path, policy: Loaded) -> Loaded | None:
    config = run.training.actor
    if not isinstance(config, SmallActor):
        return None
    source: str | Path
    if isinstance(config.model, Checkpoint):
        source = config.model.path
    else:
        assert config.kl is not None
        source = _first(run, models, _actor_name(config.model, config.kl))
    actor = checkpoints.load(source, precision=run.training.weights, device=run.training.device)
    check_same_vocabulary(policy.model, actor.model, policy.tokenizer, actor.tokenizer)
    return actor


def _texts(training: Training, policy: Loaded | None) -> Texts:
    tokenizer: Tokenizer | None = None if policy is None else policy.tokenizer
    if tokenizer is None:
        if training.task.characters is None:
            raise StudyError(
                f"{training.task.kind} has no alphabet of its own, and the policy no tokenizer: give policy.kind "
                "checkpoint with a folder that holds one"
            )
        tokenizer = character_tokenizer(training.task.characters)
    length = training.rollout.length or training.task.max_new_tokens
    model = None if policy is None else policy.model
    return Texts(training.task, tokenizer, length, training.rollout.batch_size, model)
