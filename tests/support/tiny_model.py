"""Tiny random models for exact tests: a GGUF file, and the same arithmetic in plain numpy.

`TinyLlama` is Llama-shaped (RMSNorm, interleaved RoPE, grouped-query attention, SwiGLU) with a
byte-level BPE vocabulary. Its `forward` is slow and written to be read. `write_tiny_mamba` has no
reference: it stands for the models whose memory can't go back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
SPECIAL_TOKENS = (IM_START, IM_END, TOOL_CALL, TOOL_CALL_END)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Tokens of several bytes; some of them hold more than one boundary of a call.
_JSON_TOKENS = (
    '{"', '":', '": ', '": "', '",', '", ', '", "', '"}', '"}}', "}}", '"}}]', "}]", "[{", '[{"',
    ' "', ' {"', "[]", ", ", ': "', ": ", '"name', '"name"', 'name": "', '"arguments', "arguments",
    "name", '": {"', '"}, {"', "true", "false", "null", "city", "Paris", " the", "\n\n",
)  # fmt: skip


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in characters]
    characters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


def vocabulary(size: int = 352) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Tokens as bytes and the merges that make them: 256 bytes, JSON pieces, letter pairs up to
    `size`, and at the end the special tokens."""
    tokens = [bytes([byte]) for byte in range(256)]
    merges: list[tuple[bytes, bytes]] = []
    room = size - len(SPECIAL_TOKENS)

    def add(word: bytes) -> None:
        made = word[:1]
        for i in range(1, len(word)):
            if word[: i + 1] not in tokens and len(tokens) < room:
                tokens.append(word[: i + 1])
                merges.append((made, word[i : i + 1]))
            made = word[: i + 1]
            if made not in tokens:
                return

    for piece in _JSON_TOKENS:
        add(piece.encode())
    letters = b"etaoinshrdlucmfw"
    for pair in ((a, b) for a in letters for b in letters):
        add(bytes(pair))
    if len(tokens) != room:
        raise ValueError(f"a vocabulary of {size} tokens is not between 260 and {len(tokens)}")
    return tokens + [text.encode() for text in SPECIAL_TOKENS], merges


