"""Prompts read from files and data sets, and made into tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.language_models.prompts import Prompt, PromptDataset, PromptFile, encoded, left_padded
from jackpot_sim.requirements import RequirementError
from tests.packages import without

CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "a b"}]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)
WORDS = ["?", "a", "b", "c", "user", "assistant", "system"]


def written(path: Path, *lines: Any) -> Path:
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines),
        encoding="utf-8",
    )
    return path


def tokenizer(template: str | None = None) -> Any:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: at for at, word in enumerate(WORDS)}, "?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    made.chat_template = template
    return made


def test_objects_of_lines_become_prompts(tmp_path: Path) -> None:
    path = written(
        tmp_path / "p.jsonl",
        {"prompt": "one\u2028line", "answer": 42, "other": 1},
        "",
        {"prompt": CHAT},
        {"prompt": "three", "answer": None},
    )
    assert PromptFile(path=path).read() == (
        Prompt(text="one\u2028line", answer="42"),
        Prompt(messages=tuple(CHAT)),
        Prompt(text="three"),
    )
    assert len(PromptFile(path=path, limit=2).read()) == 2


def test_other_fields_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", {"question": "q", "solution": "s", "prompt": "not this"})
    assert PromptFile(path=path, field="question", answer_field="solution").read() == (Prompt(text="q", answer="s"),)


def test_lines_of_text_become_prompts(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufefffirst\r\n\r\n  second: ü \n".encode())
    assert PromptFile(path=path).read() == (Prompt(text="first"), Prompt(text="  second: ü "))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ({"text": "x"}, "line 2: no field 'prompt' \\(there is 'text'\\)"),
        ({}, "line 2: no field 'prompt' \\(there is nothing\\)"),
        ({"prompt": 3}, "line 2: 'prompt' is neither a text nor a list of messages"),
        ({"prompt": ""}, "line 2: the prompt is empty"),
        ({"prompt": " \n"}, "line 2: the prompt is empty"),
        ({"prompt": []}, "line 2: the prompt has no messages"),
        ({"prompt": ["hello"]}, "line 2: 'prompt' has a message without a role"),
        ({"prompt": [{"role": "user"}]}, "line 2: 'prompt' has a message without a role"),
        ({"prompt": [{"role": "user", "content": 1}]}, "line 2: 'prompt' has a message without a role"),
    ],
)
def test_a_line_that_holds_no_prompt_is_named(tmp_path: Path, line: Any, error: str) -> None:
    path = written(tmp_path / "p.jsonl", {"prompt": "fine"}, line)
    with pytest.raises(ValueError, match=f"{path}: {error}"):
        PromptFile(path=path).read()
    assert len(PromptFile(path=path, limit=1).read()) == 1


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", "{", {"prompt": "fine"}, "{", "{", "{", "{")
    with pytest.raises(ValueError, match=r"line 1: not JSON; line 3: not JSON; line 4: not JSON; and 2 more$"):
        PromptFile(path=path).read()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "p.txt"
    binary.write_bytes(b"\xff\xfe\x80")
    for path, error in (
        (tmp_path / "none.jsonl", "cannot read prompts: No such file or directory$"),
        (binary, "cannot read prompts: it is no text in UTF-8$"),
        (written(tmp_path / "p.csv", "a"), "expected a .jsonl or .txt file"),
        (written(tmp_path / "empty.jsonl", " "), "there is no prompt"),
    ):
        with pytest.raises(ValueError, match=f"{path}: {error}"):
            PromptFile(path=path).read()


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (lambda: PromptFile(path=Path("p.txt"), limit=0), "limit must be an integer of at least 1"),
        (lambda: PromptFile(path=Path("p.txt"), field=""), "field and answer_field must not be empty"),
        (lambda: PromptDataset(name=" "), "name is empty"),
        (lambda: PromptDataset(name="x", split=""), "split is empty"),
        (lambda: PromptDataset(name="x", limit=0), "limit must be an integer of at least 1"),
        (lambda: Prompt(), "either a text or messages"),
        (lambda: Prompt(text="a", messages=tuple(CHAT)), "either a text or messages"),
    ],
)
def test_a_config_out_of_range_is_refused(config: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        config()


def test_a_data_set_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    written(folder / "train.jsonl", {"q": "one", "a": "1"}, {"q": "two", "a": None})
    written(folder / "test.jsonl", {"q": "three", "a": "3"})
    read = PromptDataset(name=str(folder), field="q", answer_field="a")
    assert read.read() == (Prompt(text="one", answer="1"), Prompt(text="two"))
    assert PromptDataset(name=str(folder), field="q", split="test").read() == (Prompt(text="three"),)
    assert len(PromptDataset(name=str(folder), field="q", limit=1).read()) == 1
    with pytest.raises(ValueError, match=r"row 1: no field 'prompt' \(there is 'q', 'a'\); row 2"):
        PromptDataset(name=str(folder)).read()
    with pytest.raises(ValueError, match=f"{folder}: cannot read the data set: .*nowhere"):
        PromptDataset(name=str(folder), split="nowhere").read()


def test_without_the_library_a_data_set_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "datasets")
    with pytest.raises(RequirementError, match="needs datasets, which is missing: pip install"):
        PromptDataset(name="anything").read()


def test_texts_become_tokens() -> None:
    ids = encoded([Prompt(text="a c"), Prompt(text="b")], tokenizer())
    assert [each.tolist() for each in ids] == [[1, 3], [2]]
    assert {each.dtype for each in ids} == {np.dtype(np.int64)}
    assert encoded([Prompt(text="a c")], tokenizer(TEMPLATE), chat=False)[0].tolist() == [1, 3]


def test_a_chat_goes_through_the_template_and_ends_where_the_assistant_begins() -> None:
    prompts = [Prompt(text="a c"), Prompt(messages=({"role": "user", "content": "b"},))]
    for chat in (None, True):
        ids = encoded(prompts, tokenizer(TEMPLATE), chat=chat)
        assert [each.tolist() for each in ids] == [[4, 1, 3, 5], [4, 2, 5]]
    assert encoded(prompts[1:], tokenizer(TEMPLATE), chat=False)[0].tolist() == [4, 2, 5]


def test_what_cannot_be_encoded_is_refused() -> None:
    texts, chats = [Prompt(text="a"), Prompt(text="a b c")], [Prompt(messages=tuple(CHAT))]
    with pytest.raises(ValueError, match="need a tokenizer"):
        encoded(texts, None)
    asked, given = "^chat is true, .* no chat template", "^the prompts are chat messages, .* no chat template"
    for prompts, chat, told in (
        (texts, True, asked),
        (chats, None, given),
        (chats, False, given),
        (chats, True, given),
    ):
        with pytest.raises(ValueError, match=told):
            encoded(prompts, tokenizer(), chat=chat)
    with pytest.raises(ValueError, match="prompts: prompt 2: it has 3 tokens, and at most 2 fit"):
        encoded(texts, tokenizer(), most_tokens=2)
    with pytest.raises(ValueError, match="prompt 1: the chat template refuses it: never"):
        encoded(chats, tokenizer("{{ raise_exception('never') }}"))
    with pytest.raises(ValueError, match="prompt 1: no token is left of it"):
        encoded(chats, tokenizer("{{ ' ' }}"))


def test_left_padding_aligns_the_ends() -> None:
    ids, mask = left_padded([np.array([1, 2, 3]), np.array([4])], pad=9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]
