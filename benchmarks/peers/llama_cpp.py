"""llama.cpp by the low-level interface of its Python bindings (llama-cpp-python), models written as GGUF."""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import ROOM, Engine, Side
from benchmarks.workloads import Workload

SIDES = (
    Side("llama.cpp-q4_0", "llama.cpp Q4_0 (pure)", "llama_cpp", "q4_0-pure", "int4"),
    Side("llama.cpp-q4_0-default", "llama.cpp Q4_0 (default)", "llama_cpp", "q4_0", "int4+int8 head"),
    Side("llama.cpp-q8_0", "llama.cpp Q8_0", "llama_cpp", "q8_0-pure", "int8"),
)
FILE_TYPES = {"q4_0": 2, "q8_0": 7}
"""`enum llama_ftype`."""

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}  # fmt: skip


FLASH = {False: "DISABLED", True: "ENABLED", None: "AUTO"}
"""`enum llama_flash_attn_type`; AUTO is one of the others, which the library tells when it makes a context."""

TRIALS, TRIAL_SECONDS = 2, 0.2
"""Of each setting, in turns; the better one counts, as the first of them warms up too."""

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
BUILD = Path("vendor") / "llama.cpp" / "build"


def install(folder: Path) -> None:
    """The source distribution of the bindings, which holds that of llama.cpp; the library is built for this machine.

    A link `source` to an unpacked and built one is used as it is.
    """
    from benchmarks.install import environment, run

    folder.mkdir(parents=True, exist_ok=True)
    python = environment(folder / "venv", ["numpy", "gguf", "diskcache", "jinja2", "typing-extensions", "cmake", "ninja"])
    source = folder / "source"
    if not source.exists():
        name = f"{PACKAGE}=={VERSION}"
        run(python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d", folder, name)
        run("tar", "xzf", next(folder.glob("*.tar.gz")), "-C", folder)
        next(folder.glob("llama_cpp_python-*/")).rename(source)
    if not (source / BUILD / "bin" / "libllama.so").exists():
        tools = folder / "venv" / "bin"
        flags = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF"]
        make = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"]
        run(tools / "cmake", *make, "-S", source / BUILD.parent, "-B", source / BUILD, *flags)
        run(tools / "cmake", "--build", source / BUILD, "--target", "llama")


def launch(folder: Path) -> tuple[str, dict[str, str]]:
    source = folder / "source"
    return str(folder / "venv" / "bin" / "python"), {
        "PYTHONPATH": str(source), "LLAMA_CPP_LIB_PATH": str(source / BUILD / "bin"),
    }  # fmt: skip


def interleaved(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows `[heads * D, K]` of a projection, from rotation of rows i and i + D/2 of a head to that of rows 2i and 2i + 1."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def renamed(name: str) -> str:
    """The GGUF name of a tensor of a checkpoint."""
    if name in OUTER:
        return OUTER[name]
    _, _, layer, inner = name.split(".", 3)
    return f"blk.{layer}.{NAMES[inner.removesuffix('.weight')]}.weight"


def tensors(checkpoint: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Of a checkpoint in bfloat16, one file or several, as float32."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        data = np.memmap(path, np.uint8, "r", offset=8 + size)
        for name, entry in header.items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                halves = data[start:stop].view(np.uint16).astype(np.uint32) << 16
                yield name, halves.view(np.float32).reshape(entry["shape"])


def write_gguf(checkpoint: Path, target: Path) -> None:
    """A GGUF file with matrices in float16 and vectors in float32, without a vocabulary."""
    import gguf

    config = json.loads((checkpoint / "config.json").read_text())
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config.get("rope_parameters", {}).get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(1)
    for name, values in tensors(checkpoint):
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = interleaved(values, heads if "q_proj" in name else groups)
        writer.add_tensor(renamed(name), np.ascontiguousarray(values, np.float32 if values.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class PeerEngine(Engine):
    """A model and a context for each copy; one `llama_decode` a step."""

    @staticmethod
    def build(checkpoint: Path, variant: str, target: Path) -> None:
        from llama_cpp import llama_cpp as api

        whole = target.with_name(f"{target.name}.f16")
        try:
            write_gguf(checkpoint, whole)
            options = api.llama_model_quantize_default_params()
            kind, _, pure = variant.partition("-")
            options.ftype, options.pure = FILE_TYPES[kind], bool(pure)
            if api.llama_model_quantize(str(whole).encode(), str(target).encode(), ctypes.byref(options)):
                raise RuntimeError(f"llama.cpp cannot quantize {whole}")
        finally:
            whole.unlink(missing_ok=True)

    def load(self, model: Path, copies: int, threads: int) -> None:
        from llama_cpp import llama_cpp as api

        self.api, self.threads = api, threads
        self.said: list[str] = []
        self.log = api.llama_log_callback(lambda level, text, data: self.said.append(text.decode(errors="replace")))
        api.llama_log_set(self.log, None)  # kept above: the library calls it
        api.llama_backend_init()
        options = api.llama_model_default_params()
        if copies > 1:
            options.load_mode = api.LLAMA_LOAD_MODE_NONE  # mapped files of one name are one memory
        self.models = [api.llama_model_load_from_file(str(model).encode(), options) for _ in range(copies)]
        if None in self.models:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        first = self.models[0]
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(first))
        self.weight_bytes = weight_bytes(model)
        heads = api.llama_model_n_head_kv(first)
        width = api.llama_model_n_embd(first) // api.llama_model_n_head(first)
        self.cache_bytes = 2 * 2 * api.llama_model_n_layer(first) * heads * width  # of float16
        self.contexts: list[Any] = []

    def prepare(self, workload: Workload, copies: int) -> None:
        """With the flash attention that the library chooses by itself."""
        self.free(self.contexts)
        self.workload = workload
        self.contexts, self.chooses = self.made(None, copies)
        runs = [*((1, workload.context) for _ in range(workload.batch)), *((length, 0) for length in workload.prompts)]
        self.batches = [Tokens(self.api, runs, self.vocab) for _ in self.contexts]

    def tune(self) -> str:
        """With flash attention or without: for prompts the first is the faster way, for a token after a long context the other
        may be, by three times."""
        ways = {self.chooses: self.contexts, not self.chooses: self.made(not self.chooses, len(self.contexts))[0]}
        fastest = dict.fromkeys(ways, math.inf)
        for _ in range(TRIALS):
            for flash, contexts in ways.items():
                self.contexts = contexts
                fastest[flash] = min(fastest[flash], self.trial())
        best = min(ways, key=fastest.__getitem__)
        self.free(ways[not best])
        self.contexts = ways[best]
        seconds = ", ".join(f"{'on' if flash else 'off'} {1000 * fastest[flash]:.1f} ms" for flash in sorted(ways))
        return f"flash attention {'on' if best else 'off'} (tried: {seconds}; by itself {'on' if self.chooses else 'off'})"

    def trial(self) -> float:
        """Seconds of a step, from whole turns of the copies."""
        began, turns = time.perf_counter(), 0
        while turns == 0 or (time.perf_counter() - began < TRIAL_SECONDS and turns < ROOM):
            turns += 1
            for copy in range(len(self.contexts)):
                self.step(copy)
                if not self.workload.decodes:
                    self.reset(copy)
        took = time.perf_counter() - began
        for copy in range(len(self.contexts)):
            self.reset(copy)
        return took / turns / len(self.contexts)

    def free(self, contexts: list[Any]) -> None:
        for context in contexts:
            self.api.llama_free(context)

    def made(self, flash: bool | None, copies: int) -> tuple[list[Any], bool]:
        """Contexts with the workload's sequences, and whether they have flash attention."""
        api, workload = self.api, self.workload
        sequences = workload.batch + len(workload.prompts)
        longest = max(workload.context + ROOM if workload.batch else 0, *workload.prompts, 0)
        options = api.llama_context_default_params()
        options.n_ctx = sequences * (-(-longest // 256) * 256)
        options.n_seq_max = sequences
        options.n_batch = max(2048, workload.tokens)
        options.n_threads = options.n_threads_batch = self.threads
        options.kv_unified = False
        options.flash_attn_type = getattr(api, f"LLAMA_FLASH_ATTN_TYPE_{FLASH[flash]}")
        self.said.clear()
        contexts = [api.llama_init_from_model(model, options) for model in self.models[:copies]]
        if None in contexts:
            raise RuntimeError(f"llama.cpp cannot make a context of {options.n_ctx} positions")
        chosen = any("Flash Attention enabled" in line for line in self.said) if flash is None else flash
        self.fill(contexts)
        return contexts, chosen

    def fill(self, contexts: list[Any]) -> None:
        """Read one text into the first sequence, and copy its state to all others."""
        api, workload = self.api, self.workload
        if not workload.batch:
            return
        first, most = contexts[0], 512
        for start in range(0, workload.context, most):
            part = Tokens(api, [(min(most, workload.context - start), start)], self.vocab)
            part.decode(first)
        size = api.llama_state_seq_get_size(first, 0)
        state = (ctypes.c_uint8 * size)()
        api.llama_state_seq_get_data(first, state, size, 0)
        for context in contexts:
            for sequence in range(workload.batch):
                if (context, sequence) != (first, 0) and not api.llama_state_seq_set_data(context, state, size, sequence):
                    raise RuntimeError("llama.cpp cannot copy a sequence's state")

    def step(self, copy: int) -> None:
        self.batches[copy].decode(self.contexts[copy])

    def reset(self, copy: int) -> None:
        memory = self.api.llama_get_memory(self.contexts[copy])
        for sequence, (_, start) in enumerate(self.batches[copy].runs):
            self.api.llama_memory_seq_rm(memory, sequence, start, -1)
        self.batches[copy].rewind()


class Tokens:
    """A `llama_batch` of runs: (tokens, position of the first), the logits of the last token of each; sequences from 0 on."""

    def __init__(self, api: Any, runs: list[tuple[int, int]], vocab: int) -> None:
        self.api, self.runs, self.vocab = api, runs, vocab
        lengths = np.array([length for length, _ in runs])
        count = int(lengths.sum())
        self.batch = api.llama_batch_init(count, 0, 1)
        self.batch.n_tokens = count
        self.last = np.cumsum(lengths) - 1
        self.grows = bool((lengths == 1).all())
        self.token = np.ctypeslib.as_array(self.batch.token, (count,))
        self.position = np.ctypeslib.as_array(self.batch.pos, (count,))
        self.token[:] = np.random.default_rng(0).integers(1, vocab, count)
        np.ctypeslib.as_array(self.batch.n_seq_id, (count,))[:] = 1
        wanted = np.ctypeslib.as_array(self.batch.logits, (count,))
        wanted[:] = 0
        wanted[self.last] = 1
        for index, sequence in enumerate(np.repeat(np.arange(len(runs)), lengths)):
            self.batch.seq_id[index][0] = int(sequence)
        self.rewind()

    def rewind(self) -> None:
        """Positions as they were at first."""
        self.position[:] = np.concatenate([np.arange(start, start + length) for length, start in self.runs])

    def decode(self, context: Any) -> None:
        """One step; runs of one token then stand at the next position, with the token that was chosen."""
        status = self.api.llama_decode(context, self.batch)
        if status:
            raise RuntimeError(f"llama_decode ended with status {status}")
        logits = [self.api.llama_get_logits_ith(context, int(row)) for row in self.last]
        chosen = [int(np.ctypeslib.as_array(row, (self.vocab,)).argmax()) for row in logits]
        if self.grows:
            self.token[:] = chosen
            self.position += 1


def weight_bytes(model: Path) -> int:
    """What a step reads of a GGUF file's tensors: all but a table that is no head, of which it reads a row a token."""
    import gguf

    found = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(str(model)).tensors}
    return sum(found.values()) - (found["token_embd.weight"] if "output.weight" in found else 0)
