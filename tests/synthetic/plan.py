"""A plan of variants, and what is true of each: the times of a request without noise."""

from dataclasses import dataclass, replace

CLASSIC = ("engine", "precision", "compile", "scheduler", "steps", "guidance")


@dataclass(frozen=True)
class Truth:
    """What is true of a variant: times of one request without noise; spreads are standard deviations of logs."""

    step_s: float = 0.020
    prompt_encode_s: float = 0.004
    decode_s: float = 0.012
    image_encode_s: float = 0.0015
    overhead_s: float = 0.0012
    between_spread: float = 0.012  # between processes
    within_spread: float = 0.03  # between requests
    outliers: float = 0.01  # share of requests that take 1.6 times as long
    parallel_gain: float = 1.06  # throughput with several clients over one client
    fid_shift: float = 0.0  # distance of the features' mean from the baseline's
    clip_score: float = 88.0
    damage: float = 0.002  # relative difference of the images from the baseline's, sets SSIM and PSNR
    peak_memory_bytes: int = 900_000_000
    artifact_bytes: int = 20_700_000
    build_s: float = 3.0

    def latency_s(self, steps: int) -> float:
        parts = self.prompt_encode_s + self.decode_s + self.image_encode_s + self.overhead_s
        return steps * self.step_s + parts


ENGINE_STEP_S = {
    ("torch", "fp32"): 0.0200,
    ("torch", "bf16"): 0.0196,
    ("torch", "fp16"): 0.0290,
    ("torch", "int8"): 0.0330,
    ("onnxruntime", "fp32"): 0.0112,
    ("onnxruntime", "int8"): 0.0109,
    ("openvino", "fp32"): 0.0104,
    ("openvino", "bf16"): 0.0058,
    ("openvino", "int8"): 0.0098,
}
PRECISION_DAMAGE = {"fp32": 0.0001, "fp16": 0.002, "bf16": 0.02, "int8": 0.05}
PRECISION_BYTES = {"fp32": 20_700_000, "fp16": 10_500_000, "bf16": 10_500_000, "int8": 6_100_000}


def truth_of(variant: dict) -> Truth:
    """A plausible truth for a variant of the default sweep."""
    step_s = ENGINE_STEP_S[variant["engine"], variant["precision"]] * (0.8 if variant["compile"] else 1.0)
    solver = {"ddim": 1.0, "dpm++": 0.45, "unipc": 0.4, "euler": 0.9}[variant["scheduler"]]
    coarse = solver * 8.0 / variant["steps"]  # discretisation error, small at 25 steps
    damage = PRECISION_DAMAGE[variant["precision"]] + (0.2 * coarse if variant["steps"] != 25 else 0.0)
    return Truth(
        step_s=step_s,
        fid_shift=4.0 * coarse**1.5 + 10 * PRECISION_DAMAGE[variant["precision"]],
        clip_score=88.5 - 1.2 * coarse**1.5 - 4 * PRECISION_DAMAGE[variant["precision"]],
        damage=damage,
        artifact_bytes=PRECISION_BYTES[variant["precision"]],
        build_s=95.0 if variant["compile"] else 4.0 if variant["engine"] == "torch" else 22.0,
        peak_memory_bytes=int({"torch": 9e8, "onnxruntime": 6.2e8, "openvino": 5.6e8}[variant["engine"]]),
    )


def true_speedup(plan: dict, name: str, truths: dict[str, Truth] | None = None) -> float:
    """The speed-up over the baseline that an infinitely long measurement would find."""
    variants = {variant["name"]: variant for variant in plan["variants"]}
    truth = {k: (truths or {}).get(k) or truth_of(v) for k, v in variants.items()}
    baseline = plan["baseline"]
    return truth[baseline].latency_s(variants[baseline]["steps"]) / truth[name].latency_s(variants[name]["steps"])


def slower(truth: Truth, factor: float) -> Truth:
    """The same variant, every part `factor` times as long."""
    parts = ("step_s", "prompt_encode_s", "decode_s", "image_encode_s", "overhead_s")
    return replace(truth, **{part: getattr(truth, part) * factor for part in parts})


