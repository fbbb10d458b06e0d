"""Studies of real models take every option at its word: what is chosen shows in what is built, told and printed."""

from __future__ import annotations

import functools
import io
import json
import math
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from rich.console import Console

from jackpot_sim import estimators
from jackpot_sim.core import intervals
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.rollouts import built as realised_rollouts
from jackpot_sim.environments.rollouts import hf as building
from jackpot_sim.environments.rollouts.answers import AnswerReward, Match
from jackpot_sim.environments.rollouts.built import ROLES, RealisedRollouts
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.environments.rollouts.shorthand import spelt_out
from jackpot_sim.estimators.rollouts.at_states import Visited, at_states
from jackpot_sim.sweep import records
from jackpot_sim.sweep.cli import main
from jackpot_sim.sweep.labels import labels, settings
from jackpot_sim.sweep.rollout_summary import rollout_tables
from jackpot_sim.sweep.subjects import rollout_states, rollouts
from tests.environments.tiny_checkpoints import END, WORDS, hf
from tests.sweep.studies import run_serially
from tests.sweep.subjects.test_rollouts import row, study

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

FEW = {"n_samples": 3, "replicates": 3}
SURE = {"temperature": 0.003}
"""So cold that every completion of a prompt is the same."""


def environment(root: Path, **changes: Any) -> HuggingFace:
    return TypeAdapter(HuggingFace).validate_python(spelt_out(hf(root, **changes)))


def built(root: Path, **changes: Any) -> RealisedRollouts:
    return environment(root, **changes).build(0)


def prompts_with(path: Path, *answers: str | None, texts: tuple[str, str] = ("a b", "c")) -> str:
    """A file of the two usual prompts with other answers."""
    rows = [{"prompt": text, "answer": answer} for text, answer in zip(texts, answers, strict=True)]
    path.write_text("".join(json.dumps({k: v for k, v in each.items() if v is not None}) + "\n" for each in rows))
    return str(path)


def likeliest(root: Path) -> list[str]:
    """What the cold policy writes after each prompt."""
    written = built(root, **SURE).write("policy", 0, 1, 1)
    rows = zip(written.tokens, written.mask, strict=True)
    return [" ".join(WORDS[token] for token in tokens[there] if token != END) for tokens, there in rows]


def with_config(source: Path, into: Path, file: str, **changes: Any) -> str:
    """A copy of a checkpoint in which a file of settings says something else."""
    shutil.copytree(source, into)
    told = json.loads((into / file).read_text())
    (into / file).write_text(json.dumps(told | changes))
    return str(into)


def test_each_prompt_has_a_baseline_from_its_own_answer(checkpoints: Path, tmp_path: Path) -> None:
    first = likeliest(checkpoints)[0]
    chosen = SURE | {"reward": {"kind": "answer", "match": "exact"}, "actor": str(checkpoints / "policy")}
    for answers, texts, earned in (((first, "d"), ("a b", "c"), [1, 0]), (("d", first), ("c", "a b"), [0, 1])):
        prompts = prompts_with(tmp_path / "p.jsonl", *answers, texts=texts)
        assert built(checkpoints, prompts=prompts, **chosen).baseline.tolist() == earned
    asked = study(
        checkpoints,
        chosen | {"prompts": prompts_with(tmp_path / "p.jsonl", first, "d")},
        estimators=["none"],
        **FEW,
    )
    # Every completion earns what its prompt always earns: no advantage, and no gradient at all.
    assert row(run_serially(asked, tmp_path / "run"), "none")["grad_norm_sq"] == 0


def test_baselines_are_of_the_policy_uncut(checkpoints: Path) -> None:
    uncut, cut = (built(checkpoints, actor=str(checkpoints / "policy"), top_k=k).baseline for k in (None, 1))
    assert (uncut == cut).all()


def test_answers_are_asked_for_only_where_every_prompt_has_one(checkpoints: Path, tmp_path: Path) -> None:
    prompts = prompts_with(tmp_path / "p.jsonl", "c", None)
    reward = built(checkpoints, prompts=prompts).reward
    assert reward(np.array([0]), np.array([[3, 3, 1]]), np.ones((1, 3), dtype=bool)) == pytest.approx([2 / 3])
    with pytest.raises(ValueError, match="1 of 2 answers are blank"):
        built(checkpoints, prompts=prompts_with(tmp_path / "p.jsonl", "c", " "))


def test_what_stands_after_the_end_is_no_part_of_a_completion(checkpoints: Path) -> None:
    reward = built(checkpoints, reward={"kind": "answer", "match": "exact"}).reward
    mask = np.array([[True, True, False]])
    assert reward(np.array([0]), np.array([[3, END, 3]]), mask).tolist() == [1]


