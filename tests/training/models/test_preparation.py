"""The models that runs begin with: made once, whole or not there; and checkpoints in their place."""

from __future__ import annotations

import ast
import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.studies import provenance
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.provenance import source_digest
from jackpot_sim.training.actors import SmallActor
from jackpot_sim.training.loop.run import train
from jackpot_sim.training.models import preparation
from jackpot_sim.training.models.preparation import Pair, beginning, pairs, prepare
from tests.environments.tiny_checkpoints import WORDS, save_checkpoint
from tests.test_architecture import FILES, imported, lies_in, name_of
from tests.training.tiny import MODES, TINY, rows_of, run_of, study_of

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def made_of(*changes: Any) -> tuple[Pair, ...]:
    return pairs(study_of(*changes).runs)


def weights_of(model: Any) -> list[Any]:
    return [weight.detach() for weight in model.parameters()]


def test_methods_share_their_models_and_seeds_do_not() -> None:
    first, second = made_of({"methods": MODES, "seeds": 2})
    assert (first.seed, second.seed) == (0, 1)
    assert first.key != second.key
    assert [kls for _, kls in first.actors] == [(1.5,)], "one actor for the three that have one"


def test_distances_are_met_on_one_way() -> None:
    (pair,) = made_of({"methods": {str(kl): {"actor": {"kind": "frozen", "kl": kl}} for kl in (0.5, 0.1, 1.0)}})
    assert [kls for _, kls in pair.actors] == [(0.1, 0.5, 1.0)]


@pytest.mark.parametrize(
    "changes",
    [
        {"task": {"digits": 2}},
        {"policy": {"accuracy": 0.06}},
        {"policy": {"model": {"hidden": 20}}},
        {"precision": "fp64"},
        {"rollout": {"length": 9}},
    ],
)
def test_what_a_policy_depends_on_is_in_its_key(changes: dict[str, Any]) -> None:
    assert made_of(changes)[0].key != made_of()[0].key


@pytest.mark.parametrize("changes", [{"steps": 9}, {"correction": "tis"}, {"update": {"epochs": 2}}, MODES["joint"]])
def test_what_it_does_not_depend_on_is_not(changes: dict[str, Any]) -> None:
    assert made_of(changes)[0].key == made_of()[0].key


ELSEWHERE = (
    *("jackpot_sim.training.config", "jackpot_sim.training.actors", "jackpot_sim.training.study"),  # in it by value
    *("jackpot_sim.estimators", "jackpot_sim.training.objective.weights", "jackpot_sim.training.objective.centring"),
    *("jackpot_sim.training.objective.advantages", "jackpot_sim.training.errors", "jackpot_sim.studies"),
    *("jackpot_sim.requirements", "jackpot_sim.commands", "jackpot_sim.version", "jackpot_sim.environments.files"),
)
"""The imports of what makes models that leave no trace in them, or only such as the key holds by itself."""


def test_the_source_of_all_that_makes_models_is_in_their_key() -> None:
    package = Path(preparation.__file__).parents[2]
    parts = [package / part for part in preparation.MADE_BY]
    held = {file for part in parts for file in ([part] if part.is_file() else part.rglob("*.py"))}
    files = {name_of(file): file for file in FILES}
    seen, waiting = set[str](), ["jackpot_sim.training.models.pretraining", "jackpot_sim.training.tasks.addition"]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in files or any(lies_in(name, each) for each in ELSEWHERE):
            continue
        seen.add(name)
        exports = files[name].name == "__init__.py"
        assert exports or files[name] in held, f"{name} may decide models, and MADE_BY leaves it out"
        waiting += imported(ast.parse(files[name].read_text()), name, exports)
    assert len(seen) > 30


def test_a_digest_of_source_sees_every_byte_and_needs_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    digest = provenance.source_digest.__wrapped__
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="holds no Python source"):
        digest("a")
    found = []
    for name, text in (("a/x.py", "1"), ("a/x.py", "2"), ("a/y.py", ""), ("b.py", "3")):
        (tmp_path / name).write_text(text)
        found.append((digest("a"), digest()))
    assert len({part for part, _ in found}) == 3
    assert found[2][0] == found[3][0], "b is no part of a"
    assert len({whole for _, whole in found}) == 4


