"""Actors that llama.cpp runs: which file, which tokens, and what is refused."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.rollouts.shorthand import spelt_out
from jackpot_sim.environments.sources.llama_cpp import LlamaCppActor
from jackpot_sim.requirements import RequirementError
from tests.cases import each
from tests.environments.tiny_checkpoints import save_checkpoint
from tests.environments.tiny_gguf import CONTEXT, TOKENS, write_gguf

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from jackpot_sim.environments.engines import llama_library  # noqa: E402
from jackpot_sim.environments.engines.engine import ModelEngine, Order  # noqa: E402
from jackpot_sim.environments.language_models import carried  # noqa: E402
from jackpot_sim.environments.language_models.checkpoints import load  # noqa: E402
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw  # noqa: E402
from jackpot_sim.environments.rollouts.hf import HuggingFace  # noqa: E402
from jackpot_sim.environments.sources.actor_source import Setting  # noqa: E402

PROMPTS, PROMPT, UNIFORMS = [np.array([5, 9, 4])], np.zeros(3, dtype=np.int64), np.random.default_rng(0).random((3, 8))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(carried.CACHE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", 0, "F32")


def setting(source: str | Path) -> Setting:
    policy = load(source, precision="fp32", device="cpu")
    return Setting(policy.model, lambda *_: np.random.default_rng(0), name=str(source), tokenizer=policy.tokenizer)


def log_probs(engine: Any) -> np.ndarray:
    order = Order(sampling=SamplingLaw(), end_tokens=frozenset(), batch_size=3)
    return np.asarray(engine.write(PROMPTS, PROMPT, UNIFORMS, order).log_probs)


def test_without_the_package_one_sentence_says_how_to_get_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = metadata.version

    def version(name: str) -> str:
        if name == "llama-cpp-python":
            raise metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(metadata, "version", version)
    llama_library.library.cache_clear()
    given = setting(file)
    with pytest.raises(RequirementError, match="llama-cpp-python, which is missing: pip install"):
        LlamaCppActor().actors(given)


@each(
    "given, means",
    [
        ("model.gguf", {"kind": "llama-cpp", "path": "model.gguf"}),
        ("some/where/Model.GGUF", {"kind": "llama-cpp", "path": "some/where/Model.GGUF"}),
        ("llama-cpp", {"kind": "llama-cpp"}),
    ],
)
def test_a_bare_word_may_be_a_file(given: str, means: dict[str, Any]) -> None:
    assert spelt_out({"kind": "hf", "actor": given})["actor"] == means


def test_a_folder_of_that_name_is_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").mkdir()
    actor = spelt_out({"kind": "hf", "actor": str(tmp_path / "model.gguf")})["actor"]
    assert actor == {"kind": "checkpoint", "path": str(tmp_path / "model.gguf")}


def test_the_actors_file_is_among_those_named(file: Path, tmp_path: Path) -> None:
    """So that a study's hash stands for its contents."""
    prompts: Any = {"kind": "file", "path": tmp_path / "prompts.txt"}
    other = shutil.copy(file, tmp_path / "other.gguf")
    for path, named in ((str(other), [file, other]), (None, [file])):
        env = HuggingFace(policy=str(file), actor=LlamaCppActor(path=path), prompts=prompts)
        assert [each for each in env.files() if each.suffix == ".gguf"] == named


@each(
    "change, sentence",
    [({"kv": "q9"}, "q9"), ({"format": "q9"}, "q9"), ({"threads": 0}, "threads"), ({"target_kl": 0.1}, "share")],
)
def test_options_are_checked(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LlamaCppActor(**change)


def test_a_policy_that_is_no_file_has_none_of_its_own(file: Path) -> None:
    given = setting(carried.folder_of(file) or "")
    with pytest.raises(ValueError, match=r"and .* is none: give its path"):
        LlamaCppActor().actors(given)


class TestRun:
    """The parts that llama.cpp has to be there for."""

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("llama_cpp")

    def test_the_policys_own_file_is_the_default(self, file: Path) -> None:
        reference, actor = LlamaCppActor(threads=1).actors(setting(file))(1.0)
        other = write_gguf(file.with_name("other.gguf"), 1, "F32")
        own, named, others = (
            log_probs(engine)
            for engine in (
                actor,
                *(LlamaCppActor(path=str(each)).actors(setting(file))(1.0)[1] for each in (file, other)),
            )
        )
        np.testing.assert_array_equal(own, named)
        assert np.max(np.abs(own - others)) > 0.1
        np.testing.assert_allclose(own, log_probs(ModelEngine(reference)), rtol=0, atol=0.03)

    def test_the_weights_of_the_moment_take_the_place_of_those_in_the_file(self, file: Path) -> None:
        given = setting(file)
        with torch.no_grad():
            for weight in given.base.parameters():
                weight *= 1.1
        exact, coarse, old = (
            log_probs(LlamaCppActor(format=each).actors(given)(1.0)[1]) for each in ("f32", "q4_0", None)
        )
        policy = log_probs(ModelEngine.of(given.base))
        np.testing.assert_allclose(exact, policy, rtol=0, atol=0.03)
        assert np.max(np.abs(coarse - policy)) > 0.05
        assert np.max(np.abs(old - policy)) > 0.05

    def test_keys_and_values_may_be_coarser(self, file: Path) -> None:
        """Blocks of q8_0 hold 32 numbers, and heads of 16 do not fill one, which llama.cpp says."""
        with pytest.raises(ValueError, match="cannot make a context"):
            log_probs(LlamaCppActor(kv="q8_0").actors(setting(file))(1.0)[1])
        fine, coarse = (log_probs(LlamaCppActor(kv=each).actors(setting(file))(1.0)[1]) for each in ("f16", "bf16"))
        assert 0 < np.max(np.abs(fine - coarse)) < 1

    def test_another_vocabulary_is_refused(self, file: Path, tmp_path: Path) -> None:
        given = setting(save_checkpoint(tmp_path / "few", 0))
        with pytest.raises(ValueError, match=f"vocabulary of 5 and .* one of {len(TOKENS)}"):
            LlamaCppActor(path=str(file)).actors(given)
        words = tuple(f"w{number}" for number in range(len(TOKENS)))
        given = setting(save_checkpoint(tmp_path / "other", 0, words))
        with pytest.raises(ValueError, match=r"token 0 is 'w0' for the policy's tokenizer and '<\|endoftext\|>' in"):
            LlamaCppActor(path=str(file)).actors(given)

    def test_prompts_beyond_the_context_are_refused(self, file: Path) -> None:
        actor: Any = LlamaCppActor().actors(setting(file))(1.0)[1]
        with pytest.raises(ValueError, match=f"at most {CONTEXT} tokens"):
            actor.check([np.zeros(CONTEXT, dtype=np.int64)], np.array([0]), 1)
