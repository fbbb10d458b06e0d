"""A training step of ours beside one of TRL's GRPOTrainer that does the same work: tokens per second.

Both have the same model, tokenizer, prompts, number of rollouts, largest number of new tokens, rewards, minibatches,
loss and AdamW, in one thread of one process. TRL makes a pass for p_ref; ours makes it for the rows of the first update
alone, and takes the rest from the rollouts, which p_ref wrote. Ours also reads once what rollouts have in common.
Nothing is corrected, and the policy writes its own rollouts. TRL has the settings that suit it best here: no logs, no
checkpoints, no activation checkpointing, float32, a key-value cache. TRL's loop calls ours after each of its batches,
so that neither pays for a start, and a drift of the machine affects both.

The policy has random weights, and the tokens of its completions are counted on both sides. Hardly any completion is
right, so that most advantages are 0; neither trainer does less work for that.
"""

from __future__ import annotations

import copy
import importlib
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.grpo_step import now
from jackpot_sim.bench.timing import Finding, ratios
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models.build import Model, TinyQwen3, build
from jackpot_sim.environments.language_models.library import quiet
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.estimators import Correction
from jackpot_sim.requirements import RequirementError, require
from jackpot_sim.training.config import Sampling, Taught, Training, Update
from jackpot_sim.training.loop.measures import Means
from jackpot_sim.training.loop.passes import PaddedSequences
from jackpot_sim.training.loop.trainer import Row, Trainer
from jackpot_sim.training.models.texts import Texts
from jackpot_sim.training.objective import ModelPass, Proposed
from jackpot_sim.training.tasks.addition import Addition
from jackpot_sim.training.tasks.characters import character_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

AT_LEAST, AIM = 2.5, 3.0
"""The required and the desired ratio of our tokens per second to TRL's."""

TASK = Addition()
SETTING = Training(task=TASK, rollout=Sampling(prompts=32, samples=8, topk=0), update=Update(minibatches=4))
"""No top-k is stored: TRL stores none, and no correction needs one."""
MODEL = Taught().model
"""The size of the policy."""
SEED = 0


