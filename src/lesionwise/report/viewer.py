"""The parts a page is made of: our own scripts and styles, NiiVue as nilearn ships it, and the policy that seals a page.

A page carries a content security policy that names the hash of every script in it and no outside address: nothing else
runs, and nothing can be asked for, even if a label or file name were to slip through unescaped.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lesionwise.errors import MissingExtraError


@dataclass(frozen=True)
class Script:
    """Code that a page runs, and the hash under which its policy lets it."""

    name: str
    code: str

    @property
    def markup(self) -> Markup:
        """The code as it stands in the page; our own files and libraries hold no closing tag (checked)."""
        return Markup(self.code.replace("</script", "<\\/script"))

    @property
    def hash(self) -> str:
        """Source expression of the policy."""
        digest = hashlib.sha256(str(self.markup).encode("utf-8")).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def asset(name: str) -> str:
    """Text of one of our own assets."""
    return (files("lesionwise.report") / "assets" / name).read_text(encoding="utf-8")


def script(name: str) -> Script:
    """One of our own scripts."""
    return Script(name.removesuffix(".js"), asset(name))


@cache
def niivue() -> Script:
    """NiiVue, from the installed nilearn.

    Raises MissingExtraError if nilearn is not installed or no longer ships it.
    """
    spec = find_spec("nilearn")
    places = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(places))) / "_assets" / "js" / "niivue.umd.js" if places else None
    if path is None or not path.is_file():
        raise MissingExtraError("The 3-D view needs NiiVue, which comes with nilearn >= 0.12: pip install nilearn.")
    return Script("niivue", path.read_text(encoding="utf-8"))


def packed(text: str) -> str:
    """Base64 of gzip of a text that the page unpacks only when it is needed."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)).decode("ascii")


def json_markup(content: Any) -> Markup:
    """JSON that may stand inside a script element: no character of it can end the element or open another."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def policy(scripts: Iterable[Script], *, served: bool = False) -> str:
    """The content security policy of a page: these scripts, inline styles, pictures made in the page, nothing else.

    A served page may ask its own server for data.
    """
    own = " 'self'" if served else ""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src " + " ".join(each.hash for each in scripts),
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "font-src data:",
            f"connect-src data: blob:{own}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


@cache
def templates() -> Environment:
    """Our templates: everything escaped, a missing value an error."""
    return Environment(
        loader=PackageLoader("lesionwise.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
