"""The rollouts of a batch that have arrived so far, on disk: a run that breaks off loses none, the next one goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from jackpot_sim.environments.engines.server.ask import Rollout, ServerError
from jackpot_sim.environments.language_models.carried import CACHE, cache_folder

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Journal:
    """A file with one line a rollout: its place in the batch, tokens, log-probs and likeliest tokens.

    Attributes:
        path: the file.
    """

    path: Path

    @classmethod
    def of(cls, url: str, bodies: Sequence[object]) -> Journal:
        """The journal of these very requests to this server."""
        digest = hashlib.sha256(json.dumps([url, bodies], sort_keys=True).encode()).hexdigest()
        return cls(cache_folder() / "servers" / f"{digest[:32]}.jsonl")

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block in which no other run writes to the file.

        Raises:
            ServerError: another run does, or the folder cannot be written.
        """
        lock = FileLock(self._lock)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ServerError("another run asks the same server for the same rollouts: wait for it") from error
        except OSError as error:
            raise ServerError(
                f"cannot keep the answers in {self.path.parent} ({error.strerror}): set {CACHE} to a folder with space"
            ) from error
        with lock:
            yield

    def read(self) -> dict[int, Rollout]:
        """The rollouts that are there, by their places; a last line that is cut short does not count."""
        out: dict[int, Rollout] = {}
        if not self.path.is_file():
            return out
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                place, tokens, log_probs, top = json.loads(line)
            except ValueError:
                continue
            rows = [{int(token): value for token, value in row} for row in top]
            out[int(place)] = Rollout(tokens, log_probs, rows)
        if out:
            LOG.warning("going on with %d rollouts of a run that broke off, kept in %s", len(out), self.path)
        return out

    def keep(self, place: int, rollout: Rollout) -> None:
        """Adds a rollout; a line begins anew, so that one cut short spoils no other."""
        rows = [list(row.items()) for row in rollout.top]
        line = json.dumps([place, list(rollout.tokens), list(rollout.log_probs), rows])
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}")

    def delete(self) -> None:
        """Removes the file and its lock: all of the batch has arrived where it was wanted."""
        self.path.unlink(missing_ok=True)
        self._lock.unlink(missing_ok=True)  # one a batch, which a run of training would leave by the thousand

    @property
    def _lock(self) -> Path:
        return self.path.with_suffix(".lock")
