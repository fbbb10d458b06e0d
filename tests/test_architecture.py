"""Imports point one way, heavy ones wait until they are needed, and the top level stays as it is."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.cases import each

ROOT = Path(__file__).parent.parent

CORE, ESTIMATORS, ENVIRONMENTS = "jackpot_sim.core", "jackpot_sim.estimators", "jackpot_sim.environments"
STUDIES = "jackpot_sim.studies"
"""What all studies share; each kind of study is a package of its own, and none imports another."""
TRAINING, SWEEP = "jackpot_sim.training", "jackpot_sim.sweep"
REQUIREMENTS = "jackpot_sim.requirements"
"""What is installed: every package may ask, and it imports none of them."""
START = "jackpot_sim.start"
"""What every command begins with."""
BESIDE = "jackpot_sim.beside"
"""The names of analysis and paper_figures, wherever they lie."""
VERSION = "jackpot_sim.version"
"""The number and the commit."""
HELP = "jackpot_sim.help_pages"
"""Help in pages."""
COMMANDS = "jackpot_sim.commands"
"""What command lines share."""
DUMPS = "jackpot_sim.readers"
"""What reads users' dumps."""
READERS = (CORE, REQUIREMENTS, START, COMMANDS, STUDIES, SWEEP, "jackpot_sim.estimators.statistics")
"""What reads records: `statistics` is the one home of the formulas that a bootstrap needs."""

MAY_IMPORT = {
    CORE: (),
    REQUIREMENTS: (),
    BESIDE: (),
    VERSION: (),
    START: (REQUIREMENTS,),
    HELP: (),
    COMMANDS: (REQUIREMENTS, VERSION, START, HELP),
    # Names the commands, and imports the one that is asked for.
    "jackpot_sim.__main__": (REQUIREMENTS, VERSION, START, BESIDE, "jackpot_sim.doctor.start"),
    ESTIMATORS: (CORE,),
    ENVIRONMENTS: (CORE, REQUIREMENTS, COMMANDS),
    STUDIES: (CORE, ESTIMATORS, ENVIRONMENTS, REQUIREMENTS, COMMANDS, HELP, VERSION),
    TRAINING: (CORE, ESTIMATORS, ENVIRONMENTS, STUDIES, REQUIREMENTS, START, COMMANDS, HELP),
    SWEEP: (CORE, ESTIMATORS, ENVIRONMENTS, STUDIES, REQUIREMENTS, START, COMMANDS, HELP),
    # Has an answer where nothing else can be imported.
    "jackpot_sim.doctor.cli": (COMMANDS, "jackpot_sim.doctor"),
    "jackpot_sim.doctor": (REQUIREMENTS, VERSION, START),
    # Shows what any command has written, and nothing imports it.
    "jackpot_sim.report": (*(STUDIES, START, COMMANDS, REQUIREMENTS, SWEEP, TRAINING, "jackpot_sim.diagnose", BESIDE),),
    # Puts all commands together, and nothing imports it.
    "jackpot_sim.completion": (*(ESTIMATORS, STUDIES, TRAINING, SWEEP, COMMANDS, VERSION, "jackpot_sim.__main__"),),
    # Tries corrections, and nothing imports it but tests.
    "jackpot_sim.testing": (CORE, ESTIMATORS, ENVIRONMENTS),
    DUMPS: (CORE, REQUIREMENTS),
    "jackpot_sim.record.cli": (
        *(DUMPS, COMMANDS, STUDIES, ENVIRONMENTS, "jackpot_sim.record"),
        "jackpot_sim.diagnose",  # asks servers, and computes the side that a dump lacks
    ),
    "jackpot_sim.record": (CORE, REQUIREMENTS, START, DUMPS),
    "jackpot_sim.diagnose": (
        *(CORE, ESTIMATORS, ENVIRONMENTS, DUMPS, STUDIES, REQUIREMENTS, START, COMMANDS, HELP),
        "jackpot_sim.record",  # rollouts of a live server are kept as a dump
    ),
    "jackpot_sim.integrations": (
        *(CORE, ESTIMATORS, REQUIREMENTS, f"{TRAINING}.objective", "jackpot_sim.record"),
        f"{STUDIES}.estimator_spec",  # a correction is named as studies name it
    ),
    # Times everything, the paper's figures too, and nothing imports it.
    "jackpot_sim.bench": (
        *(CORE, ESTIMATORS, ENVIRONMENTS, TRAINING, *READERS, BESIDE),
        *(DUMPS, "jackpot_sim.diagnose", "jackpot_sim.integrations", "jackpot_sim.record"),
    ),
    # Shows what any command has written as a page.
    "analysis.report": (
        *(*READERS, TRAINING, "jackpot_sim.diagnose", "jackpot_sim.report", "analysis"),
        "jackpot_sim.estimators.mismatch.lines",
    ),
    "analysis": (*READERS, TRAINING),
    # Measures laws that no record could hold, so that it builds the models itself.
    "paper_figures.real_model_measurement": (*READERS, ENVIRONMENTS, ESTIMATORS, "paper_figures"),
    "paper_figures": (*READERS, TRAINING, "analysis"),
}
"""What each package may import besides itself; a new package enters here first."""

