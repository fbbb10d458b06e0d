"""What environments of real models are called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jackpot_sim.sweep.labels import labels, settings


def environment(**changes: Any) -> str:
    fields = {
        "kind": "hf",
        "policy": "models/policy",
        "actor": {"kind": "checkpoint", "path": "models/actor", "precision": None, "target_kl": None},
        "prompts": {"kind": "file", "path": "p.txt"},
        "temperature": 1.0,
        "top_k": None,
        "top_p": 1.0,
        "log_probs": "processed",
        "precision": "fp32",
        "threads": 1,
        "device": "auto",
    }
    return json.dumps(fields | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "checkpoint on hf policy=policy actor=actor"),
        ({"top_k": 1}, "checkpoint on hf policy=policy actor=actor top_k=1"),
        ({"top_p": 0.9}, "checkpoint on hf policy=policy actor=actor top_p=0.9"),
        ({"log_probs": "raw"}, "checkpoint on hf policy=policy actor=actor log_probs=raw"),
        ({"precision": "bf16"}, "checkpoint on hf policy=policy actor=actor policy_precision=bf16"),
        ({"temperature": 0.5}, "checkpoint on hf policy=policy actor=actor temperature=0.5"),
        ({"actor": {"kind": "stale", "steps": 1}}, "stale on hf policy=policy steps=1"),
        ({"actor": {"kind": "precision", "precision": "bf16"}}, "precision on hf policy=policy precision=bf16"),
        (
            {"actor": {"kind": "quantized-weights", "format": "int8", "target_kl": 0.1}},
            "quantized-weights on hf target_kl=0.1 policy=policy format=int8",
        ),
    ],
)
def test_one_environment_tells_what_is_not_usual(changes: dict[str, Any], told: str) -> None:
    name = environment(**changes)
    assert labels([name]) == {name: told}


def test_several_tell_what_differs_and_checkpoints_by_what_tells_them_apart() -> None:
    first, second = (environment(policy=f"run{number}/step") for number in (1, 2))
    assert list(labels([first, second]).values()) == [f"checkpoint on hf policy=run{number}/step" for number in (1, 2)]
    prefix = [environment(policy=each) for each in ("a/b", "c/a/b")]
    assert len(set(labels(prefix).values())) == 2
    fast = [environment(device=device, temperature=heat) for device, heat in (("cpu", 0.5), ("cuda", 0.7))]
    assert [each.split()[3:] for each in labels(fast).values()] == [["temperature=0.5"], ["temperature=0.7"]]


def test_settings_stand_beside_the_knob() -> None:
    name = environment(actor={"kind": "stale", "steps": 4})
    assert settings([name], "steps") == {name: ["policy=policy"]}


def test_states_tell_the_log_probs_that_are_not_usual() -> None:
    nucleus = {"kind": "top-p", "p": 0.9, "target_kl": None, "base": {"kind": "zipf", "vocab": 9}}
    told = {**nucleus, "log_probs": "support"}
    target = {**told, "p": None, "target_kl": 0.1}
    for fields, wanted in (
        (nucleus, "top-p on zipf p=0.9"),
        (told, "top-p on zipf p=0.9 log_probs=support"),
        (target, "top-p on zipf target_kl=0.1 log_probs=support"),
    ):
        name = json.dumps(fields)
        assert labels([name]) == {name: wanted}
    both = [json.dumps(each) for each in (nucleus, told)]
    assert list(labels(both).values()) == ["top-p on zipf p=0.9", "top-p on zipf p=0.9 log_probs=support"]
