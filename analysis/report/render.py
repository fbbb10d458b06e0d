"""Pages as one HTML file: no request to anything outside, and names from records can be nothing but text."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2

from .page import Plot, Run

_ASSETS = resources.files(__package__) / "assets"
_EXPLORER = __package__.removesuffix("report") + "explorer"


def rendered(runs: Sequence[Run]) -> str:
    """The report as HTML."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    described = [_described(plot) for run in runs for section in run.sections for plot in section.plots]
    return environment.from_string(_asset("page.html.jinja")).render(
        runs=runs,
        title=", ".join(f"{run.noun} {run.name}" for run in runs),
        css=_asset("page.css"),
        plotly=_asset("plotly-basic.min.js") if described else "",
        script=_asset("page.js"),
        plots=as_script_data(described),
        explorer=_explorer(),
    )


def as_script_data(value: object) -> str:
    r"""A value as JSON that no text can end early inside a script element.

    >>> print(as_script_data("</script><!--"))
    "\u003c/script\u003e\u003c!--"

    Raises:
        ValueError: it holds nan or inf, which JSON has not.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _described(plot: Plot) -> Mapping[str, object]:
    views = [{"traces": list(view.traces), "layout": view.layout} for view in plot.views]
    return {"title": plot.title, "views": views}


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _explorer() -> str:
    """The explorer of rejection sampling, where it is installed."""
    try:
        module = importlib.import_module(_EXPLORER)
    except ModuleNotFoundError as error:
        if error.name != _EXPLORER:
            raise
        return ""
    fragment = getattr(module, "fragment", None)
    return "" if fragment is None else str(fragment())
