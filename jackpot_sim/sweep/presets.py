"""The tables of `python -m jackpot_sim.sweep --presets`."""

from __future__ import annotations

from jackpot_sim import estimators
from jackpot_sim.estimators.corrections.presets import Preset
from jackpot_sim.studies.tables import FittedTable

_SHORT = {"proposed": "all", "accepted": "kept", "self_normalized": "own weights"}
"""The divisor of the sum, in a word."""


def presets_tables() -> list[FittedTable]:
    """The presets with what each becomes here, and the rules that no correction here expresses."""
    every = estimators.presets().values()
    known = FittedTable(
        "Presets: what training frameworks run",
        ["preset", "becomes"],
        {"divisor": 0, "version": 1},
        prose="note",
        recorded=False,
        caption=(
            "Estimators take a preset by its name, verl:gspo, or with the version that was read, verl@0.9.1:gspo; no "
            "other version is there. divisor: all tokens, the tokens kept, or own weights (--denominators proposed, "
            "accepted, self_normalized)."
        ),
        brief="divisor: all tokens, those kept, or own weights. --help PRESET tells of one.",
    )
    for preset in (each for each in every if each.parts):
        divisor = _SHORT[preset.denominator]
        known.add_row([preset.name, preset.becomes], [divisor, preset.version], _note(preset))
    tables = [known]
    if others := [each for each in every if not each.parts]:
        rest = FittedTable(
            "Rules that no correction here expresses", ["rule"], {"version": 0}, prose="reason", recorded=False
        )
        for preset in others:
            rest.add_row([preset.name], [preset.version], preset.note)
        tables.append(rest)
    return tables


def _note(preset: Preset) -> str:
    """Its readings of terms that frameworks use differently, and its note."""
    clips = any(part.kind == "ppo-clip" for part in preset.parts)
    bypass = "PPO's clip, of p_new/p_rollout." if clips else "p_new/p_rollout, no PPO clip."
    readings = [
        *([bypass] if preset.bypass else []),
        *([f"A sequence's ratio is {preset.sequence}."] if preset.sequence else []),
        *(["Bounds on 1/r."] if preset.inverted else []),
    ]
    return " ".join([*readings, *([preset.note] if preset.note else [])])