MAY_IMPORT_INSIDE = {
    f"{ESTIMATORS}.corrections": (),
    f"{ESTIMATORS}.states": ("corrections",),
    f"{ESTIMATORS}.sequences": ("corrections",),
    f"{ESTIMATORS}.rollouts": ("corrections", "states"),  # figures at visited states are those of states
    f"{ESTIMATORS}.mismatch": (),
    "jackpot_sim.diagnose.measure": (),
    "jackpot_sim.diagnose.what_if": (),
    "jackpot_sim.diagnose.causes": (),
    "jackpot_sim.diagnose.advice": ("what_if",),
    "jackpot_sim.diagnose.report": (),
    "jackpot_sim.diagnose.one_pass": ("measure", "what_if"),
    "jackpot_sim.diagnose.diagnose": ("one_pass", "causes", "what_if", "advice"),
    "jackpot_sim.diagnose.cli": ("diagnose", "advice", "report"),
    "jackpot_sim.diagnose.__main__": ("cli",),
    f"{ENVIRONMENTS}.language_models": (),
    f"{ENVIRONMENTS}.states": (),
    f"{ENVIRONMENTS}.engines": ("language_models",),
    f"{ENVIRONMENTS}.sources": ("language_models", "engines", "states"),
    f"{ENVIRONMENTS}.sequences": ("language_models", "sources"),
    f"{ENVIRONMENTS}.rollouts": ("language_models", "engines", "sources", "sequences"),  # rewards serve both worlds
}
"""The subpackages that a subpackage may import besides itself and the files of its package, which import none.

The package's own `__init__` may import all of them.
"""

PROJECT = ("jackpot_sim", "analysis", "paper_figures", "tests")

FILES = sorted(path for top in PROJECT[:-1] for path in (ROOT / top).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path) for path in FILES}


