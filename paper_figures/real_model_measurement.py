"""The measurement behind `real_model`: rollouts of each actor, scored by both models at every token.

A Parquet file for each actor is written as soon as it is measured, so that a run that was stopped goes on from there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.log_ratios import ess_fraction
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.core.sequences import per_sequence
from jackpot_sim.core.two_laws import TwoLaws
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.rollouts.built import RealisedRollouts
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.estimators.mismatch import overlap_estimates
from jackpot_sim.estimators.mismatch.overlap_estimates import LawBlock
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import locked, write_atomically
from jackpot_sim.studies.provenance import provenance
from jackpot_sim.sweep import plan
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.rows import normalizer_rows
from jackpot_sim.sweep.spec import Study

from . import records, shipped
from .real_model_actors import label

PROMPTS = Path("runs") / "real_model_prompts.txt"
"""The place of the prompts, as the configurations name it."""
COMPARED = 0.5
"""The share of the rollouts on whose states the ways to Z are compared, which costs as much as a model's pass."""

_STATE_FIGURES = ("kl_policy_actor", "kl_actor_policy", "overlap")


def measured(name: str, root: Path, say: Callable[[str], None]) -> pd.DataFrame:
    """The table of study `name`: a row for each actor, way to Z and k, the actor's own figures repeated in each.

    Args:
        name: that of a configuration.
        root: a folder, in which what was measured before is found again.
        say: told of each actor.

    Raises:
        StudyError: another run writes to the folder; or an actor cannot be built, and the error says why.
    """
    study = records.study(name)
    cells = plan.cells(study)
    with locked(root):
        PROMPTS.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shipped.bundled("configs", PROMPTS.name), PROMPTS)
        missing = [cell for cell in cells if not _is_measured(root / f"{cell.id}.parquet", study)]
        if missing:
            say(f"{name}: measuring {len(missing)} of {len(cells)} actors into {root}")
        for number, cell in enumerate(missing, start=1):
            started = time.perf_counter()
            table = _of_actor(cell, study)
            shard = root / f"{cell.id}.parquet"
            write_atomically(shard, lambda to, table=table: table.to_parquet(to, compression="zstd", index=False))
            one, spent = table.iloc[0], time.perf_counter() - started
            actor = label(json.loads(cell.environment))
            figures = f"KL {one['kl_policy_actor']:.2g}, overlap {one['overlap']:.3f}"
            say(f"{name}: {number} of {len(missing)}, {actor}: {figures}, after {spent:.0f} s")
    table = pd.concat([pd.read_parquet(root / f"{cell.id}.parquet") for cell in cells], ignore_index=True)
    write_atomically(root / f"{name}.parquet", lambda to: table.to_parquet(to, compression="zstd", index=False))
    return table


def _is_measured(shard: Path, study: Study) -> bool:
    return shard.exists() and pd.read_parquet(shard, columns=["sizes"])["sizes"].iloc[0] == _sizes(study)


def _sizes(study: Study) -> str:
    """The sizes of a study as JSON: an actor that was measured at these need not be measured again."""
    ways = None if study.normalizers is None else study.normalizers.model_dump(mode="json")
    return json.dumps([study.n_samples, study.replicates, ways, COMPARED])


def _of_actor(cell: Cell, study: Study) -> pd.DataFrame:
    env = cell.env
    if not isinstance(env, HuggingFace) or study.normalizers is None:
        raise StudyError(f"{study.name} must ask for hf environments and normalizers")
    spent = time.process_time()
    with torch_threads(env.threads):
        try:
            realised = env.build(cell.seed)
        except ValueError as error:
            raise StudyError(str(error)) from error
        written = realised.write("actor", cell.seed, study.n_samples, study.replicates)
        visited = Visited(realised, written)
        batches = keyed_generator(cell.seed, "batches")
        sizes = study.normalizers
        blocks = visited.compared(round(COMPARED * len(written.tokens)), cell.seed)
        ways = overlap_estimates.compare(blocks, sizes.k, sizes.lam, sizes.batch, batches)
    own = {"cpu_seconds": time.process_time() - spent, "sizes": _sizes(study), **visited.figures(), **provenance()}
    table = pd.DataFrame(normalizer_rows(cell, ways)).rename(columns={"overlap": "overlap_compared"})
    return pd.concat([table, pd.DataFrame([own] * len(table))], axis="columns")


class Visited:
    """The figures at the states that an actor's rollouts visit; those of one token, (n, length)."""

    def __init__(self, realised: RealisedRollouts, written: Written) -> None:
        self._realised, self._written = realised, written
        self._at: dict[str, Floats] = {name: np.zeros(written.tokens.shape) for name in _STATE_FIGURES}
        self._policy_log_probs = np.zeros(written.tokens.shape)

    def compared(self, most: int, seed: int) -> Iterator[LawBlock]:
        """Measures every state, and passes on those of the first `most` rollouts."""
        written = self._written
        uniforms = keyed_generator(seed, "normalizers").random(written.tokens.shape)
        for pair in self._realised.pairs(written):
            at = pair.sequence, pair.step
            policy, actor = pair.policy_log_probs, pair.actor_log_probs
            found = TwoLaws(policy, actor).divergences()
            found["overlap"] = 1 - found["total_variation"]
            for name, values in self._at.items():
                values[at] = to_numpy(found[name])
            tokens = written.tokens[at]
            self._policy_log_probs[at] = to_numpy(policy)[np.arange(len(tokens)), tokens]
            passed = np.flatnonzero(pair.sequence < most)
            if passed.size:
                yield LawBlock(
                    policy[passed], actor[passed], tokens[passed], uniforms[at][passed], pair.sequence[passed]
                )

    def figures(self) -> dict[str, float]:
        """The figures of the actor by name, those of states with standard errors over rollouts, prompts being fixed."""
        written = self._written
        live, lengths = written.mask, written.mask.sum(axis=-1).astype(np.float64)
        out: dict[str, float] = {}
        for name, values in self._at.items():
            out[name], out[f"{name}_se"] = ratio_of_means(per_sequence(values), lengths, written.prompt)
        gap = np.where(live, np.asarray(log_ratio(self._policy_log_probs, written.log_probs)), 0.0)
        size = np.abs(gap[live])
        weight = np.exp(gap.sum(axis=-1) - gap.sum(axis=-1).max())
        return out | {
            "overlap_p05": float(np.quantile(self._at["overlap"][live], 0.05)),
            "abs_log_ratio_mean": float(size.mean()),
            "abs_log_ratio_max": float(size.max()),
            "ess_fraction_sequence": float(ess_fraction(weight.sum(), (weight**2).sum(), np.float64(len(weight)))),
            "rollouts": len(lengths),
            "tokens_written": float(lengths.sum()),
        }
