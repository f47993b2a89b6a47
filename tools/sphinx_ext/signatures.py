"""Signatures on the page of the library as their author wrote them.

Sphinx shows what an annotation means to Python, so that ``ArrayLike`` becomes five lines. Here the
text of the source is shown, results list their public fields, and a type of this library links to
its entry. Below the first sentence of an entry the rest is folded, so that the page is a list.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc, desc_content, desc_name, index, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


class Qualify(ast.NodeTransformer):
    """Give each class of this library its full name, of which ``~`` shows the last part."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace a name that stands for a class of the library."""
        value = self.names.get(node.id)
        if not inspect.isclass(value) or not value.__module__.startswith("nclib."):
            return node
        return ast.parse(f"~{value.__module__}.{value.__qualname__}", mode="eval").body


def unquoted(annotation: ast.expr) -> ast.expr:
    """A type without the quotation marks that stand around a class not yet defined."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def written(function: Callable) -> tuple[str, str | None]:
    """Arguments and result of a function, from its source."""
    function = inspect.unwrap(function)
    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(definition, ast.FunctionDef)
    arguments = definition.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    qualify = Qualify(function.__globals__)
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg) and argument.annotation:
            argument.annotation = qualify.visit(unquoted(argument.annotation))
    returns = definition.returns
    result = ast.unparse(qualify.visit(unquoted(returns))) if returns else None
    return f"({ast.unparse(arguments)})", result


def public_fields(value: type) -> list[str]:
    """What a result or a model consists of, without private parts."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.init]
    else:
        names = [*getattr(value, "_fields", ()), *getattr(value, "__struct_fields__", ())]
    return [name for name in names if not name.startswith("_")]


def as_written(
    app: Sphinx, what: str, name: str, value: Any, options: object, *signature: str | None
) -> tuple[str | None, str | None] | None:
    """Replace the signature that autodoc has found."""
    if what in ("function", "method"):
        return written(getattr(value, "__func__", value))
    if what != "class" or not inspect.isclass(value):
        return None
    if names := public_fields(value):
        return f"({', '.join(names)})", None
    if inspect.isfunction(value.__init__):
        return written(value.__init__)[0], None
    return "", None


def skip_alias(
    app: Sphinx, what: str, name: str, value: Any, skip: bool, options: object
) -> bool | None:
    """Leave out the fields of named tuples, which stand under their attributes already."""
    return True if type(value).__name__ == "_tuplegetter" else None


def leave_alone(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.Element | None:
    """A type in a signature without an entry of its own is only text."""
    return text if node["refdomain"] == "py" and "refexplicit" not in node else None


def fold(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Fold what follows the first sentence of an entry; its methods stay in sight."""
    for content in doctree.findall(desc_content):
        names = list(content.parent.findall(desc_name))
        rest = [part for part in content[1:] if not isinstance(part, (desc, index))]
        if not rest or not names:
            continue
        for part in rest:
            content.remove(part)
        summary = f'Details<span class="visually-hidden"> of {names[0].astext()}</span>'
        opening = f'<details class="entry"><summary>{summary}</summary>'
        content[1:1] = [
            nodes.raw("", opening, format="html"),
            *rest,
            nodes.raw("", "</details>", format="html"),
        ]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-skip-member", skip_alias)
    app.connect("missing-reference", leave_alone)
    app.connect("doctree-resolved", fold)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
