"""The report on a terminal, top down: the verdict, the cause, what to do, and then the evidence."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from jackpot_sim.commands import in_ascii
from jackpot_sim.diagnose.report import evidence
from jackpot_sim.diagnose.report.prose import filled, item, listed, pasted, told
from jackpot_sim.diagnose.results import Advice, Diagnosis
from jackpot_sim.studies.tables import FittedTable, print_table

LIKELY = 2
"""The causes that are shown where not all are."""
UNAIMED = ("none-needed", "fix-cause")
"""The advice that no target has a part in."""


def show(diagnosis: Diagnosis, output: Console, *, own: int = 0, wide: bool = False) -> None:
    """Prints the report.

    Args:
        diagnosis: the diagnosis.
        output: a terminal's console, or any other.
        own: the number of corrections that the user has named, which are the first.
        wide: all of it, where otherwise what matters least gives way to a report of two screens.
    """
    ascii_only = output.options.ascii_only
    first = True
    for each in _parts(diagnosis, output.width, own, wide):
        if isinstance(each, FittedTable):
            print_table(output, each, wide=wide)
        else:
            text = in_ascii(each) if ascii_only else each
            output.print(Text(text, style="bold" if first else ""), soft_wrap=True)
        first = False


def _parts(diagnosis: Diagnosis, width: int, own: int, wide: bool) -> Iterator[str | FittedTable]:
    verdict = diagnosis.verdict
    yield filled(f"{verdict.state.upper()}: ", _sentence(verdict.sentence), width)
    yield ""
    yield from _causes(diagnosis, width, wide)
    yield from _advice(diagnosis, width, wide)
    yield from evidence.parts(diagnosis, width, own, wide)


def _causes(diagnosis: Diagnosis, width: int, wide: bool) -> Iterator[str]:
    if not diagnosis.causes:
        yield item("Cause", "None is more than chance in these tokens.", width)
    shown = diagnosis.causes if wide else diagnosis.causes[:LIKELY]
    for at, cause in enumerate(shown):
        sentence = f"{cause.name} ({cause.confidence:.0%} sure): {_sentence(cause.evidence)}"
        yield item("Cause" if at == 0 else "or perhaps", sentence, width)
        if cause.remedy != diagnosis.advice.sentence:
            yield item("", f"Remedy: {_sentence(cause.remedy)}", width)
    if others := [f"{cause.name} ({cause.confidence:.0%})" for cause in diagnosis.causes[len(shown) :]]:
        yield item("", f"Less likely: {listed(others)}.", width)


def _advice(diagnosis: Diagnosis, width: int, wide: bool) -> Iterator[str]:
    advice = diagnosis.advice
    yield item("What to do", _sentence(advice.sentence), width)
    if advice.threshold is not None:
        threshold = f"{advice.threshold.name} {told(advice.threshold)}"
        yield item("", f"Threshold: {threshold}, of the target: {_sentence(advice.target)}", width)
    elif advice.action not in UNAIMED:
        yield item("", f"Target: {_sentence(advice.target)}", width)
    frameworks = _frameworks(diagnosis.source.get("format", ""), advice)
    shown = frameworks if wide else frameworks[:1]
    for name in shown:
        yield item("", f"Lines for {name}:", width)
        yield pasted(advice.configuration[name])
    if others := frameworks[len(shown) :]:
        yield item("", f"Lines for {listed(others)}: --wide, or --json.", width)
    if advice.changes_mind:
        yield item("", f"It would change with: {'; '.join(advice.changes_mind)}.", width)


def _frameworks(format_: str, advice: Advice) -> list[str]:
    """The frameworks that there are lines for: that of the dump first, then that of the correction's name."""
    first = [format_, (advice.correction or "").partition(":")[0].partition("@")[0]]
    known = list(advice.configuration)
    return sorted(known, key=lambda name: (first.index(name) if name in first else len(first), known.index(name)))


def _sentence(text: str) -> str:
    """A sentence that begins and ends as one."""
    whole = text.strip()
    return whole if whole.endswith((".", "!", "?")) else f"{whole}."
