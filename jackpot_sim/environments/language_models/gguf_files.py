"""GGUF files, as llama.cpp runs them: a model's weights of the moment, in the place of those of a template.

The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: a header, metadata as keys and values,
the names and places of tensors, and their data. Metadata, among them tokenizer, chat template and rotary angles, are
copied byte for byte from the template, which the model was read from or one of its own kind; numbers are rounded by the
package gguf, whose rounding is llama.cpp's own.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.language_models.library import Model
from jackpot_sim.requirements import imported, require

_MAGIC, _STRING, _ARRAY = b"GGUF", 8, 9
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""The bytes of each type of value but strings and arrays."""
_ALIGNMENT = 32


class Quantisation(StrEnum):
    """The number format of the matrices in a GGUF file; vectors, as those of norms, stay in float32.

    q4_0 … q8_0 share a scale, and those that end in _1 also an offset, among 32 numbers of a row. Below 8 bits the
    head, or the embeddings that are tied to it, gets q8_0, as llama.cpp's own tool spares it too (with q6_K where its
    width allows that, which the package gguf cannot write).
    """

    Q4_0 = "q4_0"
    Q4_1 = "q4_1"
    Q5_0 = "q5_0"
    Q5_1 = "q5_1"
    Q8_0 = "q8_0"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"


HEAD = "output.weight"
"""The head, in a GGUF file; it is missing where it is tied to the embeddings."""

_SPARED = dict.fromkeys((Quantisation(f"q{bits}_{form}") for bits in (4, 5) for form in (0, 1)), Quantisation.Q8_0)
"""The format of the head, where it is not that of the other matrices."""


