"""Write a Stable Diffusion pipeline with seeded random weights, small enough to be converted in a second.

    scripts/in_env torch python tests/engines/tiny_model.py FOLDER

Images are 16x16. Its weights are scaled so that the denoiser's output follows its inputs; what it draws means nothing.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from diffsweep.engines.imports import import_diffusers  # noqa: E402

WORDS = ["<|startoftext|>", "<|endoftext|>", "!", "!</w>", *"abcdefghijklmnopqrstuvwxyz"]


def write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer that knows single letters."""
    folder.mkdir(parents=True)
    vocabulary = WORDS + [f"{letter}</w>" for letter in WORDS[4:]]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    ends = {"bos_token": WORDS[0], "eos_token": WORDS[1], "unk_token": WORDS[1], "pad_token": WORDS[1]}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 8, **ends}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def main(folder: Path) -> None:
    diffusers = import_diffusers()
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    write_tokenizer(folder / "tokenizer")
    pipeline = diffusers.StableDiffusionPipeline(
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=8,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        ),
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32,),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D",),
            mid_block_type=None,
            up_block_types=("UpBlock2D",),
            cross_attention_dim=32,
            attention_head_dim=2,
        ),
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
            mid_block_add_attention=False,
            scaling_factor=1.0,
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for name in ("text_encoder", "unet", "vae", "scheduler"):
        getattr(pipeline, name).save_pretrained(folder / name)
    pipeline.save_config(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
