"""Templates of strangers: what would take the machine is refused, and what is usual is not."""

from __future__ import annotations

from datetime import date

import pytest

from gdig.data.chat_template import ChatTemplate
from gdig.data.render_limits import LimitError, Rendering, measure
from gdig.data.row_forms import RowError
from gdig.data.sandbox import Sandbox
from gdig.data.templates import OwnTemplates
from gdig.errors import ConfigError, ModelError
from tests.support.limits import within

LOOP = "{% for i in range(100000) %}"
LONG = "{% set x = 'aaaa' * 100000 %}"
ONE_HASH = 2**61 - 1
"""What the hash of a whole number is the remainder of."""
GROW = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"


def grow(start, step, after=""):
    return GROW.replace("START", start).replace("STEP", step) + after


ATTACKS = {
    "loops": LOOP * 2 + "{% endfor %}" * 2,
    "loops with a condition": LOOP + "{% for j in range(100000) if j < 0 %}{% endfor %}{% endfor %}",
    "loop over a filter": LOOP + "{{ range(100000) | list | length }}{% endfor %}",
    "calls of macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "macros without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "output": LOOP + "{{ 'x' * 1000 }}{% endfor %}",
    "output of constants": LOOP + "x" * 2000 + "{% endfor %}",
    "constants in a block": "{% set y %}" + LOOP + "x" * 2000 + "{% endfor %}{% endset %}{{ y | length }}",
    "constants in a macro": "{% macro f() %}" + "x" * 2000 + "{% endmacro %}" + LOOP + "{% set y = f() %}{% endfor %}",
    "text times a number": "{{ 'a' * 10**10 }}",
    "number times a text": "{{ 10**10 * 'a' }}",
    "list times a number": "{{ ([0] * 10**10) | length }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "products": grow("2", "ns.x * ns.x"),
    "sums of text": grow("'ab'", "ns.x + ns.x"),
    "joined text": grow("'ab'", "ns.x ~ ns.x"),
    "text in a block": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "lists in a list": grow("[1]", "[ns.x, ns.x]", "{{ ns.x }}"),
    "objects in an object": grow("{}", "{'a': ns.x, 'b': ns.x}", "{{ ns.x | tojson }}"),
    "comparison of lists": "{% set a = namespace(x=[1]) %}{% set b = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set a.x = [a.x, a.x] %}{% set b.x = [b.x, b.x] %}{% endfor %}{{ a.x == b.x }}",
    "sums of lists": grow("[1]", "ns.x + ns.x"),
    "search in a long list": "{% set x = range(100000) | list %}" + LOOP + "{% if -1 in x %}{% endif %}{% endfor %}",
    "slices of a long list": "{% set x = range(100000) | list %}" + LOOP + "{% set y = x[1:] %}{% endfor %}",
    "depth": "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ '1'.zfill(1000000000) }}",
    "expandtabs": "{{ '\t\t\t'.expandtabs(1000000000) }}",
    "method replace": "{{ ('a' * 1000000).replace('a', 'a' * 1000000) }}",
    "method join": "{{ ('a' * 1000000).join(range(100000) | map('string')) }}",
    "translate": "{{ 'aaa'.translate({97: 'x'}) }}",
    "to_bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "format of a width": "{{ '{:>1000000000}'.format(1) }}",
    "format of an argument's width": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "format of a precision": "{{ '{:.1000000000f}'.format(1.0) }}",
    "fields of a format": "{{ ('{0}' * 100000).format('a' * 10000) }}",
    "format_map": "{{ ('{a}' * 100000).format_map({'a': 'a' * 10000}) }}",
    "percent with a width": "{{ '%1000000000d' % 1 }}",
    "percent with a star": "{{ '%*d' % (1000000000, 1) }}",
    "percent with a width after a key in parentheses": "{{ '%(a(b))1000000000d' % {'a(b)': 1} }}",
    "percent with a width after a length": "{{ '%l%%1000000000d' % 1 }}",
    "percent with a precision": "{{ '%(a).1000000000f' % {'a': 1.0} }}",
    "percent with an object": "{{ ('%(a)s' * 100000) % {'a': 'a' * 10000} }}",
    "filter format": "{{ '%1000000000d' | format(1) }}",
    "filter center": "{{ 'a' | center(1000000000) }}",
    "filter indent": "{{ ('a\n' * 100000) | indent('x' * 100000) }}",
    "filter batch": "{{ [1] | batch(1000000000, 'x') | list | length }}",
    "filter slice": "{{ [1] | slice(1000000000) | list | length }}",
    "filter replace": "{{ ('a' * 1000000) | replace('a', 'a' * 1000000) }}",
    "filter join": "{{ range(100000) | join('a' * 100000) }}",
    "filter round": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "filter sum": "{{ [[1], [2]] | sum(start=[]) }}",
    "filter tojson": "{{ [[[[1] * 1000] * 10] * 10] | tojson(indent=5000) }}",
    "search from the right": LONG + "{{ x.rfind('ab' ~ x[4:]) }}",
    "split from the right": LONG + "{{ x.rsplit(sep='ab' ~ x[4:]) }}",
    "part from the right": LONG + "{{ x.rpartition('ab' ~ x[4:]) }}",
    "many letters to strip": LONG + "{{ x.strip('!!' * 100000 ~ 'a') }}",
    "filter trim": LONG + "{{ x | trim('!!' * 100000 ~ 'a') }}",
    "many beginnings": "{% set x = ('a',) * 50000 %}" + LOOP + "{% if 'b'.startswith(x) %}{% endif %}{% endfor %}",
    "numbers of one hash": f"{{{{ dict.fromkeys(range(0, {90_000 * ONE_HASH}, {ONE_HASH})) }}}}",
    "unique numbers of one hash": f"{{{{ range(0, {-90_000 * ONE_HASH}, {-ONE_HASH}) | unique | list }}}}",
    "attributes": "{{ ''.__class__.__mro__ }}",
    "a name with an underscore": "{{ namespace(_x=1) }}",
    "date": "{{ strftime_now('%1000000000Y') }}",
    "long date": "{{ strftime_now('%c' * 100000) }}",
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox():
    return ChatTemplate("", {}, date(2026, 1, 31))


@pytest.mark.parametrize("name", ATTACKS)
def test_what_would_take_the_machine_is_refused(name):
    template = ChatTemplate(ATTACKS[name], {}, date(2026, 1, 31))
    with within(5.0), pytest.raises(Exception) as caught:
        template.render([], tools=None, prompt=False)
    assert type(caught.value).__name__ in ("LimitError", "SecurityError", "RecursionError"), caught.value


def rendered(source, **values):
    template = ChatTemplate(source, {}, date(2026, 1, 31))
    return template.render([], tools=None, prompt=False, variables=values).text


@pytest.mark.parametrize("opening", ["%(", "%(a", "%((a)"])
def test_a_format_is_looked_through_once(opening):
    """Every key of it lacks its end."""
    with within(1.0), pytest.raises(ValueError, match="incomplete format key"):
        rendered(f"{{{{ '{opening * 4}' * {400_000 // len(opening) // 4} % {{'a': 1}} }}}}")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ '%s-%03d' % ('a', 7) }}", "ababab10243a-007"),
        ("{{ '%(a(b))04d%%' % {'a(b)': 7} }}{{ '%ld|%-3s|' % (7, 'x') }}", "0007%7|x  |"),
        ("{{ 'xyz.jpg'.rstrip('gjp').rpartition('.')[0] }}{{ 'a--b'.rsplit('--') }}", "xyz['a', 'b']"),
        ("{{ '{:>5}|{a.b}'.format(1, a={'b': 2}) }}{{ '{x}'.format_map({'x': 3}) }}", "    1|23"),
        ("{{ [1, 2] + [3] }}{{ (1, 2) }}{{ {'a': [1]} }}", "[1, 2, 3](1, 2){'a': [1]}"),
        ("{{ 'a' ~ 1 ~ none ~ [2] }}", "a1None[2]"),
        ("{{ ['a', 'b'] | join('-') }}{{ '-'.join(['a', 'b']) }}{{ 'a,b'.split(',')[1:] }}", "a-ba-b['b']"),
        ("{{ [3, 1] | sort | map('string') | list }}{{ [1, 2] | sum }}{{ 1.55 | round(1) }}", "['1', '3']31.6"),
        ("{{ {'a': '<é>'} | tojson }}{{ [1] | tojson(indent=2) }}", '{"a": "<é>"}[\n  1\n]'),
        ("{{ 'a\nb' | indent(2) }}{{ 'abc' | center(5) }}{{ 'x' | replace('x', 'yy') }}", "a\n  b abc yy"),
        ("{% for i in range(3) if i != 1 %}{{ loop.index }}/{{ loop.length }}:{{ i }};{% endfor %}", "1/2:0;2/2:2;"),
        ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i > 3 %}{% break %}{% endif %}{{ i }}"
         "{% endfor %}", "023"),
        ("{% for x in [] %}a{% else %}b{% endfor %}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}",
         "ba1"),
        ("{% macro f(x, y=2) %}{{ x }}{{ y }}{{ caller() }}{% endmacro %}{% call f(1) %}!{% endcall %}", "12!"),
        ("{% set ns = namespace(a=1) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}", "4"),
        ("{{ strftime_now('%d %b %Y') }}{{ strftime_now('%H:%M') }}", "31 Jan 202600:00"),
        ("{{ 'b' in 'abc' }}{{ 1 not in [2] }}{{ [1] == [1] }}{{ 'x' is string }}{{ 1 < 2 <= 2 }}", "True" * 5),
        ("{{ dict(a=1) }}{{ 'A  b'.lower().strip().title() | trim }}{{ x | default('d') }}", "{'a': 1}A  Bd"),
        ("{% filter upper %}a{% endfilter %}{% set y %}b{% endset %}{{ y }}", "Ab"),
    ],
)  # fmt: skip
def test_what_is_usual_is_as_it_was(source, text):
    assert rendered(source) == text


