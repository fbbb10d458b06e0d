"""Studies: what a mapping means, and what is refused, in one sentence that names the field."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from jackpot_sim.environments.states.families import LogitNoise
from jackpot_sim.estimators import Denominator
from jackpot_sim.studies.configuration import read_mapping
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import plan, spec
from jackpot_sim.sweep.cli import split_env_options, study_from
from jackpot_sim.sweep.spec import Method, Study
from tests.sweep.studies import SMALL, small

ENV: dict[str, Any] = {"kind": "logit-noise", "sigma": 0.1}


def study(**changes: Any) -> Study:
    return spec.parse({"env": ENV, "estimators": ["none"]} | changes)


def error_of(**changes: Any) -> str:
    with pytest.raises(StudyError) as caught:
        study(**changes)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- the grid ---------------------------------------------------------------------------------------------


def test_a_study_has_a_cell_for_each_environment_and_seed_in_their_order() -> None:
    made = study(
        env={"kind": "logit-noise", "sigma": [0.1, 0.2], "base": {"kind": ["dirichlet", "zipf"], "vocab": 9}},
        seeds=[3, 1],
    )
    cells = plan.cells(made)
    assert [(c.env.sigma, c.env.base.kind, c.seed) for c in cells] == [  # type: ignore[attr-defined]
        (sigma, base, seed) for sigma in (0.1, 0.2) for base in ("dirichlet", "zipf") for seed in (3, 1)
    ]
    assert len({cell.id for cell in cells}) == len(cells)
    assert cells[0].env.base.vocab == 9  # type: ignore[union-attr]


def test_a_cells_name_depends_on_its_environment_and_seed_alone() -> None:
    alone = plan.cells(study(seeds=[1]))[0]
    among = plan.cells(study(env=[{"kind": "top-k", "k": 5}, ENV], estimators=["is"], seeds=2, n_samples=9))[3]
    assert alone.id == among.id
    assert len({plan.cells(study(env=ENV | change))[0].id for change in ({}, {"sigma": 0.2}, {"base": BASE})}) == 3


BASE = {"kind": "dirichlet", "vocab": 1001}


def test_seeds_are_a_list_or_a_number_of_them() -> None:
    assert study().seeds == study(seeds=3).seeds == study(seeds="3").seeds == (0, 1, 2)
    assert study(seeds=[7, 2]).seeds == (7, 2)


# --- estimators -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ("tis", "tis"),
        ({"kind": "tis"}, "tis"),
        ({"kind": "tis", "clip": 2}, "tis(clip=2)"),
        ({"kind": "tis", "parameters": {"clip": 2.0}}, "tis(clip=2)"),
        ({"kind": "mis", "low": 0.5, "high": 5}, "mis(high=5, low=0.5)"),
        ({"kind": "mis", "parameters": {"low": 0.5}, "high": 5}, "mis(high=5, low=0.5)"),
        ({"kind": "obrs", "acceptance_rate": 0.9}, "obrs(acceptance=0.9)"),
        ({"kind": "obrs", "acceptance_rate": 0.9, "per_state": False}, "obrs(acceptance=0.9 of batch)"),
        ({"kind": "jackpot", "c1": 4, "rao_blackwell": True}, "rao-blackwell(jackpot(c1=4))"),
        ({"kind": "tis", "clip": 2.0000001}, "tis(clip=2.0000001)"),
    ],
)
def test_forms_and_labels_of_estimators(given: Any, label: str) -> None:
    assert study(estimators=[given]).estimators[0].label == label
    assert study(estimators=given).estimators[0].label == label


def test_lists_of_parameters_are_axes() -> None:
    labels = [each.label for each in study(estimators=["is", {"kind": "tis", "clip": [1.5, 2]}]).estimators]
    assert labels == ["is", "tis(clip=1.5)", "tis(clip=2)"]


# --- files and overrides ----------------------------------------------------------------------------------

YAML = """
env:
  - {kind: logit-noise, sigma: [0.1, 1e-3], base: {kind: zipf, vocab: 50, states: 4}}
  - {kind: top-k, k: 5}
