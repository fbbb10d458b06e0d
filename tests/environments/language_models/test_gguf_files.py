"""GGUF files that are written: read by the package gguf and by transformers, and run by llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from jackpot_sim.environments.language_models.carried import gguf_of  # noqa: E402
from jackpot_sim.environments.language_models.checkpoints import Precision, load  # noqa: E402
from jackpot_sim.environments.language_models.gguf_files import HEAD, Quantisation, layout, write  # noqa: E402
from jackpot_sim.environments.language_models.library import pretrained_gguf, quiet  # noqa: E402
from jackpot_sim.requirements import RequirementError  # noqa: E402
from tests.cases import each  # noqa: E402
from tests.environments.tiny_gguf import TOKENS, weights, write_gguf  # noqa: E402


def model_of(path: Path) -> Any:
    with quiet():
        return pretrained_gguf(path)[0].eval()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "template.gguf")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Another model than the template's: of the weights of seed 1, in full."""
    return model_of(write_gguf(tmp_path_factory.mktemp("gguf") / "f32.gguf", seed=1, kind="F32"))


def tensors(path: Path) -> dict[str, Any]:
    """The tensors of a file as the package gguf reads them: numbers and format."""
    return {
        each.name: (gguf.dequantize(each.data, each.tensor_type), each.tensor_type.name)
        for each in gguf.GGUFReader(path).tensors
    }


def metadata(path: Path) -> dict[str, Any]:
    fields = gguf.GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}


@each("to", list(Quantisation))
def test_the_weights_are_those_of_the_model_in_that_format(
    to: Quantisation, model: Any, template: Path, tmp_path: Path
) -> None:
    write(model, template, path := tmp_path / "out.gguf", to)
    found, held = tensors(path), weights(1)
    assert list(found) == list(tensors(template))
    for name, (values, kind) in found.items():
        head = name == "token_embd.weight" and to.startswith(("q4", "q5"))
        meant = gguf.GGMLQuantizationType["F32" if held[name].ndim == 1 else "Q8_0" if head else to.upper()]
        assert kind == meant.name
        np.testing.assert_array_equal(values, gguf.dequantize(gguf.quantize(held[name], meant), meant))
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_metadata_are_those_of_the_template_but_for_the_format(model: Any, template: Path, tmp_path: Path) -> None:
    write(model, template, path := tmp_path / "out.gguf", Quantisation.Q4_1)
    found = metadata(path)
    assert found.pop("general.file_type") == gguf.LlamaFileType.MOSTLY_Q4_1
    assert found.pop("general.quantization_version") == gguf.GGML_QUANT_VERSION
    assert found == metadata(template)
    assert found["tokenizer.ggml.tokens"] == TOKENS


def test_what_is_written_is_read_back_by_transformers(model: Any, template: Path, tmp_path: Path) -> None:
    write(model, template, path := tmp_path / "out.gguf", Quantisation.F32)
    for (name, given), found in zip(model.named_parameters(), model_of(path).parameters(), strict=True):
        assert torch.equal(given, found), name


def test_the_same_weights_in_the_same_format_give_the_same_file(template: Path, tmp_path: Path) -> None:
    """Rounding leaves rounded numbers alone, so that a policy not yet trained is served as it was read."""
    write(model_of(template), template, path := tmp_path / "out.gguf", Quantisation.Q8_0)
    write(model_of(path), path, again := tmp_path / "again.gguf", Quantisation.Q8_0)
    assert again.read_bytes() == path.read_bytes()
    for (name, (given, _)), (found, _) in zip(tensors(template).items(), tensors(path).values(), strict=True):
        np.testing.assert_array_equal(given, found, err_msg=name)


def test_a_head_of_its_own_is_written_beside_the_embeddings(template: Path, tmp_path: Path) -> None:
    untied = model_of(write_gguf(tmp_path / "untied.gguf", kind="F32", tied=False))
    write(untied, template, path := tmp_path / "out.gguf", Quantisation.Q4_0)
    found = tensors(path)
    assert (found[HEAD][1], found["token_embd.weight"][1]) == ("Q8_0", "Q4_0")
    assert not model_of(path).config.tie_word_embeddings


def test_tensors_of_rotary_angles_stay_the_templates(model: Any, tmp_path: Path) -> None:
    angles = np.linspace(1, 2, 8, dtype=np.float32)
    template = write_gguf(tmp_path / "angles.gguf", extra={"rope_freqs.weight": angles})
    write(model, template, path := tmp_path / "out.gguf", Quantisation.F16)
    np.testing.assert_array_equal(tensors(path)["rope_freqs.weight"][0], angles)


