"""The command line of `python -m jackpot_sim.diagnose`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jackpot_sim.commands import FLAG, MANY, answer, app_of, console
from jackpot_sim.diagnose.advice.targets import Target
from jackpot_sim.diagnose.diagnose import EXAMPLE, Options, examined
from jackpot_sim.diagnose.live import asked
from jackpot_sim.diagnose.report import as_json, records
from jackpot_sim.diagnose.report.terminal import show
from jackpot_sim.diagnose.results import State
from jackpot_sim.environments.sources.server import FlavourName
from jackpot_sim.help_pages import Chapter
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.formats import FORMATS
from jackpot_sim.readers.formats.plain_schema import SCHEMA
from jackpot_sim.studies import plugins, workers
from jackpot_sim.studies.counting import counting
from jackpot_sim.studies.errors import StudyError

_COLUMNS = "\n".join(f"* {each.name}: {each.meaning}" for each in SCHEMA)

app = app_of(
    "jackpot_sim.diagnose",
    "Is the mismatch between actor and policy in my rollouts dangerous, why, and what should I do about it?\n\n"
    "Try it: python -m jackpot_sim.diagnose --example\n\n"
    "Without a dump: --server URL --policy CHECKPOINT --prompts FILE asks a live server for rollouts.",
)


@app.default
def diagnose(
    *paths: str,
    json: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    out: Path | None = None,
    correction: Annotated[list[str] | None, MANY] = None,
    plugin: plugins.Option = None,
    format_: Annotated[str | None, Parameter(name="--format")] = None,
    formats: Annotated[bool, FLAG] = False,
    policy: str | None = None,
    tokenizer: str | None = None,
    server: str | None = None,
    model: str | None = None,
    prompts: Path | None = None,
    flavour: FlavourName | None = None,
    samples: int | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    topk: int | None = None,
    seed: int | None = None,
    keep: float | None = None,
    ess: float | None = None,
    bias: float | None = None,
    skip_bad: Annotated[bool, FLAG] = False,
    by: workers.Option = workers.DEFAULT,
    quiet: Annotated[bool, FLAG] = False,
    wide: Annotated[bool, FLAG] = False,
    example: Annotated[bool, FLAG] = False,
    schema: Annotated[bool, FLAG] = False,
) -> int:
    """Diagnose a dump.

    Args:
        paths: Files, folders or patterns of one dump.
        json: Write the diagnosis as JSON. - is standard output, in the place of the report.
        out: A folder for the report, tables and plots. `jackpot-sim analysis FOLDER` reads it.
        correction: The corrections that you use, shown first.
        plugin: Files or modules with corrections of your own.
        format_: The format, where keys do not tell it.
        formats: Alone: list the formats.
        policy: A checkpoint to compute missing log-probs with. A folder, a GGUF file, smollm2 or a hub id.
        tokenizer: A folder or GGUF file, to show tokens as text. By default the policy's.
        server: The address of a server to ask, in place of paths. As in http://127.0.0.1:8000/v1, of vLLM, SGLang,
            llama.cpp, TGI or another that speaks OpenAI's completions. It writes rollouts of --prompts, --policy scores
            them, and both are kept as a dump, which the report names.
        model: With --server: the model's name there. By default the only one that it serves.
        prompts: With --server: a file of prompts. A .txt with one a line, or .jsonl.
        flavour: With --server: its kind. By default it is asked.
        samples: With --server: rollouts of each prompt, by default 8.
        max_new_tokens: With --server: the most new tokens, by default 64.
        temperature: With --server: that of both sides, by default 1.
        topk: With --server: likeliest tokens to ask for (20).
        seed: With --server: decides the seeds, by default 0.
        keep: Aim: keep this share of the signal (0.95). Aims may be combined.
        ess: Aim: an effective share of the tokens, by default 0.5.
        bias: Aim: a bias of at most this, by default any.
        skip_bad: Go on without rows that cannot be read, counted.
        by: The workers, which measure; this process reads.
        quiet: Print nothing: the exit code tells the verdict.
        wide: A report with everything in it, however long.
        example: A dump that comes with the package. Of a small language model whose rollouts were written by its int8
            weights; in the place of paths.
        schema: Alone: print the JSON schema of --json.
    """
    options = [name for name, value in locals().items() if value]
    for name, text in (("schema", as_json.schema), ("formats", _formats)):
        if name in options:
            if options != [name]:
                raise StudyError(f"--{name} stands alone")
            print(text(), end="")
            return 0
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
    if bool(paths) + example + (live is not None) != 1:
        given = paths or example or live
        raise StudyError("give the files of a dump, --example or --server, and one of them" if given else _NO_PATHS)
    by.check()
    plugins.of_option(plugin)
    if json is not None:
        as_json.require_writable(json)
    choices = Options(
        format=format_,
        skip_bad=skip_bad,
        corrections=_own(correction),
        target=_target(keep, ess, bias),
        policy=None if live else policy,
        tokenizer=tokenizer or (None if live is None else live.tokenizer),
        workers=by,
    )
    with contextlib.ExitStack() as stack:
        folder = None if out is None else stack.enter_context(records.claimed(out))
        if live is not None:
            with counting(quiet, "rollouts have arrived") as bar:
                paths = (str(live.written(bar)),)
        with counting(quiet, "tokens read") as progress:
            found = examined(paths or [EXAMPLE], choices, progress=progress)
        if folder is not None:
            records.write(folder, found.diagnosis, found.sample)
    if json is not None:
        as_json.write(found.diagnosis, json)
    if not quiet and json != as_json.STANDARD_OUTPUT:
        show(found.diagnosis, console(), own=len(choices.corrections), wide=wide)
    return 0 if found.diagnosis.verdict.state is State.HEALTHY else 1


_NO_PATHS = "name the files or the folder of a dump, or a --server, or try --example; see --help files"


def _own(correction: Sequence[str] | None) -> tuple[str, ...]:
    if correction is not None and not correction:
        raise StudyError("--correction: name a correction, as in 'tis(clip=3)' or verl:decoupled_token_is")
    return tuple(dict.fromkeys(correction or ()))


def _target(keep: float | None, ess: float | None, bias: float | None) -> Target:
    """The aim of the advice, which all that is given make up.

    Raises:
        StudyError: one is out of range.
    """
    try:
        return Target(keep=keep, ess=ess, bias=bias)
    except ValueError as error:
        raise StudyError(f"--{error}") from error


def _formats() -> str:
    """The formats with the keys by which each is known, a line each."""
    width = max(len(each.name) for each in FORMATS) + 2
    return "".join(f"{each.name:{width}}{each.expects}\n" for each in FORMATS)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, diagnoses, and turns every foreseeable failure into one sentence and exit code 2."""
    return answer(app, "diagnose", argv, failures=(StudyError, DumpError), chapters=_chapters)


