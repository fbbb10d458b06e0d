"""The command line of `python -m jackpot_sim.bench`."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import psutil
from cyclopts import Parameter
from rich.console import Console
from threadpoolctl import threadpool_limits

from jackpot_sim.bench import estimation, figures, sequences, sweeping, vocabularies
from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.machine import idle_processors, machine
from jackpot_sim.bench.overhead import overhead
from jackpot_sim.bench.settings import DEFAULT, Options
from jackpot_sim.bench.timing import Finding
from jackpot_sim.commands import FLAG, answer, app_of
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable

MET, OPEN, MISSED = "met", "open", "MISSED"
_QUIET = 0.75
"""The least share of idle processors of a quiet machine."""


class Case(StrEnum):
    """The benchmarks."""

    FIGURE2 = "figure2"
    BUDGET = "budget"
    PATHS = "paths"
    CORRECTIONS = "corrections"
    VISITED = "visited"
    MEMORY = "memory"
    WORKERS = "workers"
    CLUSTER = "cluster"
    ENUMERATION = "enumeration"
    NORMALIZERS = "normalizers"
    OVERHEAD = "overhead"
    TRAINING = "training"
    DIAGNOSE = "diagnose"
    FUSED = "fused"
    REAL = "real"
    TRL = "trl"


def _normalizers() -> Iterator[Finding]:
    from jackpot_sim.bench.normalizers import normalizers

    return normalizers()


def _training() -> Iterator[Finding]:
    from jackpot_sim.bench.training import training

    return training()


def _fusing(tiny: bool) -> Iterator[Finding]:
    from jackpot_sim.bench import fusing

    return fusing.fusing(fusing.TINY if tiny else None)


def _real(model: str | None, tiny: bool) -> Iterator[Finding]:
    from jackpot_sim.bench import real_models

    return real_models.real_models(model, real_models.TINY if tiny else None)


def _correcting(model: str | None, tiny: bool) -> Iterator[Finding]:
    from jackpot_sim.bench import correcting

    return correcting.correcting(model, correcting.TINY if tiny else None)


def _diagnosing(tokens: int | None) -> Iterator[Finding]:
    from jackpot_sim.bench import diagnosing

    return diagnosing.diagnosing(diagnosing.TOKENS if tokens is None else tokens)


_CASES: dict[Case, Callable[[], Iterator[Finding]]] = {
    Case.FIGURE2: figures.figure2,
    Case.BUDGET: estimation.budget,
    Case.PATHS: estimation.paths,
    Case.CORRECTIONS: vocabularies.corrections,
    Case.VISITED: vocabularies.visited,
    Case.MEMORY: estimation.memory,
    Case.WORKERS: sweeping.workers,
    Case.CLUSTER: sweeping.cluster,
    Case.ENUMERATION: sequences.enumeration,
    Case.NORMALIZERS: _normalizers,
    Case.TRAINING: _training,
}
"""The benchmarks without options of their own."""

app = app_of(
    "jackpot_sim.bench",
    "Measure accuracy, speed and memory side by side, and compare each with its target.\n\n"
    "Targets of speed are ratios within this run: candidates take turns, and a ratio is the median over the rounds, "
    "with their range in brackets. Seconds are shown, and judged for diagnose alone. Where the rounds lie on both "
    "sides of a target the noise leaves it open, as do other programs that keep the machine busy. "
    "Exit codes: 0 no target missed, 1 one missed, 2 bad input.",
    "On a machine with a GPU `python -m jackpot_sim.bench gpu --minutes 10 --out records` runs what needs one, and "
    "`jackpot-sim figures overhead --records records/overhead.json` draws what corrections cost there.",
    default_parameter=Parameter(negative_iterable=(), consume_multiple=1),
)


@app.default
def bench(
    cases: tuple[Case, ...] = (),
    /,
    *,
    out: Path | None = None,
    tokens: int | None = None,
    tiny: Annotated[bool, FLAG] = False,
    model: str | None = None,
    options: Annotated[Options, Parameter(name="*", group="Options of overhead alone")] = DEFAULT,
) -> int:
    """Run benchmarks.

    Args:
        cases: The benchmarks, by default all: figure2 (acceptance and KL against the published points),
            budget (solve_lam), paths (thresholds), corrections (all of single tokens with all denominators at a
            vocabulary of 151,936), visited (the states of a real model's rollouts), memory, workers, cluster (500
            cells on a Ray cluster of two nodes against loky's processes), enumeration (every
            sequence of a small language model), normalizers (the cost and the error of each estimate of the overlap Z),
            overhead (the cost of corrections in a GRPO step; the last options are for it), training (a step of
            the training loop beside one of TRL's), diagnose (the pass over a dump, some minutes), fused (the overlap
            in one kernel, against the rate of a copy; on a GPU where there is one), real (a cell of a real model
            against plain loops, some minutes), trl (the cost of corrections in a step of TRL's GRPOTrainer). Overhead,
            training, enumeration, real and trl need torch and transformers, fused torch, training and trl trl too,
            cluster ray, and diagnose pyarrow.
        out: Also write the findings, the machine and the versions to this JSON file.
        tokens: The tokens of the dump of diagnose, by default 10 million.
        tiny: Small sizes for fused, real and trl, which show that they run.
        model: The checkpoint for real, by default a random one of SmolLM2-135M's shape; or for trl, by default a random
            one of 31 million parameters.
        options: The options of overhead.
    """
    cases = cases or tuple(Case)
    if Case.OVERHEAD not in cases and options != DEFAULT:
        given = [each.name for each in dataclasses.fields(Options) if getattr(options, each.name) != each.default]
        raise CannotMeasureError(
            f"--{given[0]} is an option of overhead alone: name overhead among the benchmarks, or leave it out"
        )
    if Case.DIAGNOSE not in cases and tokens is not None:
        raise CannotMeasureError("--tokens is an option of diagnose: name it among the benchmarks")
    if tiny and not {Case.FUSED, Case.REAL, Case.TRL} & set(cases):
        raise CannotMeasureError("--tiny is an option of fused, real and trl: name one among the benchmarks")
    if model is not None and not {Case.REAL, Case.TRL} & set(cases):
        raise CannotMeasureError("--model is an option of real and trl: name one among the benchmarks")
    runs = _CASES | {
        Case.OVERHEAD: lambda: overhead(options),
        Case.DIAGNOSE: lambda: _diagnosing(tokens),
        Case.FUSED: lambda: _fusing(tiny),
        Case.REAL: lambda: _real(model, tiny),
        Case.TRL: lambda: _correcting(model, tiny),
    }
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if out is not None and out.is_dir():
        raise CannotMeasureError(f"{out} is a folder: give a file to write")
    new = out is not None and not out.exists()
    if out is not None:
        try:
            out.touch()
        except OSError as error:
            raise unwritable(out, error) from error
    busy = _busy()
    findings: list[Finding] = []
    try:
        with threadpool_limits(limits=1):
            for case in cases:
                for count, finding in enumerate(runs[case]()):
                    # Options that cannot be are refused before anything is printed.
                    if busy and not findings:
                        console.print(busy)
                    if not count:
                        console.print(str(case), style="bold")
                    findings.append(finding)
                    console.print(_line(finding, bool(busy)))
    finally:  # hours of measuring are not lost because the last model did not fit
        if out is not None and new and not findings:
            out.unlink(missing_ok=True)
        elif out is not None and findings:
            written = {"machine": machine(), "findings": [_plain(finding) for finding in findings]}
            out.write_text(json.dumps(written, indent=1) + "\n")
    judged = [finding for finding in findings if finding.has_target]
    verdicts = [_verdict(finding, bool(busy)) for finding in judged]
    console.print(f"{verdicts.count(MET)} of {len(judged)} targets met")
    for word, verdict in (("missed", MISSED), ("left open by the noise", OPEN)):
        for finding, its in zip(judged, verdicts, strict=True):
            if its == verdict:
                console.print(f"  {word}: {finding.what}")
    if noise := [finding.noise for finding in findings if len(finding.rounds) > 1]:
        console.print(f"Noise: the rounds of a timed figure lie within {_percent(noise)} of its median.")
    return 1 if MISSED in verdicts else 0


@app.command(name="gpu")
def on_gpu(
    *,
    minutes: float = 10.0,
    out: Path = Path("records"),
    device: str = "cuda",
    model: str = "smollm2",
    tiny: Annotated[bool, FLAG] = False,
) -> int:
    """Run all that needs a GPU, in order of worth, and leave records of it.

    The tests that need CUDA, the cost of corrections in steps of Qwen3's shapes, the ways to Z at a vocabulary of
    151,936 and the fused kernel against the rate of a copy, and a real model swept and trained. What does not fit into
    the time is left out, and OUT/gpu.json says so.

    Args:
        minutes: The time for all of it.
        out: The folder of the records.
        device: cuda; or cpu, with --tiny, to see that the command runs.
        model: The policy of the sweeps and of training: a name, a checkpoint's folder, or a GGUF file.
        tiny: Take a tiny random model, and sizes for a minute or two.
    """
    from jackpot_sim.bench import gpu

    console = Console(highlight=False, soft_wrap=True, markup=False)
    return 0 if gpu.measure(out, minutes, model, device, tiny, console.print) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs benchmarks and prints their targets, met or missed; the exit code."""
    return answer(app, "bench", argv, failures=(CannotMeasureError, StudyError))


def _busy() -> str:
    """The sentence about a machine on which other programs run; empty on a quiet one."""
    processors, idle = psutil.cpu_count() or 1, idle_processors()
    if idle > _QUIET * processors:
        return ""
    return (
        f"This machine is busy: {processors - idle:.1f} of {processors} processors were in use before. Ratios are "
        "still taken within each round, but the rounds differ more, and other programs slow some work more than other. "
        "So no target of speed counts as missed: measure again on a quiet machine."
    )


def _percent(noise: Sequence[float]) -> str:
    usual, most = (f"±{100 * each:.0f} %" for each in (statistics.median(noise), max(noise)))
    return f"{usual} (median of {len(noise)} figures; the noisiest {most})"


def _verdict(finding: Finding, busy: bool) -> str:
    """The word on a finding with a target; what is timed on a busy machine is not missed, but open."""
    missed = OPEN if busy and finding.rounds else MISSED
    return {None: OPEN, True: MET, False: missed}[finding.met]


def _line(finding: Finding, busy: bool) -> str:
    target = ""
    if finding.at_most is not None:
        target = f"at most {finding.at_most:g}"
    elif finding.at_least is not None:
        target = f"at least {finding.at_least:g}"
    verdict = _verdict(finding, busy) if finding.has_target else ""
    note = f"({finding.note})" if finding.note else ""
    several = f"[{min(finding.rounds):.3g}, {max(finding.rounds):.3g}]" if finding.rounds else ""
    figure = f"{finding.value:10.4g} {finding.unit:4s} {several:16s}"
    return f"  {finding.what:58s} {figure} {target:16s} {verdict:6s} {note}".rstrip()


def _plain(finding: Finding) -> dict[str, object]:
    return dataclasses.asdict(finding) | {"met": finding.met}
