"""The table of corrections in a terminal's report: the user's own, none, the advised one, and those that are common."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from jackpot_sim.diagnose.report.prose import number
from jackpot_sim.diagnose.results import Diagnosis, Effect, Figure
from jackpot_sim.studies.tables import FittedTable

COMMON = (
    *("tis", "mis", "tv-mask", "sequence-tis", "trl:sequence_mask", "verl:decoupled_geo_rs"),
    *("obrs", "jackpot"),
)
"""The corrections that are shown beside, where they can be applied: those that most runs use, at their defaults."""

_ROUNDING = 1e-12
"""A bias that is none but for rounding."""
_USUAL = (", floor=0", ", aggregate=sum", ", clip_on=weight")
"""Parameters at values that are left out where not all is shown."""

_COLUMNS = {
    "keep": 0,
    "ESS": 1,
    "bias": 2,
    "at random": 3,
    "tokens": 4,
    "max weight": 6,
    "KL left": 5,
    "A > 0": 7,
    "A < 0": 8,
    "weight p99": 9,
    "shortest": 10,
    "longest": 11,
    "signal": 12,
}
"""The columns, with their ranks where room is short."""

_LEGEND = (
    "keep, ESS, bias: as in --keep, --ess and --bias (bias: the total variation left); at random: the bias after "
    "rejecting as many at random, of sequences for their corrections. tokens: the share kept. KL left: KL(weighted "
    "actor‖policy), nats: at least −log(1 − s) under a mask that drops a share s of the policy's law. mis: IcePop; "
    "trl:sequence_mask: TRL's default; verl:decoupled_geo_rs: a geometric mask."
)
_BRIEF = "keep, ESS, bias: shares, as in --keep, --ess, --bias. --wide explains the rest."
_ON_WIDE = (
    " A > 0, A < 0: the weighted share of either sum of advantages. shortest, longest: tokens kept in either end "
    "quarter of lengths. signal: the share of Σ|A| of the tokens kept."
)


def shown_corrections(diagnosis: Diagnosis, own: int) -> list[Effect]:
    """The user's own corrections, none, the advised one, and the common ones; of equal ones the first alone."""
    known = {each.name: each for each in diagnosis.corrections}
    chosen = list(diagnosis.corrections[:own])
    labels = {each.label for each in chosen}
    for name in ("none", diagnosis.advice.correction, *COMMON):
        effect = known.get(name or "none")
        if effect is not None and effect.refused is None and effect.label not in labels:
            chosen.append(effect)
            labels.add(effect.label)
    return chosen


def corrections_table(diagnosis: Diagnosis, own: int, wide: bool) -> FittedTable:
    """The table of corrections, all of them if wide.

    Args:
        diagnosis: the diagnosis.
        own: the number of the user's own, which are the first.
        wide: True for all.
    """
    shown = diagnosis.corrections if wide else shown_corrections(diagnosis, own)
    more = len(diagnosis.corrections) - len(shown)
    missing = "".join(
        f" No {each.name}: {each.refused}." for each in diagnosis.corrections if each.refused and each.name in COMMON
    )
    table = FittedTable(
        _title(diagnosis, own, shown, wide),
        ["correction"],
        _COLUMNS if wide else {name: rank for name, rank in _COLUMNS.items() if rank < _COLUMNS["A > 0"]},
        recorded=False,
        caption=_LEGEND + _ON_WIDE,
        brief=f"{_BRIEF}{f' {more} more there.' if more else ''}{missing}",
    )
    for at, each in enumerate(shown):
        marks = ["yours"] * (at < own) + ["advised"] * (each.name == diagnosis.advice.correction)
        name = _name(each, wide) + (f" ({', '.join(marks)})" if marks else "")
        figures = dict(zip(_COLUMNS, _figures(each), strict=True))
        table.add_row([name], [figures[heading] for heading in table.figures])
    return table


def _title(diagnosis: Diagnosis, own: int, shown: Sequence[Effect], wide: bool) -> str:
    if wide:
        return f"All corrections of this very batch{', your own first' * bool(own)}"
    advised = any(each.name == diagnosis.advice.correction for each in shown[own:])
    order = (
        ["your own first"] * bool(own) + ["none"] + ["the advised one"] * advised + ["common ones at their defaults"]
    )
    return f"Corrections of this very batch: {', '.join(order)}"


def _name(effect: Effect, wide: bool) -> str:
    """A correction with its parameters; a preset by its name, and with its parameters if wide."""
    if effect.refused is not None:
        return f"{effect.name} ({effect.refused})"
    if not effect.label.startswith(effect.name.partition("(")[0]):
        return f"{effect.name}: {effect.label}" if wide else effect.name
    return effect.label if wide else functools.reduce(lambda text, part: text.replace(part, ""), _USUAL, effect.label)


def _figures(effect: Effect) -> list[str]:
    lengths = effect.by_length or [None]
    values = (
        effect.keep,
        _value(effect.ess),
        _rounded(effect.bias),
        effect.random_control.get("bias"),
        _value(effect.kept),
        effect.weight_max,
        effect.effective_kl_reverse,
        effect.kept_positive,
        effect.kept_negative,
        effect.weight_p99,
        lengths[0],
        lengths[-1],
        _value(effect.signal),
    )
    return [number(each) for each in values]


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def _rounded(bias: float | None) -> float | None:
    """A bias without what rounding makes of none."""
    return 0.0 if bias is not None and bias < _ROUNDING else bias