estimators: [none, {kind: tis, clip: [1.5, 2]}]
denominators: [proposed, accepted]
seeds: [0, 4]
methods: [exact, monte_carlo]
"""

TOML = """
estimators = ["none", {kind = "tis", clip = [1.5, 2.0]}]
denominators = ["proposed", "accepted"]
seeds = [0, 4]
methods = ["exact", "monte_carlo"]
[[env]]
kind = "logit-noise"
sigma = [0.1, 0.001]
base = {kind = "zipf", vocab = 50, states = 4}
[[env]]
kind = "top-k"
k = 5
"""


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    studies = []
    for name, text in (("a.yaml", YAML), ("a.yml", YAML), ("a.toml", TOML)):
        (tmp_path / name).write_text(text)
        studies.append(spec.parse(read_mapping(tmp_path / name)))
    assert studies[0] == studies[1] == studies[2]
    assert len({each.config_hash for each in studies}) == 1
    assert studies[0].denominators == (Denominator.PROPOSED, Denominator.ACCEPTED)
    assert studies[0].methods == (Method.EXACT, Method.MONTE_CARLO)
    assert len(plan.cells(studies[0])) == 6


def test_the_default_study_is_bundled() -> None:
    made = spec.parse(spec.bundled())
    assert made.name == "default"
    assert len(plan.cells(made)) == 72


def test_a_study_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "my first study!.yaml").write_text(YAML)
    (tmp_path / "b.yaml").write_text(YAML + "name: own\n")
    assert study_from(tmp_path / "my first study!.yaml", {}, False).name == "my-first-study-"
    assert study_from(tmp_path / "b.yaml", {}, False).name == "own"


def test_env_options_with_a_kind_replace_the_environments() -> None:
    merged = spec.with_overrides(SMALL, {}, {"kind": "top-p", "p": ["0.9", "0.5"]})
    made = spec.parse(merged)
    assert [(each.kind, each.p) for each in made.env] == [("top-p", 0.9), ("top-p", 0.5)]  # type: ignore[union-attr]


@pytest.mark.parametrize("base", [BASE, [BASE, BASE | {"kind": "zipf"}], {"kind": ["dirichlet", "zipf"]}])
def test_env_options_without_a_kind_change_every_environment(base: Any) -> None:
    below = {"env": [ENV | {"base": base}, {"kind": "top-k", "k": 5, "base": base}], "estimators": ["none"]}
    before, after = spec.parse(below), spec.parse(spec.with_overrides(below, {}, {"base": {"vocab": "77"}}))
    assert {each.base.vocab for each in after.env} == {77}  # type: ignore[union-attr]
    assert [(e.kind, e.base.kind) for e in after.env] == [(e.kind, e.base.kind) for e in before.env]


def test_fields_override_the_file_and_leave_it_alone() -> None:
    given = {"env": ENV, "estimators": ["none"], "seeds": 5}
    assert spec.parse(spec.with_overrides(given, {"seeds": 1}, {})).seeds == (0,)
    assert given["seeds"] == 5


def test_the_rao_blackwell_option_adds_every_form_once() -> None:
    fields = {"estimators": ["none", {"kind": "jackpot"}, {"kind": "jackpot", "rao_blackwell": True}]}
    made = study_from(None, {}, True, **fields)
    assert [each.label for each in made.estimators] == [
        "none",
        "jackpot",
        "rao-blackwell(jackpot)",
    ]
    assert made.config_hash == study_from(None, {}, False, estimators=fields["estimators"]).config_hash


def test_the_centred_option_adds_every_form_of_single_tokens_once() -> None:
    fields = {"estimators": ["none", "jackpot", {"kind": "none", "centred": True}]}
    plain = ["none", "jackpot", "centred(none)"]
    made = study_from(None, {}, False, True, **fields)
    assert [each.label for each in made.estimators] == [*plain, "centred(jackpot)"]
    both = study_from(None, {}, True, True, **fields)
    assert [each.label for each in both.estimators] == [
        *plain,
        "rao-blackwell(jackpot)",
        "centred(jackpot)",
        "centred(rao-blackwell(jackpot))",
    ]
    mixed = study_from(None, {"kind": "small-lm"}, False, True, estimators=["tis", "sequence-is", "m2po"])
    assert [each.label for each in mixed.estimators] == ["tis", "sequence-is", "m2po", "centred(tis)"]


def test_real_models_centre_too() -> None:
    hf = {"kind": "hf", "policy": "a", "actor": "b", "prompts": "c.jsonl"}
    made = study_from(None, hf, False, True, estimators=["tis", "gspo"])
    assert [each.label for each in made.estimators] == ["tis", "gspo", "centred(tis)"]


# --- the hash ---------------------------------------------------------------------------------------------


def test_the_hash_is_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change here orphans every run on disk: make it only together with what the records say."""
    monkeypatch.setattr(spec, "VERSION", "0.3.0")
    assert small().config_hash == "720cdec2dc310fea"
    assert json.loads(json.dumps(SMALL)) == SMALL


