"""A diagnosis whose numbers are made up, so that what a page should say of it is known."""

from __future__ import annotations

import json
from pathlib import Path

from jackpot_sim.diagnose.results import (
    Advice,
    Alarm,
    Breakdown,
    Cause,
    CauseName,
    Diagnosis,
    Effect,
    Figure,
    Row,
    Rows,
    State,
    Verdict,
)

SENTENCE = "The mean |p − q| is 0.02 (0.01 to 0.04), above the line 0.01"


def write(root: Path, paths: str = "rollouts.parquet") -> Path:
    """The folder of a diagnosis of the dump `paths`."""
    slices = {"0": 0.001, "1": 0.004, "2–3": 0.016}
    diagnosis = Diagnosis(
        jackpot_sim="0.0.1",
        source={"paths": paths, "format": "plain", "files": "1"},
        verdict=Verdict(state=State.PROBLEM, sentence=SENTENCE),
        causes=[Cause(name=CauseName.STALE, confidence=0.9, evidence="It grows with lag", remedy="Sync more often")],
        advice=Advice(action="fix-cause", sentence="Fix it", target="the default", changes_mind=["more tokens"]),
        metrics=[
            Figure(name="probability_gap", value=0.02, low=0.01, high=0.04, meaning="mean |p − q|"),
            Figure(name="k3", value=0.005, meaning="mean k3, nats"),
            Figure(name="k1", value=-0.003, low=-0.01, high=0.004, meaning="mean log q − log p, nats"),
        ],
        corrections=[
            Effect(
                name="tis",
                label="tis(clip=2)",
                bias=0.1,
                signal=Figure(name="signal", value=0.9, low=0.8, high=0.95, meaning="share"),
                kept=Figure(name="kept", value=1.0, meaning="share"),
            ),
            Effect(name="obrs", label="obrs(lam=1)", refused="the dump has no laws"),
        ],
        breakdowns=[
            Breakdown(
                by="position",
                rows=[
                    Row(slice=name, tokens=9, sequences=3, figures={"k3": k3, "k1": -k3, "abs_log_ratio_mean": None})
                    for name, k3 in slices.items()
                ],
            )
        ],
        alarms=[Alarm(name="overlap", rule="below 0.8", step=7), Alarm(name="k3", rule="above 1", step=None)],
        worst_tokens=[],
        worst_sequences=[],
        rows=Rows(read=30, used=27, sequences_read=3, sequences_used=3, left_out={"masked": 3}, samples={}),
    )
    root.mkdir(parents=True)
    (root / "report.json").write_text(diagnosis.model_dump_json())
    (root / "manifest.json").write_text(json.dumps({"diagnosis": {"paths": paths}, "config_hash": "0", "commit": "c0"}))
    return root
