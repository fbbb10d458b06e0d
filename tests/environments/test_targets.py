import math

import pytest

from jackpot_sim.environments.targets import Target


def target(value: float, curve: object) -> Target:
    return Target("kl of a test", value, curve)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1e-12, 1e-3, 0.5, 3.0, 49.0])
def test_ray_against_a_known_inverse(value: float) -> None:
    assert target(value, lambda x: x * x / 2).on_ray(10.0) == pytest.approx(math.sqrt(2 * value), rel=1e-9)


def test_ray_through_a_change_of_variable() -> None:
    knob = target(0.02, lambda x: math.log(x) ** 2 / 2).on_ray(10.0, lambda t: math.exp(-t))
    assert knob == pytest.approx(math.exp(-0.2), rel=1e-9)


def test_the_end_of_the_ray_is_attainable() -> None:
    assert target(0.5, lambda x: x * x / 2).on_ray(1.0) == pytest.approx(1.0, rel=1e-9)


def test_what_float64_cannot_resolve_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be met to 1e-09, as finely"):
        target(0.5, lambda x: 0.3 if x < 0.1 else 0.7).on_ray(1.0)
    with pytest.raises(ValueError, match="cannot be met to 1e-09, as finely"):
        target(1e-40, lambda x: x + 1e-30).on_ray(1.0)


def test_nearest_is_nearest_in_the_logarithm() -> None:
    curve = {1: 0.01, 2: 0.1, 3: math.inf, 4: 0.0}.__getitem__
    assert target(0.04, curve).nearest([1, 2, 3, 4]) == 2  # 0.01 is nearer on a linear scale
    for beyond in (0.009, 0.11):
        with pytest.raises(ValueError, match=r"from 0\.01 to 0\.1"):
            target(beyond, curve).nearest([1, 2, 3, 4])


@pytest.mark.parametrize("value", [1.0, 1.4, 1.5, 30.0, 99.0])
def test_bisection_agrees_with_trying_all(value: float) -> None:
    def curve(x: float) -> float:
        return max(0.0, x - 20.0)

    candidates = range(120)
    assert target(value, curve).nearest_ordered(candidates) == target(value, curve).nearest(candidates)


@pytest.mark.parametrize("value", [1.0, 2.0, 5.1, 7.9, 8.0, 8.4])
def test_a_search_that_doubles_ends_at_the_nearest(value: float) -> None:
    assert target(value, float).nearest_growing(100) == round(value)


@pytest.mark.parametrize("value", [0.5, 99.5])
def test_bisection_gives_the_attainable_range(value: float) -> None:
    with pytest.raises(ValueError, match="from 1 to 99"):
        target(value, lambda x: max(0.0, x - 20.0)).nearest_ordered(range(120))
