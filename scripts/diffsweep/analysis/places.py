"""Where the documents of a sweep's cells lie, for whoever reads, checks or copies all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffsweep.sweep.plan import replicates_of
from diffsweep.sweep.variants import artifact_name


@dataclass(frozen=True)
class CellPlace:
    """One model x target x variant: its folder, its replicates' folders, its artifact's manifest and the baseline's."""

    model: str
    target: str
    variant: str
    folder: Path
    replicates: tuple[Path, ...]
    manifest: Path
    baseline_manifest: Path
    baseline_folder: Path

    @property
    def documents(self) -> list[Path]:
        """The JSON documents of its stages."""
        measured = [folder / "replicate.json" for folder in self.replicates]
        return [*measured, *(self.folder / f"{stage}.json" for stage in ("images", "quality")), *self.searches]

    @property
    def searches(self) -> list[Path]:
        """Those for the highest rate, as far as any was made."""
        return sorted(self.folder.glob("search-*/arrivals.json"))


def each_cell(plan: Mapping, results: Path, artifacts: Path) -> Iterator[CellPlace]:
    """All cells of a plan, in its order. results: the sweep's folder; artifacts: results/artifacts."""
    variants = {variant["name"]: variant for variant in plan["variants"]}
    for model in plan["models"]:
        for target in plan["targets"]:

            def manifest_of(name: str, model: str = model, target: str = target) -> Path:
                return artifacts / model / artifact_name(variants[name], target) / "manifest.json"

            for name in variants:
                folder = results / model / target / name
                yield CellPlace(
                    model=model,
                    target=target,
                    variant=name,
                    folder=folder,
                    replicates=tuple(folder / f"replicate-{number}" for number in replicates_of(plan, name)),
                    manifest=manifest_of(name),
                    baseline_manifest=manifest_of(plan["baseline"]),
                    baseline_folder=results / model / target / plan["baseline"],
                )
