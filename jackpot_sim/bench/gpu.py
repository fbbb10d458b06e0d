"""Everything that a GPU is needed for, as one command: in order of worth, within some minutes, with records.

Each stage is a command of its own in a process of its own: one that fails, or takes too long, costs no other. What a
stage writes lies in the folder of records; `gpu.json` there tells the machine, the versions, and how each stage ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.machine import machine
from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.studies.files import unwritable
from jackpot_sim.training.models.preparation import save_model
from jackpot_sim.training.tasks.characters import PRINTABLE, character_tokenizer

SUMMARY = "gpu.json"
LEAST = 5.0
"""The fewest seconds for which a stage is begun."""


@dataclass(frozen=True)
class Stage:
    """One part of the measurement.

    Attributes:
        name: its name, and that of its log in the folder of records.
        purpose: what it tells.
        command: the command, without Python itself.
        most: the most minutes that it may take of the whole.
        needs: a path without which it is left out; None: nothing.
    """

    name: str
    purpose: str
    command: tuple[str, ...]
    most: float
    needs: Path | None = None


@dataclass(frozen=True)
class Ended:
    """The end of a stage: `done`, `failed`, `cut off` or `left out`, after so many seconds."""

    name: str
    purpose: str
    command: str
    outcome: str
    seconds: float
    last_line: str = ""


def stages(folder: Path, model: str, device: str, tiny: bool) -> list[Stage]:
    """The stages, those that are worth most first; their inputs are written into `folder`."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(f"{json.dumps(each)}\n" for each in _sums(8 if tiny else 64)), encoding="utf-8")
    shapes = ("tiny",) if tiny else ("qwen3-0.6b", "qwen3-1.7b", "qwen3-8b")
    size, steps = ("4", "2") if tiny else ("32", "30")
    bench, tests = ("-m", "jackpot_sim.bench"), Path("tests/core" if tiny else "tests")
    sweep = (
        *("-m", "jackpot_sim.sweep", "--env.kind", "hf", "--env.policy", model, "--env.prompts.path", str(prompts)),
        *("--env.prompts.limit", "2" if tiny else "16", "--env.length", size, "--env.device", device),
        *("--env.actor.kind", "precision", "--env.actor.precision"),
    )
    training = (
        *("-m", "jackpot_sim.training", "--policy", model, "--task", "prompts", "--task.prompts", str(prompts)),
        *("--task.reward.kind", "answer", "--rollout.length", size, "--steps", steps, "--seeds", "1"),
        *("--rollout.prompts", "4", "--evaluation.problems", "8", "--device", device, "--correction", "tis"),
        *("--actor.kind", "served", "--actor.source.kind", "quantized-weights", "--actor.source.format", "bf16"),
        *("--actor.source.share", "1"),
    )
    overhead = (*bench, "overhead", "--shape", *shapes, "--device", device, "--out", str(folder / "overhead.json"))
    short = ("--length", "8", "--rounds", "1") if tiny else ()
    return [
        Stage("tests", "the tests that need CUDA", ("-m", "pytest", "-m", "cuda", str(tests)), 2.0, tests),
        Stage("overhead", "what corrections cost in a step", (*overhead, *short), 4.0),
        Stage(
            "fused",
            "ways to Z, and the fused kernel against the copy rate",
            (*bench, "fused", *(("--tiny",) if tiny else ()), "--out", str(folder / "fused.json")),
            1.5,
        ),
        *(
            Stage(f"sweep-{each}", f"a model and itself in {each}", (*sweep, each, "--out", f"{folder}/{each}"), 1)
            for each in ("bf16", "fp16")
        ),
        Stage("training", "a real model trained", (*training, "--out", str(folder / "training")), 3.0),
    ]  # fmt: skip


def measure(folder: Path, minutes: float, model: str, device: str, tiny: bool, report: Callable[[str], None]) -> bool:
    """Runs the stages within `minutes`, and tells of each; True where none failed.

    Raises:
        CannotMeasureError: there is no such device, or no minute.
        StudyError: the folder cannot be written.
    """
    if not minutes > 0:
        raise CannotMeasureError(f"minutes must be positive, got {minutes:g}")
    _require(device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if tiny:
            model = str(_tiny_model(folder / "model"))
        planned = stages(folder, model, device, tiny)
    except OSError as error:
        raise unwritable(folder, error) from error
    end, ended = time.monotonic() + 60 * minutes, list[Ended]()
    for stage in planned:
        ended.append(_run(stage, folder, end))
        last = ended[-1]
        report(f"{stage.name}: {last.outcome}, {last.seconds:.0f} s{': ' + last.last_line if last.last_line else ''}")
        told = {
            "machine": machine(),
            "minutes": minutes,
            "device": device,
            "tiny": tiny,
            "stages": list(map(asdict, ended)),
        }
        (folder / SUMMARY).write_text(f"{json.dumps(told, indent=1)}\n", encoding="utf-8")
    return not any(each.outcome == "failed" for each in ended)


def _run(stage: Stage, folder: Path, end: float) -> Ended:
    """The stage in a process group of its own, which is killed with all its children when its time is over."""
    command = " ".join(("python", *stage.command))
    limit = min(60 * stage.most, end - time.monotonic())
    if stage.needs is not None and not stage.needs.exists():
        return Ended(stage.name, stage.purpose, command, "left out", 0.0, f"there is no {stage.needs} here")
    if limit < LEAST:
        return Ended(stage.name, stage.purpose, command, "left out", 0.0, "no time is left")
    started, log = time.monotonic(), folder / f"{stage.name}.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, *stage.command], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            # Exit code 1 is a target that was missed, and 5 of pytest no test at all: both are findings.
            code = process.wait(limit)
            outcome = "done" if code in (0, 1, 5) and not (stage.name == "tests" and code == 1) else "failed"
        except subprocess.TimeoutExpired:
            outcome = "cut off"
        finally:
            _kill(process)
    last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1][:200]
    return Ended(stage.name, stage.purpose, command, outcome, time.monotonic() - started, last)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _require(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise CannotMeasureError("torch finds no CUDA device: try the command with --device cpu --tiny")
    if device not in ("cpu", "cuda"):
        raise CannotMeasureError(f"device must be cpu or cuda, got {device!r}")


def _sums(count: int) -> Sequence[dict[str, str]]:
    """Sums of two digits, a prompt and its answer each."""
    return [{"prompt": f"{one}+{two}=", "answer": str(one + two)} for one in range(1, 10) for two in range(1, 10)][
        :count
    ]


def _tiny_model(folder: Path) -> Path:
    """A random model of a few thousand parameters with a tokenizer of characters, saved once."""
    if not folder.is_dir():
        import torch

        tokenizer = character_tokenizer(PRINTABLE)
        model = build(TinyQwen3(), len(tokenizer), np.random.default_rng(0)).to(torch.float32)
        save_model(model, tokenizer, folder)
    return folder
