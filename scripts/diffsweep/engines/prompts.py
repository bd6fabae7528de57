"""Prompt suites, as the engines' programs read them."""

from pathlib import Path

from diffsweep.engines.sources import PROJECT


def read_suite(path: str) -> dict:
    """{"name", "prompts", ...} of a suite's YAML file; a relative path starts at the project's folder."""
    import yaml

    return yaml.safe_load((PROJECT / Path(path)).read_text(encoding="utf-8"))
