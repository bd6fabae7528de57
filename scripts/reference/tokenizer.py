"""The tokenizer: CLIP's byte-pair encoding over the few words of the world, every one of them a single token.

All 256 bytes are in the vocabulary, so any text encodes (unknown words fall apart into bytes).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from . import world

MAX_LENGTH = 24  # tokens; the longest caption takes 18 with its two ends
START, END = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """Every word a caption can hold, sorted."""
    glue = ("a", "on", "of", "background", "picture", ",")
    return sorted({*world.SHAPES, *world.COLOURS, *world.SIZES, *world.TEXTURES, *world.RELATIONS, *glue})


def _merges(vocabulary_words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, learnt from each word once until every word is one token."""
    split = [[*word[:-1], word[-1] + "</w>"] for word in vocabulary_words]
    merges = []
    while any(len(parts) > 1 for parts in split):
        pairs = Counter(pair for parts in split for pair in zip(parts, parts[1:], strict=False))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        split = [_merge(parts, best) for parts in split]
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def write(folder: Path) -> None:
    """Writes vocab.json, merges.txt and the two small configs, in the form that transformers 4.57 and 5.x both read."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = list(bytes_to_unicode().values())
    merges = _merges(words())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, "add_prefix_space": False}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(special | settings, indent=2) + "\n")


def load(folder: Path) -> CLIPTokenizer:
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    broken = [word for word in words() if len(tokenizer.tokenize(word)) != 1]
    if broken:
        raise ValueError(f"these words take more than one token: {broken}")
    return tokenizer


def encode(tokenizer: CLIPTokenizer, captions: list[str]):
    """(N, 24) int64 token ids, padded with the end token, as the diffusers pipeline pads."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