def test_an_editor_s_link_to_nowhere_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emacs locks a file that is not saved yet by one."""
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    (tmp_path / "x.py").write_text("1")
    before = provenance.source_digest.__wrapped__()
    (tmp_path / ".#x.py").symlink_to("user@host.1:2")
    assert provenance.source_digest.__wrapped__() == before


def test_other_code_makes_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    before = made_of()[0].key
    monkeypatch.setattr(preparation, "source_digest", lambda *parts: f"{source_digest(*parts)} changed")
    assert made_of()[0].key != before


def test_a_process_that_begins_after_an_edit_says_why_models_are_missing(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "source_digest", lambda *parts: "after the edit")
    with pytest.raises(StudyError, match=r"^run.run.0: its first model .*policy is missing.*source .* changed"):
        beginning(run_of(), models)


def test_an_actor_that_is_missing_is_named_too(tmp_path: Path, models: Path) -> None:
    run = run_of(MODES["frozen"])
    key = preparation.key_of(run.training, run.seed)
    shutil.copytree(models / key / "policy", tmp_path / key / "policy")
    with pytest.raises(StudyError, match=r"^run.run.0: its first model .*actor-1x8-1.5.* is missing"):
        beginning(run, tmp_path)


@pytest.mark.parametrize("field", ["heads", "kv_heads", "context", "initial_scale", "hidden", "layers"])
def test_actors_of_another_shape_have_another_folder(field: str) -> None:
    def name(**shape: Any) -> str:
        changes = {"actor": {"kind": "frozen", "model": {"kind": "qwen3", "hidden": 32, "heads": 2} | shape}}
        ((model, (kl,)),) = made_of(changes)[0].actors
        return preparation._actor_name(model, kl)

    other = {"heads": 4, "kv_heads": 2, "context": 128, "initial_scale": 5, "hidden": 64, "layers": 3}
    assert name() != name(**{field: other[field]})


def test_the_usual_actor_is_named_by_its_size_and_distance() -> None:
    assert preparation._actor_name(SmallActor().model, 0.05) == "actor-3x64-0.05"
    assert preparation._actor_name(SmallActor().model, 0.05) != preparation._actor_name(SmallActor().model, 0.05 + 1e-9)


def test_what_is_there_is_not_made_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(preparation, "taught", lambda *_: made.append("policy"))
    monkeypatch.setattr(preparation, "distilled", lambda *_: made.append("actor") or {})
    for pair in made_of({"methods": MODES, "seeds": 2}):
        prepare(pair, models)
    assert made == []


def test_what_a_kill_left_is_made_again_and_comes_out_the_same(tmp_path: Path, models: Path) -> None:
    run = run_of(MODES["frozen"])
    (pair,) = pairs([run])
    shutil.copytree(models / pair.key, tmp_path / pair.key)
    actor = next((tmp_path / pair.key).glob("actor-*"))
    actor.rename(actor.parent / f".{actor.name}.tmp")
    (actor.parent / f".{actor.name}.tmp" / "model.safetensors").write_bytes(b"half")
    prepare(pair, tmp_path)
    assert {path.name for path in actor.parent.iterdir()} == {"policy", actor.name, ".lock"}
    ours, theirs = (weights_of(beginning(run, folder)[2]) for folder in (tmp_path, models))
    assert all(map(torch.equal, ours, theirs))


def test_two_studies_that_share_a_folder_wait_for_each_other(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair,) = made_of()
    taught, at_once, made = beginning(run_of(), models)[1], [], []

    def slowly(*_: Any) -> Any:
        at_once.append(1)
        assert len(at_once) == 1
        threading.Event().wait(0.1)
        at_once.pop()
        made.append(1)
        return taught

    monkeypatch.setattr(preparation, "taught", slowly)
    threads = [threading.Thread(target=prepare, args=(pair, tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_what_cannot_be_taught_says_what_to_change(tmp_path: Path) -> None:
    for changes, sentence in (
        ({"policy": {"accuracy": 1.0, "most_steps": 1}}, "after 1 steps of teaching .* not 100%: give a larger"),
        ({"policy": {"learning_rate": 1e30, "accuracy": 1.0}}, "teaching diverged by step 10: give a smaller"),
        ({"policy": {"model": {"context": 5}}}, "reads at most 5 tokens: .*; give a model with a larger context"),
    ):
        (pair,) = made_of(changes)
        with pytest.raises(StudyError, match=sentence):
            prepare(pair, tmp_path)
        assert {path.name for path in (tmp_path / pair.key).iterdir()} == {".lock"}


# --- checkpoints ------------------------------------------------------------------------------------------

PROMPTS = [
    {"prompt": " ".join(words), "answer": words[0]} for words in ("ab", "ba", "cd", "dc", "ac", "bd", "ad", "cb")
]


@pytest.fixture
def given(checkpoints: Path, tmp_path: Path) -> dict[str, Any]:
    """A policy and an actor from folders, with prompts from a file."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in PROMPTS), encoding="utf-8")
    return {
        "task": {
            "kind": "prompts",
            "prompts": {"kind": "file", "path": str(tmp_path / "prompts.jsonl")},
            "reward": {"kind": "answer"},
            "held_out_share": 0.25,
            "max_new_tokens": 4,
        },
        "policy": {"kind": "checkpoint", "path": str(checkpoints / "policy")},
        "actor": {"kind": "frozen", "model": {"kind": "checkpoint", "path": str(checkpoints / "actor")}},
        "correction": {"kind": "jackpot", "target": "p_new"},
    }


