"""Prompts from files and data sets, and their token ids."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.checks import check_integers
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count
from jackpot_sim.environments.language_models.checkpoints import first_line
from jackpot_sim.environments.language_models.library import Tokenizer, quiet
from jackpot_sim.requirements import require

_SHOWN = 3
"""Bad lines named in an error; the others are counted."""

_ROLE, _CONTENT = "role", "content"

Item = TypeVar("Item")
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Prompt:
    """One prompt: a text, or the messages of a chat.

    Attributes:
        text: the text, None for a chat.
        messages: each with its role and content, None for a text.
        answer: the answer that a reward may compare with, None if there is none.
        plain: whether a tokenizer with a chat template reads the text as it is too.

    Raises:
        ValueError: neither or both of text and messages are given, or the one given is empty.
    """

    text: str | None = None
    messages: tuple[dict[str, str], ...] | None = None
    answer: str | None = None
    plain: bool = False

    def __post_init__(self) -> None:
        if (self.text is None) == (self.messages is None):
            raise ValueError("a prompt has either a text or messages")
        if self.text is not None and not self.text.strip():
            raise ValueError("the prompt is empty")
        if self.messages is not None and not self.messages:
            raise ValueError("the prompt has no messages")


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """Prompts of a file: .jsonl with one object a line, or .txt with one prompt a line; blank lines do not count.

    Attributes:
        path: the file.
        limit: the number of prompts read, from the first on; None is all.
        field: the name of the field with the prompt: a text, or a list of chat messages.
        answer_field: the name of the field with the answer, if there is one.
    """

    kind: Literal["file"] = "file"
    path: Path
    limit: int | None = None
    field: str = "prompt"
    answer_field: str = "answer"

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        _check(self.limit, self.field, self.answer_field)

    def read(self) -> tuple[Prompt, ...]:
        """The prompts in order.

        Raises:
            ValueError: the file cannot be read, is of another kind, holds no prompt, or has lines without one; the
                error names the first of them by number.
        """
        path = Path(self.path)
        if path.suffix not in (".jsonl", ".txt"):
            raise ValueError(f"{path}: expected a .jsonl or .txt file; others can be read as a data set")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ValueError(f"{path}: cannot read prompts: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: cannot read prompts: it is no text in UTF-8") from error
        # Not splitlines, which also splits where JSON texts may hold the character.
        lines = ((number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1))
        parse = self._of_line if path.suffix == ".jsonl" else Prompt
        return _collected(str(path), "line", ((n, line) for n, line in lines if line.strip()), self.limit, parse)

    def _of_line(self, line: str) -> Prompt:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError("not JSON") from error
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        return _of_record(record, self.field, self.answer_field)


@dataclass(frozen=True, kw_only=True)
class PromptDataset:
    """Prompts of a data set, read with the `datasets` library.

    Attributes:
        name: its name on the Hugging Face hub, or a folder.
        split: the name of its part.
        subset: the name of its configuration, None for the only one.
        field: the column with the prompt: a text, or a list of chat messages.
        answer_field: the column with the answer, if there is one.
        limit: the number of prompts read, from the first on; None is all.
    """

    kind: Literal["dataset"] = "dataset"
    name: str
    split: str = "train"
    subset: str | None = None
    field: str = "prompt"
    answer_field: str = "answer"
    limit: int | None = None

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        for name in ("name", "split"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty: give the {name} of a data set")
        _check(self.limit, self.field, self.answer_field)

    def read(self) -> tuple[Prompt, ...]:
        """The prompts in order.

        Raises:
            ValueError: `datasets` is not installed, the data set cannot be read, or rows of it have no prompt.
        """
        require("datasets", purpose="a data set of prompts")
        datasets = importlib.import_module("datasets")  # which has no annotations
        bars = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            rows = datasets.load_dataset(self.name, self.subset, split=self.split)
        except Exception as error:  # a network and a broken file have many ways to fail
            raise ValueError(f"{self.name}: cannot read the data set: {first_line(error)}") from error
        finally:
            if not bars:
                datasets.enable_progress_bars()
        return _collected(
            self.name, "row", enumerate(rows, 1), self.limit, lambda row: _of_record(row, self.field, self.answer_field)
        )


Prompts: TypeAlias = PromptFile | PromptDataset


def encoded(
    prompts: Sequence[Prompt], tokenizer: Tokenizer | None, *, chat: bool | None = None, most_tokens: int | None = None
) -> list[Ints]:
    """The token ids of every prompt, each of shape (its length,), int64.

    Args:
        prompts: the prompts.
        tokenizer: that of the policy; a chat ends where the assistant is to begin.
        chat: whether texts go through the chat template, as one message of a user; None does so where the tokenizer
            has one and the prompt is not plain. Messages always go through it.
        most_tokens: the length of the longest prompt allowed.

    Raises:
        ValueError: there is no tokenizer, it has no chat template where one is needed, or a prompt becomes no token
            or too many.
    """
    if tokenizer is None:
        raise ValueError("prompts need a tokenizer: there is none beside the model's weights")
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if not has_template and any(prompt.messages is not None for prompt in prompts):
        raise ValueError(
            "the prompts are chat messages, and the tokenizer has no chat template: give texts as prompts (a benchmark "
            "does so with chat: false), or a tokenizer with a template"
        )
    if not has_template and chat:
        raise ValueError("chat is true, and the tokenizer has no chat template: leave chat out, or give false")

    def is_text(prompt: Prompt) -> bool:
        in_chat = has_template and not prompt.plain if chat is None else chat
        return prompt.messages is None and not in_chat

    def ids(prompt: Prompt) -> Ints:
        if is_text(prompt):
            row = next(of_texts)
        else:
            messages = prompt.messages or ({_ROLE: "user", _CONTENT: str(prompt.text)},)
            try:
                row = tokenizer.apply_chat_template(
                    list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
                )
            except Exception as error:  # a template is a program
                raise ValueError(f"the chat template refuses it: {first_line(error)}") from error
        if not len(row):
            raise ValueError("no token is left of it")
        if most_tokens is not None and len(row) > most_tokens:
            raise ValueError(f"it has {len(row)} tokens, and at most {most_tokens} fit")
        return np.asarray(row, dtype=np.int64)

    with quiet():
        texts = [prompt.text for prompt in prompts if is_text(prompt)]
        of_texts = iter(tokenizer(texts)["input_ids"] if texts else ())  # at once: one by one takes five times as long
        return list(_collected("prompts", "prompt", enumerate(prompts, 1), None, ids))


def left_padded(prompts: Sequence[Ints], pad: int = 0) -> tuple[Ints, Flags]:
    """Prompts of different lengths as one array, their ends aligned.

    Args:
        prompts: ids, each of shape (its length,).
        pad: the id before the shorter ones, which is not read.

    Returns:
        ids (n, longest), and True on tokens, the same shape.
    """
    for prompt in prompts:
        check_integers(prompt, "prompts", "length of a prompt")
    width = max(len(prompt) for prompt in prompts)
    ids: Ints = np.full((len(prompts), width), pad, dtype=np.int64)
    mask: Flags = np.zeros((len(prompts), width), dtype=np.bool_)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, True
    return ids, mask


def _check(limit: int | None, *fields: str) -> None:
    if limit is not None:
        check_count("limit", limit, 1)
    if not all(fields):
        raise ValueError("field and answer_field must not be empty")


def _of_record(record: Mapping[str, object], field: str, answer_field: str) -> Prompt:
    if field not in record:
        raise ValueError(f"no field {field!r} (there is {', '.join(map(repr, record)) or 'nothing'})")
    prompt, given = record[field], record.get(answer_field)
    answer = None if given is None else str(given)
    if isinstance(prompt, str):
        return Prompt(text=prompt, answer=answer)
    if not isinstance(prompt, list):
        raise ValueError(f"{field!r} is neither a text nor a list of messages")
    for message in prompt:
        if not (isinstance(message, dict) and all(isinstance(message.get(key), str) for key in (_ROLE, _CONTENT))):
            raise ValueError(f"{field!r} has a message without a role and a content that are texts")
    return Prompt(
        messages=tuple({key: str(message[key]) for key in (_ROLE, _CONTENT)} for message in prompt), answer=answer
    )


def _collected(
    source: str,
    unit: str,
    items: Iterable[tuple[int, Item]],
    limit: int | None,
    parse: Callable[[Item], Parsed],
) -> tuple[Parsed, ...]:
    """The first items, each parsed; an error names by number those that `parse` refuses."""
    bad: list[str] = []

    def parsed() -> Iterator[Parsed]:
        for number, item in items if limit is None else islice(items, limit):
            try:
                yield parse(item)
            except ValueError as error:
                bad.append(f"{unit} {number}: {error}")

    out = tuple(parsed())
    if bad:
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ValueError(f"{source}: {'; '.join(bad[:_SHOWN])}{more}")
    if not out:
        raise ValueError(f"{source}: there is no prompt")
    return out
