"""Which weights write the next batch: the policy's own, those of some batches ago, or those that are served."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.environments.language_models.library import logits
from jackpot_sim.training.actors import OnPolicy, Served, SmallActor, StaleActor
from jackpot_sim.training.models.serving import Server
from tests.training.tiny import run_of, trainer_of

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def policy(models: Path) -> Any:
    return trainer_of(run_of(), models).policy


def first(model: Any) -> float:
    return float(next(iter(model.parameters())).detach()[0, 0])


def put(model: Any, value: float) -> None:
    with torch.no_grad():
        next(iter(model.parameters()))[0, 0] = value


def test_on_policy_it_is_the_policy(policy: Any) -> None:
    assert Server(OnPolicy(), policy, None, 0).actor().scorer.model is policy


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_a_stale_actor_is_the_policy_of_so_many_batches_ago(policy: Any, lag: int) -> None:
    server, seen = Server(StaleActor(lag=lag), policy, None, 0), []
    for step in range(6):
        put(policy, float(step))
        seen.append(first(server.actor().scorer.model))
    assert seen == [max(step - lag, 0) for step in range(6)]
    assert first(policy) == 5, "the policy stays what it is"


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("batches", [0, 1, 2, 5])
def test_a_stale_actor_goes_on_from_its_state(policy: Any, lag: int, batches: int) -> None:
    def rest(server: Server) -> list[float]:
        seen = []
        for step in range(batches, batches + 4):
            put(policy, float(step))
            seen.append(first(server.actor().scorer.model))
        return seen

    server = Server(StaleActor(lag=lag), policy, None, 0)
    for step in range(batches):
        put(policy, float(step))
        server.actor()
    state, fresh = copy.deepcopy(server.state()), Server(StaleActor(lag=lag), policy, None, 0)
    expected = rest(server)
    fresh.restore(state)
    assert rest(fresh) == expected
    server.restore(state)
    assert rest(server) == expected, "back again, too"


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "quantized-weights", "format": "int8", "share": 1},
        {"kind": "quantized-kv", "format": "fp8-e4m3", "share": 1},
        {"kind": "weight-noise", "sigma": 0.1},
    ],
)
def test_what_is_served_follows_the_policy(policy: Any, source: dict[str, Any]) -> None:
    server = Server(Served.model_validate({"source": source}), policy, None, 0)
    read = torch.tensor([[1, 2, 3]])

    def served() -> Any:
        actor = server.actor().scorer
        with torch.inference_mode():
            cache = None if actor.new_cache is None else actor.new_cache()
            return logits(actor.model, read, cache=cache)

    with torch.inference_mode():
        own = policy(read).logits
    before = served()
    assert not torch.equal(before, own)
    assert torch.equal(before, served()), "nothing new is drawn"
    with torch.no_grad():
        for weight in policy.parameters():
            weight *= 1.1
    assert not torch.equal(before, served())


def test_another_seed_has_other_noise(policy: Any) -> None:
    noise = Served.model_validate({"source": {"kind": "weight-noise", "sigma": 0.1}})
    assert first(Server(noise, policy, None, 0).actor().scorer.model) != first(
        Server(noise, policy, None, 1).actor().scorer.model
    )


def test_an_actor_of_its_own_is_what_writes(policy: Any) -> None:
    own = copy.deepcopy(policy)
    assert Server(SmallActor(), policy, own, 0).actor().scorer.model is own
