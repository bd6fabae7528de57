"""The queries of the Grafana dashboard that ships, and the names in them."""

import json
import re

from conftest import PROJECT

GRAFANA = PROJECT / "resources" / "grafana"
NOT_METRICS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool"}
WORD = re.compile(r"(?<![$\w])[A-Za-z_:][\w:]*(?!\w*\s*\()")


def dashboard() -> dict:
    return json.loads((GRAFANA / "dashboard.json").read_text(encoding="utf-8"))


def panel_queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def variable_query() -> tuple[str, str]:
    """(metric, label) of the variable that lists the servers."""
    text = next(v["query"]["query"] for v in dashboard()["templating"]["list"] if v["type"] == "query")
    return re.fullmatch(r"label_values\((\w+), (\w+)\)", text).groups()


def metrics_in(query: str) -> set[str]:
    """The metrics that a PromQL query reads: its words that are no function, keyword, label, string or duration."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return set(WORD.findall(bare)) - NOT_METRICS


def labels_in(query: str) -> set[str]:
    """The labels that a PromQL query selects or groups by."""
    bare = re.sub(r'"[^"]*"', '""', query)
    selected = re.findall(r'(\w+)\s*(?:=~|!=|!~|=)\s*""', bare)
    grouped = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", bare)
    return {*selected, *(label for group in grouped for label in re.findall(r"\w+", group))}
