"""llama.cpp's side of generate.py: writes the checkpoint as GGUF, quantizes it to Q4_0, and generates.

    python benchmarks/llama_worker.py DIRECTORY HEAD THREADS

Runs in any interpreter that has llama-cpp-python, gguf and numpy; torch is not needed. HEAD is the output matrix's type, BF16 as in
the checkpoint, or Q6_K as llama-quantize chooses; embeddings, of which a row is read per token, stay BF16.
"""

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from workers import ResidentMemory, answer

GGML_TYPES = {"BF16": gguf.GGMLQuantizationType.BF16, "Q6_K": gguf.GGMLQuantizationType.Q6_K}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(checkpoint: Path, file: Path) -> None:
    """A bfloat16 Llama checkpoint of one safetensors file -> GGUF, every matrix as it is."""
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    _add_configuration(writer, config)
    _add_vocabulary(writer, config["vocab_size"])
    for name, bits in read_safetensors(checkpoint / "model.safetensors"):
        _add_tensor(writer, name, bits, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_safetensors(file: Path) -> list[tuple[str, np.ndarray]]:
    """(name, bfloat16 bits as uint16), mapped from the file."""
    content = np.memmap(file, dtype=np.uint8, mode="r")
    start = 8 + int(content[:8].view(np.uint64)[0])
    header = json.loads(content[8:start].tobytes())
    header.pop("__metadata__", None)
    found = []
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{name} is {entry['dtype']}; this benchmark writes BF16 checkpoints")
        first, end = entry["data_offsets"]
        found.append((name, content[start + first : start + end].view(np.uint16).reshape(entry["shape"])))
    return found


def _add_configuration(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    head_size = config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(head_size)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """The least that is accepted: three special pieces, the 256 bytes, and names for the rest."""
    special = ["<unk>", "<s>", "</s>"]
    pieces = special + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += [f"piece{index}" for index in range(size - len(pieces))]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * 256 + [kinds.NORMAL] * (size - 259))


def _add_tensor(writer: gguf.GGUFWriter, name: str, bits: np.ndarray, config: dict[str, Any]) -> None:
    path, layer = name.removesuffix(".weight"), ""
    if path.startswith("model.layers."):
        number, path = path.removeprefix("model.layers.").split(".", 1)
        layer = f"blk.{number}."
    if path in ("self_attn.q_proj", "self_attn.k_proj"):
        bits = interleaved_halves(bits, config["num_attention_heads" if path.endswith("q_proj") else "num_key_value_heads"])
    target = f"{layer}{NAMES[path]}.weight"
    if bits.ndim == 1:
        writer.add_tensor(target, (bits.astype(np.uint32) << 16).view(np.float32))
    else:
        writer.add_tensor(target, np.ascontiguousarray(bits).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)


def interleaved_halves(bits: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of llama.cpp's rotary embedding, which turns neighbors where transformers turns halves of a head."""
    rows, columns = bits.shape
    return bits.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def quantize(source: Path, target: Path, head: str, threads: int) -> None:
    """What `llama-quantize` does."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, threads
    parameters.output_tensor_type, parameters.token_embedding_type = GGML_TYPES[head], GGML_TYPES["BF16"]
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise SystemExit(f"llama.cpp could not quantize {source}")


@llama_cpp.llama_log_callback
def be_silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Takes the place of llama.cpp's log."""


class Generator:
    """llama.cpp generating greedily, through its C interface."""

    def __init__(self, file: Path, threads: int) -> None:
        self.memory, self.file = ResidentMemory(), file
        self.llama = llama_cpp.Llama(str(file), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def check(self, prompt: list[int], tokens: int, file: str) -> list[int]:
        """Greedy tokens; the logits of each step are left in a file."""
        chosen, logits = [], []
        for step in self._steps(prompt, tokens):
            logits.append(step.copy())
            chosen.append(int(step.argmax()))
        np.save(file, np.stack(logits))
        return chosen

    def generate(self, prompt: list[int], tokens: int) -> list[float]:
        """Seconds from the start to each token."""
        start = time.perf_counter()
        return [time.perf_counter() - start for _ in self._steps(prompt, tokens)]

    def bytes_per_token(self) -> int:
        """Of all weights but the embeddings."""
        tensors = gguf.GGUFReader(self.file).tensors
        return int(sum(tensor.n_bytes for tensor in tensors if tensor.name != "token_embd.weight"))

    def _steps(self, prompt: list[int], tokens: int) -> Any:
        """The logits of each step, whose largest is fed back."""
        self.llama.reset()
        following = prompt
        for _ in range(tokens):
            self.llama.eval(following)
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.llama.ctx, -1), shape=(self.llama.n_vocab(),))
            following = [int(logits.argmax())]
            yield logits


def main() -> None:
    directory, head, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    whole, file = directory / f"{head}-whole.gguf", directory / f"{head}.gguf"
    llama_cpp.llama_log_set(be_silent, ctypes.c_void_p(0))
    write_gguf(directory, whole)
    quantize(whole, file, head, threads)
    whole.unlink()
    generator = Generator(file, threads)
    answer(
        {
            "check": generator.check,
            "generate": generator.generate,
            "bytes_per_token": generator.bytes_per_token,
            "resident": generator.memory.now,
        }
    )


if __name__ == "__main__":
    main()
