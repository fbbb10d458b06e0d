"""The lines of docs/trainers.md that users of slime, miles, prime-rl and SkyRL paste are read as these trainers do."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from jackpot_sim import estimators
from jackpot_sim.integrations import packed, prime_rl

PAGE = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text(encoding="utf-8")


def blocks(section: str, language: str) -> list[str]:
    """The snippets of a section in a language."""
    (text,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_yaml_of_slime_and_miles_names_a_correction() -> None:
    (text,) = blocks("slime and miles", "yaml")
    args = SimpleNamespace(**yaml.safe_load(text))
    assert packed.settings_of(args).correction == estimators.get("jackpot", c1=3.0)


def test_the_paths_on_the_page_are_functions() -> None:
    paths = re.findall(r"jackpot_sim\.integrations\.\w+\.\w+(?= ?[\"`\n])", PAGE)
    assert {path.split(".")[2] for path in paths} >= {"slime", "miles", "prime_rl"}
    for path in paths:
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_toml_of_prime_rl_names_a_correction() -> None:
    (text,) = blocks("prime-rl", "toml")
    kwargs = tomllib.loads(text)["trainer"]["loss"]["kwargs"]
    assert prime_rl.settings_of(**kwargs).correction == estimators.get("jackpot", c1=3.0)


def test_the_lines_of_skyrl_register_a_loss_by_the_name_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[str, Any] = {}
    module = types.ModuleType("skyrl.backends.skyrl_train.utils.ppo_utils")
    vars(module)["PolicyLossRegistry"] = SimpleNamespace(register=held.__setitem__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (text,) = blocks("SkyRL", "python")
    exec(text, {})
    (name,) = held
    assert held[name].settings.correction == estimators.get("jackpot", c1=3.0)
    assert f"trainer.algorithm.policy_loss_type={name}" in blocks("SkyRL", "text")[0]
