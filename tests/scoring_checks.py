"""Run in the scoring environment by test_quality.py: small scorers with random weights, and our scores beside others'.

    scripts/in_env scoring python tests/scoring_checks.py FOLDER    writes FOLDER/{fid,clip}, prints JSON

FOLDER/baseline/images.json is there already.

No trained weights: arithmetic is compared, not judgement.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import numpy as np  # noqa: E402
import scipy.linalg  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torchmetrics.functional.image import peak_signal_noise_ratio  # noqa: E402
from torchmetrics.image import StructuralSimilarityIndexMeasure  # noqa: E402
from torchmetrics.image.fid import FrechetInceptionDistance  # noqa: E402
from torchmetrics.multimodal.clip_score import CLIPScore  # noqa: E402

from diffsweep.quality import clip, fid, fidelity, frechet, manifests, scoring  # noqa: E402
from diffsweep.quality.features import Extractor, load_extractor  # noqa: E402

SIDE = 32
PROMPTS = ["a large plain red circle", "a small green square", "something else altogether", ""]


def make_extractor(folder: Path) -> Extractor:
    """A random extractor of 8 features, and reference features of random pictures."""
    folder.mkdir(parents=True)
    config = {"side": SIDE, "channels": [8, 16], "num_features": 8}
    extractor = Extractor(**config)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(extractor.state_dict(), folder / "weights.safetensors")
    pictures = pictures_like(80, seed=1)
    save_file({"features": extractor(pictures).detach().contiguous()}, folder / "reference.safetensors")
    return load_extractor(folder)


def make_clip(folder: Path) -> None:
    """A random CLIP that reads letters."""
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=40)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(
        text_config={**sizes, **ids, "vocab_size": len(words), "max_position_embeddings": 40},
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    model = transformers.CLIPModel(config)
    model.text_projection.weight.data.neg_()  # with this seed: positive scores, since torchmetrics cuts means off at 0
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    transformers.CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(folder)


def pictures_like(count: int, seed: int) -> torch.Tensor:
    """(count, 3, SIDE, SIDE) uint8: smooth random pictures."""
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255).byte()


def scipys_fid(ours: np.ndarray, real: np.ndarray) -> float:
    """The formula as it is written, with a general matrix square root."""
    a, b = np.cov(ours, rowvar=False), np.cov(real, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    return float(((ours.mean(0) - real.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root))


def fid_checks(extractor: Extractor) -> dict:
    """FID of the same pictures, by four roads."""
    real, ours = pictures_like(80, seed=1), pictures_like(60, seed=2) // 2
    metric = FrechetInceptionDistance(feature=extractor, normalize=False)
    metric.update(real, real=True)
    metric.update(ours, real=False)
    features, reference = (fid.features_of(p, extractor).astype(np.float64) for p in (ours, real))
    return {
        "torchmetrics, images": float(metric.compute()),
        "torchmetrics, stored features": fid.torchmetrics_fid(features, reference),
        "ours": frechet.squared_distance(frechet.moments(features), frechet.moments(reference)),
        "scipy": scipys_fid(features, reference),
    }


def clip_checks(folder: Path) -> dict:
    """The CLIP score of the same pictures, by torchmetrics' class and from the embeddings."""
    ours, pictures = clip.load_clip(folder), pictures_like(len(PROMPTS), seed=3)
    metric = CLIPScore(model_name_or_path=lambda: (ours.model, ours.processor))
    metric.update(pictures, PROMPTS)
    inputs = ours.processor(text=PROMPTS, images=list(pictures), return_tensors="pt", padding=True)
    embedded = ours.model(**inputs)
    cosines = (embedded.image_embeds * embedded.text_embeds).sum(1) * 100
    return {
        "per image": clip.scores_of(pictures, PROMPTS, ours),
        "from embeddings": cosines.tolist(),
        "torchmetrics": float(metric.compute().detach()),
        "truncated": clip.truncated([*PROMPTS, "x " * 60], ours),
    }


def fidelity_checks() -> dict:
    ours = pictures_like(5, seed=4)
    noisy = (
        (ours.float() + torch.randn(ours.shape, generator=torch.Generator().manual_seed(5)) * 10).clamp(0, 255).byte()
    )
    noisy[0] = ours[0]
    ssim = StructuralSimilarityIndexMeasure(data_range=255.0)
    return {
        "ssim": fidelity.ssim_of(ours, noisy),
        "torchmetrics ssim": float(ssim(ours.float(), noisy.float())),
        "psnr_db": fidelity.psnr_db_of(ours, noisy),
        "torchmetrics psnr_db": [
            float(peak_signal_noise_ratio(a.float(), b.float(), data_range=255.0))
            for a, b in zip(ours[1:], noisy[1:], strict=True)
        ],
        "equal": fidelity.equal_of(ours, noisy),
    }


def baseline_checks(folder: Path) -> dict:
    """quality.json's scores of a baseline that is compared with itself."""
    path = folder / "baseline" / "images.json"
    images = manifests.image_set(json.loads(path.read_text()), path)
    spec = {"fid": {"extractor": str(folder / "fid")}, "clip": {"model": str(folder / "clip")}, "bootstrap": 100}
    return scoring.Judge(spec | {"seed": 0, "margins": {"clip_score": 1.0}}, images).score(images, path.parent)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    extractor = make_extractor(folder / "fid")
    make_clip(folder / "clip")
    checks = {"fid": fid_checks(extractor), "clip": clip_checks(folder / "clip"), "fidelity": fidelity_checks()}
    print(json.dumps(checks | {"baseline": baseline_checks(folder)}))


if __name__ == "__main__":
    main()
