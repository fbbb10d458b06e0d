"""Problems that reasoning-gym generates, with its own scores of answers."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from jackpot_sim.environments.fields import FORBID_EXTRA, check_count
from jackpot_sim.environments.language_models.checkpoints import first_line
from jackpot_sim.environments.language_models.prompts import Prompt
from jackpot_sim.requirements import require

QUESTION = "{question}"
"""The place of the question in a template."""

Entry: TypeAlias = Mapping[str, Any]
"""A problem as reasoning-gym gives it: `question`, `answer` and `metadata`."""

Gym: TypeAlias = Any
"""A data set of reasoning-gym, which has no annotations that a type checker sees."""


@dataclass(frozen=True, kw_only=True)
class GeneratedPrompts:
    """Problems of a data set of reasoning-gym, which its generator makes from a seed.

    Attributes:
        dataset: the data set's name, such as chain_sum or gsm_symbolic.
        config: its options, such as {max_terms: 2}; those left out are its own.
        size: the number of problems generated; of repeated ones the first counts.
        seed: the seed of the first problem. Most data sets take seed + i for problem i, so that seeds nearer than
            `size` share problems.
        template: the prompt, with {question} in the place of the question.
        chat: whether the prompt is a user's message of a chat, or a plain text.

    Raises:
        ValueError: a number is out of range, or the template does not hold {question} once.
    """

    kind: Literal["reasoning-gym"] = "reasoning-gym"
    dataset: str
    config: Mapping[str, object] = field(default_factory=dict, hash=False)
    size: int = 64
    seed: int = 0
    template: str = QUESTION
    chat: bool = True

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("size", self.size, 1)
        check_count("seed", self.seed, 0)
        check_template(self.template)

    def read(self) -> tuple[Prompt, ...]:
        """The prompts in order, with their answers.

        Raises:
            ValueError: reasoning-gym is not installed, has no such data set, or refuses the options.
        """
        gym = gym_of(self.dataset, self.config, self.size, self.seed)
        return tuple(prompt_of(entry, self.template, self.chat) for entry in entries(gym))


def check_template(template: str) -> None:
    """Refuses a template that does not hold {question} once."""
    if template.count(QUESTION) != 1:
        raise ValueError(f"template must hold {QUESTION} once, got {template!r}")


def gym_of(dataset: str, config: Mapping[str, object], size: int, seed: int) -> Gym:
    """The data set of reasoning-gym with these options.

    Raises:
        ValueError: reasoning-gym is not installed, has no such data set, or refuses the options.
    """
    require("reasoning-gym", purpose=f"the problems of {dataset!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of packages that it needs, where Python compiles them anew
        importlib.import_module("reasoning_gym")  # which registers the data sets
    known: Mapping[str, tuple[type, type]] = importlib.import_module("reasoning_gym.factory").DATASETS
    if dataset not in known:
        raise ValueError(f"reasoning-gym has no data set {dataset!r}{_near(dataset, known)}")
    make, options = known[dataset]
    names = [each.name for each in dataclasses.fields(options) if each.name not in ("size", "seed")]
    if unknown := [name for name in config if name not in names]:
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise ValueError(f"{dataset} has no option {unknown[0]!r}{_near(unknown[0], names)} ({has})")
    try:
        asked = options(**config, size=size, seed=seed)
        asked.validate()
        return make(config=asked)
    except Exception as error:  # options are checked by assertions, and in use
        raise ValueError(f"{dataset} refuses its options: {first_line(error)}") from error


def entries(gym: Gym) -> list[Entry]:
    """The different problems of a data set, in order; of repeated questions the first counts.

    Raises:
        ValueError: the generator fails.
    """
    different: dict[str, Entry] = {}
    try:
        for at in range(len(gym)):
            entry: Entry = gym[at]
            different.setdefault(str(entry["question"]), entry)
    except Exception as error:  # a generator has many ways to fail
        raise ValueError(f"the problems cannot be generated with these options: {first_line(error)}") from error
    return list(different.values())


def prompt_of(entry: Entry, template: str, chat: bool) -> Prompt:
    """The prompt of a problem, with its answer."""
    text, answer = template.replace(QUESTION, str(entry["question"])), str(entry["answer"])
    if chat:
        return Prompt(messages=({"role": "user", "content": text},), answer=answer)
    return Prompt(text=text, answer=answer, plain=True)


def _near(name: str, known: Mapping[str, object] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
