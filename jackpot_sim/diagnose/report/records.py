"""The folder of a diagnosis: the JSON, tidy tables in Parquet, and plots.

    DIR/manifest.json        the kind of this folder, the dump, the versions
    DIR/metrics.parquet      one row per figure
    DIR/corrections.parquet  one row per correction
    DIR/breakdowns.parquet   one row per slice and figure
    DIR/*.png                plots
    DIR/report.json          the whole diagnosis, written last

A diagnosis made anew takes the place of the one before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jackpot_sim.diagnose.report import as_json, plots
from jackpot_sim.diagnose.results import SCHEMA, Diagnosis, Effect, Figure
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.studies.files import unwritable, write_atomically
from jackpot_sim.studies.folders import StudyFolder
from jackpot_sim.studies.kinds import DIAGNOSIS
from jackpot_sim.studies.provenance import provenance

REPORT = "report.json"
_HASH = f"{DIAGNOSIS.noun}-{SCHEMA}"
"""The same for every dump: a folder is for the latest diagnosis, whatever of."""
_FIGURES = ("kept", "signal", "ess")
"""The fields of an effect that have an interval."""
_MAPPINGS = ("gradient_scale", "random_control")
"""The fields of an effect that map names to figures, a column each."""
_QUARTERS = 4


@contextlib.contextmanager
def claimed(root: Path) -> Iterator[StudyFolder]:
    """The folder, created or found to be one of a diagnosis, and locked; nothing is left where the block fails.

    Raises:
        StudyError: it holds something else, is in use, or cannot be written.
    """
    folder = StudyFolder(root, DIAGNOSIS.noun, lambda manifest: "diagnosis" in manifest)
    with folder.claimed(_HASH):
        yield folder


def write(folder: StudyFolder, diagnosis: Diagnosis, sample: TokenTable | None) -> None:
    """Writes a diagnosis into its folder, each file whole.

    Args:
        folder: the folder, claimed.
        diagnosis: the diagnosis.
        sample: the tokens to plot; None for none.

    Raises:
        StudyError: the system refuses.
    """
    root = folder.root
    try:
        folder.write_manifest({"diagnosis": diagnosis.source, "config_hash": _HASH, **provenance()})
        for name, rows in tables(diagnosis).items():
            table = pa.Table.from_pylist(rows, schema=_schema(name, rows))
            write_atomically(
                root / f"{name}.parquet", lambda path, t=table: pq.write_table(t, path, write_page_checksum=True)
            )
        plots.draw(sample, diagnosis, root)
        whole = as_json.text(diagnosis)
        write_atomically(root / REPORT, lambda path: path.write_text(whole, encoding="utf-8"))
    except OSError as error:
        raise unwritable(Path(error.filename or root), error) from error


def tables(diagnosis: Diagnosis) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table, every one with the dump that it is of."""
    dump = {"dump": diagnosis.source.get("paths", "")}
    slices = [
        dump | {"by": each.by, **row.model_dump(exclude={"figures"}), "figure": name, "value": value}
        for each in diagnosis.breakdowns
        for row in each.rows
        for name, value in row.figures.items()
    ]
    return {
        "metrics": [dump | each.model_dump() for each in diagnosis.metrics],
        "corrections": [dump | {"place": at} | _effect(each) for at, each in enumerate(diagnosis.corrections)],
        "breakdowns": slices,
    }


def _effect(effect: Effect) -> dict[str, Any]:
    row = effect.model_dump(exclude={*_FIGURES, *_MAPPINGS, "by_length"})
    for name in _FIGURES:
        figure: Figure | None = getattr(effect, name)
        ends = (None,) * 3 if figure is None else (figure.value, figure.low, figure.high)
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    lengths = [*effect.by_length, *[None] * _QUARTERS][:_QUARTERS]
    row |= {f"kept_of_quarter_{at + 1}": value for at, value in enumerate(lengths)}
    for name in _MAPPINGS:
        row |= {f"{name}_{key}": value for key, value in getattr(effect, name).items()}
    return row


def _schema(name: str, rows: list[dict[str, Any]]) -> pa.Schema:
    """The columns of a table, and a column of numbers for each key of the effects' mappings."""
    known = SCHEMAS[name]
    others = dict.fromkeys(key for row in rows for key in row if key not in known.names)
    return pa.schema([*known, *((key, pa.float64()) for key in others)])


SCHEMAS = {
    "metrics": pa.schema(
        [
            *((name, pa.string()) for name in ("dump", "name")),
            *((name, pa.float64()) for name in ("value", "low", "high")),
            ("meaning", pa.string()),
        ]
    ),
    "corrections": pa.schema(
        [
            ("dump", pa.string()),
            ("place", pa.int64()),
            *((name, pa.string()) for name in ("name", "label", "refused")),
            *((f"{name}{end}", pa.float64()) for name in _FIGURES for end in ("", "_low", "_high")),
            *((name, pa.float64()) for name in ("kept_positive", "kept_negative", "sequences_kept", "keep", "bias")),
            *((name, pa.float64()) for name in ("weight_mean", "weight_p99", "weight_max")),
            *((name, pa.float64()) for name in ("effective_kl", "effective_kl_reverse")),
            *((f"kept_of_quarter_{at + 1}", pa.float64()) for at in range(_QUARTERS)),
        ]
    ),
    "breakdowns": pa.schema(
        [
            *((name, pa.string()) for name in ("dump", "by", "slice")),
            *((name, pa.int64()) for name in ("tokens", "sequences")),
            ("figure", pa.string()),
            ("value", pa.float64()),
        ]
    ),
}
"""The columns of each table; the words for them are those of the JSON schema."""