def test_upper_and_lower_case_differ_in_answers() -> None:
    for match in Match:
        assert AnswerReward(match=match).of_texts(["yes", "Yes"], ["Yes", "Yes"]).tolist() == [0, 1]


def test_end_tokens_are_all_that_the_model_names_or_else_the_tokenizers(checkpoints: Path, tmp_path: Path) -> None:
    several = with_config(checkpoints / "policy", tmp_path / "several", "generation_config.json", eos_token_id=[0, 3])
    assert built(checkpoints, policy=several).setup.end_tokens == {0, 3}
    without = with_config(checkpoints / "policy", tmp_path / "without", "generation_config.json", eos_token_id=None)
    told = json.loads((tmp_path / "without" / "config.json").read_text()) | {"eos_token_id": None}
    (tmp_path / "without" / "config.json").write_text(json.dumps(told))
    assert built(checkpoints, policy=without).setup.end_tokens == {END}


def test_a_chat_template_is_used_unless_it_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    template = "{% for each in messages %}{{ each['content'] }} d{% endfor %}"
    chat = with_config(checkpoints / "policy", tmp_path / "chat", "tokenizer_config.json", chat_template=template)
    ids = {use: [x.tolist() for x in built(checkpoints, policy=chat, chat=use).setup.prompts] for use in (None, False)}
    assert ids == {None: [[1, 2, 4], [3, 4]], False: [[1, 2], [3]]}


def test_an_actor_has_a_context_and_a_precision_of_its_own(checkpoints: Path, tmp_path: Path) -> None:
    short = with_config(checkpoints / "actor", tmp_path / "short", "config.json", max_position_embeddings=4)
    with pytest.raises(ValueError, match=r"short.* reads at most 4 tokens"):
        built(checkpoints, actor=short)
    for actor in (
        {"path": str(checkpoints / "policy"), "precision": "fp16"},
        {"kind": "precision", "precision": "fp16"},
    ):
        found = built(checkpoints, actor=actor)
        kinds = [next(each.model.parameters()).dtype for each in (found.policy, found.actor.scorer)]
        assert kinds == [torch.float64, torch.float16]
        # Rotary frequencies are no weights: a served checkpoint keeps them as they are.
        assert torch.float16 not in {each.dtype for each in found.actor.scorer.model.buffers()}


def test_a_target_is_refused_with_a_nucleus(checkpoints: Path) -> None:
    with pytest.raises(ValueError, match="cannot be met with top_k or top_p"):
        environment(checkpoints, actor={"kind": "weight-noise", "target_kl": 0.1}, top_p=0.9)


def test_files_of_a_data_set_count(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    found = environment(checkpoints, prompts={"kind": "dataset", "name": str(tmp_path)}).files()
    assert tmp_path / "rows.jsonl" in found


def test_roles_and_prompts_draw_from_uniforms_of_their_own(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "twice.txt").write_text("a b\na b\n")
    found = built(checkpoints, actor=str(checkpoints / "policy"), prompts=str(tmp_path / "twice.txt"))
    policy, actor = (found.write(role, 0, 8, 1).tokens.reshape(2, 8, 3) for role in ("policy", "actor"))
    assert (policy != actor).any()
    assert (actor[0] != actor[1]).any()


def test_an_older_actor_is_behind_a_policy_trained_on_its_own_law(checkpoints: Path) -> None:
    stale = {"kind": "stale", "steps": 2, "learning_rate": 1e-2, "batch": 8}
    weights = [list(built(checkpoints, actor=stale, top_k=k).policy.model.parameters()) for k in (None, 1)]
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_ascent_takes_the_mean_reward_off_and_prompts_in_turn(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jackpot_sim.environments.rollouts import ascent

    found, prompts, heats = built(checkpoints, temperature=0.5), [], []
    log_probs = ascent.token_log_probs

    def noted(*given: Any) -> Any:
        heats.append(given[-1])
        return log_probs(*given)

    def equal(prompt: Any, tokens: Any, mask: Any) -> Any:
        prompts.append(prompt.tolist())
        return np.ones(len(prompt))

    monkeypatch.setattr(ascent, "token_log_probs", noted)
    start = found.policy.model
    end = ascent.RolloutAscent(start, found.setup, equal, 1e-2, 3, np.random.default_rng(0)).after(8)
    assert all(torch.equal(one, other) for one, other in zip(start.parameters(), end.parameters(), strict=True))
    assert {tuple(each) for each in prompts} == {(0, 0, 1), (0, 1, 1)}
    assert set(heats) == {0.5}


def test_prompts_are_fixed_in_every_error(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strata: list[set[int]] = []

    def noted(values: Any, counts: Any, prompt: Any) -> Any:
        strata.append(set(prompt.tolist()))
        return ratio_of_means(values, counts, prompt)

    for module in (realised_rollouts, rollouts):
        monkeypatch.setattr(module, "ratio_of_means", noted)
    run_serially(study(checkpoints, estimators=["tis"], **FEW), tmp_path / "run")
    assert len(strata) > 10
    assert all(each == {0, 1} for each in strata)


def test_a_correction_that_keeps_everything_leaves_the_kl_of_the_policy() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6, 5)))
    policy, actor = torch.log_softmax(logits, dim=-1)
    tokens = np.zeros((2, 3), dtype=np.int64)
    visited = Visited(tokens, [estimators.get("none")])
    visited.add(np.repeat([0, 1], 3), np.tile(range(3), 2), policy, actor, actor)
    assert visited.at[0] is not None
    for kl in visited.at[0][1:]:
        assert (kl == visited.divergences["kl_policy_actor"]).all()


