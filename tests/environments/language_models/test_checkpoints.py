"""Checkpoints that are read, and everything that is refused."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.environments.language_models.checkpoints import (  # noqa: E402
    Loaded,
    Precision,
    check_causal,
    load,
    load_tokenizer,
    read_model,
    resolved_device,
)
from tests.environments.language_models.real_models import ARCHITECTURES, SIZES, made  # noqa: E402
from tests.environments.language_models.test_build import save_tokenizer, spoil_weights  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    made("qwen3", torch.float32).save_pretrained(path)
    save_tokenizer(path, "a", "b", "c")
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **_: Any) -> None:
        raise OSError(f"no network here: {given}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def on_cpu(source: str | Path, precision: Precision = Precision.FP32) -> Loaded:
    return load(source, precision=precision, device="cpu")


def config_with(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("precision", Precision)
def test_a_folder_comes_back_in_the_precision_asked_for(
    saved: Path, precision: Precision, capfd: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_rng_state()
    loaded = on_cpu(saved, precision)
    assert {weight.dtype for weight in loaded.model.parameters()} == {precision.dtype}
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.name == str(saved)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.get_vocab()["c"] == 2
    expected = made("qwen3", torch.float32).state_dict()
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, expected[name].to(precision.dtype))
    assert torch.equal(before, torch.get_rng_state())
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP64])
def test_every_architecture_comes_back_with_its_logits(name: str, precision: Precision, tmp_path: Path) -> None:
    model = made(name, precision.dtype)
    model.save_pretrained(tmp_path)
    loaded = on_cpu(tmp_path, precision)
    read = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        np.testing.assert_allclose(loaded.model(read).logits, model(read).logits, rtol=0, atol=1e-5)
    assert loaded.tokenizer is None


def test_shards_are_read(saved: Path, tmp_path: Path) -> None:
    made("qwen3", torch.float32).save_pretrained(tmp_path, max_shard_size="5KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    first, second = (on_cpu(path).model.state_dict() for path in (saved, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)
    shards[0].unlink()
    with pytest.raises(ValueError, match="cannot read a causal language model"):
        on_cpu(tmp_path)


def only_bin(path: Path) -> None:
    (path / "model.safetensors").unlink()
    torch.save(made("qwen3", torch.float32).state_dict(), path / "pytorch_model.bin")


SPOILT: list[tuple[Callable[[Path], Any], str]] = [
    (lambda path: (path / "config.json").unlink(), "there is no config.json"),
    (lambda path: (path / "config.json").write_text("{"), "config.json is broken"),
    (lambda path: (path / "config.json").write_text("[1]"), "config.json is broken"),
    (lambda path: config_with(path, model_type=None), "knows no model_type None"),
    (lambda path: config_with(path, model_type="newest"), "knows no model_type 'newest'"),
    (
        lambda path: config_with(path, model_type="newest", auto_map={"AutoModelForCausalLM": "code.Model"}),
        "needs code of its own, which is never run here",
    ),
    (lambda path: config_with(path, hidden_size="wide"), "cannot read a causal language model"),
    (lambda path: config_with(path, model_type="t5"), "t5 is no causal language model"),
    (lambda path: config_with(path, is_encoder_decoder=True), "qwen3 is no causal language model"),
    (
        lambda path: config_with(path, model_type="bert", architectures=["BertForMaskedLM"]),
        "saved as BertForMaskedLM, which is no causal language model",
    ),
    (lambda path: config_with(path, architectures=["Qwen3ForSequenceClassification"]), "saved as Qwen3ForSequence"),
    (only_bin, "the weights lie in pytorch_model.bin, and only safetensors are read: .*save_pretrained"),
    (lambda path: (path / "model.safetensors").unlink(), "cannot read a causal language model"),
    (lambda path: (path / "model.safetensors").write_bytes(b"1234567890"), "cannot read a causal language model"),
    (lambda path: spoil_weights(path, lambda w: w.pop("model.norm.weight")), "1 weights are missing, .*model.norm"),
    (lambda path: spoil_weights(path, lambda w: w.pop("lm_head.weight")), "1 weights are missing, .*lm_head"),
    (lambda path: config_with(path, intermediate_size=64), "cannot read a causal language model"),
    (
        lambda path: spoil_weights(path, lambda w: w["model.layers.1.mlp.up_proj.weight"][0, 0].fill_(torch.nan)),
        "NaN or inf in its weight model.layers.1.mlp.up_proj.weight",
    ),
    (lambda path: (path / "tokenizer.json").write_text("{}"), "cannot read the tokenizer"),
]


@pytest.mark.parametrize(("spoil", "error"), SPOILT, ids=[error for _, error in SPOILT])
def test_what_cannot_be_used_says_so_in_one_sentence(
    folder: Path, spoil: Callable[[Path], Any], error: str, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=error) as caught:
        on_cpu(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "".join(capfd.readouterr()) == ""


def test_code_in_the_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')")
    config_with(folder, auto_map={"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"})
    assert type(on_cpu(folder).model).__name__ == "Qwen3ForCausalLM"  # its own, of the same name, is passed over
    assert not ran.exists()


def test_a_weight_too_large_for_half_precision_is_seen(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights["model.norm.weight"][0].fill_(1e6))
    on_cpu(folder, Precision.BF16)
    with pytest.raises(ValueError, match=r"NaN or inf in its weight model\.norm\.weight"):
        on_cpu(folder, Precision.FP16)


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES, is_decoder=False, architectures=["BertLMHeadModel"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a bert model that looks ahead is no causal language model"):
        on_cpu(tmp_path)
    config_with(tmp_path, is_decoder=True)
    assert on_cpu(tmp_path).model.config.is_decoder


def test_a_model_without_keys_and_values_is_refused() -> None:
    model = torch.nn.Linear(1, 1)
    model.config = transformers.Qwen3Config(**SIZES)
    with pytest.raises(ValueError, match="the actor: qwen3 models keep no keys and values"):
        check_causal(model, "the actor")


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", Path("nowhere"), "", " "])
def test_a_path_to_nowhere_is_not_looked_for_on_the_hub(source: str | Path) -> None:
    with pytest.raises(ValueError, match="no such folder: give one with a checkpoint"):
        on_cpu(source)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        on_cpu(folder / "config.json")


def test_a_name_that_cannot_be_fetched_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("some/model", "gpt2", "not a name!"):
        with pytest.raises(ValueError, match=f"{name}: there is no such folder, and .* check the name and the network"):
            on_cpu(name)
    assert "".join(capfd.readouterr()) == ""


def test_a_name_is_fetched_without_what_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, asked = pytest.importorskip("huggingface_hub"), list[dict[str, Any]]()

    def fetched(name: str, **given: Any) -> str:
        asked.append({"name": name, **given})
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", fetched)
    assert on_cpu("some/model").name == "some/model"
    assert asked[0]["name"] == "some/model"
    assert "*.safetensors" in asked[0]["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked[0]["allow_patterns"])


def test_devices() -> None:
    assert resolved_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolved_device("cpu") == "cpu"
    for missing in ("cuda:77", "nonsense"):
        with pytest.raises(ValueError, match=f"device='{missing}' is not there: give 'auto' or 'cpu'"):
            resolved_device(missing)


@pytest.mark.cuda
def test_a_model_on_a_device(saved: Path) -> None:
    assert load(saved, precision=Precision.BF16, device="auto").model.device.type == "cuda"


def test_read_model_is_what_load_reads(saved: Path) -> None:
    assert torch.equal(
        read_model(saved, torch.float64).lm_head.weight, on_cpu(saved, Precision.FP64).model.lm_head.weight
    )
    assert load_tokenizer(saved) is not None