@pytest.mark.parametrize("kind", ["frozen", "joint", "stale", "on-policy", "served"])
def test_a_checkpoint_is_trained_on_prompts_of_ones_own(tmp_path: Path, given: dict[str, Any], kind: str) -> None:
    given["actor"] = given["actor"] | {"kind": kind} if kind in ("frozen", "joint") else {"kind": kind}
    run = run_of(given)
    assert not pairs([run]), "nothing has to be made"
    train(run, tmp_path / "run", tmp_path / "models", keep_policy=True)
    rows = rows_of(tmp_path / "run")
    assert rows["step"].tolist() == [0, 1, 2, 3]
    assert rows["accuracy"].notna().tolist() == [True, False, True, True]
    assert 0 < rows["reward"].mean() < 1
    assert (rows["kl_policy_actor"][:3] > 0.1).all() == (kind in ("frozen", "joint"))
    before, after = (weights_of(beginning(each, tmp_path)[1]) for each in (run, run_of(given, kept(tmp_path / "run"))))
    assert not all(map(torch.equal, before, after)), "what was kept can be trained on"


def kept(folder: Path) -> dict[str, Any]:
    return {"policy": {"kind": "checkpoint", "path": str(folder / "policy")}}


def test_a_checkpoint_is_trained_on_a_local_benchmark(tmp_path: Path, given: dict[str, Any]) -> None:
    pytest.importorskip("math_verify")
    datasets = pytest.importorskip("datasets")
    rows = [{"question": f"a b {word}", "answer": f"{word} #### {at}"} for at, word in enumerate("abcdabcd")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        (tmp_path / "gsm.jsonl").write_text("\n".join(map(json.dumps, rows)))
        task = {
            "kind": "benchmark",
            "name": "gsm8k",
            "path": str(tmp_path / "gsm.jsonl"),
            "held_out_share": 0.25,
            "prompt_template": "{problem}",
            "chat": False,
            "max_new_tokens": 3,
        }
        train(run_of(given, {"task": task}), tmp_path / "run", tmp_path / "models")
    assert math.isfinite(rows_of(tmp_path / "run")["loss"].iloc[0])


def test_models_with_other_tokens_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    save_checkpoint(tmp_path / "turned", 1, tuple(reversed(WORDS)))
    save_checkpoint(tmp_path / "more", 1, (*WORDS, "e"))
    for name, sentence in (("turned", "must agree"), ("more", "vocabulary of 5 and the actor one of 6")):
        actor = {"kind": "frozen", "model": {"kind": "checkpoint", "path": str(tmp_path / name)}}
        with pytest.raises(StudyError, match=sentence):
            beginning(run_of(given, {"actor": actor}), tmp_path)


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path, checkpoints: Path, given: dict[str, Any]) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(checkpoints / "policy", bare, ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    with pytest.raises(StudyError, match="prompts has no alphabet of its own, and the policy no tokenizer"):
        beginning(run_of(given, {"policy": {"kind": "checkpoint", "path": str(bare)}}), tmp_path)


def test_what_lies_in_the_folder_of_models_may_be_damaged(tmp_path: Path, models: Path) -> None:
    run = run_of()
    (pair,) = pairs([run])
    shutil.copytree(models / pair.key / "policy", tmp_path / pair.key / "policy")
    weights = tmp_path / pair.key / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(StudyError, match="cannot read a causal language model"):
        beginning(run, tmp_path)
    with pytest.raises((StudyError, ValueError), match="cannot read a causal language model"):
        prepare(pair, tmp_path)


def test_the_tiny_task_is_the_one_that_is_taught(models: Path) -> None:
    texts, policy, actor = beginning(run_of(MODES["frozen"]), models)
    assert texts.task.digits == TINY["task"]["digits"]
    assert policy.config.hidden_size == 16
    assert actor.config.hidden_size == 8
