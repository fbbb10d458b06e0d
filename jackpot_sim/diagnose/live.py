"""Rollouts of a live server with the policy's log-probs beside the server's own, as a dump.

The dump holds the log-probs as the server gives them, since a trainer would get those, and the policy's at the
temperature that the server was asked for, as trainers compute them. A run that breaks off keeps the rollouts that have
arrived, and the next one goes on from there; a run after a complete one asks anew.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jackpot_sim.core.arrays import Array, Flags, Ints
from jackpot_sim.core.topk import TopK
from jackpot_sim.diagnose.recompute import Recompute
from jackpot_sim.environments.engines.engine import Order
from jackpot_sim.environments.engines.server.ask import Rollout
from jackpot_sim.environments.engines.server.engine import USUAL_TOPK, ServerEngine
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.carried import cache_folder, is_gguf
from jackpot_sim.environments.language_models.checkpoints import Loaded, Precision, load, resolved_device
from jackpot_sim.environments.language_models.library import end_tokens
from jackpot_sim.environments.language_models.prompts import PromptFile, encoded
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.sources.server import FlavourName, ServerActor
from jackpot_sim.readers.sequence import DumpedSequence
from jackpot_sim.record import Recorder
from jackpot_sim.requirements import require
from jackpot_sim.studies.errors import StudyError

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Live:
    """The rollouts to ask for, and the policy to hold them against.

    Attributes:
        server: the server's address.
        policy: the policy's checkpoint.
        prompts: a file of prompts.
        model: the model's name at the server; None: the only one.
        flavour: the kind of server; auto asks it.
        samples: rollouts of each prompt.
        max_new_tokens: the most new tokens.
        temperature: that of the server's sampler and of the policy.
        topk: the number of likeliest tokens to ask for.
        seed: decides the seeds of the rollouts.
    """

    server: str
    policy: str
    prompts: Path
    model: str | None = None
    flavour: FlavourName = "auto"
    samples: int = 8
    max_new_tokens: int = 64
    temperature: float = 1.0
    topk: int = USUAL_TOPK
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("max_new_tokens", 1), ("topk", 0), ("seed", 0)):
            check_count(name, getattr(self, name), least)
        self.order(frozenset())  # its checks

    def order(self, ends: frozenset[int]) -> Order:
        """The order of rollouts that end with one of these tokens."""
        sampling = SamplingLaw(temperature=self.temperature)
        return Order(sampling=sampling, end_tokens=ends, batch_size=1, topk=self.topk)

    @property
    def tokenizer(self) -> str | None:
        """The policy, where its tokenizer can be read from this machine."""
        return self.policy if is_gguf(self.policy) or Path(self.policy).expanduser().is_dir() else None

    @property
    def folder(self) -> Path:
        """The folder of the dump, the same for the same request."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        name = "".join(sign if sign.isalnum() or sign in "-._" else "-" for sign in Path(self.model or "server").name)
        return cache_folder() / "live" / f"{name}-{digest}"

    def written(self, report: Callable[[int], None] | None = None, folder: Path | None = None) -> Path:
        """Asks for the rollouts, scores them by the policy and writes both: the folder of the dump.

        Args:
            report: called with 1 for each rollout that arrives.
            folder: the folder of the dump; None: that of the request.

        Raises:
            StudyError: the checkpoint or the prompts cannot be read, or the server fails; the rollouts that have
                arrived are kept.
        """
        require("torch", "transformers", "requests", purpose="--server")
        try:
            return self._written(report, folder or self.folder)
        except ValueError as error:
            raise StudyError(str(error)) from error

    def _written(self, report: Callable[[int], None] | None, folder: Path) -> Path:
        texts = PromptFile(path=self.prompts).read()
        self._source().ask()
        loaded = load(self.policy, precision=Precision.FP32, device=resolved_device("auto"))
        prompts = encoded(texts, loaded.tokenizer)
        prompt = np.repeat(np.arange(len(prompts)), self.samples)
        uniforms = keyed_generator(self.seed, "live").random((len(prompt), self.max_new_tokens))
        engine = self._engine(loaded)
        engine.check(prompts, prompt, self.max_new_tokens)
        ends = frozenset(end_tokens(loaded.model, loaded.tokenizer))
        asks = engine.asks(prompts, prompt, uniforms, self.order(ends))
        rollouts, journal = engine.rollouts(asks, report and (lambda _: report(1)))
        _record(folder, self._scored(prompts, prompt, rollouts, loaded))
        journal.delete()
        return folder

    def _source(self) -> ServerActor:
        return ServerActor(url=self.server, model=self.model, flavour=self.flavour, topk=self.topk)

    def _engine(self, loaded: Loaded) -> ServerEngine:
        return self._source().engine(int(loaded.model.config.get_text_config().vocab_size), loaded.tokenizer)

    def _scored(
        self, prompts: Sequence[Ints], prompt: Ints, rollouts: Sequence[Rollout], loaded: Loaded
    ) -> list[DumpedSequence]:
        """The rollouts with the policy's log-probs; those without a token, of a server that hides the end, are not."""
        given = [
            DumpedSequence(
                str(at),
                f"rollout {at}",
                token=np.asarray(rollout.tokens, dtype=np.int64),
                actor_log_probs=np.asarray(rollout.log_probs, dtype=np.float64),
                prompt=prompts[number],
                actor_topk=_topk(rollout),
            )
            for at, (number, rollout) in enumerate(zip(prompt.tolist(), rollouts, strict=True))
            if rollout.tokens
        ]
        if len(given) < len(rollouts):
            LOG.warning("%d rollouts hold no token whose log-prob the server tells", len(rollouts) - len(given))
        if not given:
            raise StudyError(
                "all rollouts are empty: ask for more tokens, or serve the model where end tokens come back"
            )
        return list(Recompute(loaded, sampling=SamplingLaw(temperature=self.temperature)).sequences(given))


