"""Rollouts through each flavour are those of the served model's law; what fails is one sentence, and loses nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("requests")

from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.engines.engine import LawEngine, ModelEngine, Order
from jackpot_sim.environments.engines.server import client as client_module
from jackpot_sim.environments.engines.server import told as conversions
from jackpot_sim.environments.engines.server.ask import Ask, ServerError
from jackpot_sim.environments.engines.server.client import Client
from jackpot_sim.environments.engines.server.engine import ServerEngine, _full
from jackpot_sim.environments.engines.server.flavour import Flavour, Told
from jackpot_sim.environments.engines.server.flavours import FLAVOURS
from jackpot_sim.environments.language_models.checkpoints import Loaded, Precision, load
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from tests.cases import each
from tests.environments.engines.stand_in import StandIn, serving
from tests.environments.tiny_checkpoints import END

VOCAB, LENGTH = 5, 6
PROMPTS = [np.array([1, 2]), np.array([3])]
PROMPT = np.repeat([0, 1], 12)
UNIFORMS = np.random.default_rng(0).random((len(PROMPT), LENGTH))
ROUNDING = 1e-6
"""Parts of transformers compute in float32: one pass and step by step differ by so much."""
IDS = ("vllm", "sglang", "llama.cpp", "tgi")
LAWS = {
    "plain": SamplingLaw(),
    "hot": SamplingLaw(temperature=1.5),
    "nucleus": SamplingLaw(top_p=0.8),
    "cold, cut twice": SamplingLaw(temperature=0.7, top_k=4, top_p=0.9),
}


@pytest.fixture(scope="module")
def loaded(checkpoints: Path) -> Loaded:
    return load(checkpoints / "actor", precision=Precision.FP64, device="cpu")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JACKPOT_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)


@pytest.fixture
def stand_in(loaded: Loaded, request: pytest.FixtureRequest) -> Iterator[StandIn]:
    flavour = getattr(request, "param", "vllm")
    with serving(StandIn(loaded.model, loaded.tokenizer, flavour, (END,))) as server:
        yield server


def of_flavour(*names: str) -> Any:
    return pytest.mark.parametrize("stand_in", names, indirect=True)


def engine(server: StandIn, retries: int = 3, **options: Any) -> ServerEngine:
    return ServerEngine(
        Client(server.url, retries=retries, timeout=20), VOCAB, server.tokenizer, concurrency=3, **options
    )


def order(sampling: SamplingLaw = LAWS["plain"], topk: int = 3, ends: frozenset[int] = frozenset({END})) -> Order:
    return Order(sampling=sampling, end_tokens=ends, batch_size=8, topk=topk)


def written(
    server: StandIn,
    sampling: SamplingLaw = LAWS["plain"],
    topk: int = 3,
    k: int = VOCAB,
    n: int = len(PROMPT),
    **options: Any,
) -> Written:
    return engine(server, topk=k, **options).write(PROMPTS, PROMPT[:n], UNIFORMS[:n], order(sampling, topk))


def laws(loaded: Loaded, found: Written, sampling: SamplingLaw) -> Any:
    """The model's own laws at the tokens, (n, length, vocab)."""
    out = np.full((*found.tokens.shape, VOCAB), np.nan)
    for block in ModelEngine.of(loaded.model).laws(PROMPTS, found, sampling=sampling, batch_size=8, rows=8):
        out[block.sequence, block.step] = block.log_probs.numpy()
    return out


def check_law(loaded: Loaded, found: Written, sampling: SamplingLaw, *, own: bool = True) -> None:
    """Log-probs, raw ones and likeliest tokens are those of the model, up to the rounding of float64 and float32."""
    law, raw = laws(loaded, found, sampling), laws(loaded, found, SamplingLaw())
    place = (*np.nonzero(found.mask), found.tokens[found.mask])
    np.testing.assert_allclose(found.log_probs[found.mask], law[place], rtol=0, atol=ROUNDING)
    assert np.all(found.log_probs[~found.mask] == 0)
    if own:
        np.testing.assert_allclose(found.raw_log_probs[found.mask], raw[place], rtol=0, atol=ROUNDING)
    assert found.topk is not None
    best = TopK.of(law[found.mask], found.topk.k)
    np.testing.assert_allclose(found.topk.log_probs[found.mask], best.log_probs, rtol=1e-6)
    kept = best.log_probs > -np.inf
    np.testing.assert_array_equal(found.topk.ids[found.mask][kept], best.ids[kept])
    ended = [END in row[live] for row, live in zip(found.tokens, found.mask, strict=True)]
    assert any(ended)
    assert sampling.cuts or not all(ended)
    for row, live, end in zip(found.tokens, found.mask, ended, strict=True):
        assert row[live][-1] == END if end else live.all()


