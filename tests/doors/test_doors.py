"""Every public function that takes arrays refuses a wrong one, or gives the same result as for the right one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jackpot_sim.core.checks import check_same_shape
from tests.doors.harness import Door, Outcome, array, knocks
from tests.doors.public import taking_arrays
from tests.doors.registry import DOORS, EXEMPT, PACKAGES

SIZES = {
    "distinct": lambda letters: dict(zip(letters, (3, 4, 2, 5, 6), strict=False)),
    "equal": lambda letters: dict.fromkeys(letters, 3),
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("door", DOORS, ids=str)
def test_wrong_arrays_are_refused_or_make_no_difference(door: Door, sizes: str) -> None:
    libraries = [library for library, taken in ((np.asarray, door.numpy), (torch.as_tensor, door.torch)) if taken]
    made = [knock for library in libraries for knock in knocks(door, SIZES[sizes](door.axes), 0, library)]
    assert [str(knock) for knock in made if knock.is_fault] == []
    assert any(knock.outcome is Outcome.REFUSED for knock in made)


def broadcasting(values: np.ndarray, mask: np.ndarray) -> float:
    """A masked mean without any check."""
    return float(np.where(mask, values, 0.0).sum() / mask.sum())


def naming_nothing(values: np.ndarray, mask: np.ndarray) -> float:
    """A masked mean with a check that names other arrays."""
    check_same_shape(values, mask, "first", "second")
    return broadcasting(values, mask)


@pytest.mark.parametrize(("call", "outcome"), [(broadcasting, Outcome.PLAUSIBLE), (naming_nothing, Outcome.RAW)])
def test_the_fuzz_sees_functions_without_checks(call: object, outcome: Outcome) -> None:
    door = Door(
        call, {"values": array("n length"), "mask": array("n length", lambda g, shape, sizes: g.random(shape) < 0.7)}
    )  # type: ignore[arg-type]
    found = {knock.outcome for knock in knocks(door, {"n": 3, "length": 3}, 0) if knock.argument == "mask"}
    assert outcome in found


@pytest.mark.parametrize("package", PACKAGES)
def test_whatever_takes_arrays_has_a_door_or_a_reason(package: str) -> None:
    doors = {str(door).split("[")[0] for door in DOORS}
    found = set(taking_arrays(package))
    assert len(found) > 5
    assert found - doors - EXEMPT.keys() == set()
    # A reason for what has a door, or is gone, is stale.
    mine = {name for name in EXEMPT if name.startswith(package.replace("/", "."))}
    assert mine & doors == set()
    assert mine <= found