def _chapters(tokens: Sequence[str]) -> list[Chapter]:
    return [
        Chapter("files", "what can be read, and the exit codes", _FILES),
        Chapter("schema", "the columns of a dump of your own", _PLAIN),
        Chapter("causes", "the causes that it can name", _CAUSES),
        Chapter("corrections", "how they are named, and your own", f"{_CORRECTIONS}\n\n{plugins.help_text(tokens)}"),
    ]


_FILES = f"""
Paths are files, folders and patterns such as 'rollouts/*.jsonl.gz'. The format is known by the keys of the records:
{", ".join(each.name for each in FORMATS)} (`--formats` says more). Nothing in a dump is ever executed.

Exit codes: 0 healthy; 1 a named problem, or too few tokens to tell; 2 bad input or a request that cannot be met (one
sentence says what); 130 interrupted.
"""

_PLAIN = f"""
The plain schema, for anything else, is JSONL or Parquet with one row a token, or one row a sequence that holds lists.
Needed are the sequence, in rows of tokens, and both log-probs, or the actor's alone with --policy; null stands for an
unknown number. `jackpot_sim.record` writes it from TRL and verl. Its columns:

{_COLUMNS}
"""

_CAUSES = """
Causes: temperature (one side has another temperature); truncated-sampling (top-p or top-k on one side);
raw-log-probs (one side before, one after the sampler); misaligned (one side moved by a token); placeholder (0.0, 1.0
or NaN in the place of log-probs); precision (rounding of the engine); stale (older weights); weight-sync (the engine
was sure where the trainer is not: weights that did not arrive); other-model; dominated (a few sequences make most of
it); tokenizer (tokenizer or chat template differ); bypass (both columns are the same one).
"""

_CORRECTIONS = """
Corrections are named as in `python -m jackpot_sim.sweep --help estimators`, with parameters in brackets: 'tis(clip=3)',
'tis & veto', verl:decoupled_token_is. `python -m jackpot_sim.sweep --presets` lists those of frameworks.
"""
