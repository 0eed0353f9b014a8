"""Write a tiny Qwen3 into a folder: its shape and a tokenizer, no weights; vLLM makes those up (--load-format dummy).

.venv-vllm/bin/python tests/image/tiny_qwen3.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END, BEGIN_TURN, END_TURN = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTEXT = 1024
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000,
    "tie_word_embeddings": True, "torch_dtype": "float32",
}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = bytewise()
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {"bos_token_id": tokenizer.token_to_id(END), "eos_token_id": tokenizer.token_to_id(END_TURN)}
    write(folder / "config.json", {**SHAPE, **ids, "vocab_size": tokenizer.get_vocab_size()})
    write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_TURN, "pad_token": END,
            "model_max_length": CONTEXT, "chat_template": TEMPLATE,
        },
    )  # fmt: skip


def bytewise() -> Tokenizer:
    """One token for each byte, and Qwen's words for turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    # As Qwen3's: its reasoning parser asks for them, and they are no special ones.
    made.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    return made


def write(file: Path, what: object) -> None:
    file.write_text(json.dumps(what, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
