"""The page as one file of HTML: template, style, script and data in it, and a policy that lets nothing else in."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deltageom.measures.interface import load_all
from deltageom.report import results
from deltageom.report.page import columns, data, measures, parts
from deltageom.report.page.source import Source
from deltageom.report.paper import SOURCE


def page(sources: Sequence[Source], side_by_side: Mapping[str, pd.DataFrame] | None = None) -> str:
    """HTML of one study, or of several: `side_by_side` are then their tables of settings and of numbers."""
    style, script = parts.asset("page.css"), parts.script()
    shown = [data.at_once(source) for source in sources]
    now = {
        "studies": shown,
        "measures": measures.plain(),
        "sideBySide": {name: columns.columns(frame) for name, frame in (side_by_side or {}).items()},
    }
    later = {"studies": [data.afterwards(source) for source in sources]}
    environment = Environment(
        loader=PackageLoader("deltageom.report.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tojson_text"] = _settings_text
    environment.globals |= {"linked": _linked, "machines": _machines, "seeds": _seeds, "Markup": Markup}
    reference = shown[0]["reference"] or "the reference"
    known = results.tables(load_all()) | results.figures(reference, load_all())
    return environment.get_template("page.html.jinja").render(
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        now=Markup(columns.text(now)),
        later=columns.packed(later),
        studies=shown,
        sources=sources,
        of_a_study=any(source.is_study() for source in sources),
        side_by_side=side_by_side,
        captions={name: one.caption for name, one in known.items()},
        cards=parts.cards(method for study in shown for method in study["methods"].values()),
        paper=SOURCE,
    )


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere but this very style and this very script."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _linked(text: str) -> Iterator[tuple[str, str | None]]:
    """The parts of a text, those that are numbers of arXiv said to be so."""
    for part in re.split(r"(\b\d{4}\.\d{5}\b)", text):
        yield part, part if re.fullmatch(r"\d{4}\.\d{5}", part) else None


def _settings_text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=1, ensure_ascii=False)


def _machines(source: Source) -> list[str]:
    found = source.provenance["machines"] if source.provenance else []
    named = [
        f"{one.get('device')} ({one.get('cpu')}), {one.get('platform')}, Python {one.get('python')}" for one in found
    ]
    return list(dict.fromkeys(named))


def _seeds(source: Source) -> str:
    """The seeds that the study has, by value: what most keys have is said once."""
    seeds = source.provenance.get("seeds", {}) if source.provenance else {}
    by_value: dict[int, list[str]] = {}
    for key, value in seeds.items():
        by_value.setdefault(value, []).append(key)
    usual = max(by_value, key=lambda value: len(by_value[value]), default=None)
    others = [f"{value} ({', '.join(keys)})" for value, keys in by_value.items() if value != usual]
    return "; ".join([f"{usual}", *others]) if usual is not None else "none"
