"""A check of a document against a JSON schema, of the keywords that ours uses; any other keyword is an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_WORDS = {"title", "description", "default", "$defs", "$schema"}
_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "null": type(None),
    "boolean": bool,
}

_APPLIES: dict[str, Any] = {
    **dict.fromkeys(("required", "properties", "additionalProperties"), dict),
    "items": list,
    **dict.fromkeys(("minimum", "maximum"), (int, float)),
}
"""The types to whose values a keyword applies; it says nothing of others."""


def breaches(content: Any, schema: Any, whole: Any, at: str = "$") -> Iterator[str]:
    """The places at which a document departs from a schema, each with what is wrong there.

    Args:
        content: the document.
        schema: the schema, or a part of it.
        whole: the whole schema, in which references are looked up.
        at: the place of the document.
    """
    for keyword, told in schema.items():
        if not isinstance(content, _APPLIES.get(keyword, object)):
            continue
        match keyword:
            case "$ref":
                yield from breaches(content, whole["$defs"][told.rpartition("/")[2]], whole, at)
            case "type":
                if not isinstance(content, _TYPES[told]) or (isinstance(content, bool) and told != "boolean"):
                    yield f"{at} is no {told}"
            case "anyOf":
                if all([*breaches(content, each, whole, at)] for each in told):
                    yield f"{at} is none of {told}"
            case "enum":
                if content not in told:
                    yield f"{at} is none of {told}"
            case "required":
                yield from (f"{at} lacks {name}" for name in told if name not in content)
            case "properties":
                for name in content.keys() & told.keys():
                    yield from breaches(content[name], told[name], whole, f"{at}.{name}")
            case "additionalProperties":
                for name in content.keys() - schema.get("properties", {}).keys():
                    if told is False:
                        yield f"{at} has {name}"
                    else:
                        yield from breaches(content[name], told, whole, f"{at}.{name}")
            case "items":
                for place, each in enumerate(content):
                    yield from breaches(each, told, whole, f"{at}[{place}]")
            case "minimum" | "maximum":
                if (content < told) if keyword == "minimum" else (content > told):
                    yield f"{at} is beyond {told}"
            case _:
                if keyword not in _WORDS:
                    raise AssertionError(f"{keyword} is a keyword that this check does not know")
