"""The one seam to transformers: new names and old ones, and what is said where neither is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.environments.language_models import library  # noqa: E402
from jackpot_sim.environments.language_models.checkpoints import check_causal, read_model  # noqa: E402
from jackpot_sim.environments.language_models.library import (  # noqa: E402
    LAST,
    WHOLE,
    empty_cache,
    end_tokens,
    gathered,
    keeps_a_cache,
    logits,
    rounding_cache,
    windows,
)
from jackpot_sim.requirements import RequirementError  # noqa: E402
from tests.environments.language_models.real_models import ARCHITECTURES, VOCAB, made  # noqa: E402

IDS = torch.tensor([[5, 1, 7, 2, 9], [3, 3, 8, 1, 4]])


class Model(torch.nn.Module):
    """Keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}

    def answer(self, ids: Any, given: dict[str, Any]) -> Any:
        self.given = {name: value for name, value in given.items() if value is not None}
        return SimpleNamespace(logits=torch.zeros(*ids.shape, VOCAB))


class New(Model):
    def forward(self, ids: Any, cache: Any = None, use_cache: Any = None) -> Any:
        return self.answer(ids, {"cache": cache, "use_cache": use_cache})


class Old(Model):
    def forward(self, ids: Any, past_key_values: Any = None, use_cache: Any = None) -> Any:
        return self.answer(ids, {"past_key_values": past_key_values, "use_cache": use_cache})


class Both(Model):
    def forward(self, ids: Any, past_key_values: Any = None, cache: Any = None, use_cache: Any = None) -> Any:
        return self.answer(ids, {"past_key_values": past_key_values, "cache": cache, "use_cache": use_cache})


class Neither(Model):
    def forward(self, ids: Any, cache_params: Any = None, use_cache: Any = None) -> Any:
        return self.answer(ids, {"cache_params": cache_params, "use_cache": use_cache})


@pytest.mark.parametrize(("kind", "name"), [(New, "cache"), (Old, "past_key_values"), (Both, "cache")])
def test_the_cache_is_handed_over_under_the_newest_name_that_there_is(kind: Callable[[], Model], name: str) -> None:
    model = kind()
    logits(model, IDS, cache="filled")
    assert model.given == {name: "filled", "use_cache": True}
    logits(model, IDS)
    assert model.given == {"use_cache": False}
    assert keeps_a_cache(model)


def test_a_model_without_a_cache_is_told_from_a_library_without_a_name_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not keeps_a_cache(Neither())
    monkeypatch.setattr(library, "_CACHE_ARGUMENTS", ("yet_another_name",))
    lacking = rf"^transformers {transformers.__version__} has no argument yet_another_name of .*: install a release"
    with pytest.raises(RequirementError, match=lacking):
        keeps_a_cache(Neither())
    with pytest.raises(RequirementError, match=lacking):
        check_causal(made("qwen3"), "my model")
    with pytest.raises(RequirementError, match=lacking):
        logits(made("qwen3"), IDS, cache=empty_cache(made("qwen3").config))


LACKING: dict[str, tuple[Any, Callable[[Path], Any]]] = {
    "DynamicCache": (SimpleNamespace(), lambda _: empty_cache(None)),
    "DynamicCache.is_sliding": (SimpleNamespace(DynamicCache=lambda config: object()), lambda _: windows(None)),
    "models.auto.configuration_auto.CONFIG_MAPPING_NAMES": (
        SimpleNamespace(models=SimpleNamespace(auto=SimpleNamespace())),
        lambda folder: library.known_kinds(),
    ),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_the_library_lacks_is_named(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without, use = LACKING[name]
    without.__version__ = "99.1"
    monkeypatch.setattr(library, "library", lambda: without)
    with pytest.raises(RequirementError, match=f"^transformers 99.1 has no {name}, which this project relies on"):
        use(tmp_path)


def test_a_model_is_not_blamed_for_what_the_library_lacks(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: Any) -> Any:
        raise RequirementError("transformers 99.1 has no such thing")

    monkeypatch.setattr("jackpot_sim.environments.language_models.checkpoints.pretrained", lacking)
    with pytest.raises(RequirementError, match=r"^transformers 99\.1 has no such thing$"):
        read_model(checkpoints / "policy", torch.float32)


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "gemma2, capped logits, windows", "lfm2, a recurrent state"])
def test_only_the_logits_that_are_asked_for_are_computed(name: str) -> None:
    model = made(name)
    with torch.inference_mode(), library.in_double(model):
        whole = logits(model, IDS)
        for kept in (WHOLE, LAST, slice(1, 3), slice(2, None), slice(-3, None), slice(0, 1), slice(0, 99)):
            assert torch.allclose(logits(model, IDS, kept), whole[:, kept], rtol=1e-12, atol=1e-12)
        assert torch.equal(logits(Whole(model), IDS, slice(1, 3)), whole[:, 1:3])
        cache = empty_cache(model.config)
        logits(model, IDS[:, :3], cache=cache)
        turned = gathered(cache, torch.tensor([1, 0, 1]))
        for step in (3, 4):
            after = logits(model, IDS[[1, 0, 1], step, None], LAST, cache=turned)
            assert torch.allclose(after[:, 0], whole[[1, 0, 1], step], rtol=1e-10, atol=1e-10)