@of_flavour(*IDS)
@each("law", LAWS)
def test_rollouts_are_those_of_the_models_law(stand_in: StandIn, loaded: Loaded, law: str) -> None:
    sampling = LAWS[law]
    stand_in.processed = sampling.temperature != 1
    options = {"told": Told.PROCESSED} if stand_in.flavour == "vllm" and stand_in.processed else {}
    own = sampling.is_plain or (stand_in.flavour in ("vllm", "sglang") and sampling.temperature == 1)
    found = written(stand_in, sampling, topk=5 if sampling.cuts else 3, **options)
    check_law(loaded, found, sampling, own=own)
    if not own:
        with pytest.raises(ValueError, match="let it return raw ones"):
            found.raw_log_probs  # noqa: B018
    assert len({body_seed(body) for body in stand_in.asked}) == len(PROMPT), "every rollout has a seed of its own"
    assert not isinstance(engine(stand_in), LawEngine)


def body_seed(body: dict[str, Any]) -> int:
    given = {**body, **body.get("sampling_params", {}), **body.get("parameters", {})}
    return int(given["seed"] if "seed" in given else given["sampling_seed"])


def test_the_seed_follows_from_the_uniforms(stand_in: StandIn) -> None:
    first, again = written(stand_in), written(stand_in)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    other = engine(stand_in).write(PROMPTS, PROMPT, UNIFORMS[::-1].copy(), order())
    assert np.any(other.tokens != first.tokens)


@of_flavour("openai")
def test_text_alone_is_aligned_and_the_end_is_not_seen(stand_in: StandIn, loaded: Loaded) -> None:
    prompt = np.repeat([0], 40)
    uniforms = np.random.default_rng(1).random((40, LENGTH))
    asks = engine(stand_in).asks(PROMPTS, prompt, uniforms, order(topk=5))
    found, _ = engine(stand_in).rollouts(asks)
    assert min(len(each.tokens) for each in found) < LENGTH
    whole = np.array([at for at, each in enumerate(found) if each.tokens])
    assert END not in [token for each in found for token in each.tokens]
    if len(whole) < len(found):
        with pytest.raises(ServerError, match=r"rollouts are empty, since .* tells no log-prob of the end token"):
            engine(stand_in).write(PROMPTS, prompt, uniforms, order(topk=5))
    some = engine(stand_in).write(PROMPTS, prompt[whole], uniforms[whole], order(topk=5))
    law = laws(loaded, some, SamplingLaw())
    place = (*np.nonzero(some.mask), some.tokens[some.mask])
    np.testing.assert_allclose(some.log_probs[some.mask], law[place], rtol=0, atol=ROUNDING)


@of_flavour("vllm")
def test_raw_log_probs_at_another_temperature_are_refused_before_any_is_asked_for(stand_in: StandIn) -> None:
    with pytest.raises(ServerError, match=r"raw log-probs, which tell nothing about a temperature of 1.5: start it"):
        written(stand_in, LAWS["hot"])
    assert not stand_in.asked


@of_flavour("vllm")
def test_the_mass_that_is_kept_needs_all_that_is_kept(stand_in: StandIn) -> None:
    with pytest.raises(ServerError, match=r"the 1 likeliest tokens .* do not hold all that top_p=0.99 keeps"):
        written(stand_in, SamplingLaw(top_p=0.99), topk=1)