def test_another_version_is_another_study(monkeypatch: pytest.MonkeyPatch) -> None:
    before = small().config_hash
    monkeypatch.setattr(spec, "VERSION", "other")
    assert small().config_hash != before


def test_other_contents_of_a_file_are_another_study(tmp_path: Path) -> None:
    def of_file() -> str:
        base = {"kind": "logits-file", "path": str(tmp_path / "logits.npy")}
        return small(env={"kind": "logit-noise", "sigma": 0.1, "base": base}).config_hash

    np.save(tmp_path / "logits.npy", np.zeros((2, 3)))
    first = of_file()
    assert of_file() == first
    np.save(tmp_path / "logits.npy", np.ones((2, 3)))
    assert of_file() != first
    (tmp_path / "logits.npy").unlink()
    with pytest.raises(StudyError, match=r"logits\.npy"):
        of_file()


def test_a_target_laid_over_a_study_takes_the_place_of_its_knobs() -> None:
    mapping = {"env": [{"kind": "logit-noise", "sigma": [0.1, 0.2]}, {"kind": "top-k", "target_kl": 0.1}]}
    laid = spec.with_overrides(mapping, {}, {"target_kl": "0.05"})["env"]
    assert laid == [{"kind": "logit-noise", "target_kl": "0.05"}, {"kind": "top-k", "target_kl": "0.05"}]
    assert spec.with_overrides(mapping, {}, {"k": "3"})["env"][1] == {"kind": "top-k", "k": "3"}


def test_the_hash_does_not_depend_on_how_a_study_is_written() -> None:
    written = {key: SMALL[key] for key in reversed(SMALL)} | {"seeds": [0, 1], "n_samples": "16"}
    assert spec.parse(written).config_hash == small().config_hash


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 3},
        {"seeds": [1, 0]},
        {"n_samples": 17},
        {"replicates": 5},
        {"methods": ["exact"]},
        {"denominators": ["accepted"]},
        {"estimators": ["is"]},
        {"estimators": ["is", {"kind": "tis", "clip": 1.5000001}, {"kind": "jackpot", "acceptance_rate": 0.9}]},
        {"estimators": ["is", {"kind": "tis", "clip": 1.5}, {"kind": "jackpot", "acceptance_rate": 0.91}]},
        {"env": SMALL["env"][:1]},
        {"env": [SMALL["env"][0], SMALL["env"][1] | {"k": 7}]},
        {"env": [SMALL["env"][0] | {"base": BASE}, SMALL["env"][1]]},
        {"env": [SMALL["env"][0] | {"advantage": {"kind": "normal", "scale": 2.0}}, SMALL["env"][1]]},
    ],
)
def test_the_hash_tells_studies_apart(change: dict[str, Any]) -> None:
    assert small(**change).config_hash != small().config_hash


