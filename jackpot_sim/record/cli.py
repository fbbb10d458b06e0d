"""The command line of `jackpot-sim record`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jackpot_sim.commands import FLAG, answer, app_of
from jackpot_sim.diagnose.diagnose import tables
from jackpot_sim.diagnose.live import asked
from jackpot_sim.environments.sources.server import FlavourName
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.left_out import Reason
from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.record.convert import appearing, write_tables
from jackpot_sim.studies.counting import counting
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable

app = app_of(
    "jackpot_sim.record",
    "Keep rollouts with the log-probs of both policies in the plain schema: those of a live server, or any dump.",
    """
With --server the rollouts of --prompts are written by a server and scored by --policy. With paths a dump of any format
that `python -m jackpot_sim.diagnose` reads is written anew, and --policy adds the side that dumps of servers lack, so
that the checkpoint reads them once and not with each diagnosis. Prompts are not kept.

A trainer of your own is recorded while it trains, by no command: a class that stands before the trainer among its bases
writes a file a step. For TRL that is `jackpot_sim.record.trl.RecordsRollouts`, for verl
`jackpot_sim.record.verl.RecordsRollouts`; any other loop calls `jackpot_sim.record.Recorder(DIR).write(step, ...)`.

`python -m jackpot_sim.diagnose DIR` judges what was kept.

Exit codes: 0 done; 2 bad input or a request that cannot be met (one sentence says what); 130 interrupted.
""",
)


@app.default
def record(
    *paths: str,
    out: Path,
    server: str | None = None,
    policy: str | None = None,
    prompts: Path | None = None,
    model: str | None = None,
    flavour: FlavourName | None = None,
    samples: int | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    topk: int | None = None,
    seed: int | None = None,
    format_: Annotated[str | None, Parameter(name="--format")] = None,
    skip_bad: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
) -> int:
    """Keep rollouts.

    Args:
        paths: Files, folders or patterns of one dump.
        out: The folder to write, new or empty.
        server: In the place of paths: the address of a server, as in http://127.0.0.1:8000/v1, of vLLM, SGLang,
            llama.cpp, TGI or another that speaks OpenAI's completions.
        policy: A checkpoint (a folder, a GGUF file, smollm2 or a hub id) to compute the policy's log-probs with.
        prompts: With --server: a file of prompts, .txt with one a line or .jsonl.
        model: With --server: the model's name there; by default the only one that it serves.
        flavour: With --server: the kind of server; by default it is asked.
        samples: With --server: rollouts of each prompt, by default 8.
        max_new_tokens: With --server: the most tokens of a rollout, by default 64.
        temperature: With --server: that of both sides, by default 1.
        topk: With --server: the number of likeliest tokens to ask for, by default 20.
        seed: With --server: decides the rollouts' seeds, by default 0.
        format_: The format of the dump, where the keys of its records do not tell it.
        skip_bad: Go on without rows that cannot be read, and count them.
        quiet: No progress, and no word at the end.
    """
    wish = {
        "model": model,
        "prompts": prompts,
        "flavour": flavour,
        "samples": samples,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "topk": topk,
        "seed": seed,
    }
    live = asked(server, policy, wish)
    if bool(paths) == (live is not None):
        raise StudyError("give the files of a dump, or --server with --policy and --prompts, and one of them")
    try:
        with appearing(out) as folder:
            if live is not None:
                with counting(quiet, "rollouts have arrived") as arrived:
                    live.written(arrived, folder)
                told = "Rollouts of the server"
            else:
                with counting(quiet, "tokens written") as count:
                    told = _converted(paths, policy, format_, skip_bad, folder, count)
    except FileExistsError as error:
        raise StudyError(f"{error}: give a folder that is new or empty with --out") from error
    except OSError as error:
        raise unwritable(Path(error.filename or out), error) from error
    if not quiet:
        print(f"{told} in {out}: python -m jackpot_sim.diagnose {out} judges them.")
    return 0


def _converted(
    paths: Sequence[str],
    policy: str | None,
    format_: str | None,
    skip_bad: bool,
    folder: Path,
    count: Callable[[int], None],
) -> str:
    """Writes a dump anew; the words for it."""
    dump = open_dump(paths, format=format_, skip_bad=skip_bad)

    def counted() -> Iterator[TokenTable]:
        for table in tables(dump, policy, skip_bad=skip_bad):
            yield table
            count(len(table))

    written = write_tables(counted(), folder)
    bad = dump.left_out.count.get(Reason.BAD_ROW, 0)
    left_out = f" (without {bad} rows that cannot be read)" if bad else ""
    return f"{written.sequences:,} sequences, {written.tokens:,} tokens{left_out}, format {dump.format} before,"


def main(argv: Sequence[str] | None = None) -> int:
    """Keeps rollouts, and turns every foreseeable failure into one sentence and exit code 2."""
    again = "the same command goes on where a server's rollouts have arrived"
    return answer(app, "record", argv, failures=(StudyError, DumpError), again=again)
