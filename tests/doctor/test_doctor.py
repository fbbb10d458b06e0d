"""The doctor tells what is there and what is missing, and has an answer whatever is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.__main__ import main
from jackpot_sim.doctor import machine, report
from jackpot_sim.doctor.packages import UNLOCKS, conflicts, wanted
from jackpot_sim.doctor.trial import devices, tried
from jackpot_sim.requirements import package
from tests.packages import with_version, without

Captured = pytest.CaptureFixture[str]
Fake = Callable[..., None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A function that puts a package before the installed one of its name, in this process's children."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def put(name: str, version: str | None, code: str = "") -> None:
        module = tmp_path / name.replace("-", "_")
        module.mkdir()
        (module / "__init__.py").write_text(code, encoding="utf-8")
        told = tmp_path / f"{module.name}-1.dist-info"
        told.mkdir()
        line = "" if version is None else f"Version: {version}\n"
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n{line}", encoding="utf-8")

    return put


def started(*options: str) -> tuple[int, str, str]:
    """The exit code, output and errors of the command in a process of its own."""
    command = [sys.executable, "-m", "jackpot_sim", "doctor", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    return done.returncode, done.stdout, done.stderr


def test_no_broken_package_stops_it(fake: Fake) -> None:
    """In the place of heavy packages, so that none of theirs is imported."""
    fake("torch", "2.9", "raise ImportError('libcudart.so is missing')")
    fake("peft", "0.18", "raise RuntimeError('two\\nlines λ')")
    fake("accelerate", "1.2", "import os; os._exit(7)")
    fake("gguf", "0.19", "raise SystemExit('bye')")
    fake("tensorboard", "unknown")
    fake("datasets", None)
    fake("trl", "99.0", "print('{\"noise\": 1}')")
    fake("transformers", "5.0")
    for name in ("math-verify", "reasoning-gym", "xllamacpp", "verl", "ray"):
        fake(name, "99.0")
    code, out, err = started("--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    found = {each["name"]: each for each in told["packages"]}
    states = {name: found[name]["state"] for name in ("tensorboard", "datasets", "trl", "transformers", "numpy")}
    assert states == {
        "tensorboard": "unreadable version",
        "datasets": "unreadable version",
        "trl": "newer than tested",
        "transformers": "older than needed",
        "numpy": "tested",
    }
    errors = {name: found[name]["import_error"] for name in ("torch", "peft", "accelerate", "gguf", "trl", "numpy")}
    assert errors == {
        "torch": "ImportError: libcudart.so is missing",
        "peft": "RuntimeError: two lines λ",
        "accelerate": "its import ends the process with code 7",
        "gguf": "SystemExit: bye",
        "trl": None,
        "numpy": None,
    }
    assert told["devices"] == {}
    lacking = {each["name"]: each["lacking"] for each in told["extras"]}
    assert lacking["hf"] == ["datasets", "torch", "transformers"]
    assert lacking["lora"] == ["peft"]
    assert lacking["trl"] == []


@pytest.mark.parametrize("code", ["raise RuntimeError('boom')", "raise SystemExit(1)", "import nowhere_at_all"])
def test_a_core_that_is_broken_is_told_too(code: str, fake: Fake) -> None:
    fake("cyclopts", "5.5", code)
    rc, out, err = started("--quick")
    assert (rc, err) == (2, "")
    assert "the core CANNOT be used" in out.splitlines()[0]
    assert "No command can be run: " in out
    assert max(map(len, out.splitlines())) <= 80
    rc, out, err = started("--bogus")
    assert (rc, out) == (2, "")
    assert err == "doctor: '--bogus' is no option: give --json or --quick, or none\n"


def test_without_packaging_there_is_one_sentence(fake: Fake) -> None:
    fake("packaging", "26.0", "raise ModuleNotFoundError(\"No module named 'packaging.requirements'\")")
    assert started() == (2, "", "doctor: No module named 'packaging.requirements': pip install packaging\n")


def test_a_core_that_lacks_a_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    without(monkeypatch, "scipy")
    with_version(monkeypatch, "rich", "1.0")
    assert main(["doctor", "--quick"]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "The core lacks rich, scipy: pip install -c constraints-cpu.txt '.' in the project's folder" in told
    assert "rich 1.0 >=14.3" in told
    assert "older than needed" in told


def test_it_tells_all_in_eighty_columns(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    with_version(monkeypatch, "trl", "99.0.0.dev20270101+local.build")
    without(monkeypatch, "verl")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert main(["doctor", "--quick"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.isascii()
    told = " ".join(out.split())
    newer = f"trl 99.0.0.dev20270101+local.build is newer than tested ({package('trl').tested})"
    assert newer in told
    assert "verl lacks verl: pip install -c constraints-verl.txt '.[verl]'" in told
    assert "RAY_ADDRESS is ray://head:10001" in told
    assert "OMP_NUM_THREADS=3" in told
    assert f"{os.cpu_count()} processors" in told


def test_where_verl_is_the_others_need_another_environment(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    with_version(monkeypatch, "verl", "0.9.1")
    without(monkeypatch, "trl")
    assert main(["doctor", "--quick"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "'.[trl]' in the project's folder, in another environment than that of verl" in told


def test_packages_that_want_other_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, "verl", "0.9.1")
    lines = ["transformers<5.11,!=5.6.0,>=5.5.3", "numpy>=2", "nowhere>1", "rich>99; extra == 'x'", "what is this"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines if name == "verl" else None)
    with_version(monkeypatch, "transformers", "5.24.0")
    assert list(conflicts([package("verl"), package("numpy")])) == [
        "verl 0.9.1 wants transformers!=5.6.0,<5.11,>=5.5.3, and 5.24.0 is installed: "
        "install one that suits both, or give each an environment of its own"
    ]

    def damaged(_: str) -> list[str]:
        raise UnicodeDecodeError("utf-8", b"x", 0, 1, "y")

    monkeypatch.setattr(metadata, "requires", damaged)
    assert list(conflicts([package("numpy")])) == []


def test_an_import_that_hangs_is_cut_short_and_the_next_is_tried(fake: Fake) -> None:
    fake("sleeper", "1", "import time; time.sleep(60)")
    fake("quick", "1")
    errors, seen = tried(["sleeper", "quick"], seconds=2)
    assert errors == {"sleeper": "its import takes longer than 2 seconds"}
    assert seen == {}


def torch_with(**cuda: Any) -> types.SimpleNamespace:
    """A torch of a machine with these devices."""
    mps = types.SimpleNamespace(is_available=lambda: False)
    return types.SimpleNamespace(
        cuda=types.SimpleNamespace(is_available=lambda: bool(cuda), device_count=lambda: len(cuda), **cuda),
        backends=types.SimpleNamespace(mps=mps),
        get_num_threads=lambda: 4,
    )


def test_devices_are_those_that_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = types.SimpleNamespace(name="H200", total_memory=139 * 2**30)
    monkeypatch.setitem(sys.modules, "torch", torch_with(get_device_properties=lambda _: properties))
    assert devices() == {"cuda": [{"name": "H200", "memory_gib": 139.0}], "mps": False, "threads": 4}
    assert report._gpu(devices()) == "H200 (139.0 GiB)"
    monkeypatch.setitem(sys.modules, "torch", torch_with())
    assert report._gpu(devices()) == "none that torch can use, neither CUDA nor MPS"
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace())
    assert "AttributeError" in str(devices()["error"])


def test_a_working_folder_that_is_gone_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["doctor", "--quick"]) == 0
    assert "unknown free for this folder" in capsys.readouterr().out


def test_the_limits_of_a_container_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert main(["doctor", "--quick"]) == 0
    assert "held to" not in capsys.readouterr().out
    (tmp_path / "memory.max").write_text(f"{3 * 2**29}\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert main(["doctor", "--quick"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "held to the time of 1.5" in told
    assert "this process is held to 1.5 GiB" in told


def test_every_extra_is_said_to_unlock_something() -> None:
    assert {*wanted()} - {""} <= {*UNLOCKS}
    assert max(map(len, UNLOCKS.values())) <= 80 - 18 - 9 - 4


@pytest.mark.parametrize("line", ["--bogus", "json", "--json yes"])
def test_a_stupid_line_is_one_sentence(line: str, capsys: Captured) -> None:
    assert main(["doctor", *line.split()]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("doctor: ")