def test_limits_grow_with_the_row():
    """A template that goes over a long row, and that repeats it some times, is within the limits."""
    letters = "x" * 1_500_000
    source = "{% for i in range(5) %}{{ x }}{% endfor %}{{ (x * 2) | length }}{{ x | replace('x', 'yy') | length }}"
    assert rendered(source, x=letters) == letters * 5 + "3000000" * 2
    messages = [{"role": "user", "content": f"{i} " * 100} for i in range(200)]
    template = ChatTemplate(
        "{% for m in messages %}{% for n in messages[loop.index0:] %}{% if n.content == '' %}{% endif %}{% endfor %}"
        "{{ m.content }}{% endfor %}", {}, date(2026, 1, 31),
    )  # fmt: skip
    assert template.render(messages, tools=None, prompt=False).text == "".join(m["content"] for m in messages)


def test_rows_nested_too_deep_are_refused():
    value: list = []
    for _ in range(900):
        value = [value]
    with pytest.raises(RowError, match="prompt_template: lists and objects in one another, expected at most 64 deep"):
        OwnTemplates("{{ q }}", "{{ q }}")({"q": value})


def test_own_templates_are_within_limits():
    with pytest.raises(RowError, match="target_template: the template makes too long a text or list, expected at most"):
        OwnTemplates("{{ q }}", "{{ q * 10**9 }}")({"q": "a"})
    with pytest.raises(RowError, match="prompt_template: the template takes too many steps"):
        OwnTemplates(LOOP * 2 + "{% endfor %}" * 2, "{{ q }}")({"q": "a"})


@pytest.mark.parametrize("source", ["{% for", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "a" * 2_000_000])
def test_templates_that_cannot_be_compiled(source):
    with pytest.raises(ModelError, match="some/model: the chat template, line 1: "):
        ChatTemplate(source, {}, date(2026, 1, 31), "some/model")
    with pytest.raises(ConfigError, match="prompt_template, line 1: "):
        OwnTemplates(source, "a")


def test_measure_counts_what_is_there_twice_twice():
    assert measure("abc", 10) == 4 and measure(["a", "b"], 10) == 5 and measure({"k": [1, 2]}, 10) == 6
    shared = ["abc"]
    assert measure([shared, shared], 100) == 11
    with pytest.raises(LimitError, match="expected at most 10 characters"):
        measure([shared] * 3, 10)


def test_nothing_is_computed_while_a_template_is_compiled():
    sandbox = Sandbox()
    template = sandbox.compiled("{{ 'a' | center(9) }}{{ 'b' | upper }}")
    assert sandbox.render(template, {}, 0)[0] == "    a    B"
    assert Rendering(0).steps < Rendering(1000).steps