def asked(server: str | None, policy: str | None, wish: Mapping[str, Any]) -> Live | None:
    """The rollouts that options ask a server for, None where none is named.

    Args:
        server: the server's address.
        policy: the policy's checkpoint.
        wish: the other options by the names of the fields, None where one is not given.

    Raises:
        StudyError: an option lacks its server, the server lacks the policy or prompts, or a number is out of range.
    """
    given = {name: value for name, value in wish.items() if value is not None}
    if server is None:
        if given:
            raise StudyError(f"--{next(iter(given)).replace('_', '-')} goes with --server")
        return None
    if not server.startswith(("http://", "https://")):
        raise StudyError(f"--server must begin with http:// or https://, got {server}")
    if policy is None or "prompts" not in given:
        raise StudyError("--server goes with --policy CHECKPOINT and --prompts FILE")
    try:
        return Live(server=server, policy=policy, **given)
    except ValueError as error:
        raise StudyError(f"--{error}") from error


def _topk(rollout: Rollout) -> TopK | None:
    if not rollout.top or not rollout.top[0]:
        return None
    ids = np.array([list(row) for row in rollout.top], dtype=np.int32)
    return TopK(ids, np.array([list(row.values()) for row in rollout.top], dtype=np.float32))


def _record(folder: Path, sequences: Sequence[DumpedSequence]) -> None:
    """Writes sequences that have both sides as one step."""
    lengths = [len(each.token) for each in sequences if each.token is not None]
    mask: Flags = np.arange(max(lengths)) < np.array(lengths)[:, None]

    def padded(name: str) -> Array:
        rows = [getattr(each, name) for each in sequences]
        out = np.zeros((*mask.shape, *rows[0].shape[1:]), dtype=rows[0].dtype)
        out[mask] = np.concatenate(rows)
        return out

    def top(name: str) -> tuple[Array, Array] | None:
        rows: list[TopK | None] = [getattr(each, name) for each in sequences]
        there = [row for row in rows if row is not None]
        if len(there) < len(rows):
            return None
        ids, values = (np.zeros((*mask.shape, there[0].k), dtype=dtype) for dtype in (np.int32, np.float32))
        ids[mask], values[mask] = (
            np.concatenate([getattr(row, part) for row in there]) for part in ("ids", "log_probs")
        )
        return ids, values

    Recorder(folder, rank=0).write(
        0,
        mask=mask,
        tokens=padded("token"),
        actor_log_probs=padded("actor_log_probs"),
        policy_log_probs=padded("policy_log_probs"),
        entropy=padded("entropy"),
        actor_topk=top("actor_topk"),
        policy_topk=top("policy_topk"),
    )
