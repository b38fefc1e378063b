"""Calls that count what a template does. They are put into its syntax tree at each place where it can loop or grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from gdig.data.render_limits import Noted, current


def with_hooks(tree: nodes.Template) -> nodes.Template:
    """Return a syntax tree with the calls of :data:`HOOKS`."""
    return _Transformer().visit(tree)  # type: ignore[no-any-return]


class Hook:
    """A function that only the syntax tree of :func:`with_hooks` calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class _Transformer(NodeTransformer):
    """Puts the calls of the hooks into a syntax tree."""

    def __init__(self) -> None:
        self._loops = 0

    def visit_For(self, node: nodes.For) -> list[nodes.Node]:
        self._loops += 1
        loop = nodes.Const(self._loops)
        static = nodes.Const(_static_size(node.body))
        self.generic_visit(node)
        variable = nodes.Name(node.target.name, "load") if isinstance(node.target, nodes.Name) else nodes.Const(None)
        node.body.insert(0, _statement("gdig_iteration", loop, variable, static))
        if node.test is not None:
            node.test = nodes.And(_call("gdig_charge", nodes.Const(1), nodes.Const(True)), node.test)
        return [node, _statement("gdig_loop_end", loop)]

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._charged(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._charged(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("gdig_concat", *node.nodes)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._held(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._held(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._held(node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call("gdig_weigh", node.node)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        # A comparison with a constant takes no longer than the constant is long, unless it looks for the constant.
        searches = any(operand.op in ("in", "notin") for operand in node.ops)
        values = [operand.expr for operand in node.ops]
        if searches or not (_is_constant(node.expr) or all(map(_is_constant, values))):
            for operand in node.ops:
                if not _is_constant(operand.expr):
                    operand.expr = _call("gdig_weigh", operand.expr)
        return self.generic_visit(node)

    def _held(self, node: nodes.Expr) -> nodes.Node:
        if _is_constant(node):
            return node
        self.generic_visit(node)
        return _call("gdig_hold", node)

    def _charged(self, node: Any) -> nodes.Node:
        static = _static_size(node.body)
        self.generic_visit(node)
        if static:
            node.body.insert(0, _statement("gdig_charge", nodes.Const(static), nodes.Const(True)))
        return node


def _call(name: str, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)


def _statement(name: str, *args: nodes.Expr) -> nodes.ExprStmt:
    return nodes.ExprStmt(_call(name, *args))


def _is_constant(node: nodes.Expr) -> bool:
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return all(map(_is_constant, node.items))
    return isinstance(node, nodes.Const)


def _static_size(body: list[nodes.Node]) -> int:
    """Characters of constant text that a body can give. That of loops and macros in it is counted there as well."""
    data = (text.data for node in body for text in node.find_all(nodes.TemplateData))
    constants = (constant.value for node in body for constant in node.find_all(nodes.Const))
    return sum(len(text) for text in (*data, *constants) if isinstance(text, str))


def _iteration(loop: int, value: Any, static: int) -> None:
    rendering = current()
    rendering.spend()
    rendering.make(static)
    if isinstance(value, Noted):
        rendering.iterations.append((rendering.length, loop, value.number, False))
    elif isinstance(value, int):
        rendering.iterations.append((rendering.length, loop, value, True))


def _loop_end(loop: int) -> None:
    rendering = current()
    if rendering.iterations:
        rendering.iterations.append((rendering.length, loop, -1, False))


def _charge(size: int, result: Any) -> Any:
    rendering = current()
    rendering.spend()
    rendering.make(size)
    return result


def _hold(value: Any) -> Any:
    rendering = current()
    rendering.spend()
    return rendering.hold(value)


def _concat(*values: Any) -> Any:
    rendering = current()
    rendering.spend()
    return rendering.hold("".join([str(value) for value in values]))


def _weigh(value: Any) -> Any:
    current().spend_on(value, 8)
    return value


HOOKS: dict[str, Hook] = {
    "gdig_iteration": Hook(_iteration),
    "gdig_loop_end": Hook(_loop_end),
    "gdig_charge": Hook(_charge),
    "gdig_hold": Hook(_hold),
    "gdig_concat": Hook(_concat),
    "gdig_weigh": Hook(_weigh),
}
"""The hooks by the name of the environment's attribute."""
