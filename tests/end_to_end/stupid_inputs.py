"""Three hundred stupid inputs to all commands, in 80 columns and in ASCII: `python -m tests.end_to_end.stupid_inputs`.

Each is a line that a user may well type: a slip, a file of another kind, a number out of range, a folder that is
taken. The answer to each is exit code 2 and one sentence on standard error, after the lines of
the stages of real models where there are such, with nothing on standard output; every
file that was there is there with its contents, and there is no file or folder that was not there before.

The command prints the inputs that are answered otherwise, and how; `--all` prints every input with its sentence. Its
exit code is 1 where there is any. Everything runs in this process, in a temporary folder.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pickle
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
from typing_extensions import override

from jackpot_sim.environments.progress import Stage
from jackpot_sim.requirements import run
from tests.end_to_end.stupid_lines import BASE, HF, TABLES
from tests.environments.tiny_checkpoints import save_checkpoint

MAINS = {
    "sweep": "jackpot_sim.sweep.cli",
    "analysis": "analysis.cli",
    "training": "jackpot_sim.training.cli",
    "bench": "jackpot_sim.bench.cli",
    "diagnose": "jackpot_sim.diagnose.cli",
    "example": "jackpot_sim.environments.language_models.example",
    "completion": "jackpot_sim.completion",
    "record": "jackpot_sim.record.cli",
    "report": "jackpot_sim.report.cli",
    "doctor": "jackpot_sim.doctor.start",
    "jackpot_sim": "jackpot_sim.__main__",
    "paper_figures": "paper_figures.__main__",
    **{name: f"paper_figures.{name}" for name in ("figure1", "figure2", "overhead", "table1", "topk_accuracy")},
}
"""The module of each command's `main`."""


_STAGE = re.compile(rf"\S+, cell \d+ of \d+: ({'|'.join(Stage)})(, \d+ rollouts)?(, about .* left)?\n")
"""The line of a stage of real models."""


class Input(NamedTuple):
    """A line and a part of its answer."""

    command: str
    line: str
    part: str


def inputs() -> list[Input]:
    """The whole table."""
    rows = [(command, row) for command, table in TABLES.items() for row in table.strip().splitlines()]
    spelt = [(command, row.replace("@hf", HF).replace("@base", BASE)) for command, row in rows]
    return [Input(command, *(part.strip() for part in row.split(" | "))) for command, row in spelt]


@dataclass(frozen=True)
class Answer:
    """The end of a command, and what it changed."""

    code: int | str
    out: str
    err: str
    changed: tuple[str, ...]

    @property
    def said(self) -> str:
        """The standard error after the lines that tell of the stages before it."""
        lines = self.err.splitlines(keepends=True)
        return "".join(dropwhile(_STAGE.fullmatch, lines))

    def faults(self, asked: Input) -> list[str]:
        """What is wrong with the answer; nothing where it is as it should be."""
        said = self.said
        head = said.split(": ")[0]
        checks = {
            f"exit code {self.code}": self.code == 2,
            f"standard error is {self.err!r}": said.count("\n") == 1 and said.endswith("\n"),
            f"it begins with {head!r}": head == asked.command or asked.command == "jackpot_sim",
            f"it does not say {asked.part!r}": asked.part in said,
            "standard output is not empty": not self.out,
            "it is long": len(said) < 500 + len(asked.line),
            f"it changed {', '.join(self.changed)}": not self.changed,
            "it advises to delete something": "delete" not in self.err,
        }
        return [fault for fault, passes in checks.items() if not passes]


def answer(asked: Input) -> Answer:
    """Runs a command in the current folder, in 80 columns and in ASCII, where any other sign is an error."""
    before = _contents()
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for _ in range(2)]
    code: int | str
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "80"}),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        try:
            code = importlib.import_module(MAINS[asked.command]).main(shlex.split(asked.line))
        except BaseException as error:  # whatever it is, it is not one sentence
            code = f"{type(error).__name__}: {error}"
    out, err = (_text(stream) for stream in streams)
    after = _contents()
    changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    return Answer(code, out, err, tuple(sorted(changed)))


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("ascii")


def _contents() -> dict[str, bytes]:
    """Every file below the current folder with its contents, and every folder."""
    return {str(path): path.read_bytes() if path.is_file() else b"a folder" for path in Path().rglob("*")}


