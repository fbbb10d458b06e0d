import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.environments.files import files_of, fingerprint
from jackpot_sim.environments.states.actor_file import ActorFile
from jackpot_sim.environments.states.advantage import FileAdvantage
from jackpot_sim.environments.states.base_laws import Dirichlet, LogitsFile
from jackpot_sim.environments.states.families import FAMILIES
from jackpot_sim.environments.states.ngram import Ngram
from jackpot_sim.environments.states.perturbed import LogitNoise

P, A, ADV = Path("p.npy"), Path("a.npy"), Path("adv.npy")


def written(folder: Path, **contents: bytes) -> list[Path]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_every_file_that_is_named_is_listed_once() -> None:
    advantage = FileAdvantage(path=ADV)
    actor = ActorFile(base=LogitsFile(path=P), path=A, advantage=advantage, share=0.5)
    assert sorted(files_of(actor)) == [A, ADV, P]
    assert files_of(actor) == files_of(actor)
    assert sorted(files_of(ActorFile(base=LogitsFile(path=P), path=P, advantage=advantage, share=1))) == [ADV, P]
    assert files_of(LogitNoise(sigma=0.1, advantage=advantage)) == (ADV,)
    assert files_of(Ngram(text=Path("gone.txt"))) == (Path("gone.txt"),)


@pytest.mark.parametrize("base", [Dirichlet(), Ngram()], ids=["dirichlet", "default text"])
def test_what_names_no_file_lists_none(base: Any) -> None:
    assert files_of(LogitNoise(base=base, sigma=0.1)) == ()
    assert fingerprint(()) == hashlib.sha256().hexdigest()


def test_every_family_is_walked() -> None:
    for family in FAMILIES:
        base = Ngram(text=P) if vars(family)["kind"] == "lower-order" else LogitsFile(path=P)
        own = {"path": A} if family is ActorFile else {}
        found = files_of(family(base=base, target_kl=0.1, **own, advantage=FileAdvantage(path=ADV)))  # type: ignore[call-arg]
        assert set(found) == {P, ADV, *own.values()}


def test_files_in_any_field_at_any_depth() -> None:
    @dataclass(frozen=True)
    class Later:
        text: Path | None
        several: tuple[Any, ...]
        name: str = "no/file.npy"

    assert files_of(Later(None, (P, [LogitsFile(path=A)], {"x": ADV}, P))) == (P, A, ADV)


def test_a_folder_of_text_stands_for_the_files_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    names = ("b.txt", "a.py", "c.bin", "deeper/a.txt")
    a, b, deep = (tmp_path / name for name in ("a.py", "b.txt", "deeper/a.txt"))
    written(tmp_path, **dict.fromkeys(names, b"ten bytes!"))
    assert files_of(LogitNoise(base=Ngram(text=tmp_path), sigma=0.1)) == (a, b, deep)
    assert files_of(Ngram(text=tmp_path, max_bytes=21)) == (a, b, deep)
    assert files_of(Ngram(text=tmp_path, max_bytes=20)) == (a, b)
    with pytest.raises(ValueError, match=r"no \*\.py or \*\.txt file inside"):
        files_of(Ngram(text=written_nothing(tmp_path)))


def written_nothing(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_the_fingerprint_is_of_contents_their_order_and_their_borders(tmp_path: Path) -> None:
    one, two, again = written(tmp_path, one=b"ab", two=b"c", again=b"ab")
    assert fingerprint([one, two]) == fingerprint((again, two))
    assert fingerprint([one, two]) != fingerprint([two, one])
    assert fingerprint([one, two]) != fingerprint(written(tmp_path, left=b"a", right=b"bc"))
    assert fingerprint([one]) != fingerprint([one, again])
    before = fingerprint([one, two])
    written(tmp_path, two=b"d")
    assert fingerprint([one, two]) != before


def test_golden_fingerprint(tmp_path: Path) -> None:
    """Records carry fingerprints: what they mean must not change by accident."""
    digests = hashlib.sha256(b"ab").digest() + hashlib.sha256(b"").digest()
    assert fingerprint(written(tmp_path, a=b"ab", b=b"")) == hashlib.sha256(digests).hexdigest()


@pytest.mark.parametrize("name", ["missing.npy", "."])
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot read") as error:
        fingerprint([*written(tmp_path, one=b"ab"), tmp_path / name])
    assert str(error.value).startswith(f"{tmp_path / name}: ")