def test_no_weight_reaches_what_the_actor_never_writes() -> None:
    policy = torch.log(torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64))
    actor = torch.log(torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64))
    found = at_states(policy, actor, actor, torch.tensor([math.inf]), estimators.get("is"))
    assert found.acceptance_rate.tolist() == [pytest.approx(1)]
    assert found.kl_accepted.tolist() == found.kl_effective.tolist() == [math.inf]


def test_rewards_are_told_of_each_role(checkpoints: Path, tmp_path: Path) -> None:
    asked = study(checkpoints, estimators=["none"], **FEW)
    told = records.load(run_serially(asked, tmp_path / "run"), "diagnostics").set_index("figure")
    found = built(checkpoints)
    for role in ROLES:
        written = found.write(role, 0, FEW["n_samples"], FEW["replicates"])
        figure = told.loc[f"reward_{role}"]
        assert figure["value"] == pytest.approx(found.reward(written.prompt, written.tokens, written.mask).mean())
        wanted = rollouts._reward(role, found.reward(written.prompt, written.tokens, written.mask), written.prompt)
        ends = figure[["se", "low", "high"]].tolist()
        assert ends == pytest.approx([wanted.se, wanted.low, wanted.high], nan_ok=True)
    assert told.loc["reward_actor", "value"] != told.loc["reward_policy", "value"]


def test_a_mean_reward_has_an_interval_where_enough_rewards_differ() -> None:
    rewards, prompt = np.tile([1.0, 0.0, 0.0, 0.0], 6), np.repeat(np.arange(6), 4)
    found = rollouts._reward("actor", rewards, prompt)
    assert (found.se, found.low, found.high) == intervals.of_left_out(*intervals.stratified_mean(rewards, prompt))
    assert found.low < found.value < found.high
    rewards[0] = 0.0  # one prompt fails throughout
    assert rollouts._reward("actor", rewards, prompt).unresolved
    assert rollouts._reward("actor", np.zeros(24), prompt).unresolved


def test_where_lam_is_small_nothing_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    jackpot = {"kind": "jackpot", "lam": 1e-9, "c1": 1e9}
    asked = study(checkpoints, estimators=["is", jackpot], normalizers={"k": [2], "lam": 1e-9}, **FEW)
    run = run_serially(asked, tmp_path / "run")
    found = records.load(run)
    for name in ("ess_fraction", "gain", "acceptance_rate"):
        assert found[name].iloc[0] == pytest.approx(found[name].iloc[1], rel=1e-6), name
    assert records.load(run, "normalizers")["overlap"].to_numpy() == pytest.approx(1, abs=1e-6)


