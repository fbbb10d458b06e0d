"""The cost of a correction in a step of TRL's GRPOTrainer, against steps of the same trainer without it.

One trainer takes the steps of all in turn: one without a correction, in which nothing of ours runs, and one of each
correction. The correction's parts are timed inside the step, since the difference of two whole steps would be lost in
their noise: noting the laws that tokens are drawn from, finding the likeliest tokens, log p on these, the weights, and
the figures for the log. The ratio of whole steps is given too, to show that nothing has been left out.

TRL needs no pass for p_ref here, as with its own defaults: the step is the shortest there is, and the share of a
correction the largest.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.grpo_step import now
from jackpot_sim.bench.shapes import SHAPES, Shape
from jackpot_sim.bench.timing import Finding, ratios
from jackpot_sim.environments.language_models.checkpoints import Precision, load
from jackpot_sim.environments.language_models.library import quiet
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.integrations.corrected import Settings
from jackpot_sim.integrations.trl import CorrectsRollouts
from jackpot_sim.integrations.trl.states import OnTopK
from jackpot_sim.record import trl as record_trl
from jackpot_sim.record.foreign import Config, Passed, Trainer
from jackpot_sim.record.trl_states import Law
from jackpot_sim.requirements import RequirementError, require
from jackpot_sim.training.tasks.characters import character_tokenizer

PERCENT_AT_MOST = 1.0
"""The largest share of a correction in TRL's step on a CPU."""
CORRECTIONS = {
    "tis": Settings.of("tis"),
    "jackpot, Z of the batch": Settings.of("jackpot", topk=0),
    "jackpot, top-20": Settings.of("jackpot"),
    "jackpot at p_new, top-20": Settings.of({"kind": "jackpot", "target": "p_new"}),
}
"""The corrections that are timed, by their names in findings."""
PARTS: tuple[tuple[Any, str], ...] = (
    (Law, "__call__"),
    (Law, "drawing_from"),
    (Law, "of"),
    (record_trl, "places"),
    (CorrectsRollouts, "_finish"),
    (CorrectsRollouts, "_scoring"),
    (OnTopK, "_see"),
    (OnTopK, "log_probs"),
    (CorrectsRollouts, "_weigh"),
)
"""The functions in which a correction spends its time; none calls another."""
HOOKS = (
    *("_generate_single_turn", "_generate", "_calculate_rewards", "_generate_and_score_completions"),
    *("_get_per_token_logps_and_entropies", "_compute_loss"),
)
"""The methods of TRL's that the mixin stands before."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a step."""

    rollouts: int = 8
    length: int = 64
    rounds: int = 5
    shape: Shape = SHAPES["cpu-30m"]
    """The shape of the policy, which is random where no checkpoint is given."""


TINY = Sizes(rollouts=4, length=4, rounds=2, shape=SHAPES["tiny"])
OF_CHECKPOINT = Sizes(rollouts=4, length=16, rounds=3)


@dataclass
class _Step:
    """A step of a method: seconds of all of it, of a correction's parts, and passes of the model's backbone."""

    seconds: float
    parts: dict[str, float]
    passes: int


def correcting(model: str | None = None, sizes: Sizes | None = None) -> Iterator[Finding]:
    """The findings of each correction: its share of a step, its parts, whole steps and their passes.

    Args:
        model: a checkpoint, as `--policy` takes it; None: random weights of 31 million parameters.
        sizes: the sizes.

    Raises:
        CannotMeasureError: trl or datasets is missing.
        ValueError: the checkpoint cannot be read.
    """
    try:
        require("trl", "datasets", purpose="the measure of corrections in TRL")
    except RequirementError as error:
        raise CannotMeasureError(str(error)) from error
    sizes = sizes or (Sizes() if model is None else OF_CHECKPOINT)
    with torch_threads(1):
        steps, parameters = _steps(model, sizes)
    plain = steps.pop("none")
    name = model or "random"
    labels: dict[str, str | float] = {"model": name, "parameters": parameters, **_plain(sizes)}
    note = f"{parameters:,} parameters, {sizes.rollouts} x {sizes.length} tokens"
    seconds = [each.seconds for each in plain]
    yield Finding.over_rounds(f"TRL, {name}: step without a correction", seconds, "s", note=note, labels=labels)
    for correction, its in steps.items():
        head, own = f"TRL, {name}, {correction}", labels | {"correction": correction}
        spent = [sum(each.parts.values()) for each in its]
        shares = [100 * part / each.seconds for part, each in zip(spent, its, strict=True)]
        medians = {part: statistics.median(each.parts[part] for each in its) for part in its[0].parts}
        note = ", ".join(f"{part} {1e3 * median:.3g}" for part, median in medians.items() if median)
        yield Finding.over_rounds(
            f"{head}: share of a step",
            shares,
            "%",
            at_most=None if sizes == TINY else PERCENT_AT_MOST,
            note=f"ms: {note}",
            labels=own,
        )
        whole = ratios([each.seconds for each in its], seconds)
        yield Finding.over_rounds(f"{head}: step / none", whole, labels=own)
        more = max(each.passes for each in its) - min(each.passes for each in plain)
        note = f"{plain[0].passes} passes of the backbone in a step"
        yield Finding(f"{head}: passes more than none", more, at_most=0, note=note, labels=own)


