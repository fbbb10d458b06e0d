"""A diagnosis made by hand, with everything in it that a report can show."""

from __future__ import annotations

from typing import Any

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
    Worst,
)


def figure(name: str, value: float | None, width: float = 0.1, meaning: str = "a figure, nats") -> Figure:
    ends = {} if value is None else {"low": value * (1 - width), "high": value * (1 + width)}
    return Figure(name=name, value=value, meaning=meaning, **ends)


def effect(name: str, kept: float = 1.0, **fields: Any) -> Effect:
    figures = {each: figure(each, kept) for each in ("kept", "signal", "ess")}
    own = {"kept_positive": kept, "kept_negative": kept, "effective_kl_reverse": 0.02 * kept, "weight_max": 2.0}
    return Effect(name=name, label=name, **figures, **own | fields)


def diagnosis(**fields: Any) -> Diagnosis:
    names = ("none", "tis", "mis", "jackpot", "token-mask", "tv-mask", "geometric-tis", "sequence-mask", "gspo")
    effects = [effect("verl:decoupled_token_is", 0.97), *(effect(each, 1 - i / 20) for i, each in enumerate(names))]
    whole: dict[str, Any] = {
        "jackpot_sim": "0.1.0",
        "source": {"paths": "rollouts", "format": "slime", "files": "3"},
        "verdict": Verdict(state=State.PROBLEM, sentence="The actor samples at temperature 0.8, which p ignores."),
        "causes": [
            Cause(
                name=CauseName.TEMPERATURE,
                confidence=0.97,
                evidence="ℓ falls by 0.25 per nat of log q",
                remedy="score the policy at the actor's temperature",
                figures={"slope": -0.25},
            ),
            Cause(name=CauseName.STALE, confidence=0.2, evidence="ℓ grows with lag", remedy="synchronise more often"),
        ],
        "advice": Advice(
            action="fix-cause",
            sentence="Fix the temperature; until then tis at 2.1 keeps 95 % of the signal.",
            target="keep at least 0.95 of the signal",
            correction="tis",
            threshold=figure("clip", 2.1),
            changes_mind=["a KL below 0.001"],
            configuration={"slime": "--use-tis\n--tis-clip 2.1", "verl": "rollout_is: token", "trl": "x = 1"},
        ),
        "metrics": [figure("k1", 0.02), figure("k3", 0.021), figure("chi-square", None)],
        "corrections": effects,
        "breakdowns": [
            Breakdown(
                by="position",
                rows=[
                    Row(slice=f"{low} to {low + 99}", tokens=1000, sequences=10, figures={"k1": low / 1e4, "k3": 0.02})
                    for low in range(0, 800, 100)
                ],
            )
        ],
        "alarms": [
            Alarm(name="k3", rule="mean k3 of a step above 0.01", step=3),
            Alarm(name="ess", rule="ESS of a step below 0.5", step=None),
        ],
        "worst_tokens": [
            Worst(
                place=f"rollouts/{i}.pt: sample 4",
                sequence=f"s{i}",
                position=i,
                token=17 + i,
                text=" the\n",
                actor_probability=0.5,
                policy_probability=0.001,
                log_ratio=-6.2,
            )
            for i in range(12)
        ],
        "worst_sequences": [
            Worst(
                place="rollouts/1.pt: sample 4",
                sequence="s1",
                position=None,
                actor_probability=None,
                policy_probability=None,
                log_ratio=-31.0,
            )
        ],
        "rows": Rows(
            read=12000,
            used=11000,
            sequences_read=120,
            sequences_used=119,
            left_out={"masked": 900, "zero-placeholder": 100},
            samples={"zero-placeholder": ["rollouts/1.pt: sample 4, token 0", "rollouts/1.pt: sample 5, token 0"]},
        ),
    }
    return Diagnosis(**whole | fields)