def test_one_draw_decides_masks_and_all_draws_are_of_the_seed(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: set[tuple[Any, ...]] = set()

    def noted(*key: Any) -> np.random.Generator:
        keys.add(key)
        return keyed_generator(*key)

    monkeypatch.setattr(rollout_states, "keyed_generator", noted)
    alike = [{"kind": "jackpot", "c1": c1} for c1 in (1e6, 2e6)]
    asked = study(checkpoints, estimators=alike, seeds=[7], normalizers={"k": [2], "batch": 2}, **FEW)
    found = records.load(run_serially(asked, tmp_path / "run"))
    assert found["ess_fraction"].iloc[0] == found["ess_fraction"].iloc[1] < 1
    assert {key[0] for key in keys} == {7}
    assert {key[1] for key in keys} == {"masks", "normalizers", "batches"}


def test_gradients_are_in_the_last_norm_unless_a_block_is_named(checkpoints: Path, tmp_path: Path) -> None:
    gains = [
        row(run_serially(study(checkpoints, {"block": block}, estimators=["none"], **FEW), tmp_path / how), "none")
        for how, block in (("usual", None), ("named", "model.norm.weight"))
    ]
    assert gains[0]["grad_norm_sq"] == gains[1]["grad_norm_sq"]


def test_threads_are_those_that_were_asked_for(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    for module in (building, rollouts):
        threads = module.torch_threads

        def noted(count: int, threads: Any = threads) -> Any:
            counts.append(count)
            return threads(1)

        monkeypatch.setattr(module, "torch_threads", noted)
    run_serially(study(checkpoints, {"threads": 2}, estimators=["none"], **FEW), tmp_path / "run")
    assert counts == [2, 2]


def test_a_batch_that_fits_leaves_room_for_gradients(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    forward = transformers.Qwen3ForCausalLM.forward

    @functools.wraps(forward)
    def hungry(self: Any, input_ids: Any = None, *given: Any, **options: Any) -> Any:
        if torch.is_grad_enabled() and len(input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(self, input_ids, *given, **options)

    monkeypatch.setattr(transformers.Qwen3ForCausalLM, "forward", hungry)
    env = hf(checkpoints, batch_size=8, gradients="batches", block="*.mlp.down_proj.weight")
    options = [part for name, value in env.items() for part in (f"--env.{name}", str(value))]
    command = [*options, "--estimators", "none", "--n-samples", "4", "--replicates", "3", "--quiet"]
    command += ["--seeds", "1", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    told = re.search(r"out of memory at batch_size=8: (\d) fits", capsys.readouterr().err)
    assert told
    assert int(told[1]) <= 3


def text_of(tables: Iterable[Any]) -> str:
    console = Console(width=220, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()


def test_tables_tell_of_all_seeds_and_of_each_environment(checkpoints: Path, tmp_path: Path) -> None:
    env = {
        "actor": [{"kind": "weight-noise", "sigma": 0.5}, {"kind": "weight-noise", "sigma": 2.0}],
        "length": 2,
        "gradients": "off",
    }
    asked = study(checkpoints, env, estimators=["none"], seeds=2, normalizers={"k": [2, 3]}, **FEW)
    run = run_serially(asked, tmp_path / "run")
    text = text_of(rollout_tables(run))
    told, ways = (records.load(run, name).groupby("environment", sort=False) for name in ("diagnostics", "normalizers"))
    beside, *detailed = re.split(r"\n(?=\S.*: )", text)
    for name, label in labels(list(told.groups)).items():
        mean = told.get_group(name).groupby("figure")["value"].mean()
        shown = next(line for line in beside.splitlines() if label.split()[-1] in line).split()
        assert shown[-3:-1] == [f"{mean[role]:.3g}" for role in ("reward_policy", "reward_actor")]
        rows = ways.get_group(name)
        chosen = rows[(rows["way"] == "server-calibrated") & (rows["k"] == 3)]
        assert shown[-1] == f"{chosen['error'].mean():.2%}"
        diagnostics, normalizers = (
            next(each for each in detailed if label in each and heading in each) for heading in ("k1 ", "ways to Z")
        )
        assert re.search(rf"k1 +{mean['k1']:.3g} ", diagnostics)
        first = rows[(rows["way"] == "top-k") & (rows["k"] == 2)]
        assert f"at {first['tokens'].sum():,} tokens" in normalizers
        assert re.search(rf"top-k +2 .* {first['error_max'].max():.1%} ", normalizers)


def test_the_unit_of_variances_comes_from_sequences_where_they_are_there(checkpoints: Path, tmp_path: Path) -> None:
    found = {
        how: row(
            run_serially(study(checkpoints, {"gradients": how}, estimators=["m2po"], **FEW), tmp_path / how), "m2po"
        )
        for how in ("sequences", "batches")
    }
    assert found["sequences"]["grad_norm_sq"] == pytest.approx(found["batches"]["grad_norm_sq"])
    assert found["sequences"]["on_policy_variance"] != pytest.approx(found["batches"]["on_policy_variance"])


def test_environments_are_told_apart_from_their_own_kind_by_other_things_than_targets(checkpoints: Path) -> None:
    def name(**actor: Any) -> str:
        return json.dumps(hf(checkpoints, actor=actor, precision="fp32"))

    noisy, stale = name(kind="weight-noise", sigma=0.1), name(kind="stale", steps=4)
    assert labels([noisy, stale]) == labels([noisy]) | labels([stale])
    targets = [name(kind="weight-noise", target_kl=kl) for kl in (0.1, 0.2)]
    assert list(settings(targets).values()) == [["policy=policy"]] * 2
