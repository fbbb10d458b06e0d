"""The models that the tiny runs begin with, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.tiny import MODES, study_of


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the policy and the actor of all modes, for seeds 0 and 1."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from jackpot_sim.training.models.preparation import pairs, prepare

    folder = tmp_path_factory.mktemp("models")
    for pair in pairs(study_of({"methods": MODES, "seeds": 2}).runs):
        prepare(pair, folder)
    return folder