@dataclass
class TinyLlama:
    """The shape of the model; its weights follow from `seed`.

    llama.cpp keeps keys and values as float16 and may add up attention in it, so what attention
    adds to the state carries an error of some 1e-3. A small `attention_scale` makes room for
    tight tolerances.
    """

    vocab_size: int = 352
    seed: int = 0
    layers: int = 3
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    inner: int = 96
    context: int = 1024
    rope_base: float = 10000.0
    epsilon: float = 1e-5
    attention_scale: float = 1.0
    logit_scale: float = 3.0
    weights: dict[str, Floats] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        kv_width = self.width // self.heads * self.kv_heads

        def matrix(rows: int, columns: int, scale: float = 1.0) -> Floats:
            values = random.normal(size=(rows, columns)) * scale / np.sqrt(columns)
            return values.astype(np.float32)

        def gain() -> Floats:
            return (1 + 0.1 * random.normal(size=self.width)).astype(np.float32)

        self.weights = {
            "token_embd": matrix(self.vocab_size, self.width, np.sqrt(self.width)),
            "output_norm": gain(),
            "output": matrix(self.vocab_size, self.width, self.logit_scale),
        }
        for layer in range(self.layers):
            self.weights |= {
                f"blk.{layer}.attn_norm": gain(),
                f"blk.{layer}.attn_q": matrix(self.width, self.width),
                f"blk.{layer}.attn_k": matrix(kv_width, self.width),
                f"blk.{layer}.attn_v": matrix(kv_width, self.width),
                f"blk.{layer}.attn_output": matrix(self.width, self.width, self.attention_scale),
                f"blk.{layer}.ffn_norm": gain(),
                f"blk.{layer}.ffn_gate": matrix(self.inner, self.width),
                f"blk.{layer}.ffn_up": matrix(self.inner, self.width),
                f"blk.{layer}.ffn_down": matrix(self.width, self.inner),
            }

    def write(self, path: Path) -> Path:
        """Write the model as a GGUF file, float32."""
        writer = gguf.GGUFWriter(str(path), "llama")
        writer.add_name("tiny llama")
        writer.add_vocab_size(self.vocab_size)
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.width)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.inner)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_rope_dimension_count(self.width // self.heads)
        writer.add_rope_freq_base(self.rope_base)
        writer.add_layer_norm_rms_eps(self.epsilon)
        _write_vocabulary(writer, self.vocab_size)
        for name, values in self.weights.items():
            writer.add_tensor(f"{name}.weight", values)
        return _finish(writer, path)

    def forward(self, tokens: list[int]) -> tuple[Floats, Floats]:
        """Logits [tokens, vocab] and hidden states [layers + 1, tokens, width] of one sequence.

        `hidden[L]` is the input of block L; the last one is the last block's output, before the
        final norm. Keys and values are rounded to float16, as the KV cache stores them.
        """
        weights = self.weights
        state = weights["token_embd"][tokens].astype(np.float64)
        count, size = len(tokens), self.width // self.heads
        visible = np.tril(np.ones((count, count), bool))
        hidden = [state]
        for layer in range(self.layers):
            block = {
                name.split(".")[2]: values
                for name, values in weights.items()
                if name.startswith(f"blk.{layer}.")
            }
            x = self._norm(state, block["attn_norm"])
            query = self._rope((x @ block["attn_q"].T).reshape(count, self.heads, size))
            key = self._rope((x @ block["attn_k"].T).reshape(count, self.kv_heads, size))
            value = (x @ block["attn_v"].T).reshape(count, self.kv_heads, size)
            key = key.astype(np.float16).astype(np.float64)
            value = value.astype(np.float16).astype(np.float64)
            attended = np.empty_like(query)
            for head in range(self.heads):
                shared = head // (self.heads // self.kv_heads)
                scores = query[:, head] @ key[:, shared].T / np.sqrt(size)
                scores = np.where(visible, scores, -np.inf)
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                attended[:, head] = scores / scores.sum(axis=1, keepdims=True) @ value[:, shared]
            state = state + attended.reshape(count, self.width) @ block["attn_output"].T
            x = self._norm(state, block["ffn_norm"])
            gate = x @ block["ffn_gate"].T
            gate = gate / (1 + np.exp(-gate))
            state = state + (gate * (x @ block["ffn_up"].T)) @ block["ffn_down"].T
            hidden.append(state)
        logits = self._norm(state, weights["output_norm"]) @ weights["output"].T
        return logits.astype(np.float32), np.stack(hidden).astype(np.float32)

    def _norm(self, x: npt.NDArray[np.float64], gain: Floats) -> npt.NDArray[np.float64]:
        scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return x / scale * gain

    def _rope(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Rotate neighbours (0, 1), (2, 3), ... as llama.cpp does for the llama architecture."""
        count, _, size = x.shape
        frequency = self.rope_base ** (-np.arange(0, size, 2) / size)
        angle = (np.arange(count)[:, None] * frequency)[:, None, :]
        cos, sin = np.cos(angle), np.sin(angle)
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2] = even * cos - odd * sin
        out[..., 1::2] = even * sin + odd * cos
        return out


def write_tiny_mamba(path: Path, *, vocab_size: int = 352, seed: int = 0) -> Path:
    """A two-block Mamba with random weights: recurrent state, nothing to trim."""
    width, inner, state, rank, kernel, layers = 32, 64, 16, 2, 4, 2
    random = np.random.default_rng(seed)

    def matrix(*shape: int) -> Floats:
        return (random.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)

    writer = gguf.GGUFWriter(str(path), "mamba")
    writer.add_name("tiny mamba")
    writer.add_vocab_size(vocab_size)
    writer.add_context_length(1024)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    _write_vocabulary(writer, vocab_size)
    writer.add_tensor("token_embd.weight", matrix(vocab_size, width) * np.float32(np.sqrt(width)))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", matrix(vocab_size, width) * np.float32(3))
    for layer in range(layers):
        decay = -np.arange(1, state + 1, dtype=np.float32)
        block = {
            "attn_norm.weight": np.ones(width, np.float32),
            "ssm_in.weight": matrix(2 * inner, width),
            "ssm_conv1d.weight": matrix(inner, kernel),
            "ssm_conv1d.bias": np.zeros(inner, np.float32),
            "ssm_x.weight": matrix(rank + 2 * state, inner),
            "ssm_dt.weight": matrix(inner, rank),
            "ssm_dt.bias": np.zeros(inner, np.float32),
            "ssm_a": np.tile(decay, (inner, 1)),
            "ssm_d": np.ones(inner, np.float32),
            "ssm_out.weight": matrix(width, inner),
        }
        for name, values in block.items():
            writer.add_tensor(f"blk.{layer}.{name}", values)
    return _finish(writer, path)


def _write_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    tokens, merges = vocabulary(size)
    characters = _byte_characters()

    def written(word: bytes) -> str:
        return "".join(characters[byte] for byte in word)

    plain = len(tokens) - len(SPECIAL_TOKENS)
    kinds = [gguf.TokenType.NORMAL] * plain + [gguf.TokenType.CONTROL] * 2
    kinds += [gguf.TokenType.USER_DEFINED] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([written(word) for word in tokens[:plain]] + list(SPECIAL_TOKENS))
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{written(left)} {written(right)}" for left, right in merges])
    writer.add_bos_token_id(plain)
    writer.add_eos_token_id(plain + 1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
