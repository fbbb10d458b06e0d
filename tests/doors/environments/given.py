"""Arrays and settings that the doors of environments share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.sources.tiny_models import GeometricMixture
from tests.doors.harness import Door, Given, Make, Sizes, Values, array, ids, laws, masks

VOCAB, LENGTH, END = 4, 2, 0
TREE = PrefixTree(VOCAB, LENGTH, END)
PREFIXES, SEQUENCES = TREE.prefixes, TREE.sequences_count


@cache
def model() -> Any:
    """A tiny model of four tokens."""
    return build(TinyQwen3(hidden=8, layers=1, heads=2, context=24), VOCAB, np.random.default_rng(0))


@cache
def scorer() -> CausalLM:
    """The tiny model as a policy."""
    return CausalLM(model())


@cache
def mixture() -> GeometricMixture:
    """A policy between the tiny model and another one."""
    other = build(TinyQwen3(hidden=8, layers=1, heads=2, context=24), VOCAB, np.random.default_rng(1))
    return GeometricMixture(scorer(), CausalLM(other), 0.5)


def tokens(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Ids of the tiny model."""
    return generator.integers(0, VOCAB, size=shape)


def zeros(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Indices of the only prompt."""
    return np.zeros(shape, dtype=np.int64)


def as_dtype(make: Make, dtype: Any) -> Make:
    """A maker of another dtype."""
    return lambda generator, shape, sizes: make(generator, shape, sizes).astype(dtype)


def fixed(**given: Any) -> Callable[[np.random.Generator, Sizes], Mapping[str, Any]]:
    """The same other arguments for all sizes."""
    return lambda generator, sizes: given


def numpy_alone(name: str, call: Callable[..., Any], given: Mapping[str, Given], **options: Any) -> Door:
    """A door of a function that takes numpy arrays."""
    return Door(call, given, name=f"environments.{name}", torch=False, **options)


TABLE = array(f"{PREFIXES} {VOCAB}", laws)
FREE_TABLE = {"log_probs": array("*states *vocab", laws)}
BASE = {"base": array("*states *vocab", laws)}
REWARDED = {
    "log_probs": array(f"*{PREFIXES} *{VOCAB}", laws),
    "reward": array(f"{SEQUENCES}"),
}
WRITTEN = {"tokens": array("n length", tokens), "mask": array("n length", masks)}
PROMPT = {"prompt": array("*prompt_length", tokens)}
COMPLETIONS = {"prompt": array("n", zeros), **WRITTEN}
PROMPTS = (np.array([1, 2, 3]),)
STREAMED = {"sequence": array("rows", ids("n")), "step": array("rows", ids("length"))}
ROWS = array("*m", ids("n"))
TREE_PROMPTS = {"prompts": array("*prompts *prompt_length", tokens)}


def generator() -> np.random.Generator:
    """The same draws each time."""
    return np.random.default_rng(7)
