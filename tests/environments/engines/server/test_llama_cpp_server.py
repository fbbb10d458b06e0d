"""llama.cpp's own server on this machine: its rollouts are those of the weights' laws, before and after the sampler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("requests")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")
xllamacpp = pytest.importorskip("xllamacpp")

from jackpot_sim.environments.engines.engine import ModelEngine, Order  # noqa: E402
from jackpot_sim.environments.engines.server.client import Client  # noqa: E402
from jackpot_sim.environments.engines.server.engine import ServerEngine  # noqa: E402
from jackpot_sim.environments.language_models.checkpoints import Precision, load  # noqa: E402
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw  # noqa: E402
from tests.cases import each  # noqa: E402
from tests.environments.tiny_gguf import CONTEXT, END, TOKENS, write_gguf  # noqa: E402

PROMPTS = [np.array([1, 70, 71]), np.array([80])]
PROMPT = np.repeat([0, 1], 10)
UNIFORMS = np.random.default_rng(0).random((len(PROMPT), 12))
KV_ROUNDING = 0.03
"""The most that keys and values in float16 move a log-prob of these weights."""
LAWS = {"plain": SamplingLaw(), "cold, cut": SamplingLaw(temperature=0.7, top_k=20)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", 0, "F32")


@pytest.fixture(scope="module")
def url(file: Path) -> Iterator[str]:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.warmup, params.cpuparams.n_threads = 2 * CONTEXT, 2, False, 1
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.mark.nightly
@each("law", LAWS)
def test_a_real_server_writes_rollouts_of_the_weights_laws(
    url: str, file: Path, law: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JACKPOT_SIM_CACHE", str(tmp_path))
    sampling = LAWS[law]
    order = Order(sampling=sampling, end_tokens=frozenset({END}), batch_size=4, topk=20)
    engine = ServerEngine(Client(url), len(TOKENS), concurrency=2)
    engine.check(PROMPTS, PROMPT, UNIFORMS.shape[1])
    asks = engine.asks(PROMPTS, PROMPT, UNIFORMS, order)
    rollouts, _ = engine.rollouts(asks)
    # Half of these tokens are bytes that are no whole character, and llama.cpp does not tell their log-probs.
    there = np.array([at for at, each in enumerate(rollouts) if each.tokens])
    some = [rollouts[at] for at in there]
    found = engine._written(PROMPT[there], UNIFORMS[there].shape, some, asks[0], engine.told_of(asks[0]))
    assert found.topk is not None
    own = ModelEngine.of(load(file, precision=Precision.FP32, device="cpu").model)
    seen = 0
    for block in own.laws(PROMPTS, found, sampling=sampling, batch_size=4, rows=16):
        at, laws = (block.sequence, block.step), block.log_probs.numpy()
        told = laws[np.arange(len(laws)), found.tokens[at]]
        # A token at the very edge of the cut may be on another side of it.
        same = told > -np.inf
        assert np.mean(same) > 0.9
        np.testing.assert_allclose(found.log_probs[at][same], told[same], rtol=0, atol=2 * KV_ROUNDING)
        tops = np.take_along_axis(laws, found.topk.ids[at].astype(np.int64), axis=-1)
        kept = (tops > -np.inf) & (found.topk.log_probs[at] > -np.inf)
        assert np.mean(kept) > 0.9
        np.testing.assert_allclose(found.topk.log_probs[at][kept], tops[kept], rtol=0, atol=2 * KV_ROUNDING)
        seen += len(laws)
    assert seen == found.mask.sum() > len(PROMPT) / 2