class Whole(torch.nn.Module):
    """A model that gives the logits at every token that it reads, whatever is asked for."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, use_cache: Any = None) -> Any:
        return self.model(ids, use_cache=use_cache)


def test_weights_can_stand_in_for_the_models_own() -> None:
    model, other = made("qwen3"), made("qwen3", seed=1)
    with torch.inference_mode(), library.in_double(model):
        assert torch.equal(logits(model, IDS, LAST, weights=dict(other.named_parameters())), logits(other, IDS, LAST))


def test_copies_of_a_rounding_cache_round_too() -> None:
    model = made("qwen3")
    with torch.inference_mode(), library.in_double(model):
        cache = rounding_cache(model.config, lambda states: states.round())
        logits(model, IDS[:, :2], cache=cache)
        copy = gathered(cache, torch.tensor([0, 1]))
        logits(model, IDS[:, 2:], cache=copy)
        for holder, key in library.cached_tensors(copy):
            assert torch.equal(holder[key], holder[key].round())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_read_token_by_token(name: str) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        check_causal(made(name, dtype), name)


def test_a_model_whose_padding_shows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Mamba's does in transformers 5.24, which takes a cache and a mask and heeds neither alone."""
    model = made("qwen3")
    read = model.forward

    def heedless(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return read(*args, **kwargs)

    monkeypatch.setattr(model, "forward", heedless)
    with pytest.raises(ValueError, match=r"mine: a qwen3 model has other logits token by token in a padded batch"):
        check_causal(model, "mine")


def test_the_generation_config_says_what_ends_a_completion_and_else_the_tokenizer() -> None:
    def configured(of_config: Any, of_tokenizer: Any) -> tuple[int, ...]:
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=of_config))
        return end_tokens(model, SimpleNamespace(eos_token_id=of_tokenizer))

    assert configured([3, 0, 3], 0) == (0, 3)
    assert configured([3, 5], 0) == (3, 5)
    assert configured(3, 0) == (3,)
    assert configured(None, 0) == (0,)
    assert configured(None, None) == ()
    assert end_tokens(None, SimpleNamespace(eos_token_id=7)) == (7,)
    assert end_tokens(SimpleNamespace(generation_config=None), None) == ()


def test_loaded_weights_lie_where_torch_puts_its_own(checkpoints: Path) -> None:
    """A kernel's sums depend on where its numbers begin, and so would the last digits of a law."""
    model = read_model(checkpoints / "policy", torch.float32)
    assert {tensor.data_ptr() % 64 for tensor in model.parameters()} == {0}


def test_hidden_states_of_another_width_are_refused() -> None:
    model = made("qwen3", torch.float32)
    width = int(model.config.hidden_size)
    for shape in ((2, 1), (2, width + 1), (width,), (1, 2, width)):
        with pytest.raises(ValueError, match="states has shape"):
            library.logits_of_states(model, torch.zeros(shape))
    with pytest.raises(ValueError, match="positions has shape"):
        library.logits(model, torch.zeros((2, 3), dtype=torch.int64), positions=torch.zeros((1, 3), dtype=torch.int64))
    with pytest.raises(ValueError, match="ids has shape"):
        library.logits(model, torch.zeros(3, dtype=torch.int64))
