"""Writes the tables of `docs/api.md` from the code: `python docs/api_tables.py`."""

import re
from dataclasses import fields
from pathlib import Path

from zoetrope_core import errors, events
from zoetrope_core.request import GenerateRequest, field_rules

PAGE = Path(__file__).parent / "api.md"
_SPECIAL = {"seed": "random", "codec": "the format's"}


def request_table() -> str:
    """One row for each request field."""
    defaults = {entry.name: entry.default for entry in fields(GenerateRequest)}
    rows = ["| field | accepts | default | meaning |", "| --- | --- | --- | --- |"]
    for name, rule in field_rules().items():
        default = "the checkpoint's" if defaults[name] is None else f"`{defaults[name]}`"
        default = _SPECIAL.get(name, default)
        rows.append(f"| `{name}` | {rule.allowed} | {default} | {rule.doc} |")
    return "\n".join(rows)


def event_table() -> str:
    """One row for each event."""
    rows = ["| event | meaning | fields |", "| --- | --- | --- |"]
    for name, kind in events.EVENTS.items():
        summary = (kind.__doc__ or "").split("\n")[0]
        members = ", ".join(f"`{entry.name}`" for entry in fields(kind))
        rows.append(f"| `{name}` | {summary} | {members} |")
    return "\n".join(rows)


def error_table() -> str:
    """One row for each error of the tree that a client can meet."""
    rows = ["| code | gRPC status | meaning |", "| --- | --- | --- |"]
    for kind in _tree(errors.ZoetropeError):
        summary = (kind.__doc__ or "").split("\n")[0]
        rows.append(f"| `{kind.code}` | {kind.status} | {summary} |")
    return "\n".join(rows)


def _tree(kind):
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


def render(page: str) -> str:
    """The page with its tables renewed; each stands between two comments that name it."""
    for name, table in (("request", request_table), ("events", event_table), ("errors", error_table)):
        marked = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = marked.sub(lambda match, table=table: match[1] + table() + "\n" + match[2], page)
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
