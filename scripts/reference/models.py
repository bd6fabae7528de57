"""The architectures of the reference pipeline, and how it is saved.

Sizes are chosen so that a few CPU minutes train each part and all weights together stay under 30 MB in fp32.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextModel

from . import tokenizer as words
from . import world

LATENT_SIDE = 16
LATENT_CHANNELS = 4
TEXT_WIDTH = 128
MEAN, STD = [0.5] * 3, [0.5] * 3  # CLIP sees pixels from -1 to 1


def make_clip(vocabulary_size: int, end_token: int) -> CLIPModel:
    """A small standard CLIP: text tower 128 wide and 3 deep, vision transformer 128 wide and 4 deep on 8x8 patches."""
    ends = {"bos_token_id": end_token - 1, "eos_token_id": end_token, "pad_token_id": end_token}
    text = {
        "vocab_size": vocabulary_size,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": words.MAX_LENGTH,
        "projection_dim": 64,
        **ends,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": world.SIDE,
        "patch_size": 8,
        "projection_dim": 64,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def make_vae() -> AutoencoderKL:
    """Four latent channels at a quarter of the side: (N, 3, 64, 64) <-> (N, 4, 16, 16)."""
    return AutoencoderKL(
        sample_size=world.SIDE,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # the latents' mean and deviation are folded into the quant convolutions
        force_upcast=False,
    )


def make_unet() -> UNet2DConditionModel:
    """The denoiser: two levels, attention to the caption at 8x8."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # in this class the number of heads
        norm_num_groups=16,
    )


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # has no effect with trailing spacing; other values make diffusers warn
        clip_sample=False,
        set_alpha_to_one=True,
    )


def plain_attention(model: torch.nn.Module) -> None:
    """Written-out attention: its backward pass is 1.3 times as fast on a CPU as the fused kernel's."""
    model.set_attn_processor(AttnProcessor())


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    """The text encoder of the pipeline: the same weights as CLIP's text tower, without the projection."""
    encoder = CLIPTextModel(clip.config.text_config)
    encoder.text_model.load_state_dict(clip.text_model.state_dict())
    return encoder.eval()


def save_clip(clip: CLIPModel, folder: Path) -> None:
    """Writes a transformers CLIPModel folder with its processor."""
    clip.save_pretrained(folder, safe_serialization=True)
    words.write(folder)
    size = {"height": world.SIDE, "width": world.SIDE}
    CLIPImageProcessor(
        size=size, crop_size=size, do_center_crop=False, resample=3, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)


def save_pipeline(
    clip: CLIPModel, vae: AutoencoderKL, unet: UNet2DConditionModel, folder: Path
) -> StableDiffusionPipeline:
    """Writes the pipeline folder in the form that transformers 4.57 and 5.x read as the same weights.

    That is: `text_model.` in front of the text encoder's weight names, and a tokenizer of vocab.json and
    merges.txt. Run it with transformers 4.57; 5.x writes neither.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words.write(folder / "tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_tower(clip),
        tokenizer=words.load(folder / "tokenizer"),
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    words.write(folder / "tokenizer")
    _forget_where_it_was_made(folder)
    return pipeline


def _forget_where_it_was_made(folder: Path) -> None:
    """Drops the absolute paths that save_pretrained leaves in the configs."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_module(module: torch.nn.Module, config: dict, folder: Path) -> None:
    """Writes weights.safetensors and config.json of one of our own small networks."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / "weights.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)