@of_flavour("vllm")
def test_the_mass_that_is_kept_needs_likeliest_tokens(stand_in: StandIn) -> None:
    with pytest.raises(ServerError, match=r"without likeliest tokens the mass that top_k and top_p keep is not known"):
        written(stand_in, LAWS["nucleus"], k=0)
    assert not stand_in.asked


@of_flavour("vllm")
def test_a_token_beyond_the_cut_shows_that_log_probs_are_of_another_law(stand_in: StandIn) -> None:
    sampling = SamplingLaw(top_p=0.5)
    asks = engine(stand_in).asks(PROMPTS, PROMPT, UNIFORMS, order(topk=5))  # without the cut
    found, _ = engine(stand_in).rollouts(asks)
    beyond = next(each for each in found if min(each.log_probs) < math.log(0.2))
    with pytest.raises(ServerError, match=r"it sampled token ., which top_k=None and top_p=0.5 leave out"):
        conversions.processed(beyond, Told.RAW, sampling)


@of_flavour("vllm")
def test_the_limit_of_likeliest_tokens_is_the_servers_and_the_user_may_name_it(stand_in: StandIn) -> None:
    stand_in.most = 2
    with pytest.raises(ServerError, match="refuses the request with 400: Requested sample logprobs of 3"):
        written(stand_in)
    topk = written(stand_in, k=2).topk
    assert topk is not None
    assert topk.k == 2


def test_no_more_is_asked_for_than_servers_give_or_the_order_needs() -> None:
    def asked(wanted: int, **limit: int) -> int:
        server = ServerEngine(Client("http://127.0.0.1:9"), 500, **limit)
        return server.asks(PROMPTS, PROMPT[:1], UNIFORMS[:1], order(topk=wanted))[0].topk

    assert (asked(128), asked(7), asked(0)) == (20, 7, 0)
    assert (asked(128, topk=40), asked(999, topk=999)) == (40, 500)


def test_a_row_that_lacks_tokens_is_refused_unless_the_cut_left_no_more() -> None:
    ask = Ask(prompt=(1,), length=1, seed=0, sampling=LAWS["plain"], end_tokens=frozenset(), topk=3, processed=True)
    row = {1: math.log(0.75), 4: math.log(0.25)}
    with pytest.raises(ServerError, match="returns the 2 likeliest tokens where 3 were asked for: raise its limit"):
        _full(row, ask)
    cut = dataclasses.replace(ask, sampling=LAWS["nucleus"])
    assert _full(row, cut) == {**row, 0: -math.inf}
    with pytest.raises(ServerError, match="returns the 1 likeliest"):
        _full({1: math.log(0.75)}, cut)


@of_flavour("vllm")
@each("fault", ["500", "429", "reset", "cut", "half"])
def test_a_fault_in_the_middle_is_tried_again(stand_in: StandIn, fault: str) -> None:
    whole = written(stand_in, n=8)
    stand_in.faults.extend([None, fault, None, fault, fault])
    again = written(stand_in, n=8)
    np.testing.assert_array_equal(again.tokens, whole.tokens)
    np.testing.assert_array_equal(again.log_probs, whole.log_probs)


@each("kind", FLAVOURS.values())
@each("answer", [None, [], "text", 1, {}, {"meta_info": []}, {"choices": {}}, {"details": 1}])
def test_an_answer_of_another_form_is_one_sentence(kind: type[Flavour], answer: object) -> None:
    ask = Ask(prompt=(1,), length=1, seed=0, sampling=LAWS["plain"], end_tokens=frozenset(), topk=1, processed=True)
    with pytest.raises(ServerError, match=r"its answer has no|it gives no log-probs"):
        kind("model", None).read(answer, ask)


SENTENCES = {
    "500": "answers 500 .CUDA error",
    "429": "answers 429 .busy",
    "reset": "cannot be reached|broke off",
    "cut": "broke off in the middle of an answer|half an answer|cannot be reached",
    "half": "half an answer",
    "no log-probs": "no log-probs: allow them at the server",
}


