from pathlib import Path

from jackpot_sim.environments.corpus import split_text


def test_a_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name, content in (("b.txt", b"22"), ("a.py", b"11"), ("c.bin", b"xx"), ("deeper/a.txt", b"33")):
        (tmp_path / name).write_bytes(content)
    parts = split_text(tmp_path, 100, 0.3)
    assert b"".join(part.tobytes() for part in parts) == b"112233"
    assert b"".join(part.tobytes() for part in split_text(tmp_path, 3, 0.4)) == b"112"
