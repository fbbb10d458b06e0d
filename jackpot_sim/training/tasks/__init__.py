"""Tasks: problems whose answers can be checked."""

from typing import TypeAlias

from jackpot_sim.training.tasks.addition import Addition
from jackpot_sim.training.tasks.benchmarks import Benchmark
from jackpot_sim.training.tasks.modular import ModularArithmetic
from jackpot_sim.training.tasks.prompts import PromptTask
from jackpot_sim.training.tasks.reasoning_gym import ReasoningGym
from jackpot_sim.training.tasks.word_problems import WordProblems

AnyTask: TypeAlias = Addition | ModularArithmetic | WordProblems | Benchmark | PromptTask | ReasoningGym
"""The union of all tasks; `kind` says which."""
