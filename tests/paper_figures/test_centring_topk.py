"""The figure of centring from the top-k: from a study of its shape but smaller, and what its verdict hangs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import spec
from jackpot_sim.sweep.topk_centring import errors
from paper_figures import centring_topk, records
from paper_figures.centring_topk import FLAT, KS, LAWS, NAME, judge, load, main

STUDY: dict[str, Any] = {
    "env": [
        {"kind": "logit-noise", "base": {"kind": "lm-like", "vocab": 400, "states": 8}, "target_kl": 0.05},
        {"kind": "logit-noise", "base": {"kind": FLAT, "vocab": 400, "states": 8}, "target_kl": 0.05},
    ],
    "estimators": ["none", {"kind": "tis", "clip": 2}],
    "seeds": 2,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    pd.DataFrame(errors(spec.parse(STUDY), KS)).to_parquet(folder / f"{NAME}.parquet")
    return folder


def test_it_draws_and_says_what_k_is_enough(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--records", str(root), "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{NAME}.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "VERDICT: to leave at most 5% of an uncorrected update's mean term h" in printed
    assert "on a flat law an update without one misses" in printed


def test_the_verdict_hangs_on_what_is_left(root: Path) -> None:
    rows = load(NAME, root).rows
    plain, tis = rows[rows["estimator"] == "none"], rows[rows["estimator"] == "tis(clip=2)"]
    np.testing.assert_allclose(plain["left"], plain["error"], rtol=1e-12)
    assert tis["left"].max() < 0.5 * tis["error"].max()
    assert rows[rows["k"] > 400]["error"].max() < 1e-9
    sentence, enough = judge(rows)
    assert enough
    assert "is enough; trainers' k = 128 leaves up to" in sentence
    sentence, enough = judge(rows.assign(left=1.0))
    assert not enough
    assert "no k up to 1024 is enough; trainers' k = 128 leaves up to 100.0%" in sentence
    assert judge(rows.assign(left=rows["left"].where(rows["law"] != FLAT, 1.0)))[1]


def test_its_own_study_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = records.study(NAME)
    assert {env.base_kind for env in study.env} == set(LAWS)
    assert "none" in [each.label for each in study.estimators]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "study", lambda _: spec.parse(STUDY))
    monkeypatch.setattr(centring_topk, "KS", (1, 128))
    first = load(NAME, None, rerun=True).rows
    monkeypatch.setattr(centring_topk, "errors", lambda *_: 1 / 0)
    assert load(NAME, None, rerun=True).rows.equals(first)
    with pytest.raises(StudyError, match=r"not of configs/centring_topk\.yaml as it is: --rerun measures those"):
        load(NAME, None)
    monkeypatch.setattr(centring_topk, "KS", (1, 64))
    with pytest.raises(ZeroDivisionError):
        load(NAME, None, rerun=True)


def test_a_folder_without_errors_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no centring_topk\.parquet: --rerun measures it"):
        load(NAME, tmp_path)
