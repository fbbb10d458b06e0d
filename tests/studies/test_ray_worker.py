"""A task called in a worker of Ray: its outcome reaches the process that handed it out, whatever it is."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from jackpot_sim.studies import ray_worker


class UnsendableError(ValueError):
    """An error that cannot be made again from its arguments, as those of some libraries."""

    def __init__(self, name: str, value: int) -> None:
        super().__init__(f"{name} is {value}")


def unsendable_error() -> None:
    raise UnsendableError("k", 3)


def unsendable_value() -> Callable[[], int]:
    return lambda: 1


def called(task: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ray_worker, "_refusal", lambda setting: "")
    return pickle.loads(ray_worker.called(pickle.dumps((task, (), {})), b""))


def test_an_error_that_cannot_be_sent_arrives_with_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    found = called(unsendable_error, monkeypatch)
    assert type(found.error) is ValueError
    assert str(found.error) == "k is 3"


def test_a_result_that_cannot_be_sent_is_an_error_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised in the worker itself it would pass for a cluster that was lost."""
    found = called(unsendable_value, monkeypatch)
    assert isinstance(found.error, RuntimeError)
    assert "lambda" in str(found.error)


def test_what_can_be_sent_arrives_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(int, monkeypatch) == ray_worker.Outcome(0)
    assert isinstance(called(failure, monkeypatch).error, KeyError)


def failure() -> None:
    raise KeyError("x")
