"""The command's own parts: what it loads, forgets and refuses. Its checks need checkouts, and are run by hand."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.integrations.real_files.__main__ import main
from tests.integrations.real_files.loading import loaded


def test_a_module_is_loaded_by_itself_and_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "framework" / "inner"
    folder.mkdir(parents=True)
    for init in (folder, folder.parent):
        (init / "__init__.py").write_text("raise RuntimeError('heavy')")
    (folder / "loss.py").write_text(
        "import torch\nfrom notthere.deep import Type, jaxtyped\nfrom framework.heavy import helper\n"
        "@torch.compile(dynamic=True)\n@jaxtyped(typechecker=None)\ndef doubled(x: Type['n'] | None): return 2 * x\n"
    )
    compiler = torch.compile
    with loaded("framework", [tmp_path], ["notthere"], {"framework.heavy": {"helper": 1}}):
        assert import_module("framework.inner.loss").doubled(2) == 4
    assert torch.compile is compiler
    assert not [name for name in sys.modules if name.split(".")[0] in ("framework", "notthere")]
    with pytest.raises(ModuleNotFoundError):
        import_module("framework.inner.loss")


@pytest.mark.parametrize("argument", ["slime", "slime=", "slime=/no/such/folder", "trl=."])
def test_a_wrong_argument_is_one_sentence(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 2
    told = capsys.readouterr().out
    assert (
        told == f"{argument} must be NAME=FOLDER with one of slime, miles, prime-rl, skyrl and a folder that exists\n"
    )


def test_without_arguments_it_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "python -m tests.integrations.real_files slime=FOLDER" in capsys.readouterr().out