BASELINE = {
    "engine": "torch",
    "precision": "fp32",
    "compile": False,
    "scheduler": "ddim",
    "steps": 25,
    "guidance": 3.0,
}
DEFAULT_VARIANTS = {
    "fp32": (None, {}),
    "bf16": ("fp32", {"precision": "bf16"}),
    "fp16": ("fp32", {"precision": "fp16"}),
    "int8": ("fp32", {"precision": "int8"}),
    "compiled": ("fp32", {"compile": True}),
    "onnxruntime": ("fp32", {"engine": "onnxruntime"}),
    "onnxruntime-int8": ("onnxruntime", {"precision": "int8"}),
    "openvino": ("fp32", {"engine": "openvino"}),
    "openvino-bf16": ("openvino", {"precision": "bf16"}),
    "openvino-int8": ("openvino", {"precision": "int8"}),
    "ddim-10": ("fp32", {"steps": 10}),
    "ddim-5": ("ddim-10", {"steps": 5}),
    "dpm-20": ("fp32", {"scheduler": "dpm++", "steps": 20}),
    "dpm-10": ("dpm-20", {"steps": 10}),
    "unipc-8": ("fp32", {"scheduler": "unipc", "steps": 8}),
    "openvino-bf16-dpm-20": ("openvino-bf16", {"scheduler": "dpm++", "steps": 20}),
    "openvino-bf16-dpm-10": ("openvino-bf16", {"scheduler": "dpm++", "steps": 10}),
}
LOCAL = {
    "name": "local",
    "device": "cpu",
    "threads": 2,
    "price": {
        "instance": "c7i.large",
        "currency": "USD",
        "on_demand_per_hour": 0.0892,
        "spot_per_hour": 0.0357,
        "region": "us-east-1",
        "date": "2026-10-01",
        "source": "synthetic, for tests",
    },
}


def make_variants(table: dict = DEFAULT_VARIANTS) -> list[dict]:
    """name -> (parent, changed axes) as a plan's list of variants with all axes."""
    axes: dict[str, dict] = {}
    variants = []
    for name, (parent, changed) in table.items():
        before = axes[parent] if parent else BASELINE
        axes[name] = before | changed
        change = "; ".join(f"{axis}: {before[axis]} -> {value}" for axis, value in changed.items())
        variants.append({"name": name, "parent": parent, "change": change, **axes[name]})
    return variants


def make_plan(
    variants: list[dict] | None = None, *, replicates: int = 3, requests: int = 24, images: int = 200
) -> dict:
    """A resolved plan such as sweep/plan.py writes; all variants of the default sweep unless others are given."""
    variants = make_variants() if variants is None else variants
    names = {v["name"]: artifact_name(v) for v in variants}
    artifacts = {
        names[v["name"]]: {"name": names[v["name"]], **{k: v[k] for k in CLASSIC[:3]}, "threads": 2, "device": "cpu"}
        for v in variants
    }
    prompts = "config/prompts/default.yaml"
    return {
        "schema": 1,
        "sweep": "default",
        "models": {"reference": {"name": "reference", "path": "resources/reference-model", "width": 64, "height": 64}},
        "targets": {"local": LOCAL},
        "baseline": variants[0]["name"],
        "variants": variants,
        "artifacts": artifacts,
        "protocol": {
            "prompts": prompts,
            "distinct_prompts": 10,
            "replicates": replicates,
            "warmup": 5,
            "requests": requests,
            "block": 2,
            "levels": [1, 2, 4],
            "requests_per_level": 12,
        },
        "quality": {
            "prompts": prompts,
            "suite": "default",
            "images": images,
            "seed": 0,
            "batch": 8,
            "fid": "resources/fid",
            "clip": "resources/clip",
            "classifier": None,
            "clip_margin": 1.0,
            "bootstrap": 1000,
        },
        "workflow": {"git": "0" * 40},
    }


def artifact_name(variant: dict) -> str:
    name = f"{variant['engine']}-{variant['precision']}"
    return f"{name}-compile-local" if variant["compile"] else name
