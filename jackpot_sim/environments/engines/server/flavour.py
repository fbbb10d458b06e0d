"""The interface of a flavour: the words in which one kind of server is asked, and those in which it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import ClassVar

from typing_extensions import override

from jackpot_sim.environments.engines.server.ask import Ask, Rollout, ServerError
from jackpot_sim.environments.engines.server.vocabulary import Vocabulary


class Told(StrEnum):
    """The law whose log-probs a server returns: before all of the sampler, after temperature alone, or after all."""

    RAW = "raw"
    TEMPERED = "tempered"
    PROCESSED = "processed"


class Flavour(ABC):
    """One kind of server.

    Attributes:
        name: its name in configurations.
        path: the place of its completions, below the root of the server.
        speaks_ids: whether prompts and tokens are ids; else they are text, which needs the policy's tokenizer.
        returns_end: whether the end token stands among the tokens.
        hides: the tokens whose log-probs do not come back.
    """

    name: ClassVar[str]
    path: ClassVar[str]
    speaks_ids: ClassVar[bool] = True
    returns_end: ClassVar[bool] = True
    hides: ClassVar[str] = "no token"

    def __init__(self, model: str, vocabulary: Vocabulary | None) -> None:
        """Takes the model's name at the server, and the policy's tokens where the server speaks text."""
        self.model = model
        self._vocabulary = vocabulary

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens in letters.

        Raises:
            ServerError: there is no tokenizer.
        """
        if self._vocabulary is None:
            raise ServerError(f"a server of flavour {self.name} speaks text, and the policy has no tokenizer: save one")
        return self._vocabulary

    def told(self, ask: Ask) -> Told:
        """The law whose log-probs this server returns unless its operator says otherwise."""
        return Told.RAW

    @abstractmethod
    def body(self, ask: Ask) -> dict[str, object]:
        """The request as JSON.

        Raises:
            ServerError: this kind of server cannot do what is asked.
        """

    @abstractmethod
    def read(self, answer: object, ask: Ask) -> Rollout:
        """The rollout out of an answer, with as many likeliest tokens as there are.

        Raises:
            ServerError: the answer lacks a part, or contradicts what was asked.
        """

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"


def check_prompt_read(read: object, ask: Ask) -> None:
    """Refuses an answer to a prompt of another length than the one that was sent; None: it does not say.

    Raises:
        ServerError: the server has added or lost tokens.
    """
    if isinstance(read, int) and read != len(ask.prompt):
        raise ServerError(
            f"it read a prompt of {read} tokens where {len(ask.prompt)} were sent: serve the policy's own tokenizer, "
            "and let it add no token of its own"
        )
