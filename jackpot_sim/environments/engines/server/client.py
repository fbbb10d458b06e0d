"""Requests to one server: retried with back-off where trying again may help, else one sentence that says what to do."""

from __future__ import annotations

import email.utils
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from jackpot_sim.environments.engines.server.ask import ServerError
from jackpot_sim.requirements import require

if TYPE_CHECKING:
    from requests import Response, Session

LOG = logging.getLogger(__name__)

KEY = "JACKPOT_SIM_SERVER_KEY"
"""The environment variable of the key to a server, by default."""

CONNECT = 10.0
"""Seconds until a server must have accepted a connection."""
FIRST_PAUSE = 0.5
"""Seconds before the first retry; each further pause is twice as long."""

_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SHOWN = 300


class _PassingError(ServerError):
    """A failure after which the same request may succeed."""

    def __init__(self, sentence: str, pause: float | None = None) -> None:
        super().__init__(sentence)
        self.pause = pause
        """Seconds that the server asks to wait."""


@dataclass(eq=False)
class Client:
    """The connections to one server; methods may be called by many threads at a time.

    Attributes:
        url: the server's address, with or without /v1.
        key: the name of the environment variable that holds the key, where there is one.
        timeout: the longest wait for an answer, seconds.
        retries: further attempts after one that failed.
        stopped: set to give up: pauses before retries end.
    """

    url: str
    key: str = KEY
    timeout: float = 600.0
    retries: int = 5
    stopped: threading.Event = field(default_factory=threading.Event)
    _local: threading.local = field(default_factory=threading.local)

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")

    def get(self, path: str) -> object:
        """The answer at a path; None where the server has no such path.

        Raises:
            ServerError: the server cannot be reached, or refuses.
        """
        try:
            return self._answered("GET", path, None)
        except _MissingError:
            return None

    def post(self, path: str, body: Mapping[str, object]) -> object:
        """The answer to a request, which is tried again where that may help.

        Raises:
            ServerError: it failed to the last, or would fail again.
        """
        for attempt in range(self.retries + 1):
            try:
                return self._answered("POST", path, body)
            except _PassingError as error:
                pause = FIRST_PAUSE * 2**attempt if error.pause is None else error.pause
                if attempt == self.retries or self.stopped.is_set():
                    tried = f", and {self.retries} retries did not help" if self.retries else ""
                    raise ServerError(f"{error}{tried}") from error
                if pause > self.timeout:
                    raise ServerError(f"{error}, and asks for a pause of {pause:.0f} s: come back later") from error
                LOG.info("%s: trying again in %.1f s", error, pause)
                self.stopped.wait(pause)
        raise AssertionError("the last attempt returns or raises")

    def _answered(self, method: Literal["GET", "POST"], path: str, body: Mapping[str, object] | None) -> object:
        from requests import exceptions

        try:
            response = self._session().request(
                method, f"{self.root}{path}", json=body, headers=self._headers(), timeout=(CONNECT, self.timeout)
            )
        except (exceptions.InvalidURL, exceptions.MissingSchema, exceptions.InvalidSchema) as error:
            raise ServerError(
                f"{self.url} is no address of a server: give one as in http://127.0.0.1:8000/v1"
            ) from error
        except exceptions.Timeout as error:
            raise _PassingError(f"{self.root} gives no answer within {self.timeout:g} s") from error
        except (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError) as error:
            raise _PassingError(f"{self.root} broke off in the middle of an answer") from error
        except exceptions.RequestException as error:
            raise _PassingError(f"{self.root} cannot be reached: start the server, or give its url") from error
        return self._content(response, path)

    def _content(self, response: Response, path: str) -> object:
        status = response.status_code
        if status in (401, 403):
            there = "the key that it holds is another" if os.environ.get(self.key) else "it is not set"
            raise ServerError(f"{self.root} refuses the key of the environment variable {self.key}: {there}")
        if status == 404:
            raise _MissingError(f"{self.root} has no {path} ({_message(response)}): give the server's own flavour")
        if status in _BUSY:
            raise _PassingError(f"{self.root} answers {status} ({_message(response)})", _pause(response))
        if status >= 300:
            raise ServerError(f"{self.root} refuses the request with {status}: {_message(response)}")
        try:
            return json.loads(response.content)
        except ValueError as error:
            raise _PassingError(f"{self.root} gave half an answer, or none that is JSON") from error

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key)
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _session(self) -> Session:
        """The session of this thread; to this very machine it goes past any proxy."""
        if not hasattr(self._local, "session"):
            require("requests", purpose="a server as actor")
            from requests import Session

            self._local.session = Session()
            self._local.session.trust_env = urlsplit(self.url).hostname not in _LOOPBACK
        session: Session = self._local.session
        return session


class _MissingError(ServerError):
    """A path that the server does not have."""


def _pause(response: Response) -> float | None:
    """The seconds of Retry-After, a number or a date; None where there is none that can be read."""
    given = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None


def _message(response: Response) -> str:
    """The server's own words, in whichever field of JSON it puts them, on one line."""
    try:
        found = json.loads(response.content)
    except ValueError:
        found = response.text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return " ".join(str(found).split())[:_SHOWN] or "without a word"