@dataclass
class _Turns:
    """Seconds and completion tokens of every step; the first step, a warm-up, is included."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def per_second(self) -> list[float]:
        """Tokens per second of each round."""
        return [count / spent for count, spent in zip(self.tokens[1:], self.seconds[1:], strict=True)]


def training(rounds: int = 9, setting: Training = SETTING, model: TinyQwen3 = MODEL) -> Iterator[Finding]:
    """Findings of both trainers, which run in turn.

    Args:
        rounds: measured batches of each, after a warm-up.
        setting: a run on the addition task with an on-policy actor and no correction.
        model: the size of the policy.

    Raises:
        CannotMeasureError: trl or datasets is missing.
    """
    trl = _trl()
    tokenizer = character_tokenizer(TASK.characters)
    policy = build(model, len(tokenizer), np.random.default_rng(SEED)).to(setting.precision.dtype)
    same = copy.deepcopy(policy)
    texts = Texts(TASK, tokenizer, setting.rollout.length or TASK.max_new_tokens, setting.rollout.batch_size)
    trainer = _TimedTrainer(setting, texts, policy, SEED)
    ours, theirs = _Turns(), _Turns()

    def turn() -> None:
        started = now("cpu")
        row = trainer.advance()
        ours.seconds.append(now("cpu") - started)
        ours.tokens.append(row["tokens"])

    with torch_threads(1):
        _train_with_trl(trl, same, texts, setting, rounds + 1, theirs, turn)
    name = f"training, {setting.rollout.prompts} x {setting.rollout.samples} rollouts"
    in_rounds = ratios(ours.per_second(), theirs.per_second())
    note = f"aim {AIM:g}; {same.num_parameters():,} parameters, {setting.update.minibatches} updates a step"
    yield Finding.over_rounds(f"{name}: tokens/s, ours / TRL's", in_rounds, at_least=AT_LEAST, note=note)
    for who, turns in (("ours", ours), ("TRL", theirs)):
        note = f"{statistics.median(turns.per_second()):,.0f} completion tokens/s"
        yield Finding.over_rounds(f"{name}, {who}: step", turns.seconds[1:], "s", note=note)
    for part, seconds in trainer.parts.items():
        shares = [100 * each for each in ratios(seconds[1:], ours.seconds[1:])]
        yield Finding.over_rounds(f"{name}, ours: {part}", shares, "%")


class _TimedTrainer(Trainer):
    """Our trainer, with the seconds of each part of a step."""

    def __init__(self, config: Training, texts: Texts, policy: Model, seed: int) -> None:
        super().__init__(config, texts, policy, None, seed)
        self.parts: dict[str, list[float]] = {"rollouts and rewards": [], "pass for p_ref": [], "updates": []}

    @override
    def advance(self) -> Row:
        for seconds in self.parts.values():
            seconds.append(0.0)
        return super().advance()

    @override
    def _rolled_out(self, first: Tensor) -> tuple[PaddedSequences, Proposed, ModelPass | None, Row]:
        with self._timed("rollouts and rewards"):
            batch = super()._rolled_out(first)
        self.parts["rollouts and rewards"][-1] -= self.parts["pass for p_ref"][-1]
        return batch

    @override
    def _reference(
        self, sequences: PaddedSequences, written: Tensor, topk: TopK | None, first: Tensor
    ) -> tuple[Tensor, Tensor | None, ModelPass | None]:
        with self._timed("pass for p_ref"):
            return super()._reference(sequences, written, topk, first)

    @override
    def _updated(
        self,
        sequences: PaddedSequences,
        proposed: Proposed,
        correction: Correction,
        means: Means,
        read: ModelPass | None = None,
    ) -> None:
        with self._timed("updates"):
            super()._updated(sequences, proposed, correction, means, read)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = now("cpu")
        yield
        self.parts[part][-1] += now("cpu") - started


def _trl() -> ModuleType:
    """The module `trl`, without its annotations, which need packages that TRL itself does not."""
    try:
        require("trl", "datasets", purpose="the measure of training beside TRL")
    except RequirementError as error:
        raise CannotMeasureError(str(error)) from error
    return importlib.import_module("trl")


def _train_with_trl(
    trl: ModuleType, policy: Model, texts: Texts, setting: Training, steps: int, turns: _Turns, turn: Callable[[], None]
) -> None:
    """Runs `steps` batches of rollouts with all their updates in TRL, and calls `turn` after each."""
    from transformers import PrinterCallback, TrainerCallback, TrainerState

    updates = setting.update.minibatches * setting.update.epochs

    class InTurn(TrainerCallback):  # type: ignore[misc, unused-ignore]
        @override
        def on_train_begin(self, *_: object, **__: object) -> None:
            self.started = now("cpu")

        @override
        def on_step_end(self, args: object, state: TrainerState, control: object, **_: object) -> None:
            if state.global_step % updates == 0:
                turns.seconds.append(now("cpu") - self.started)
                turn()
                self.started = now("cpu")

    problems = [
        problem
        for step in range(steps)
        for problem in texts.task.problems(keyed_generator(SEED, "training", step, "problems"), setting.rollout.prompts)
    ]  # our trainer draws the same

    def reward(
        completions: Sequence[str], completion_ids: Sequence[Sequence[int]], number: Sequence[int], **_: object
    ) -> list[float]:
        turns.tokens.append(float(sum(map(len, completion_ids))))
        return list(texts.task.rewards(completions, [problems[each] for each in number]).tolist())

    rows = [{"prompt": problem.prompt.text, "number": number} for number, problem in enumerate(problems)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # of TRL, about coming changes of transformers
        trainer = trl.GRPOTrainer(
            model=policy,
            reward_funcs=reward,
            args=_config(trl, setting, texts.length, folder, steps),
            train_dataset=importlib.import_module("datasets").Dataset.from_list(rows),
            processing_class=texts.tokenizer,
            callbacks=[InTurn()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _config(trl: ModuleType, setting: Training, length: int, folder: str, steps: int) -> object:
    """TRL's configuration for the same work, with nothing beside it."""
    rollout, update = setting.rollout, setting.update
    return trl.GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        shuffle_dataset=False,
        max_steps=steps * update.minibatches * update.epochs,
        per_device_train_batch_size=rollout.prompts * rollout.samples // update.minibatches,
        gradient_accumulation_steps=1,
        steps_per_generation=update.minibatches,
        num_iterations=update.epochs,
        num_generations=rollout.samples,
        max_completion_length=length,
        temperature=rollout.temperature,
        learning_rate=update.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=update.max_grad_norm,
        beta=0.0,
        epsilon=update.clip,
        epsilon_high=update.clip_high,
        loss_type="bnpo",
        scale_rewards=str(update.standardisation),
    )