@dataclass(frozen=True)
class Place:
    """A tensor in a GGUF file.

    Attributes:
        shape: as torch has it, rows first.
        kind: the number of its format among GGML's.
        offset: bytes from the start of the file's data.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """The parts of a GGUF file besides its data.

    Attributes:
        version: that of the format.
        fields: the metadata: type and value of each key, as bytes.
        places: the tensors by name, in the order of the file.
        start: the byte at which the data starts.
    """

    version: int
    fields: dict[str, bytes]
    places: dict[str, Place]
    start: int

    def text(self, key: str) -> str:
        """The value of a key that holds text; empty if it is missing."""
        return self.fields.get(key, b"")[12:].decode()

    def number(self, key: str) -> int | None:
        """The value of a key that holds a 32-bit count, or the number of entries of a list; None if it is missing."""
        if (value := self.fields.get(key)) is None:
            return None
        listed = struct.unpack_from("<I", value)[0] == _ARRAY
        return int(struct.unpack_from("<Q", value, 8)[0] if listed else struct.unpack_from("<I", value, 4)[0])

    @property
    def alignment(self) -> int:
        """The bytes to whose multiples tensors are padded."""
        return self.number("general.alignment") or _ALIGNMENT


def layout(path: Path) -> Layout:
    """The parts of a GGUF file besides its data.

    Raises:
        ValueError: it is no GGUF file of version 2 or 3, or ends early.
    """
    path = Path(path)
    try:
        data = np.memmap(path, mode="r").data
        found = _layout(data)
        ends = [place.offset + _bytes(place) for place in found.places.values()]
    except (struct.error, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no GGUF file, or is cut short or damaged") from error
    if found.start + max(ends, default=0) > len(data):
        raise ValueError(f"{path} is cut short: its tensors end at byte {found.start + max(ends)} of {len(data)}")
    return found


def write(model: Model, template: Path, path: Path, to: Quantisation) -> None:
    """Writes a model's weights as a GGUF file, which is whole or missing, with the metadata of a template.

    Args:
        model: a causal language model with the sizes of the template's; what the metadata say besides, such as the
            base of rotary angles, is not compared.
        template: a GGUF file of a model of that kind.
        path: the new file; one that is there is replaced.
        to: the format of the matrices.

    Raises:
        RequirementError: the package gguf is missing or too old.
        ValueError: the template cannot be read, is of a kind whose weights are kept in another way than is known here,
            or has other tensors than the model; or rows do not divide into blocks of the format.
        OSError: the file cannot be written.
    """
    require("gguf", purpose="writing a GGUF file")
    path, to = Path(path), Quantisation(to)
    given = layout(template)
    tensors = _tensors(model, given, template)
    head = HEAD if HEAD in tensors else "token_embd.weight"
    kinds = {
        name: _kind(name, shape, _SPARED.get(to, to) if name == head else to) for name, (shape, _) in tensors.items()
    }
    kept = {name: place for name, place in given.places.items() if name.startswith("rope_")}
    meant = _planned(given, {name: (shape, kinds[name]) for name, (shape, _) in tensors.items()}, kept, to)
    unfinished = path.parent / f".{path.name}.tmp"
    try:
        with unfinished.open("wb") as file:
            _write_head(file, meant)
            for name, place in meant.places.items():
                _pad(file, meant.start + place.offset)
                file.write(_of(template, given, name) if name in kept else _rounded(tensors[name][1](), kinds[name]))
        if layout(unfinished) != meant:
            raise OSError(f"{path}: what was written cannot be read back")
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


# --- From a model to tensors ------------------------------------------------------------------------------------------

_PERMUTED = {"llama": True, "qwen2": False, "qwen3": False}
"""The architectures that are written, and True for those whose queries and keys llama.cpp keeps in another order."""


def _tensors(
    model: Model, template: Layout, name: str | Path
) -> dict[str, tuple[tuple[int, ...], Callable[[], Floats]]]:
    """The model's tensors by their names in a GGUF file: shape, and a function for the numbers, in the order there."""
    gguf = imported("gguf")
    kind = template.text("general.architecture")
    if kind not in _PERMUTED:
        raise ValueError(f"{name}: models of the kind {kind} cannot be written: {', '.join(_PERMUTED)} can")
    config = model.config.get_text_config()
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == kind)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found: dict[str, tuple[tuple[int, ...], Callable[[], Floats]]] = {}
    for own, weight in model.named_parameters():  # tied weights come once
        stem, suffix = own.rsplit(".", 1)
        if (general := names.get_name(stem)) is None:
            raise ValueError(f"{name}: a GGUF file of the kind {kind} has no place for the weight {own}")
        part = general.rsplit(".", 1)[-1]
        count = int(heads[part]) if _PERMUTED[kind] and part in heads else None
        found[f"{general}.{suffix}"] = tuple(weight.shape), _numbers(weight, count)
    _check_same(found, template, name)
    return {each: found[each] for each in sorted(found, key=list({**template.places, **found}).index)}


def _numbers(weight: object, heads: int | None) -> Callable[[], Floats]:
    """The numbers of a weight as llama.cpp keeps them, when they are asked for."""

    def numbers() -> Floats:
        values: Floats = weight.detach().float().cpu().numpy()  # type: ignore[attr-defined]
        if heads is None:
            return values
        # transformers turns the two halves of a head against each other, llama.cpp neighbours.
        return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)

    return numbers


def _check_same(found: dict[str, tuple[tuple[int, ...], Callable[[], Floats]]], template: Layout, name: object) -> None:
    """Refuses a model with other tensors than the template's; either may have its head apart from the embeddings."""
    free = {HEAD, *(each for each in template.places if each.startswith("rope_"))}
    if differing := sorted((set(found) ^ set(template.places)) - free):
        raise ValueError(f"{name}: model and template differ in {len(differing)} tensors, the first {differing[0]}")
    for each, (shape, _) in found.items():
        if each in template.places and shape != template.places[each].shape:
            raise ValueError(f"{name}: {each} has shape {template.places[each].shape}, and {shape} in the model")


# --- Formats ----------------------------------------------------------------------------------------------------------


def _kind(name: str, shape: tuple[int, ...], to: Quantisation) -> int:
    """The number of the format that a tensor gets."""
    gguf = imported("gguf")
    kind = gguf.GGMLQuantizationType[to.upper() if len(shape) > 1 else "F32"]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"{name} has rows of {shape[-1]} numbers, no multiple of the {block} of {to}: give f16 or f32")
    return int(kind)


