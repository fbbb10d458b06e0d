"""A dump diagnosed: read, screened, measured once, and then causes, verdict and advice.

>>> from jackpot_sim.diagnose.diagnose import EXAMPLE, diagnosed
>>> diagnosed([EXAMPLE]).rows.sequences_used > 0
True
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jackpot_sim.diagnose import one_pass
from jackpot_sim.diagnose.advice.advise import advise
from jackpot_sim.diagnose.advice.aimed import aimed
from jackpot_sim.diagnose.advice.targets import Target
from jackpot_sim.diagnose.causes.naming import named
from jackpot_sim.diagnose.recompute import with_policy
from jackpot_sim.diagnose.results import Cause, Diagnosis, Rows, Worst
from jackpot_sim.diagnose.what_if.candidates import Candidate, candidates
from jackpot_sim.diagnose.what_if.effects import Effects
from jackpot_sim.environments.language_models.checkpoints import load_tokenizer
from jackpot_sim.environments.language_models.library import Tokenizer
from jackpot_sim.readers import build
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import Refuse, raises
from jackpot_sim.readers.left_out import LeftOut, Reason
from jackpot_sim.readers.open_dump import Dump, open_dump
from jackpot_sim.readers.screening import Screening
from jackpot_sim.readers.sequence import DumpedSequence
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.requirements import require
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.provenance import VERSION
from jackpot_sim.studies.workers import ALONE, Workers

EXAMPLE = Path(__file__).parent / "example" / "int8.parquet"
"""A small dump of a real mismatch that ships with the package: a language model, and its int8 weights as the actor."""

_IMPOSSIBLE = {Reason.MASKED, Reason.PADDING, Reason.INFINITE, Reason.POSITIVE}
"""Reasons that, where they are all there is, make a dump one that cannot be read, and no mismatch with a fault."""
_SIDES = {"actor_log_probs": "actor", "policy_log_probs": "policy"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The choices of a diagnosis.

    Attributes:
        format: the name of the dump's format; None: known by the keys of its first record.
        skip_bad: True to leave rows out that cannot be read, and count them, instead of refusing the dump.
        corrections: the user's own corrections, tried first: names with parameters, as in `tis(clip=3)`, or presets.
        target: the aim of the advice.
        policy: a checkpoint whose log-probs stand in for the policy's, where the dump has none.
        tokenizer: a folder with the tokenizer that decodes the worst tokens; None: the policy's own.
        workers: the processes that measure; the result does not depend on them.
    """

    format: str | None = None
    skip_bad: bool = False
    corrections: tuple[str, ...] = ()
    target: Target = field(default_factory=Target)
    policy: str | None = None
    tokenizer: str | None = None
    workers: Workers = ALONE


@dataclass(frozen=True, eq=False)
class Examined:
    """A diagnosis, and the tokens that stand for the dump in plots.

    Attributes:
        diagnosis: the diagnosis.
        sample: whole sequences drawn from the dump, only tokens that count; None where there is none.
    """

    diagnosis: Diagnosis
    sample: TokenTable | None


def diagnosed(
    paths: Sequence[str | Path],
    options: Options = Options(),
    *,
    progress: Callable[[int], None] | None = None,
) -> Diagnosis:
    """The diagnosis of a dump.

    Args:
        paths: files, folders or patterns.
        options: the choices.
        progress: called with the number of tokens of each part when it has been read.

    Raises:
        DumpError: the dump cannot be read, lacks a side, or holds no token that counts.
        StudyError: a correction, the tokenizer or the policy is not there.
    """
    return examined(paths, options, progress=progress).diagnosis


def examined(
    paths: Sequence[str | Path],
    options: Options = Options(),
    *,
    progress: Callable[[int], None] | None = None,
) -> Examined:
    """The diagnosis of a dump, with the tokens to plot; arguments and errors are those of `diagnosed`."""
    tried = _candidates(options.corrections)
    tokenizer = _tokenizer(options.tokenizer, options.policy)
    dump = open_dump(paths, format=options.format, skip_bad=options.skip_bad)
    screening = Screening()
    found = one_pass.run(
        tables(dump, options.policy, skip_bad=options.skip_bad),
        screening,
        functools.partial(Effects, tried),
        workers=options.workers,
        progress=progress,
    )
    causes = named(found.evidence)
    left_out = _together(dump.left_out, screening.left_out)
    _require_tokens(found, causes, left_out)
    own = len({name.strip() for name in options.corrections})
    verdict, advice = advise(found.evidence, causes, found.effects, options.target)
    rows = Rows(
        read=screening.read,
        used=found.tokens,
        sequences_read=screening.sequences_read,
        sequences_used=found.sequences,
        rounded=screening.rounded,
        left_out={str(reason): count for reason, count in left_out.count.items()},
        samples={str(reason): places for reason, places in left_out.sample.items()},
        passed_over=list(map(str, dump.passed_over)),
    )
    diagnosis = Diagnosis(
        jackpot_sim=VERSION,
        source={"paths": " ".join(map(_told, paths)), "format": dump.format, "files": str(len(dump.files))},
        verdict=verdict,
        causes=causes,
        advice=advice,
        metrics=list(found.evidence.metrics.values()),
        corrections=aimed(found.effects, advice.correction, found.evidence.sample, own),
        breakdowns=found.breakdowns,
        alarms=found.alarms,
        worst_tokens=[_decoded(each, tokenizer) for each in found.worst_tokens],
        worst_sequences=found.worst_sequences,
        rows=rows,
    )
    return Examined(diagnosis, found.evidence.sample)


