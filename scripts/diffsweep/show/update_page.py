"""The page "what the update did": one self-contained HTML file about two states of a sweep."""

import io
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from diffsweep.analysis.comparison import NOT_PAIRED, Amount
from diffsweep.analysis.updates import Change, Comparison
from diffsweep.analysis.verdicts import IMPROVED, REGRESSED
from diffsweep.show import style, update_plot, words
from diffsweep.show import update_words as said
from diffsweep.show.embed import inline_svgs

HERE = Path(__file__).parent


def render(comparison: Comparison, command: str) -> str:
    """The page; `command`: what compares the two states again."""
    places = list(comparison.thresholds)
    timed = [place for place in places if _timed(comparison, place)]
    letters, svgs = inline_svgs([_picture(comparison, place) for place in timed])
    drawn = dict(zip(timed, svgs, strict=True))
    return _page(
        title=said.headline(comparison),
        eyebrow=f"{comparison.new['sweep']} · {said.day(comparison.old)} → {said.day(comparison.new)}",
        letters=Markup(letters),
        differences=[(found.subject, "; ".join(found.changes)) for found in comparison.differences],
        places=[_place(comparison, place, drawn.get(place, "")) for place in places],
        states=[("before", _state(comparison.old)), ("now", _state(comparison.new))],
        command=command,
    )


def render_first(notes: Mapping) -> str:
    """The page of a sweep without an update: there is nothing to compare yet."""
    return _page(
        title="Nothing to compare yet: no earlier results that another environment, machine or revision made",
        eyebrow=f"{notes['sweep']} · {said.day(notes)}",
        letters="",
        differences=[],
        places=[],
        states=[("now", _state(notes))],
        command=f"scripts/compare {notes['state']} {notes['sweep']}",
    )


def _page(**content) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((HERE / "update.html.j2").read_text(encoding="utf-8"))
    return template.render(css=Markup((HERE / "report.css").read_text(encoding="utf-8")), **content)


def _state(notes: Mapping) -> str:
    environments = ", ".join(name for names in notes["environments"].values() for name in names)
    return f"{notes['state']}: {environments or 'environments not recorded'}"


def _place(comparison: Comparison, place: tuple[str, str], svg: str) -> dict:
    mine = [change for change in comparison.changes if change.key[:2] == place]
    anew = said.renewed(mine)
    return {
        "heading": " on ".join(place),
        "noise": said.noise_words(comparison.thresholds[place], mine),
        "notes": said.notes_of(anew),
        "svg": Markup(svg),
        "alt": f"Dots with intervals: the speed of {words.count(len(anew), 'variant')} before and now.",
        "rows": [_row(change) for change in anew],
        "others": [
            (head, said.named([change for change in mine if change.kind == kind]))
            for kind, head in said.KINDS.items()
            if any(change.kind == kind for change in mine)
        ],
    }


def _row(change: Change) -> dict:
    speed, quality = change.speed, change.quality
    same = {"text": "as before", "kind": "", "below": ""}
    return {
        "name": change.variant,
        "colour": style.engine_colour(change.engine),
        "cells": [
            _verdict(speed.verdict, NOT_PAIRED if speed.basis == NOT_PAIRED else "") if speed else same,
            {"text": said.ratio_words(speed), "kind": "", "below": said.sides_words(speed)} if speed else same,
            _verdict(quality.verdict, said.quality_words(quality)) if quality else same,
            _amount(change.memory, "spread") if change.memory else same,
            _amount(change.size, ""),
        ],
    }


def _verdict(verdict: str, below: str) -> dict:
    return {"text": verdict, "kind": verdict.replace(" ", "-"), "below": below}


def _amount(amount: Amount, noise: str) -> dict:
    told = amount.verdict in (IMPROVED, REGRESSED)
    below = f"within the {noise} of replicates" if noise and not told and amount.change else ""
    return {"text": said.amount_words(amount), "kind": amount.verdict if told else "", "below": below}


def _timed(comparison: Comparison, place: tuple[str, str]) -> list[Change]:
    return [change for change in comparison.changes if change.key[:2] == place and change.speed is not None]


def _picture(comparison: Comparison, place: tuple[str, str]) -> str:
    """The picture of one model on one target, as an SVG file's text."""
    frame = style.Frame(
        said.speed_finding(_timed(comparison, place)),
        f"{' on '.join(place)}: {said.cause(comparison)}",
        "95 % intervals, from the variation between replicates. Filled: speed-ups over the same baseline, from pairs; "
        "hollow: latencies that were measured at different times, not paired.",
    )
    with style.use_style():
        figure = update_plot.draw(_timed(comparison, place), frame)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
