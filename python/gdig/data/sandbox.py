"""Templates of strangers, run within limits of steps, memory and output (`render_limits`).

A template is a program. Jinja's sandbox keeps it away from the machine's files. It does not keep it from loops without
an end, or from texts without one. So calls that count are put into a template before it is compiled
(`template_hooks`), and filters and methods are checked before they run (`filter_limits`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import BuiltinMethodType, MethodType
from typing import Any, ClassVar

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from gdig.data.filter_limits import check_method, limited
from gdig.data.render_limits import CURRENT, Rendering, current
from gdig.data.template_hooks import HOOKS, Hook, with_hooks

MOST_SOURCE = 1 << 20
"""Characters of a template."""

# They draw, make HTML, or take time that grows with the square of the text.
_WITHOUT = ("random", "pprint", "urlize", "wordwrap", "xmlattr", "striptags")


class Sandbox(ImmutableSandboxedEnvironment):
    """A Jinja environment whose templates run within limits. `{% generation %}` is noted in the rendering.

    Args:
        options: of jinja2.Environment.
    """

    intercepted_binops = frozenset(("+", "*", "%", "**"))

    def __init__(self, **options: Any) -> None:
        super().__init__(extensions=[_Generation, loopcontrols], finalize=_finalize, autoescape=False, **options)
        for name in _WITHOUT:
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters = {name: limited(name, function) for name, function in self.filters.items()}
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: limited("", function) for name, function in tests.items()}
        for name, hook in HOOKS.items():
            setattr(self, name, hook)

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Add a filter, within the limits of all filters."""
        self.filters[name] = limited(name, function)

    def compiled(self, source: str) -> Template:
        """Compile a template.

        Raises:
            TemplateSyntaxError: if the source is no template, or is too long or too deep.
        """
        if len(source) > MOST_SOURCE:
            raise TemplateSyntaxError(f"{len(source):,} characters, expected at most {MOST_SOURCE:,}", 1)
        try:
            return self.from_string(with_hooks(self.parse(source)))
        except TemplateSyntaxError:
            raise
        except (SyntaxError, RecursionError, MemoryError, OverflowError) as error:
            raise TemplateSyntaxError(f"the template cannot be compiled: {error}", 1) from None

    def render(self, template: Template, values: Mapping[str, Any], size: int) -> tuple[str, Rendering]:
        """Render a template.

        Args:
            template: as `compiled` returns it.
            values: the variables of the template.
            size: of the values, as :func:`gdig.data.render_limits.measure` counts it. The limits grow with it.

        Returns:
            The text, and what was noted on the way.

        Raises:
            LimitError: if the template exceeds a limit.
            Exception: whatever the template raises.
        """
        rendering = Rendering(size)
        chunks: list[str] = []
        token = CURRENT.set(rendering)
        try:
            for chunk in template.generate(values):
                chunks.append(chunk)
                rendering.length += len(chunk)
                if rendering.length > rendering.largest:
                    rendering.make(rendering.length)
        finally:
            CURRENT.reset(token)
        return "".join(chunks), rendering

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls, within limits."""
        if type(__obj) is Hook:
            return __obj.function(*args)
        rendering = current()
        rendering.spend()
        if isinstance(__obj, (BuiltinMethodType, MethodType)):
            args = check_method(rendering, __obj.__self__, __obj.__name__, args, kwargs)
        return rendering.hold(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`, within limits."""
        rendering = current()
        rendering.spend()
        if operator == "*":
            rendering.product(left, right)
        elif operator == "**":
            rendering.power(left, right)
        elif operator == "%" and isinstance(left, str):
            rendering.percent(left, right)
        return rendering.hold(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return str.format and str.format_map within limits. Return None for anything else."""
        if super().wrap_str_format(value) is None:
            return None
        text, formatter = str(value.__self__), _Formatter(self)
        if value.__name__ == "format_map":
            return lambda mapping: str(formatter.vformat(text, (), mapping))
        return lambda *args, **kwargs: str(formatter.vformat(text, args, kwargs))


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        rendering = current()
        rendering.percent(f"%{format_spec.lstrip('<>^=')}")
        rendering.width(*(int(number) for number in "".join(c if c.isdigit() else " " for c in format_spec).split()))
        return str(rendering.hold(super().format_field(value, format_spec)))


class _Generation(Extension):
    """The tag {% generation %} of transformers, which marks what the assistant says."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(lineno)

    def _mark(self, caller: Callable[[], str]) -> str:
        rendering = current()
        text = caller()
        rendering.marked.append((rendering.length, text))
        return text


def _finalize(value: Any) -> Any:
    rendering = CURRENT.get()
    if rendering is not None:
        rendering.spend()
        rendering.hold(value)
    return value
