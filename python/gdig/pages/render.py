"""Fill the templates. All text of the data is escaped, in HTML and in the JSON that scripts read."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gdig.store.atomic import replacing

_FOLDER = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """Return the text of a page.

    Args:
        template: name of a file in `templates/`.
        values: what the template names. Text is escaped.
    """
    return _environment().get_template(template).render(**values)


def write_page(path: Path, text: str) -> None:
    """Write a page, complete or not at all. Missing parent folders are made."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))  # half of a surrogate pair has no UTF-8


def asset(name: str) -> Markup:
    """Return a file of `assets/` as it is: a script or a style of ours, or of a library."""
    return Markup((_FOLDER / "assets" / name).read_text(encoding="utf-8"))


def script_json(value: Any) -> Markup:
    """Return JSON that can stand inside a script element: neither `</script>` nor `<!--` can end or open anything.

    Numbers that are not finite become null.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(asset=asset, script_json=script_json)
    return environment