def test_rounding_of_half_precision_is_that_of_its_numbers(model: Any, template: Path, tmp_path: Path) -> None:
    import copy

    half = copy.deepcopy(model).to(torch.bfloat16)
    write(half, template, path := tmp_path / "out.gguf", Quantisation.BF16)
    for own, found in zip(half.parameters(), model_of(path).parameters(), strict=True):
        assert torch.equal(own.float(), found)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"architecture": "gemma2"}, "models of the kind gemma2 cannot be written"),
        ({"without": ("blk.0.attn_k.weight",)}, r"differ in 1 tensors, the first blk\.0\.attn_k\.weight"),
        ({"extra": {"blk.0.attn_q.bias": np.ones(32, np.float32)}}, r"the first blk\.0\.attn_q\.bias"),
    ],
)
def test_a_template_of_another_model_is_refused(options: Any, sentence: str, model: Any, tmp_path: Path) -> None:
    template = write_gguf(tmp_path / "template.gguf", **options)
    (path := tmp_path / "out.gguf").write_bytes(b"before")
    with pytest.raises(ValueError, match=sentence):
        write(model, template, path, Quantisation.F16)
    assert path.read_bytes() == b"before"


def test_other_shapes_are_refused(model: Any, template: Path, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        **{**model.config.to_dict(), "hidden_size": 48, "head_dim": 24, "dtype": "float32"}
    )
    other = transformers.LlamaForCausalLM(config)
    with pytest.raises(ValueError, match=r"token_embd\.weight has shape \(\d+, 32\), and \(\d+, 48\) in the model"):
        write(other, template, tmp_path / "out.gguf", Quantisation.F16)


def test_rows_that_do_not_divide_into_blocks_are_refused(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = write_gguf(tmp_path / "template.gguf", kind="F32")
    monkeypatch.setitem(gguf.GGML_QUANT_SIZES, gguf.GGMLQuantizationType.Q8_0, (64, 66))
    with pytest.raises(ValueError, match="has rows of 32 numbers, no multiple of the 64 of q8_0: give f16 or f32"):
        write(model, template, tmp_path / "out.gguf", Quantisation.Q8_0)


@each("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_file_that_ends_early_is_seen(share: float, template: Path, tmp_path: Path) -> None:
    data = template.read_bytes()
    (path := tmp_path / "cut.gguf").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="cut short"):
        layout(path)


def test_a_failed_write_leaves_what_was_there(
    model: Any, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "out.gguf").write_bytes(b"before")
    quantize, calls = gguf.quantize, iter(range(100))

    def failing(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise OSError("no space left")
        return quantize(*arguments)

    monkeypatch.setattr(gguf, "quantize", failing)
    with pytest.raises(OSError, match="no space left"):
        write(model, template, path, Quantisation.Q8_0)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"out.gguf": b"before"}


@pytest.mark.nightly
@each("to", [Quantisation.F32, Quantisation.Q8_0, Quantisation.Q4_1])
def test_llama_cpp_gives_the_laws_of_what_was_written(
    to: Quantisation, model: Any, template: Path, tmp_path: Path
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    write(model, template, path := tmp_path / "out.gguf", to)
    ids = [5, 70, 260, 7, 90, 12]
    engine = llama_cpp.Llama(str(path), n_ctx=32, logits_all=True, verbose=False, n_threads=1)
    engine.eval(ids)
    own = torch.log_softmax(torch.tensor(engine.scores[: len(ids)]).double(), -1)
    engine.close()
    with torch.no_grad():
        served = torch.log_softmax(model_of(path)(torch.tensor([ids])).logits[0].double(), -1)
    kl = (served.exp() * (served - own)).sum(-1)
    # llama.cpp rounds activations to 8 bits where it multiplies quantised matrices, and to none where they are float32.
    assert float(kl.max()) < (1e-4 if to is Quantisation.F32 else 1e-2)


@pytest.mark.nightly
def test_a_carried_model_written_in_its_own_format_has_its_own_weights(tmp_path: Path) -> None:
    try:
        template = gguf_of("smollm2")
    except RequirementError:
        pytest.skip("the package is not installed")
    write(
        load("smollm2", precision=Precision.FP32, device="cpu").model,
        template,
        path := tmp_path / "out.gguf",
        Quantisation.Q4_1,
    )
    for (name, (given, kind)), (found, other) in zip(tensors(template).items(), tensors(path).values(), strict=True):
        assert kind == other, name
        np.testing.assert_array_equal(given, found, err_msg=name)