STUDY = """
env: {kind: logit-noise, base: {kind: dirichlet, vocab: 12, states: 3}, sigma: [0.2, 0.5]}
estimators: [none, {kind: jackpot, acceptance_rate: 0.9}]
"""


class Foreign:
    """A function that a pickle runs when it is loaded without care."""

    @override
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


def dumps() -> None:
    """Dumps of rollouts in the current folder, all but one of them bad."""
    good = [{"sequence": 0, "position": at, "actor_log_prob": -1.0, "policy_log_prob": -1.1} for at in range(3)]
    lists = {"actor_log_probs": [-1.0, -2.0], "policy_log_probs": [-1.1, -2.1]}
    texts = {
        "dump": good,
        "nameless": [{"actor_log_prob": -1.0, "policy_log_prob": -1.0}],
        "lacks": [{"sequence": 0, "actor_log_prob": -1.0}],
        "lengths": [{"sequence": 0, **lists}, {"sequence": 1, **lists, "policy_log_probs": [-1.0]}],
        "words": [good[0], good[1] | {"actor_log_prob": "x"}],
        "masked": [row | {"mask": False} for row in good],
        "infinite": [row | {"actor_log_prob": -float("inf")} for row in good],
        "positive": [row | {"actor_log_prob": 3.0} for row in good],
    }
    for name, rows in texts.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("cut.jsonl").write_bytes(Path("words.jsonl").read_bytes()[:-30])
    Path("foreign.pkl").write_bytes(pickle.dumps({"action_log_probs": Foreign()}))


@contextlib.contextmanager
def things() -> Iterator[None]:
    """The current folder is a new one, with good and bad things in it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        texts = {
            "study.yaml": STUDY,
            "train.yaml": "task: {kind: addition, digits: 2}\nsteps: 2\nmethods: {none: {}}\n",
            "misspelt.yaml": f"{STUDY}sedes: 3\n",
            "name.yaml": f"{STUDY}name: a/b\n",
            "broken.yaml": "env: [",
            "empty.yaml": "",
            "list.yaml": "- 1\n",
            "study.json": "{}",
            "empty.jsonl": "",
            "bad.jsonl": "{\n",
            "prompts.jsonl": '{"prompt": "a b", "answer": "c"}\n{"prompt": "c", "answer": "a b"}\n',
            "chat.jsonl": '{"prompt": [{"role": "user", "content": "a"}], "answer": "c"}\n',
            "folder/precious": "mine",
            "damaged/manifest.json": "{",
            "diagnosed/manifest.json": json.dumps({"config_hash": "0", "diagnosis": {}}),
            "trained/manifest.json": json.dumps({"config_hash": "0", "config": {"grid": {}}}),
        }
        for name, text in texts.items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text)
        Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
        dumps()
        np.save("good.npy", np.zeros((2, 3)))
        Path("cut.npy").write_bytes(Path("good.npy").read_bytes()[:-9])
        np.save("nan.npy", np.full((2, 3), np.nan))
        with contextlib.redirect_stderr(io.StringIO()):  # transformers draws a bar
            save_checkpoint(Path("policy"), 0)
            save_checkpoint(Path("actor"), 1)
        small = "--n-samples 2 --replicates 3 --estimators none --executor serial --quiet"
        for line in (
            "--config study.yaml --seeds 1 --out run",
            "--config study.yaml --out begun",
            f"{HF} --env.length 2 --out real",
        ):
            assert run("sweep", MAINS["sweep"], shlex.split(f"{line} {small}")) == 0
        for shard in Path("begun/records").iterdir():  # as a kill before the first cell leaves it
            shard.unlink()
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Runs every input; 1 where one is not answered as it should be."""
    every = "--all" in (sys.argv[1:] if argv is None else argv)
    asked, wrong = inputs(), 0
    with things():
        for each in asked:
            given = answer(each)
            faults = given.faults(each)
            wrong += bool(faults)
            if faults or every:
                print(f"{each.command} {each.line}\n    {given.err.strip()}")
                print(*(f"    FAULT: {fault}\n" for fault in faults), sep="", end="")
    print(f"{len(asked) - wrong} of {len(asked)} stupid inputs are answered in one sentence, with nothing lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