def _plain(sizes: Sizes) -> dict[str, str | float]:
    return {name: value for name, value in dataclasses.asdict(sizes).items() if isinstance(value, int)}


def _steps(model: str | None, sizes: Sizes) -> tuple[dict[str, list[_Step]], int]:
    """The steps of each method after an uncounted round, and the number of parameters."""
    if model is None:
        policy = sizes.shape.build(2 * sizes.length + 64, "cpu", "float32")
        tokenizer = character_tokenizer("".join(map(chr, range(0x3400, 0x3400 + sizes.shape.vocab - 1))))
        prompts = tokenizer.batch_decode(np.arange(1, 9).reshape(4, 2).tolist())
    else:
        loaded = load(model, precision=Precision.FP32, device="cpu")
        policy, tokenizer = loaded.model.train(), loaded.tokenizer
        prompts = ["The sum of two and three is", "A short poem about the sea:", "Rain falls because", "My name is"]
        if tokenizer is None:
            raise ValueError(f"{model} has no tokenizer: give a checkpoint with one")
    methods = {"none": None, **CORRECTIONS}
    found: dict[str, list[_Step]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # of TRL, about coming changes of transformers
        trl = importlib.import_module("trl")
        parts = stack.enter_context(_parts_timed())
        trainer = _alternating(trl)(
            model=policy,
            reward_funcs=_distinct,
            args=_config(trl, sizes, folder, steps=(sizes.rounds + 1) * len(methods)),
            train_dataset=importlib.import_module("datasets").Dataset.from_list([{"prompt": each} for each in prompts]),
            processing_class=tokenizer,
        )
        passes: list[None] = []
        stack.callback(trainer.model.base_model.register_forward_pre_hook(lambda *_: passes.append(None)).remove)
        order = list(methods)

        def after(seconds: float, step: int) -> None:
            name = order[(step - 1) % len(order)]
            found[name].append(_Step(seconds, dict(parts), len(passes)))
            passes.clear()
            parts.update(dict.fromkeys(parts, 0.0))
            trainer.take(methods[order[step % len(order)]])

        _add_clock(trainer, after)
        trainer.take(None)
        trainer.train()
    return {name: its[1:] for name, its in found.items()}, int(policy.num_parameters())


def _distinct(completion_ids: Sequence[Sequence[int]], **_: object) -> list[float]:
    """The share of a completion's tokens that are even: hardly any two rollouts have the same."""
    return [float(np.mean(np.asarray(each) % 2)) for each in completion_ids]


def _alternating(trl: Passed) -> Passed:
    """A trainer that is TRL's own in some steps, and corrected in others."""
    base = type("Corrected", (CorrectsRollouts, trl.GRPOTrainer), {})

    def choosing(name: str) -> Callable[..., Any]:
        own, plain = getattr(base, name), getattr(trl.GRPOTrainer, name)

        @functools.wraps(plain)
        def chosen(self: Trainer, *args: Passed, **kwargs: Passed) -> Passed:
            return (own if self.corrects else plain)(self, *args, **kwargs)

        return chosen

    def take(self: Trainer, settings: Settings | None) -> None:
        self.corrects = settings is not None
        if settings is not None:
            self.settings, self.topk = settings, settings.topk if settings.needs_topk else 0

    methods: dict[str, Any] = {"take": take, "_say_once": _silent, **{name: choosing(name) for name in HOOKS}}
    return type("Alternating", (base,), {**methods, "corrects": True, "linear_loss": True})


def _silent(_self: Any, _sentence: str) -> None:
    """Says nothing of what a correction does without."""


def _add_clock(trainer: Trainer, after: Callable[[float, int], None]) -> None:
    """Calls `after` at the end of each step with its seconds and its number."""
    from transformers import PrinterCallback, TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        @override
        def on_train_begin(self, *_: object, **__: object) -> None:
            self.started = now("cpu")

        @override
        def on_step_end(self, args: object, state: Any, control: object, **_: object) -> None:
            after(now("cpu") - self.started, state.global_step)
            self.started = now("cpu")

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())


@contextmanager
def _parts_timed() -> Iterator[dict[str, float]]:
    """The seconds spent in each of `PARTS`, while they are at work."""
    spent = {name: 0.0 for _, name in PARTS}

    def timed(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def measured(*args: Passed, **kwargs: Passed) -> Passed:
            started = now("cpu")
            try:
                return run(*args, **kwargs)
            finally:
                spent[name] += now("cpu") - started

        return measured

    before = [(owner, name, vars(owner)[name]) for owner, name in PARTS]
    for owner, name, run in before:
        setattr(owner, name, timed(name, run))
    try:
        yield spent
    finally:
        for owner, name, run in before:
            setattr(owner, name, run)


def _config(trl: Passed, sizes: Sizes, folder: str, steps: int) -> Config:
    """TRL's configuration: a batch of rollouts for each update, and nothing beside it."""
    return trl.GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        max_steps=steps,
        per_device_train_batch_size=sizes.rollouts,
        num_generations=4,
        max_completion_length=sizes.length,
        generation_kwargs={"min_new_tokens": sizes.length},  # so that all steps have as many tokens
        learning_rate=1e-6,
    )