@of_flavour("vllm")
@each("fault", SENTENCES)
def test_what_has_arrived_before_the_last_fault_is_kept(stand_in: StandIn, fault: str, tmp_path: Path) -> None:
    whole = written(stand_in, n=8)
    stand_in.asked.clear()
    stand_in.faults.extend([None] * 4)
    stand_in.always = fault
    with pytest.raises(ServerError, match=SENTENCES[fault]) as caught:
        written(stand_in, n=8, retries=1)
    assert "\n" not in str(caught.value)
    kept = int(str(caught.value).split("; ")[1].split(" of ")[0])
    assert 4 - 3 < kept <= 4
    stand_in.always = None
    stand_in.asked.clear()
    again = written(stand_in, n=8)
    assert len(stand_in.asked) == 8 - kept
    np.testing.assert_array_equal(again.tokens, whole.tokens)
    np.testing.assert_array_equal(again.log_probs, whole.log_probs)
    assert not list((tmp_path / "cache" / "servers").iterdir()), "nothing is left of a whole batch"


def test_a_server_that_is_not_there_is_one_sentence(stand_in: StandIn) -> None:
    stand_in.url = "http://127.0.0.1:9/v1"
    with pytest.raises(ServerError, match=r"^http://127.0.0.1:9 cannot be reached: start the server, or give its url$"):
        written(stand_in)


def test_another_model_is_refused_with_those_that_are_served(stand_in: StandIn) -> None:
    stand_in.models = ["tiny", "other"]
    with pytest.raises(ServerError, match="serves tiny, other, and not mine: name one of them"):
        written(stand_in, model="mine")
    with pytest.raises(ServerError, match="serves tiny, other, and `model` says none"):
        written(stand_in)
    assert written(stand_in, model="other").mask.any()
    assert {body["model"] for body in stand_in.asked} == {"other"}


def test_a_key_is_sent_and_a_wrong_one_is_told(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.key = "secret"
    with pytest.raises(ServerError, match="refuses the key of the environment variable JACKPOT_SIM_SERVER_KEY: it is"):
        written(stand_in)
    monkeypatch.setenv("JACKPOT_SIM_SERVER_KEY", "secret")
    assert written(stand_in).mask.any()


def test_another_flavour_than_the_servers_is_one_sentence(stand_in: StandIn) -> None:
    with pytest.raises(ServerError, match=r"has no /generate .Not Found.: give the server's own flavour"):
        written(stand_in, flavour="sglang")


@of_flavour("llama.cpp")
def test_an_end_that_is_not_the_policys_is_refused_and_one_that_is_ends_the_rollout(stand_in: StandIn) -> None:
    with pytest.raises(ServerError, match=r"and not at an end token of the policy .1.: its context is too short"):
        engine(stand_in).write(PROMPTS, PROMPT, UNIFORMS, order(ends=frozenset({1})))
    stand_in.ends = ()
    found = engine(stand_in).write(PROMPTS, PROMPT, UNIFORMS, order())
    for row, live in zip(found.tokens, found.mask, strict=True):
        assert END not in row[live][:-1]
    assert found.mask.sum() < found.mask.size


def test_tokens_beyond_the_policys_are_refused(stand_in: StandIn) -> None:
    with pytest.raises(ServerError, match="prompt 0 must hold tokens from 0 to 1"):
        ServerEngine(Client(stand_in.url), 2).check(PROMPTS, PROMPT, LENGTH)
    with pytest.raises(ServerError, match="and the policy has 4: serve the policy's own tokenizer"):
        ServerEngine(Client(stand_in.url), 4).write(PROMPTS, PROMPT, UNIFORMS, order())


@of_flavour("tgi")
def test_a_context_that_is_too_short_is_told_before_any_rollout(stand_in: StandIn) -> None:
    with pytest.raises(ServerError, match="reads 32 tokens, and prompt and rollout have up to 42"):
        engine(stand_in).check(PROMPTS, PROMPT, 40)


def test_what_the_sampler_kept_is_not_known(stand_in: StandIn) -> None:
    asked = Order(sampling=LAWS["nucleus"], end_tokens=frozenset({END}), batch_size=8, support=True)
    with pytest.raises(ServerError, match="does not tell which tokens its sampler kept"):
        engine(stand_in).write(PROMPTS, PROMPT, UNIFORMS, asked)
