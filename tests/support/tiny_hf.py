"""Tiny random transformers models of several architectures, with the tiny vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from support.tiny_model import (
    CHAT_TEMPLATE,
    IM_END,
    IM_START,
    SPECIAL_TOKENS,
    _byte_characters,
    vocabulary,
)

# What every tiny model shares; attention is made strong, so that a wrong mask shows.
_SHAPE = {
    "vocab_size": 352,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
_OWN: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": False},
    "mistral": {"sliding_window": 24},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 24, "query_pre_attn_scalar": 16, "layer_types": [
        "sliding_attention", "full_attention", "sliding_attention"]},
}  # fmt: skip


def tiny_tokenizer() -> Any:
    """The tiny vocabulary as a fast tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = _byte_characters()

    def text(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    tokens, merges = vocabulary()
    plain = tokens[: len(tokens) - len(SPECIAL_TOKENS)]
    core = Tokenizer(
        models.BPE(
            vocab={text(token): place for place, token in enumerate(plain)},
            merges=[(text(left), text(right)) for left, right in merges],
        )
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=IM_START,
        eos_token=IM_END,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_hf(kind: str, seed: int = 0, **settings: Any) -> Any:
    """A random model of this `model_type`, float32, ready to be asked."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**_SHAPE, **_OWN.get(kind, {}), **settings})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def write_tiny_hf(folder: Path, kind: str = "qwen2", **settings: Any) -> Path:
    """Save model and tokenizer as `from_pretrained` reads them."""
    tiny_hf(kind, **settings).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