# --- what is refused --------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"estimators": ["tiss"]}, ("estimators.0", "unknown estimator 'tiss'", "did you mean 'tis'")),
    ({"estimators": ["none", {"kind": "tis", "clap": 2}]}, ("estimators.1", "no parameter 'clap'", "clip")),
    ({"estimators": [{"kind": "tis", "clip": "two"}]}, ("estimators.0: tis: clip", "number")),
    ({"estimators": [{"kind": "tis", "clip": -1}]}, ("estimators.0", "clip must be positive")),
    ({"estimators": [{"kind": "tis", "clip": float("nan")}]}, ("estimators.0", "clip", "nan")),
    ({"estimators": [{"kind": "tis", "parameters": 5}]}, ("estimators.0.parameters", "dictionary")),
    ({"estimators": [{"kind": "tis", "clip": 2, "parameters": {"clip": 3}}]}, ("estimators.0", "clip is given twice")),
    ({"estimators": [{"clip": 2}]}, ("estimators.0.kind", "missing")),
    ({"estimators": [{"kind": "obrs", "lam": 0}]}, ("estimators.0", "lam must be positive")),
    ({"estimators": [{"kind": "obrs", "lam": 1, "acceptance_rate": 0.9}]}, ("estimators.0", "lam or acceptance_rate")),
    ({"estimators": [{"kind": "tis", "acceptance_rate": 0.9}]}, ("estimators.0", "tis has no lam")),
    *(
        ({"estimators": [{"kind": "obrs", "acceptance_rate": rate}]}, ("estimators.0", "acceptance_rate", "(0, 1]"))
        for rate in (0, -0.1, 1.0000001, float("nan"))
    ),
    ({"estimators": []}, ("estimators", "empty")),
    ({"estimators": [{"kind": "tis", "clip": []}, "none"]}, ("estimators", "clip is empty")),
    ({"estimators": ["is", {"kind": "is"}]}, ("estimators holds is twice",)),
    ({"env": []}, ("env", "empty")),
    ({"env": [ENV, {"kind": "top-k", "k": []}]}, ("env", "k is empty")),
    ({"env": [ENV, ENV]}, ("env holds", "twice")),
    ({"env": [{"kind": "logit-noise", "sigma": [0.1, 0.1]}]}, ("env holds", "twice")),
    ({"env": {"kind": "nonsense"}}, ("env", "'nonsense'", "logit-noise")),
    ({"env": {"sigma": 0.1}}, ("env", "kind is missing")),
    ({"env": ENV | {"simga": 1}}, ("env.simga", "no such field")),
    ({"env": ENV | {"base": {"vocab": 5}}}, ("env.base", "kind is missing")),
    ({"env": ENV | {"base": {"kind": "zipf", "vocab": 0}}}, ("env.base", "vocab", "got 0")),
    ({"env": ENV | {"base": {"kind": "zipf", "size": 5}}}, ("env.base.size", "no such field")),
    ({"env": ENV | {"target_kl": 0.1}}, ("env", "sigma and target_kl")),
    ({"env": ENV | {"sigma": float("nan")}}, ("env", "sigma", "nan")),
    ({"env": 5}, ("env", "dictionary")),
    ({"env": {"kind": "top-k"}}, ("env: ", "k")),
    ({"env": [ENV, ENV | {"base": {"kind": "zipf", "vocab": 0}}]}, ("env.1.base", "vocab", "got 0")),
    ({"env": {"kind": "hf", "policy": "a", "actor": "b"}}, ("env.prompts: it is missing: give --env.prompts",)),
    (
        {"env": {"kind": "small-lm", "source": {"sigma": 1}}},
        ("env.source: its kind is missing: give --env.source.kind",),
    ),
    ({"config": 1}, ("config", "no such field")),
    ({"seeds": -1}, ("seeds", "got -1")),
    ({"seeds": 0}, ("seeds", "got 0")),
    ({"seeds": 10**9}, ("seeds", "got 1000000000")),
    ({"seeds": []}, ("seeds is empty",)),
    ({"seeds": [0, -4]}, ("seeds.1", "greater than or equal to 0")),
    ({"seeds": [2**63]}, ("seeds.0", "less than")),
    ({"seeds": [1, 1]}, ("seeds holds 1 twice",)),
    ({"seeds": True}, ("seeds: give a list of seeds, or how many, not True",)),
    ({"seeds": "1.5"}, ("seeds: give a list of seeds, or how many, not '1.5'",)),
    ({"seeds": [0.5]}, ("seeds.0", "integer")),
    ({"denominators": ["bogus"]}, ("denominators.0", "'proposed'")),
    ({"denominators": []}, ("denominators is empty",)),
    ({"methods": ["exact", "exact"]}, ("methods holds exact twice",)),
    ({"n_samples": 0}, ("n_samples", "greater than or equal to 1")),
    ({"n_samples": 10**30}, ("n_samples", "less than")),
    ({"replicates": 2}, ("replicates", "greater than or equal to 3")),
    ({"name": "a/b"}, ("name", "pattern")),
]


