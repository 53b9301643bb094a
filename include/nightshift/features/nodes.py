"""The nodes of a dbt build as people read them: one line each, in the order in which they ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.nightshift.features.project import Node


def lines(nodes: Sequence[Node]) -> list[str]:
    """An aligned table: node, kind, status, seconds, rows; a heading first."""
    told = [("node", "kind", "status", "seconds", "rows")]
    told += [(n.name, n.kind, n.status, f"{n.seconds:.2f}", "" if n.rows is None else f"{n.rows:,}") for n in nodes]
    name, kind, status, seconds, rows = (max(map(len, column)) for column in zip(*told, strict=True))
    return [f"{t[0]:<{name}}  {t[1]:<{kind}}  {t[2]:<{status}}  {t[3]:>{seconds}}  {t[4]:>{rows}}".rstrip() for t in told]


def counted(nodes: Sequence[Node], model: str, rows: int) -> tuple[Node, ...]:
    """The nodes, with the rows of a model of which dbt does not say how many it wrote."""
    return tuple(replace(node, rows=rows) if node.name == model and node.kind == "model" and node.rows is None else node for node in nodes)