def _told(path: str | Path) -> str:
    """A path as the report names it."""
    return "the example" if Path(path) == EXAMPLE else str(path)


def _candidates(own: Sequence[str]) -> tuple[Candidate, ...]:
    try:
        return candidates(own)
    except ValueError as error:
        raise StudyError(f"--correction: {error}") from error


def tables(dump: Dump, policy: str | None, *, skip_bad: bool) -> Iterator[TokenTable]:
    """The tables of a dump with both sides, that of the policy computed where a checkpoint is given.

    Args:
        dump: the dump.
        policy: the checkpoint; None: the dump has both sides.
        skip_bad: True to leave out what cannot be read, and count it in `dump.left_out`.

    Raises:
        DumpError: something cannot be read, or a side is missing.
        StudyError: the checkpoint cannot be read.
    """
    for table in (
        dump.tables()
        if policy is None
        else build.tables(_scored(dump, policy, _counting(dump) if skip_bad else raises))
    ):
        _require_sides(table)
        yield table


def _scored(dump: Dump, policy: str, refuse: Refuse) -> Iterator[DumpedSequence]:
    """The sequences of a dump with the log-probs of a checkpoint."""
    try:
        yield from with_policy(dump.sequences(), policy, refuse=refuse)
    except ValueError as error:
        raise StudyError(f"--policy {error}") from error


def _counting(dump: Dump) -> Refuse:
    """The answer to a bad sequence that counts it."""
    return lambda error: dump.left_out.add(Reason.BAD_ROW, error.rows, [str(error)])


def _require_sides(table: TokenTable) -> None:
    missing = [side for column, side in _SIDES.items() if getattr(table, column) is None]
    if not missing:
        return
    remedy = (
        "give --policy CHECKPOINT to compute them"
        if missing == ["policy"]
        else "expected what the engine returned beside each token"
    )
    raise DumpError(f"{table.place[0]} has no log-probs of the {' nor the '.join(missing)}: {remedy}")


def _require_tokens(found: one_pass.Measured, causes: Sequence[Cause], left_out: LeftOut) -> None:
    """Refuses a dump without a token that counts, unless placeholders or a moved side are the reason."""
    if found.tokens or (causes and not left_out.count.keys() <= _IMPOSSIBLE):
        return
    reasons = "; ".join(
        f"{count} {reason} ({', '.join(left_out.sample.get(reason, [])[:1])})"
        for reason, count in left_out.count.items()
    )
    raise DumpError(
        f"no token is left to diagnose: {reasons or 'there is none'}; expected tokens that the mask keeps, with "
        f"two finite log-probs of at most 0{f'. {causes[0].remedy}' if causes else ''}"
    )


def _together(*accounts: LeftOut) -> LeftOut:
    """The accounts of what was left out, as one."""
    whole = LeftOut()
    for account in accounts:
        for reason, count in account.count.items():
            whole.add(reason, count, account.sample.get(reason, ()))
    return whole


def _tokenizer(path: str | None, policy: str | None) -> Tokenizer | None:
    """The tokenizer in a folder, or else the one beside the policy, if that is a folder with one."""
    source = policy if path is None else path
    if source is None:
        return None
    option = "--policy" if path is None else "--tokenizer"
    require("transformers", purpose=option)
    try:
        found = load_tokenizer(Path(source))
    except ValueError as error:
        raise StudyError(f"{option} {error}") from error
    if found is None and path is not None:
        raise StudyError(f"--tokenizer {path} holds no tokenizer: give a folder as save_pretrained leaves it")
    return found


def _decoded(worst: Worst, tokenizer: Tokenizer | None) -> Worst:
    if tokenizer is None or worst.token is None:
        return worst
    return worst.model_copy(update={"text": tokenizer.decode([worst.token])})