def _rounded(values: Floats, kind: int) -> bytes:
    gguf = imported("gguf")
    return bytes(gguf.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType(kind)).tobytes())


def _bytes(place: Place) -> int:
    gguf = imported("gguf")
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(place.kind)]
    return int(np.prod(place.shape, dtype=np.int64)) // int(block) * int(size)


# --- Reading ----------------------------------------------------------------------------------------------------------


def _layout(data: memoryview) -> Layout:
    if bytes(data[:4]) != _MAGIC:
        raise KeyError("magic")
    version, tensors, count = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3):
        raise KeyError("version")
    at, fields = 24, {}
    for _ in range(count):
        key, at = _text(data, at)
        end = _end(data, at)
        if end > len(data):
            raise struct.error("cut short")
        fields[key], at = bytes(data[at:end]), end
    places = {}
    for _ in range(tensors):
        name, at = _text(data, at)
        (rank,) = struct.unpack_from("<I", data, at)
        *shape, kind, offset = struct.unpack_from(f"<{rank}QIQ", data, at + 4)
        places[name] = Place(tuple(reversed(shape)), kind, offset)
        at += 4 + 8 * rank + 12
    found = Layout(version, fields, places, 0)
    return Layout(version, fields, places, -(-at // found.alignment) * found.alignment)


def _text(data: memoryview, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    return bytes(data[at + 8 : at + 8 + length]).decode(), at + 8 + length


def _end(data: memoryview, at: int) -> int:
    """The byte after a value whose type stands at `at`."""
    kind: int = struct.unpack_from("<I", data, at)[0]
    if kind == _STRING:
        return _after_texts(data, at + 4, 1)
    if kind != _ARRAY:
        return at + 4 + _WIDTHS[kind]
    inner, count = (int(each) for each in struct.unpack_from("<IQ", data, at + 4))
    return _after_texts(data, at + 16, count) if inner == _STRING else at + 16 + count * _WIDTHS[inner]


def _after_texts(data: memoryview, at: int, count: int) -> int:
    for _ in range(count):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
    return at


def _of(path: Path, found: Layout, name: str) -> bytes:
    """The data of a tensor."""
    place = found.places[name]
    with Path(path).open("rb") as file:
        file.seek(found.start + place.offset)
        return file.read(_bytes(place))


# --- Writing ----------------------------------------------------------------------------------------------------------


def _planned(
    given: Layout, tensors: dict[str, tuple[tuple[int, ...], int]], kept: dict[str, Place], to: Quantisation
) -> Layout:
    """The parts of the new file: where each tensor will lie."""
    gguf = imported("gguf")
    name = "ALL_F32" if to is Quantisation.F32 else f"MOSTLY_{to.upper()}"
    file_type = struct.pack("<II", 4, gguf.LlamaFileType[name])
    fields = {**given.fields, "general.file_type": file_type}
    fields.setdefault("general.quantization_version", struct.pack("<II", 4, gguf.GGML_QUANT_VERSION))
    places, offset = {}, 0
    for each, (shape, kind) in {**{n: (p.shape, p.kind) for n, p in kept.items()}, **tensors}.items():
        places[each] = Place(shape, kind, offset)
        offset = -(-(offset + _bytes(places[each])) // given.alignment) * given.alignment
    unplaced = Layout(given.version, fields, places, 0)
    return Layout(
        given.version, fields, places, -(-len(b"".join(_head(unplaced))) // given.alignment) * given.alignment
    )


def _head(parts: Layout) -> Iterator[bytes]:
    yield _MAGIC + struct.pack("<IQQ", parts.version, len(parts.places), len(parts.fields))
    for key, value in parts.fields.items():
        yield struct.pack("<Q", len(key.encode())) + key.encode() + value
    for name, place in parts.places.items():
        shape = tuple(reversed(place.shape))
        yield struct.pack("<Q", len(name.encode())) + name.encode()
        yield struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, place.kind, place.offset)


def _write_head(file: BinaryIO, parts: Layout) -> None:
    for piece in _head(parts):
        file.write(piece)


def _pad(file: BinaryIO, at: int) -> None:
    file.write(bytes(at - file.tell()))