@pytest.mark.parametrize(("change", "parts"), REFUSED, ids=[str(change)[:60] for change, _ in REFUSED])
def test_what_cannot_be_is_refused_in_a_sentence_that_names_it(change: dict[str, Any], parts: tuple[str, ...]) -> None:
    message = error_of(**change)
    for part in parts:
        assert part in message


def test_the_number_of_further_errors_is_told() -> None:
    assert error_of(seeds=[-1, -2], n_samples=0).endswith("(and 2 more: seeds.1, n_samples)")


def test_whole_numbers_may_be_written_in_powers_of_ten() -> None:
    base = {"kind": "zipf", "vocab": 120, "states": 3}
    env = {"kind": "top-k", "k": "1e1", "base": base | {"vocab": "1.2e2"}}
    study = small(n_samples="1e9", seeds="1e1", env=env)
    assert (study.n_samples, len(study.seeds)) == (10**9, 10)
    assert study.config_hash == small(n_samples=10**9, seeds=10, env=env | {"k": 10, "base": base}).config_hash
    assert small(name="1e9").name == "1e9", "it is taken as it is"
    assert "integer" in error_of(n_samples="1e-9")
    assert "less than" in error_of(n_samples="9.3e18", replicates="1e18", seeds="1e1")


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("logit-noise")
_ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "sigma", "base", "clip", "parameters", "vocab", "acceptance_rate"])
            | st.text(max_size=3)
            | st.integers(0, 3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@example(field="name", value="accepted")
@example(field="seeds", value=2)
@given(field=st.sampled_from([*Study.model_fields, "other"]), value=_ANYTHING)
def test_no_value_of_any_field_breaks_the_parser(field: str, value: Any) -> None:
    made = None
    with contextlib.suppress(StudyError):
        made = study(**{field: value})
    assert made is None or spec.parse(made.model_dump()) == made, "what was read can be written and read again"


# --- dotted options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "env", "rest"),
    [
        ("--seeds 2 --quiet", {}, "--seeds 2 --quiet"),
        ("--env.kind top-k --env.k 5 6 --seeds 1", {"kind": "top-k", "k": ["5", "6"]}, "--seeds 1"),
        ("--out x --env.base.vocab=9 --env.base.kind zipf", {"base": {"vocab": "9", "kind": "zipf"}}, "--out x"),
        ("--env.target-kl 1e-3 --env.a.b-c.d -1", {"target_kl": "1e-3", "a": {"b_c": {"d": "-1"}}}, ""),
        ("--estimators tis none --env.p 0.5", {"p": "0.5"}, "--estimators tis none"),
    ],
)
def test_env_options_are_split_off(line: str, env: dict[str, Any], rest: str) -> None:
    assert split_env_options(line.split()) == (env, rest.split())


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--env logit-noise", "--env: environment options are dotted"),
        ("--env. 3", "--env.: environment options are dotted"),
        ("--env.a..b 3", "--env.a..b: environment options are dotted"),
        ("--env.kind --seeds 2", "--env.kind needs a value"),
        ("--env.sigma 0.1 --env.sigma 0.2", "--env.sigma is given twice"),
        ("--env.base zipf --env.base.vocab 3", "base is given both a value and fields"),
        ("--env.base.vocab 3 --env.base zipf", "--env.base is given twice"),
    ],
)
def test_env_options_that_say_nothing_or_too_much(line: str, part: str) -> None:
    with pytest.raises(StudyError) as caught:
        split_env_options(line.split())
    assert part in str(caught.value)


def test_families_read_from_options_are_what_they_say() -> None:
    env, _ = split_env_options(["--env.kind", "logit-noise", "--env.sigma", "0.25", "--env.base.kind", "lm-like"])
    made = study(env=env).env[0]
    assert isinstance(made, LogitNoise)
    assert (made.sigma, made.base.kind) == (0.25, "lm-like")
