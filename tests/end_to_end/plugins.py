"""Plug-ins as users write them: one that is right, and many that are not, each with a part of the sentence for it."""

from __future__ import annotations

from typing import NamedTuple

HEAD = """
from dataclasses import dataclass

from jackpot_sim.estimators import Array, TokenCorrection, Tokens, given, register
"""

GOOD = f"""{HEAD}

@register("probability-gap")
@dataclass(frozen=True)
class ProbabilityGap(TokenCorrection):
    _looks_at = frozenset({{"policy_log_probs", "actor_log_probs"}})
    gap: float = 0.3
    hard: bool = True

    def accept(self, tokens: Tokens) -> Array:
        xp = tokens.xp
        gap = xp.exp(given(tokens.policy_log_probs)) - xp.exp(given(tokens.actor_log_probs))
        return abs(gap) <= self.gap
"""
"""A mask on |p − q|, as docs/extending.md has it."""


def correction(
    body: str, name: str = "new", head: str = "@dataclass(frozen=True)", base: str = "TokenCorrection"
) -> str:
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return f"{HEAD}\n\n@register({name!r})\n{head}\nclass New({base}):\n{lines}\n"


def accepting(value: str) -> str:
    return correction(f"def accept(self, tokens):\n    return {value}")


def weighing(value: str) -> str:
    return correction(f"def weight(self, tokens):\n    return {value}")


class Wrong(NamedTuple):
    """A plug-in, and a part of the sentence that answers it."""

    source: str
    part: str


AT_IMPORT = {
    "syntax": Wrong("def f(:\n", "plug-in syntax.py: mend line 1 of syntax.py (SyntaxError: invalid syntax"),
    "nul": Wrong("a = 1\0", "plug-in nul.py: mend "),
    "raises": Wrong(f"{HEAD}\nx = 1 / 0\n", "mend line 6 of raises.py (ZeroDivisionError: division by zero)"),
    "deep": Wrong("def f():\n    return nothing\nf()\n", "mend line 3 of deep.py (NameError: name 'nothing'"),
    "missing": Wrong("import no_such_package\n", "(ModuleNotFoundError: No module named 'no_such_package')"),
    "ends": Wrong("import sys\nsys.exit(3)\n", "mend line 2 of ends.py (SystemExit: it ends the program)"),
    "empty": Wrong("", 'empty.py: it registers no correction: write @register("its-name") above a class'),
    "forgot": Wrong(correction(GOOD[-60:]).replace("@register('new')\n", ""), "mend "),
    "taken": Wrong(correction("def accept(self, tokens): ...", "tis"), "the name 'tis' is taken by an estimator"),
    "spaces": Wrong(correction("def accept(self, tokens): ...", "a mask"), "registered as 'a mask': give a name of"),
    "function": Wrong(f"{HEAD}\n@register('new')\ndef new(tokens): ...\n", "new is no correction: derive its class"),
    "object": Wrong(correction("def accept(self, tokens): ...", base="object"), "New is no correction: derive its"),
    "plain": Wrong(correction("def accept(self, tokens): ...", head=""), "write @dataclass(frozen=True) above it"),
    "thawed": Wrong(correction("bound: float = 1.0", head="@dataclass"), "frozen one: write @dataclass(frozen=True))"),
    "bodyless": Wrong(correction("bound: float = 1.0"), "New defines neither accept nor weight"),
    "abstract": Wrong(
        correction("def accept(self, tokens): ...", base="Correction").replace(
            "import Array,", "import Array, Correction,"
        ),
        "New lacks level: derive it from TokenCorrection or SequenceCorrection",
    ),
    "required": Wrong(correction("bound: float\ndef accept(self, tokens): ..."), "give its parameter bound a default"),
    "typed": Wrong(correction('clip: str = "hard"\ndef accept(self, tokens): ...'), "clip is a name, and that of "),
    "unknown_field": Wrong(
        correction("_looks_at = frozenset({'advantage'})\ndef accept(self, tokens): ..."),
        "New has frozenset({'advantage'}) for _looks_at: give a frozenset of fields of Tokens: log_ratio,",
    ),
    "no_set": Wrong(
        correction("_looks_at = ('advantages',)\ndef accept(self, tokens): ..."),
        "New has ('advantages',) for _looks_at",
    ),
    "hiding": Wrong(correction("unit: float = 1.0\ndef accept(self, tokens): ..."), "cannot be called unit"),
}
"""Plug-ins that cannot be run, by the name of the file."""

IN_STUDY = {
    "ours": Wrong(
        correction("target: float = 1.0\ndef accept(self, tokens): ..."), "its parameter target another name"
    ),
    "column": Wrong(correction("bias: float = 1.0\ndef accept(self, tokens): ..."), "have a column bias already"),
    "picky": Wrong(
        correction("def __post_init__(self):\n    raise TypeError('no')\ndef accept(self, tokens): ..."),
        "new: its __post_init__ must refuse with a ValueError, not TypeError: no",
    ),
    "failing": Wrong(
        accepting("tokens.log_ratio[..., 99, 99, 99]"), "new: its accept raised IndexError in line 11 of failing"
    ),
    "writing": Wrong(
        correction("def accept(self, tokens):\n    tokens.log_ratio[...] = 0.0\n    return tokens.ones()"),
        "its accept raised ValueError in line 11 of writing.py: assignment destination is read-only",
    ),
    "writing_ratio": Wrong(
        correction("def weight(self, tokens):\n    ratio = tokens.ratio\n    ratio *= 2\n    return ratio"),
        "its weight raised ValueError in line 12 of writing_ratio.py: output array is read-only",
    ),
    "undeclared": Wrong(accepting("tokens.advantages > 0"), "None unless _looks_at names it"),
    "misspelt": Wrong(weighing("tokens.log_ratios"), "its weight raised AttributeError in line 11 of misspelt.py"),
    "unlikely": Wrong(accepting("tokens.ones() * 1.5"), "its accept gives 1.5 for a token: mend it, it must be a prob"),
    "negative": Wrong(weighing("-tokens.ones()"), "its weight gives -1 for a token: mend it, it must be a weight"),
    "nan": Wrong(weighing("tokens.ones() * float('nan')"), "it must be a weight, at least 0 (log r is "),
    "short": Wrong(
        weighing("tokens.ones()[..., :2]"), "weight has shape (2, 2), and the tokens have shape (2, 5): give"
    ),
    "scalar": Wrong(weighing("1.0"), "its weight has shape ()"),
    "nothing": Wrong(weighing("None"), "its weight has shape ()"),
    "listed": Wrong(weighing("[1.0]"), "its weight gives list for ndarray: compute with tokens.xp"),
}
"""Plug-ins that are run, and refused in the study that names them; their correction is called new."""
