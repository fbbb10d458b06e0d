"""The formats of dumps, one file each: from the records of a file to the sequences in it."""

from __future__ import annotations

from jackpot_sim.readers.format import Format
from jackpot_sim.readers.formats import (
    miles,
    nemo_rl,
    open_instruct,
    openai,
    prime_rl,
    sglang,
    skyrl,
    slime,
    trl,
    verl,
    vllm,
)
from jackpot_sim.readers.formats.plain import Plain

PLAIN = Plain()
FORMATS: tuple[Format, ...] = (
    PLAIN,
    prime_rl.FORMAT,
    nemo_rl.FORMAT,
    slime.FORMAT,
    miles.FORMAT,
    skyrl.FORMAT,
    open_instruct.FORMAT,
    verl.FORMAT,
    trl.FORMAT,
    vllm.FORMAT,
    sglang.FORMAT,
    openai.FORMAT,
)
"""The formats that are known by their keys; a record must be known by one of them alone."""