def lies_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imported(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[str]:
    """The full names of what a tree imports, anywhere in it: modules, not the names inside them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield inner if inner in MODULES else origin


def forbidden(tree: ast.AST, module: str, is_package: bool = False) -> list[str]:
    """The imports of `tree`, read as `module`, that its package may not make."""
    owner = next((package for package in MAY_IMPORT if lies_in(module, package)), None)
    allowed = (owner, *MAY_IMPORT[owner]) if owner else ()
    # The project's own `__init__` holds the notation and the version number, and imports nothing.
    named = [name for name in imported(tree, module, is_package) if name != "jackpot_sim"]
    return [
        name
        for name in named
        if name.split(".")[0] in PROJECT and not any(lies_in(name, package) for package in allowed)
    ]


def forbidden_inside(tree: ast.AST, module: str, is_package: bool = False) -> list[str]:
    """The imports of `tree`, read as `module`, that the order inside its package forbids."""
    owner = next((each for each in MAY_IMPORT_INSIDE if lies_in(module, each)), None)
    package = ".".join(module.split(".")[:2])
    if module == package:
        return []
    allowed = () if owner is None else (owner, *(f"{package}.{each}" for each in MAY_IMPORT_INSIDE[owner]))
    ordered = [each for each in MAY_IMPORT_INSIDE if lies_in(each, package)]
    return [
        name
        for name in imported(tree, module, is_package)
        if any(lies_in(name, each) for each in ordered) and not any(lies_in(name, each) for each in allowed)
    ]


@each("path", FILES)
def test_imports_point_one_way(path: Path) -> None:
    told = ast.parse(path.read_text()), name_of(path), path.name == "__init__.py"
    assert forbidden(*told) == []
    assert forbidden_inside(*told) == []


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions and for types count too."""
    graph = {
        name_of(path): set(imported(ast.parse(path.read_text()), name_of(path), path.name == "__init__.py")) & MODULES
        for path in FILES
    }
    assert circle(graph) == []


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, the first again at the end; empty if there is no such ring."""
    try:
        TopologicalSorter({name: others - {name} for name, others in graph.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_of_imports_is_seen() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "d"}})) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("prefix_tree", "from jackpot_sim.environments.language_models.library import logits"),
        ("states.ngram", "from jackpot_sim.environments.language_models.library import logits"),
        ("language_models.example", "from jackpot_sim.environments.states import ngram"),
        ("language_models.memory", "if TYPE_CHECKING:\n    from jackpot_sim.environments.rollouts.built import Setup"),
        ("sources.kinds", "from ..sequences import built"),
        ("sequences.built", "from jackpot_sim.environments.rollouts import hf"),
    ],
)
def test_an_import_against_the_order_inside_environments_is_seen(module: str, line: str) -> None:
    assert forbidden_inside(ast.parse(line), f"{ENVIRONMENTS}.{module}")
    assert not forbidden(ast.parse(line), f"{ENVIRONMENTS}.{module}")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("corrections.token", "from jackpot_sim.estimators.states import moments"),
        ("statistics", "from jackpot_sim.estimators.corrections.correction import Correction"),
        ("states.path", "from jackpot_sim.estimators.sequences import updates"),
    ],
)
def test_an_import_against_the_order_inside_estimators_is_seen(module: str, line: str) -> None:
    assert forbidden_inside(ast.parse(line), f"{ESTIMATORS}.{module}")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("jackpot_sim.core.obrs", "from jackpot_sim import estimators"),
        ("jackpot_sim.core.obrs", "import jackpot_sim.environments.knobs"),
        ("jackpot_sim.core.obrs", "def f():\n    from jackpot_sim.sweep import spec"),
        ("jackpot_sim.core.obrs", "from ..estimators import token"),
        ("jackpot_sim.estimators.statistics", "from jackpot_sim.environments.policy_pair import PolicyPair"),
        ("jackpot_sim.environments.knobs", "from jackpot_sim.estimators import moments"),
        ("jackpot_sim.studies.files", "from jackpot_sim.sweep import spec"),
        ("jackpot_sim.studies.files", "from jackpot_sim.training import spec"),
        ("jackpot_sim.training.loop.run", "from jackpot_sim.sweep.records import load"),
        ("jackpot_sim.sweep.run", "from jackpot_sim import training"),
        ("jackpot_sim.sweep.cli", "import analysis"),
        ("paper_figures.figure2", "import jackpot_sim.bench.timing"),
        ("jackpot_sim", "from jackpot_sim import core"),
        ("analysis.load", "from jackpot_sim.estimators import Denominator"),
        ("analysis.load", "import paper_figures"),
        ("analysis.load", "from jackpot_sim.environments import knobs"),
        ("paper_figures.figure_2", "from tests.sweep import studies"),
    ],
)
def test_an_import_that_points_the_wrong_way_is_seen(module: str, line: str) -> None:
    assert forbidden(ast.parse(line), module)


def test_every_package_has_its_rule() -> None:
    packages = {
        ".".join(name.split(".")[:2]) if name.startswith("jackpot_sim.") else name.split(".")[0] for name in MODULES
    }
    assert packages - {"jackpot_sim"} <= set(MAY_IMPORT)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: all but the bodies of functions, and what is for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from (each for other in node.orelse for each in (other, *at_import(other)))
            continue
        yield node
        yield from at_import(node)


HEAVY = ("torch", "transformers", "ray", "datasets", "trl", "verl")


def heavy_imports(tree: ast.AST) -> list[str]:
    """Heavy modules that importing pulls in."""
    nodes = [node for node in at_import(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name for node in nodes for name in imported(ast.Module([node], []), "x")]
    return [name for name in names if name.split(".")[0] in HEAVY]


@each("path", FILES)
def test_nothing_heavy_is_imported_with_a_module(path: Path) -> None:
    assert heavy_imports(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "line", ["import torch", "from torch import nn", "if x:\n    import ray", "class A:\n    import torch.nn"]
)
def test_a_heavy_import_is_seen(line: str) -> None:
    assert heavy_imports(ast.parse(line))
    inside = "\n".join(f"    {each}" for each in line.splitlines())
    assert not heavy_imports(ast.parse(f"def f():\n{inside}"))
    assert not heavy_imports(ast.parse(f"if TYPE_CHECKING:\n{inside}"))
    assert heavy_imports(ast.parse(f"if TYPE_CHECKING:\n    x = 1\nelse:\n{inside}"))


MOVING = (
    *("past_key_values", "cache_params", "logits_to_keep", "use_cache", "position_ids", "attention_mask"),
    *("DynamicCache", "is_sliding", "reorder_cache", "last_hidden_state", "attn_implementation"),
    *("generation_config", "output_loading_info", "experts_implementation", "MAPPING_NAMES"),
)
"""Names in transformers that were or may be renamed."""


def test_one_file_names_what_transformers_may_rename() -> None:
    # The columns of users' dumps are not transformers', though some are named alike.
    files = [path for path in FILES if not lies_in(name_of(path), f"{DUMPS}.formats")]
    told = [name_of(path) for path in files if any(name in path.read_text() for name in MOVING)]
    assert told == ["jackpot_sim.environments.language_models.library"]


def test_one_file_tells_torch_from_numpy() -> None:
    told = [name_of(path) for path in FILES if "is_torch" in path.read_text()]
    assert told == ["jackpot_sim.core.backend"]


NAMES = {
    *("pyproject.toml", "constraints-cpu.txt", "constraints-verl.txt", "README.md", "LICENSE"),
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "mkdocs.yml"),
    *("jackpot_sim", "analysis", "paper_figures", "tests", "docs"),
}


def test_the_top_level_holds_its_names_and_no_other() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    tops = {name.split("/")[0] for name in listed.stdout.split("\0") if name}
    assert {name for name in tops if not name.startswith(".")} <= NAMES
