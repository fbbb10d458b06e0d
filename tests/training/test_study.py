"""What a study is: settings × methods × seeds, its quick version, overrides, and one sentence for what is wrong."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.environments.files import fingerprint
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.provenance import VERSION
from jackpot_sim.training.study import Study, laid_over, of_mapping, read, spelt_out
from tests.training.tiny import MODES, TINY, study_of

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / "paper_figures" / "configs").glob("*.yaml")
    if "\nmethods:" in path.read_text(encoding="utf-8") and "\npolicy:" in path.read_text(encoding="utf-8")
)
WHOLE: dict[str, Any] = {
    "steps": 7,
    "seeds": 2,
    "actor": {"kind": "frozen", "kl": 0.05},
    "settings": {"near": {}, "far": {"actor": {"kl": 0.5}, "methods": ["tis"]}},
    "methods": {
        "none": {},
        "tis": {"correction": {"kind": "tis", "clip": 3}},
        "on-policy": {"actor": {"kind": "on-policy"}},
    },
    "quick": {"seeds": 1, "steps": 3, "settings": ["near"], "methods": ["none", "tis"]},
}


def ids(study: Study) -> list[str]:
    return [run.id for run in study.runs]


def test_without_anything_it_is_one_run() -> None:
    study = read(None)
    assert study.name == "training"
    assert ids(study) == ["run.run.0"]


def test_every_seed_of_all_methods_comes_before_the_next_seed() -> None:
    assert ids(of_mapping(WHOLE, {})) == [
        f"{name}.{seed}" for seed in (0, 1) for name in ("near.none", "near.tis", "near.on-policy", "far.tis")
    ]


def test_settings_and_methods_are_laid_over_what_all_share() -> None:
    near, far = (of_mapping(WHOLE, {}).grid[name] for name in ("near", "far"))
    assert all(training.steps == 7 for methods in (near, far) for training in methods.values())
    assert (near["tis"].actor.kl, far["tis"].actor.kl) == (0.05, 0.5)  # type: ignore[union-attr]
    assert near["tis"].correction.parameters == {"clip": 3}
    assert near["on-policy"].actor.model_dump() == {"kind": "on-policy"}, "another kind takes its place"


def test_quick_changes_fields_and_chooses_by_name() -> None:
    quick = of_mapping(WHOLE, {}, quick=True)
    assert ids(quick) == ["near.none.0", "near.tis.0"]
    assert quick.runs[0].training.steps == 3


def test_quick_may_change_a_setting_too() -> None:
    quick = of_mapping(WHOLE | {"quick": {"settings": {"far": {"steps": 2}}}}, {}, quick=True)
    assert {run.setting: run.training.steps for run in quick.runs} == {"near": 7, "far": 2}


def test_overrides_lie_over_everything() -> None:
    study = of_mapping(WHOLE, {"steps": "5", "seeds": "3", "name": "mine", "correction": "is"}, quick=True)
    assert study.name == "mine"
    assert study.seeds == (0, 1, 2)
    assert {(run.training.steps, run.training.correction.kind) for run in study.runs} == {(5, "is")}
    assert of_mapping(WHOLE, {"update": {"clip": None}}).runs[0].training.update.clip is None


@pytest.mark.parametrize(("given", "seeds"), [(3, (0, 1, 2)), ("2", (0, 1)), ([4, 1], (4, 1))])
def test_seeds_are_a_list_or_how_many(given: Any, seeds: tuple[int, ...]) -> None:
    assert of_mapping({"seeds": given}, {}).seeds == seeds


def test_fields_without_a_kind_belong_to_the_usual_one() -> None:
    training = of_mapping({"task": {"digits": 2}, "policy": {"accuracy": 0.5}}, {}).runs[0].training
    assert (training.task.kind, training.policy.kind) == ("addition", "taught")


def test_another_kind_takes_the_place_of_what_lies_below() -> None:
    assert laid_over({"a": {"kind": "x", "b": 1}}, {"a": {"kind": "y"}}) == {"a": {"kind": "y"}}
    assert laid_over({"a": {"kind": "x", "b": 1}}, {"a": {"kind": "x", "c": 2}}) == {"a": {"kind": "x", "b": 1, "c": 2}}
    assert laid_over({"a": {"b": 1}}, {"a": "text"}) == {"a": "text"}
    assert laid_over({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}) == {"a": {"b": None, "c": 2}}


# --- the digest -------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_what_a_run_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = of_mapping(WHOLE, {}).config_hash
    assert of_mapping(dict(reversed(WHOLE.items())), {}).config_hash == digest
    assert of_mapping(WHOLE, {"seeds": 9}).config_hash == digest, "a study may go on with more seeds"
    assert of_mapping(WHOLE, {"steps": 8}).config_hash != digest
    assert of_mapping(WHOLE, {}, quick=True).config_hash != digest
    monkeypatch.setattr("jackpot_sim.training.study.VERSION", "0.0")
    assert of_mapping(WHOLE, {}).config_hash != digest


def test_the_digest_knows_what_is_in_files(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    mapping = {
        "task": {"kind": "prompts", "prompts": {"kind": "file", "path": str(prompts)}},
        "policy": {"kind": "checkpoint", "path": "somewhere"},
    }
    with pytest.raises(StudyError, match=r"prompts\.jsonl"):
        _ = of_mapping(mapping, {}).config_hash
    prompts.write_text('{"prompt": "a", "answer": "b"}\n')
    before = of_mapping(mapping, {}).config_hash
    prompts.write_text('{"prompt": "a", "answer": "c"}\n')
    assert of_mapping(mapping, {}).config_hash != before


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_studies_of_the_figures_can_be_read(path: Path) -> None:
    whole, quick = read(path), read(path, quick=True)
    assert whole.name == quick.name == path.stem
    assert len(quick.runs) <= len(whole.runs)
    assert sum(run.training.steps for run in quick.runs) < sum(run.training.steps for run in whole.runs)


def test_there_are_studies_of_figures() -> None:
    assert "figure1" in {path.stem for path in CONFIGS}


# --- sentences --------------------------------------------------------------------------------------------

_FROZEN = {"kind": "frozen"}
_FEEDBACK = {"target_kl": 1, "least": 0.1, "most": 1}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sedes": 3}, "sedes: there is no such field; did you mean 'seeds'? (there are name, seeds,"),
    ({"xyz": 3}, "xyz: there is no such field (there are name, seeds,"),
    ({1: 2}, "1: there is no such field"),  # type: ignore[dict-item]
    ({"update": {"cliq": 1}}, "update.cliq: there is no such field (update has minibatches, "),
    ({"actor": _FROZEN | {"k": 1}}, "actor.k: there is no such field (frozen has model, kl)"),
    ({"actor": _FROZEN | {"model": {"kind": "qwen3", "x": 1}}}, "(qwen3 has hidden, layers, heads, "),
    ({"policy": {"model": {"hiden": 1}}}, "policy.model.hiden: there is no such field (model has hidden, "),
    ({"task": {"digit": 2}}, "task.digit: there is no such field (addition has digits, reverse, operands)"),
    ({"task": {"kind": "adition"}}, "task: there is no kind 'adition'; did you mean 'addition'?"),
    ({"actor": {"kind": "froozen"}}, "actor: there is no kind 'froozen'; did you mean 'frozen'?"),
    ({"actor": 3}, "actor: Input should be"),
    ({"correction": "tiss"}, "correction: unknown estimator 'tiss'; did you mean 'tis'?"),
    ({"correction": {"kind": "tis", "clipp": 2}}, "'tis' has no parameter 'clipp': it takes clip, floor"),
    ({"correction": {"kind": "jackpot", "c1": -1}}, "correction: jackpot: c1 must be positive, got -1.0"),
    ({"correction": {"kind": "jackpot", "acceptance_rate": 0.9}}, "give budget.rejected, a share of the batch"),
    ({"correction": "jackpot", "rollout": {"topk": 0}}, "jackpot needs the overlap: give rollout.topk of at least 1"),
    (
        {"correction": {"kind": "tis", "centred": True}, "rollout": {"topk": 0}},
        "centred(tis) needs the actor's law: give rollout.topk of at least 1",
    ),
    ({"correction": {"kind": "gspo", "centred": True}}, "gspo looks at more than single tokens"),
    ({"correction": {"kind": "tis"}, "budget": {}}, "tis has no lam that a budget could set: give obrs or jackpot"),
    ({"correction": {"kind": "obrs", "lam": 1}, "budget": {}}, "give budget or the correction's lam, not both"),
    ({"correction": "obrs", "budget": {"rejected": 1}}, "budget.rejected: Input should be less than 1"),
    ({"correction": "obrs", "budget": {"feedback": _FEEDBACK}}, "feedback.most is a share of rejected tokens"),
    ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
    ({"steps": "abc"}, "steps: Input should be a valid integer"),
    ({"steps": 1.5}, "steps: Input should be a valid integer"),
    ({"seeds": 0}, "seeds: their number must be at least 1, got 0"),
    ({"seeds": []}, "a study needs at least one seed, one setting and one method"),
    ({"seeds": [1, 1]}, "seeds holds one twice"),
    ({"seeds": "x"}, "seeds: give a list of seeds, or how many, not 'x'"),
    ({"seeds": True}, "seeds: give a list of seeds, or how many, not True"),
    ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0"),
    ({"name": "a/b"}, "name: String should match pattern"),
    ({"update": 3}, "update: Input should be"),
    ({"update": {"minibatches": 33}}, "update.minibatches is 33, and a batch has 32 "),
    (
        {"correction": "tis", "update": {"bypass": True}},
        "PPO's ratio is p_new/q, which tis would weigh a second time: give update.clip null",
    ),
    (
        {"correction": {"kind": "tis", "c2": 2.0, "target": "p_new"}, "update": {"bypass": True, "clip": None}},
        "update.bypass leads corrections to p_new by itself: give no correction.target",
    ),
    (
        {"update": {"aggregation": "kept-mean", "denominator": "accepted"}},
        "aggregation kept-mean divides by the tokens kept, and so does denominator accepted",
    ),
    (
        {"correction": "verl:decoupled_geo_rs", "update": {"denominator": "proposed"}},
        "verl:decoupled_geo_rs has update.denominator accepted, and proposed is given: leave it out, or give the "
        "correction by its parts, sequence-mask-k1",
    ),
    (
        {"correction": "verl:bypass_pg_is", "update": {"clip": 0.2}},
        "verl:bypass_pg_is has update.clip null, and 0.2 is given",
    ),
    ({"correction": "verl:bypass"}, "unknown preset 'verl:bypass'"),
    ({"update": {"clip": None, "clip_high": 0.3}}, "clip_high is given without clip: give both, or neither"),
    ({"update": {"learning_rate": 0}}, "update.learning_rate: Input should be greater than 0"),
    ({"rollout": {"samples": 1}}, "rollout.samples: Input should be greater than or equal to 2"),
    ({"actor": _FROZEN | {"kl": None}}, "kl is null, and an actor of random weights has to be distilled: give the KL"),
    ({"actor": {"kind": "served", "source": {"kind": "weight-noise", "target_kl": 1}}}, "give source.sigma"),
    ({"task": {"kind": "benchmark", "name": "gsm8k", "path": "x"}}, "task"),
    ({"policy": {"kind": "checkpoint", "path": "x"}, "actor": _FROZEN}, "give actor.model as a checkpoint too"),
    ({"methods": {}}, "methods: give a name to each, and the fields that it changes"),
    ({"methods": ["tis"]}, "methods: give a name to each, and the fields that it changes"),
    ({"methods": {"a": 3}}, "methods: give a name to each, and the fields that it changes"),
    ({"methods": {"a b": {}}}, "methods: 'a b' names a folder: give letters, digits and _ . + - alone"),
    ({"settings": {"..//": None}}, "settings: '..//' names a folder"),
    ({"settings": {"a": {"methods": []}}, "methods": {"m": {}}}, "settings.a.methods: give a list of names, of m"),
    ({"settings": {"a": {"methods": ["x"]}}, "methods": {"m": {}}}, "settings.a.methods: there is no x (there are m)"),
    (
        {"settings": {"a": {}}, "methods": {"m": {"step": 1}}},
        "a, m: step: there is no such field; did you mean 'steps'",
    ),
    ({"settings": {"a.b": {}, "a": {}}, "methods": {"c": {}, "b.c": {}}}, "two runs would both be called a.b.c.0"),
    ({"quick": 3}, "quick: give the fields that it changes, not 3"),
]


@pytest.mark.parametrize(("mapping", "sentence"), REFUSED, ids=[str(mapping) for mapping, _ in REFUSED])
def test_what_cannot_be_is_one_sentence(mapping: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StudyError, match=re.escape(sentence)) as caught:
        of_mapping(mapping, {})
    assert "\n" not in str(caught.value)


def test_a_task_without_an_alphabet_needs_a_checkpoint() -> None:
    task = {"kind": "prompts", "prompts": {"kind": "file", "path": "x.jsonl"}}
    with pytest.raises(
        StudyError, match="a policy cannot be taught the task prompts, which has no alphabet of its own"
    ):
        of_mapping({"task": task}, {})


@pytest.mark.parametrize(
    ("quick", "sentence"),
    [
        ({}, "the study has no quick version: give fields under quick, or run it without --quick"),
        ({"settings": ["nowhere"]}, "quick.settings: there is no nowhere (there are near, far)"),
        ({"methods": []}, "quick.methods: give a list of names, of none, tis, on-policy"),
        ({"stpes": 1}, "stpes: there is no such field; did you mean 'steps'?"),
    ],
)
def test_a_quick_version_that_cannot_be_is_one_sentence(quick: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StudyError, match=re.escape(sentence)):
        of_mapping(WHOLE | {"quick": quick}, {}, quick=True)


def test_the_tiny_study_holds_every_kind_of_actor() -> None:
    study = study_of({"methods": MODES})
    kinds = {training.actor.kind for training in study.grid["run"].values()}
    assert kinds == {"on-policy", "stale", "served", "frozen", "joint"}
    assert study.runs[0].training.steps == TINY["steps"]


FEEDBACK = {"target_kl": 0.1, "least": 0.1, "most": 1.0}
SHORT = [
    ({"actor": "stale"}, {"actor": {"kind": "stale"}}),
    ({"policy": "FOLDER"}, {"policy": {"kind": "checkpoint", "path": "FOLDER"}}),
    (
        {"policy": {"path": "FOLDER", "lora": {"rank": 4}}},
        {"policy": {"kind": "checkpoint", "path": "FOLDER", "lora": {"rank": 4}}},
    ),
    (
        {"task": {"kind": "prompts", "prompts": "x.jsonl", "reward": "answer"}},
        {"task": {"kind": "prompts", "prompts": {"kind": "file", "path": "x.jsonl"}, "reward": {"kind": "answer"}}},
    ),
    (
        {"actor": {"kind": "frozen", "model": "FOLDER"}},
        {"actor": {"kind": "frozen", "model": {"kind": "checkpoint", "path": "FOLDER"}}},
    ),
]


@pytest.mark.parametrize(("short", "long"), SHORT)
def test_a_text_stands_for_a_configuration(short: dict[str, Any], long: dict[str, Any]) -> None:
    assert spelt_out(short) == long
    mapping = {"settings": {"a": short}, "methods": {"b": {}}, "policy": "P"}
    mapping |= {"task": {"kind": "prompts", "prompts": {"path": "p.jsonl"}}, "actor": {"kind": "on-policy"}}
    assert of_mapping(mapping, {}).grid == of_mapping({**mapping, "settings": {"a": long}}, {}).grid


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        ({"task": {"kind": "prompts", "path": "x"}, "policy": "P"}, r"^task\.path: there is no such field"),
        ({"actor": {"kind": "frozen", "path": "x"}}, r"^actor\.path: there is no such field \(frozen has model, kl\)"),
        ({"rollout": {"prompts": "many"}}, r"^rollout\.prompts: "),
        ({"actor": {"kind": "served", "source": {"kind": "weight-noise", "sigma": -1}}}, r"^actor\.source: "),
        ({"overlap": "exact", "correction": "tis"}, "tis looks at no overlap: leave overlap out, or give jackpot"),
        ({"overlap": "exactly", "correction": "jackpot"}, r"^overlap: "),
        ({"mixed_precision": "param_dtype"}, "rounds to 16 bits, and precision is fp32"),
        (
            {
                "precision": "bf16",
                "mixed_precision": "param_dtype",
                "actor": {"kind": "served", "source": {"kind": "weight-noise", "sigma": 1}},
            },
            "give mixed_precision autocast",
        ),
        ({"rollout": {"length": 2}}, "solutions of addition take up to 5 tokens"),
        ({"actor": {"kind": "joint", "ppo": False, "distillation": {"feedback": FEEDBACK}}}, "AdamW cancels a lone"),
    ],
)
def test_an_error_names_the_place_as_it_is_written(mapping: dict[str, Any], error: str) -> None:
    with pytest.raises(StudyError, match=error):
        of_mapping(mapping, {})


def test_a_field_that_came_later_is_in_the_hash_only_where_it_says_something() -> None:
    study = of_mapping({"correction": "jackpot"}, {})
    fields = study.model_dump(mode="json", exclude={"seeds", "plugins"})
    (run,) = (run for methods in fields["grid"].values() for run in methods.values())
    assert (run.pop("mixed_precision"), run.pop("overlap")) == ("autocast", "calibrated")
    text = json.dumps([fields, fingerprint([]), VERSION], sort_keys=True)
    assert study.config_hash == hashlib.sha256(text.encode()).hexdigest()[:16]
    hashes = {
        of_mapping({"correction": "jackpot", "precision": "bf16"} | each, {}).config_hash
        for each in ({}, {"overlap": "exact"}, {"overlap": "kappa"}, {"mixed_precision": "param_dtype"})
    }
    assert len(hashes) == 4


def test_the_contents_of_a_checkpoint_are_part_of_the_hash(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "1", "answer": "1"}\n')
    mapping = {
        "policy": {"kind": "checkpoint", "path": str(folder)},
        "task": {"kind": "prompts", "prompts": {"kind": "file", "path": str(prompts)}},
    }
    hashes = set()
    for content in ("a", "b"):
        (folder / "config.json").write_text(content)
        hashes.add(of_mapping(mapping, {}).config_hash)
    assert len(hashes) == 2
