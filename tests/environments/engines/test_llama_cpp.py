"""llama.cpp as an engine, against transformers on the same weights, against itself, and against a count by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core.sampling import categorical
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from tests.cases import each

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")
llama_cpp = pytest.importorskip("llama_cpp")

from jackpot_sim.environments.engines import llama_library  # noqa: E402
from jackpot_sim.environments.engines.engine import LawEngine, ModelEngine, Order  # noqa: E402
from jackpot_sim.environments.engines.llama_cpp import LlamaCpp  # noqa: E402
from jackpot_sim.environments.engines.llama_library import Weights  # noqa: E402
from jackpot_sim.environments.language_models import carried  # noqa: E402
from jackpot_sim.environments.language_models.checkpoints import load  # noqa: E402
from jackpot_sim.environments.language_models.generation import Written  # noqa: E402
from tests.environments.tiny_gguf import CONTEXT, TOKENS, write_gguf  # noqa: E402

GENERATOR = np.random.default_rng(0)
PROMPTS = [
    GENERATOR.integers(3, len(TOKENS), length) for length in (3, 1, 35)
]  # 35: two passes, the second of 2 tokens
PROMPT = np.repeat(np.arange(3), 5)
UNIFORMS = GENERATOR.random((len(PROMPT), 12))
ORDER = Order(sampling=SamplingLaw(), end_tokens=frozenset(range(60)), batch_size=4)  # a fifth of the steps ends one
KV_ROUNDING = 0.03
"""The most that keys and values in float16 move a log-prob of these weights, whose laws deviate by 1.5 nats."""

Maker = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    folder = tmp_path_factory.mktemp("gguf")
    return lambda kind: write_gguf(folder / f"{kind}.gguf", 0, kind)


@pytest.fixture
def engine(made: Maker) -> LlamaCpp:
    return LlamaCpp(Weights(made("Q4_0")), threads=1)


def written(engine: Any, **changes: Any) -> Written:
    return engine.write(PROMPTS, PROMPT, UNIFORMS, dataclasses.replace(ORDER, **changes))


def table(engine: LawEngine, text: Written, batch_size: int = 4, rows: int = 7, **law: Any) -> Any:
    """The law at every token, (tokens, vocab), and the places of those tokens."""
    blocks = list(engine.laws(PROMPTS, text, sampling=SamplingLaw(**law), batch_size=batch_size, rows=rows))
    places = np.concatenate([block.sequence for block in blocks]), np.concatenate([block.step for block in blocks])
    return torch.cat([block.log_probs for block in blocks]).numpy(), places


def assert_same(ours: Written, theirs: Written) -> None:
    for name in ("prompt", "tokens", "mask", "log_probs", "raw_log_probs"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def test_laws_are_those_of_transformers_on_the_same_weights(
    made: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(carried.CACHE, str(tmp_path))
    engine = LlamaCpp(Weights(made("F32")), threads=1)
    text = written(engine)
    assert 3 < np.mean(text.mask.sum(axis=-1)) < 11, "some end early, and some do not"
    ours, places = table(engine, text)
    theirs, their_places = table(ModelEngine.of(load(made("F32"), precision="fp32", device="cpu").model), text)
    np.testing.assert_array_equal(places, their_places)
    assert np.std(theirs) > 1
    assert 1e-5 < np.max(np.abs(ours - theirs)) < KV_ROUNDING


@each("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_nothing_depends_on_batches_to_the_bit(made: Maker, kind: str) -> None:
    engine = LlamaCpp(Weights(made(kind)), threads=1)
    text = written(engine, batch_size=len(PROMPT))
    for batch_size in (1, 2, 7):
        assert_same(written(engine, batch_size=batch_size), text)
    laws, places = table(engine, text)
    np.testing.assert_array_equal(
        np.take_along_axis(laws, text.tokens[places][:, None], 1)[:, 0], text.log_probs[places]
    )
    for batch_size, rows in ((1, 1), (15, 200)):
        np.testing.assert_array_equal(table(engine, text, batch_size, rows)[0], laws)


def test_more_sequences_than_are_read_at_once(engine: LlamaCpp) -> None:
    prompt, uniforms = np.repeat(PROMPT, 5), np.repeat(UNIFORMS, 5, axis=0)
    assert len(prompt) > 2 * llama_library.AT_ONCE
    many = engine.write(PROMPTS, prompt, uniforms, dataclasses.replace(ORDER, batch_size=len(prompt)))
    few = written(engine)
    np.testing.assert_array_equal(many.tokens[::5], few.tokens)
    np.testing.assert_array_equal(many.log_probs[::5], few.log_probs)


def test_more_threads_change_nothing(engine: LlamaCpp) -> None:
    assert_same(written(dataclasses.replace(engine, threads=2)), written(engine))


def test_blocks_are_those_of_a_model(engine: LlamaCpp, made: Maker, tmp_path: Path, monkeypatch: Any) -> None:
    """So that the streams of two engines can be zipped."""
    monkeypatch.setenv(carried.CACHE, str(tmp_path))
    text, model = written(engine), ModelEngine.of(load(made("Q4_0"), precision="fp32", device="cpu").model)
    options: Any = {"sampling": SamplingLaw(), "batch_size": 4, "rows": 7}
    for ours, theirs in zip(engine.laws(PROMPTS, text, **options), model.laws(PROMPTS, text, **options), strict=True):
        np.testing.assert_array_equal(ours.sequence, theirs.sequence)
        np.testing.assert_array_equal(ours.step, theirs.step)
        assert (ours.log_probs.dtype, ours.log_probs.device) == (theirs.log_probs.dtype, theirs.log_probs.device)


def test_the_samplers_law_decides_the_tokens(engine: LlamaCpp) -> None:
    """A uniform draws each token from the law after temperature, top-k and top-p; raw log-probs are before."""
    cut: dict[str, Any] = {"temperature": 0.7, "top_k": 9, "top_p": 0.8}
    text = written(engine, sampling=SamplingLaw(**cut), topk=3, support=True)
    laws, places = table(engine, text, **cut)
    np.testing.assert_array_equal(categorical(laws, UNIFORMS[places][:, None])[:, 0], text.tokens[places])
    raw = np.take_along_axis(table(engine, text)[0], text.tokens[places][:, None], axis=1)[:, 0]
    np.testing.assert_allclose(text.raw_log_probs[places], raw, rtol=0, atol=1e-12)
    assert text.topk is not None
    assert text.kept is not None
    np.testing.assert_allclose(text.topk.log_probs[places], -np.sort(-laws, axis=1)[:, :3], rtol=0, atol=1e-6)
    kept = dataclasses.replace(text.kept, places=text.kept.places[places]).dense(len(TOKENS))
    np.testing.assert_array_equal(kept, laws > -np.inf)
    assert 1 < np.mean(kept.sum(axis=1)) < 9


def test_a_rollout_ends_with_an_end_token_and_goes_on_without(engine: LlamaCpp) -> None:
    text = written(engine)
    for row, live in zip(text.tokens, text.mask, strict=True):
        ends = np.isin(row[live], list(ORDER.end_tokens))
        assert not ends[:-1].any()
        assert ends[-1] or live.all()
    assert written(engine, end_tokens=frozenset()).mask.all()


def test_laws_at_rollouts_of_another(engine: LlamaCpp, made: Maker) -> None:
    other = LlamaCpp(Weights(made("Q8_0")), threads=1)
    text = written(other)
    laws, places = table(engine, text)
    assert np.any(np.take_along_axis(laws, text.tokens[places][:, None], 1)[:, 0] != text.log_probs[places])
    order = np.argsort(-np.arange(len(PROMPT)))  # prompts in another order, and read anew
    turned = Written(
        *(getattr(text, name)[order] for name in ("prompt", "tokens", "mask", "log_probs", "raw_log_probs"))
    )
    again, their_places = table(engine, turned)
    where = {place: at for at, place in enumerate(zip(*places, strict=True))}
    line = [where[order[sequence], step] for sequence, step in zip(*their_places, strict=True)]
    np.testing.assert_array_equal(again, laws[line])


@each(
    "change, sentence",
    [
        ({"prompts": [np.array([0, len(TOKENS)])]}, "prompt 0 holds tokens from 0 to 262: the vocabulary is 0 to 261"),
        ({"prompts": [np.zeros(CONTEXT - 11, dtype=np.int64)]}, f"reads at most {CONTEXT} tokens: .* would be 65"),
        ({"prompt": np.array([1])}, "there are 1 prompts"),
    ],
)
def test_what_it_cannot_continue_is_refused(engine: LlamaCpp, change: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"prompts": [np.array([0, 1])], "prompt": np.array([0])} | change
    with pytest.raises(ValueError, match=sentence):
        engine.check(given["prompts"], given["prompt"], 12)
    with pytest.raises(ValueError, match=sentence):
        engine.write(given["prompts"], given["prompt"], UNIFORMS[:1], ORDER)


@each("content, sentence", [(None, "no such file"), (b"GGUF", "cannot read a GGUF file"), (b"x" * 99, "magic")])
def test_a_bad_file_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes | None, sentence: str, capfd: Any
) -> None:
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        Weights(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", ""), "llama.cpp prints nothing"


def test_nan_is_refused(made: Maker, tmp_path: Path) -> None:
    nan = np.full((len(TOKENS), 32), np.nan, dtype=np.float32)
    path = write_gguf(tmp_path / "nan.gguf", 0, "F32", extra={"token_embd.weight": nan})
    with pytest.raises(ValueError, match="NaN"):
        written(LlamaCpp(Weights(path), threads=1))


def test_memory_is_given_back(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[str] = []
    own = llama_library.library()
    for name in ("llama_free", "llama_model_free", "llama_batch_free"):
        free = getattr(own, name)
        monkeypatch.setattr(own, name, lambda pointer, name=name, free=free: (freed.append(name), free(pointer)))
    engine = LlamaCpp(Weights(made("Q4_0")), threads=1)
    stream = engine.laws(PROMPTS, written(engine), sampling=SamplingLaw(), batch_size=4, rows=7)
    assert freed == ["llama_batch_free", "llama_free"]
    next(stream)
    stream.close()  # half-way
    assert freed == ["llama_batch_free", "llama_free"] * 2
    del engine, stream
    assert freed[-1] == "llama_model_free"
