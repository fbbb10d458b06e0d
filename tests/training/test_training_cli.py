"""The command line of training: what it does, what it shows, and one sentence for what it refuses."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jackpot_sim.studies.files import locked
from jackpot_sim.training import progress
from jackpot_sim.training.cli import main
from jackpot_sim.training.conduct import Progress, load
from jackpot_sim.training.records import FIGURES
from jackpot_sim.training.study import of_mapping
from tests.environments.tiny_checkpoints import WORDS, save_checkpoint
from tests.environments.tiny_gguf import converts, write_gguf
from tests.training.tiny import MODES, TINY, study_of, written

pytest.importorskip("torch")
pytest.importorskip("transformers")

METHODS = {"none": {}, "stale": MODES["stale"]}


@pytest.fixture
def command(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A tiny study in the folder `study`, in this process."""
    monkeypatch.chdir(tmp_path)
    written(Path("study.yaml"), TINY | {"steps": 2, "methods": METHODS, "quick": {"steps": 1, "methods": ["none"]}})
    return ["--config", "study.yaml", "--out", "study", "--models", str(models), "--executor", "serial"]


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr of a command that is refused."""
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    lines = [line for line in error.splitlines() if not line.endswith("runs finished") and ": teaching" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("training: ")
    return lines[0]


# --- what it does -----------------------------------------------------------------------------------------


def test_a_study_is_trained_and_summed_up(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    out, error = capsys.readouterr()
    teaching, *lines = error.splitlines()
    assert teaching.startswith("study: teaching a policy and distilling its actors: models ")
    assert lines == [f"study: {done} of 2 runs finished" for done in (0, 1, 2)]
    assert out.startswith("study: 1 seed\n")
    assert re.search(r"stale .* (not collapsed|never right)", out)
    assert "2 runs; records in study.\n" in out
    assert len(load(Path("study"))[0]) == 6
    assert main(command) == 0
    assert "2 runs (2 were there already); records in study." in capsys.readouterr().out


def test_a_kind_may_stand_beside_its_fields(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--correction", "tis", "--correction.clip", "3", "--dry-run"]) == 0
    assert "tis(clip=3)" in capsys.readouterr().out


def test_a_centred_correction_is_trained_and_named(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    centred = [*command, "--quick", "--actor", "stale", "--correction", "tis", "--correction.clip", "1.05"]
    centred += ["--correction.centred", "true", "--rollout.topk", "2", "--rollout.prompts", "8"]
    assert main([*centred, "--dry-run"]) == 0
    assert "centred(tis(clip=1.05))" in capsys.readouterr().out
    assert main(centred) == 0
    assert "1 run; records in study.\n" in capsys.readouterr().out
    (manifest,) = Path("study").glob("*.json")
    assert '"centred": true' in manifest.read_text()


def test_quiet_says_nothing(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--quiet", "--quick"]) == 0
    assert capsys.readouterr() == ("", "")
    assert load(Path("study"))[1]["steps"].tolist() == [1]


def test_options_change_every_run(command: list[str]) -> None:
    assert main([*command, "--quiet", "--steps", "1", "--seeds", "2", "--correction.kind", "is"]) == 0
    outcomes = load(Path("study"))[1]
    assert outcomes["seed"].tolist() == [0, 0, 1, 1]
    assert set(outcomes["steps"]) == {1}


def test_policies_are_kept_and_the_last_line_says_where(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    assert re.search(r"Trained policies: study/runs/\*/policy \(\d+ KiB in all\)", capsys.readouterr().out)
    for method in METHODS:
        assert Path(f"study/runs/run.{method}.0/policy/model.safetensors").is_file()


def test_policies_that_are_not_kept_are_not_made_up_later(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--quick", "--no-keep-policies"]) == 0
    why = "diverged, trained with --no-keep-policies, or known by its records alone"
    none = f"No trained policy is kept: {why}.\n"
    assert capsys.readouterr().out.endswith(f"1 run; records in study.\n{none}")
    assert main([*command, "--quick"]) == 0
    assert capsys.readouterr().out.endswith(none)
    assert not Path("study/runs/run.none.0/policy").exists()


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_a_run_that_diverges_is_told_with_its_step_and_checkpoint(
    command: list[str], capsys: pytest.CaptureFixture[str], quiet: list[str]
) -> None:
    methods = {"wild": {"update": {"learning_rate": 1e30}}, "calm": {}}
    written(Path("study.yaml"), TINY | {"steps": 2, "methods": methods})
    for _ in range(2):  # the same command says it again
        assert main([*command, *quiet]) == 1
        out, error = capsys.readouterr()
        (told,) = [line for line in error.splitlines() if line.startswith("training: ")]
        step, path = re.fullmatch(
            r"training: run\.wild\.0 stopped at step (\d): training diverged: .+; its last good checkpoint is (\S+)",
            told,
        ).groups()
        assert load(Path("study"))[1]["steps"].tolist()[0] == int(step)
        assert Path(path).is_file()
        assert Path(path).parent == Path("study/runs/run.wild.0")
        assert "No policy is kept of run.wild.0: diverged" in out or quiet


def test_a_task_with_few_problems_is_trained_on_them_and_says_so(
    command: list[str], capsys: pytest.CaptureFixture[str], checkpoints: Path
) -> None:
    capsys.readouterr()  # what saving the checkpoint prints
    rows = [{"prompt": p, "answer": "a"} for p in "abcdefghijkl"]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [
        "--task",
        "prompts",
        "--task.prompts",
        "prompts.jsonl",
        "--task.reward",
        "answer",
        "--rollout.length",
        "2",
    ]
    options += ["--policy", str(checkpoints / "policy"), "--evaluation.problems", "128", "--rollout.prompts", "32"]
    assert main([*command, *options, "--quick"]) == 0
    _, error = capsys.readouterr()
    assert [line for line in error.splitlines() if line.startswith("training: ")] == [
        "training: prompts holds out 2 problems, fewer than evaluation.problems (128): tests use them all",
        "training: prompts has 10 problems to train on, fewer than rollout.prompts (32): each batch repeats some",
    ]
    assert load(Path("study"))[0]["accuracy"].notna().all()


def test_the_policy_may_be_a_gguf_file(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converts()
    monkeypatch.setenv("JACKPOT_SIM_CACHE", str(tmp_path / "converted"))  # where no other test has converted it
    rows = [{"prompt": p, "answer": "a"} for p in "abcdefghijkl"]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = ["--task", "prompts", "--task.prompts", "prompts.jsonl", "--task.reward", "answer", "--rollout.length", "2"]
    options = [*command, *task, "--quick", "--policy", "policy.gguf"]
    write_gguf(Path("policy.gguf"))
    assert main(options) == 0
    assert load(Path("study"))[0]["accuracy"].notna().all()
    assert "training: converting policy.gguf to a checkpoint, this once, in " in capsys.readouterr().err
    write_gguf(Path("policy.gguf"), seed=1)
    assert "another study" in refusal(options, capsys)  # the file's contents count, not its name
    Path("policy.gguf").write_bytes(b"GGUF")
    assert "cut short" in refusal(["other" if part == "study" else part for part in options], capsys)


def test_a_dry_run_needs_no_torch(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main([*command, "--dry-run"]) == 0


def test_a_dry_run_shows_the_runs_and_trains_nothing(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for told in ("none", "stale", "jackpot(c1=2, lam=1, target=p_new)", "Records would go to study."):
        assert told in out
    assert not Path("study").exists()


def test_records_go_to_a_folder_of_the_studys_name_by_default(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command[:2], "--dry-run"]) == 0
    assert re.search(r"Records would go to runs/study-[0-9a-f]{8}\.\n$", capsys.readouterr().out)


def test_columns_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--columns"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in FIGURES)


def test_all_of_the_help_names_every_kind_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "all"]) == 0
    out = capsys.readouterr().out
    words = ["--config", "--out", "--quick", "--keep-policies", "--tensorboard", "--dry-run", "--columns", "--models"]
    words += ["addition", "modular", "word-problems", "benchmark", "prompts"]
    words += ["on-policy", "stale", "served", "frozen", "joint", "settings", "methods", "Exit codes"]
    assert [word for word in words if word not in out] == []


def test_ctrl_c_is_answered_in_one_sentence(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jackpot_sim.training.cli.conduct", interrupted)
    assert main([*command, "--quiet"]) == 130
    assert capsys.readouterr().err == "training: interrupted; the same command goes on from the checkpoints\n"


# --- what it refuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steps", "0"], "steps: Input should be greater than or equal to 1"),
        (["--steps", "abc"], "steps: Input should be a valid integer"),
        (["--steps"], "--steps needs a value"),
        (["--step", "3"], "see --help"),
        (["--seeds", "0"], "seeds: their number must be at least 1, got 0"),
        (["--seeds", "x"], "--seeds"),
        (["--update.minibatches", "99"], "update.minibatches is 99"),
        (["--update.cliq", "1"], "update.cliq: there is no such field (update has minibatches"),
        (["--correction", "nothing"], "unknown estimator 'nothing'"),
        (["--correction.kind", "jackpot", "--correction.c1", "-1"], "c1 must be positive, got -1.0"),
        (["--correction", "tis", "--budget.rejected", "0.1"], "tis has no lam that a budget could set"),
        (["--correction", "jackpot", "--rollout.topk", "0"], "give rollout.topk of at least 1"),
        (["--actor.kind", "frozen", "--actor.kl", "null"], "kl is null"),
        (["--actor.kind", "nobody"], "there is no kind 'nobody'"),
        (["--task.kind", "benchmark", "--task.name", "gsm8k"], "a policy cannot be taught the task benchmark"),
        (["--policy.kind", "checkpoint", "--policy.path", "no/such/folder"], "no/such/folder: no such folder"),
        (["--rollout.length", "70", "--policy.most-steps", "1"], "reads at most 64 tokens"),
        (["--device", "abacus"], "device='abacus' is not there: give 'auto' or 'cpu'"),
        (["--workers", "2"], "--workers 2 cannot go with --executor serial"),
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        (["--executor", "threads"], "--executor"),
        (["study.yaml"], "Unused Tokens"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_cannot_be_done_is_one_sentence(
    command: list[str], capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert sentence in refusal([*command, *options], capsys)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.yaml", None, "config missing.yaml cannot be read: No such file or directory"),
        ("empty.yaml", "", "must hold a mapping of study fields, not NoneType"),
        ("list.yaml", "- 1", "must hold a mapping of study fields, not list"),
        ("broken.yaml", "a: [", "cannot be parsed"),
        ("study.json", "{}", "must end in .yaml, .yml or .toml"),
        ("plain.yaml", "steps: 3", "the study has no quick version"),
    ],
)
def test_a_config_that_is_none_is_one_sentence(
    command: list[str], capsys: pytest.CaptureFixture[str], name: str, content: str | None, sentence: str
) -> None:
    if content is not None:
        Path(name).write_text(content)
    assert sentence in refusal(["--config", name, *command[2:], "--quick"], capsys)


def test_prompts_that_cannot_be_read_are_not_put_down_to_the_tests(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.jsonl").write_text("")
    told = refusal([*command, "--task", "prompts", "--task.prompts", "empty.jsonl", "--policy", "any"], capsys)
    assert told == "training: empty.jsonl: there is no prompt"


def test_a_config_without_its_option_gets_a_hint(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "give a study's file as --config study.yaml" in refusal(["study.yaml"], capsys)


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda root: (root.mkdir(), (root / "notes.txt").write_text("mine")), "holds files but no study"),
        (lambda root: root.write_text("mine"), "is not a folder"),
        (lambda root: (root.mkdir(), (root / "manifest.json").write_text("{}")), "is not the manifest of a study"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused(
    command: list[str], capsys: pytest.CaptureFixture[str], prepare: Callable[[Path], Any], sentence: str
) -> None:
    prepare(Path("study"))
    assert sentence in refusal(command, capsys)


def test_another_study_in_the_folder_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--quick", "--quiet"]) == 0
    assert "study holds another study" in refusal([*command, "--quick", "--steps", "2"], capsys)


def test_two_at_once_are_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with locked(Path("study")):
        assert "another run is writing to study" in refusal(command, capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("closed").mkdir(mode=0o500)
    assert "cannot write closed" in refusal([*command[:3], "closed/study", *command[4:]], capsys)


def test_models_with_other_tokens_are_refused(
    command: list[str], capsys: pytest.CaptureFixture[str], checkpoints: Path
) -> None:
    save_checkpoint(Path("turned"), 1, tuple(reversed(WORDS)))
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": "a"}) + "\n" for p in "abcd"))
    options = ["--task.kind", "prompts", "--task.prompts.kind", "file", "--task.prompts.path", "prompts.jsonl"]
    options += ["--policy.kind", "checkpoint", "--policy.path", str(checkpoints / "policy")]
    options += ["--actor.kind", "frozen", "--actor.model.kind", "checkpoint", "--actor.model.path", "turned"]
    options += ["--evaluation.problems", "1", "--rollout.prompts", "2"]
    capsys.readouterr()  # what saving a checkpoint prints
    assert "they must agree" in refusal([*command, *options], capsys)


# --- what it shows ----------------------------------------------------------------------------------------


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=140, highlight=False, soft_wrap=True), file


def test_a_log_gets_a_line_for_what_is_new() -> None:
    errors, file = console(terminal=False)
    lines, told = progress._Lines(errors, study_of({})), Progress(3)
    for finished in (0, 0, 1, 1, 1, 3):
        told.finished = finished
        lines(told)
    assert file.getvalue().splitlines() == [
        f"study: {n} of 3 runs finished".replace("study", "training") for n in (0, 1, 3)
    ]


@pytest.mark.parametrize(("total", "left"), [(2, 18.0), (3, 38.0), (4, 38.0)])
def test_the_time_left_is_that_of_the_steps_on_the_workers_there_are(total: int, left: float) -> None:
    """Two workers take two seconds a step; one run waits for the first that is free, another for the second."""
    now = [0.0]
    steps = dict.fromkeys("abcd"[:total], 10)
    counted, told = progress.Left(steps, lambda: now[0]), Progress(total)
    assert counted.seconds(told) is None
    for step in (0, 1, 2):
        now[0] = 100.0 + 2 * step
        told.under_way = {name: {"step": step} for name in "ab"}
        known = counted.seconds(told)
        assert known is None if step < 2 else known == pytest.approx(left - 2)


def test_a_log_gets_the_first_figures_of_a_run_under_way() -> None:
    errors, file = console(terminal=False)
    study = of_mapping(TINY | {"methods": METHODS}, {})
    lines, told = progress._Lines(errors, study), Progress(2)
    for step in (1, 2, 3):
        told.under_way = {study.runs[0].id: {"step": step, "reward": 0.25, "accuracy": 0.5, "kl_policy_actor": 0.0123}}
        lines(told)
    (_, line) = file.getvalue().splitlines()
    for part in ("left; ", f"{study.runs[0].id}: step 2 of 3", "reward 0.25", "accuracy 0.5", "KL(p‖q) 0.0123"):
        assert part in line


def test_a_log_goes_on_where_all_runs_under_way_have_just_begun() -> None:
    errors, file = console(terminal=False)
    study = of_mapping(TINY | {"methods": METHODS}, {})
    first, second = (run.id for run in study.runs[:2])
    lines, told = progress._Lines(errors, study, every=0.0), Progress(2)
    for under_way in ({first: {"step": 1}}, {first: {"step": 2}}, {second: {}}):
        told.under_way = under_way
        lines(told)
    assert f"left; {second}: step 0 of 3" in file.getvalue().splitlines()[-1]


def test_a_terminal_sees_what_is_under_way() -> None:
    told = Progress(3, finished=1, preparing=["models a", "models b"])
    told.under_way = {
        "near.tis.0": {"step": 4, "kl_policy_actor": 0.04567, "acceptance_rate": 0.9, "reward": 0.5, "seconds": 1.25},
        "near.none.0": {},
    }
    errors, file = console(terminal=False)
    errors.print(progress._display(told, progress.Left({"near.tis.0": 10, "near.none.0": 20})))
    out = file.getvalue()
    for part in ("1 of 3 runs finished", "teaching and distilling 2 models", "near.tis.0", "4/10", "0.0457", "1.25"):
        assert part in out
    assert "0/20" in out


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_is_live_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    errors, file = console(terminal)
    monkeypatch.setattr(progress, "Console", lambda **_: errors)
    study = of_mapping(TINY | {"methods": METHODS}, {})
    with progress.shown(study, quiet=False) as report:
        report(Progress(2, finished=1, under_way={study.runs[1].id: {"step": 1}}))
    assert "1 of 2 runs finished" in file.getvalue()
    assert ("\x1b[" in file.getvalue()) == terminal
    assert ("1/3" in file.getvalue()) == terminal
    with progress.shown(study, quiet=True) as report:
        before = file.getvalue()
        report(Progress(2, finished=2))
    assert file.getvalue() == before
