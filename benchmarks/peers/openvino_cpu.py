"""OpenVINO by its own runtime; models exported and quantized by optimum-intel, the head cut to the last row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.base import Engine, Side
from benchmarks.workloads import Workload

SIDES = (
    Side("openvino-int4", "OpenVINO int4", "openvino_cpu", "int4", "int4"),
    Side("openvino-int8", "OpenVINO int8", "openvino_cpu", "int8", "int8"),
)
TORCH = "torch==2.13.0"


def installed(folder: Path) -> None:
    """Shared by decoders and encoders: an environment of its own, because it wants an older `transformers`."""
    from benchmarks.install import environment, run

    place = folder.with_name("openvino") / "venv"
    place.parent.mkdir(parents=True, exist_ok=True)
    python = environment(place, [TORCH], [TORCH, "optimum-intel[openvino]"])
    run(python, "-m", "pip", "uninstall", "--yes", "--quiet", "torchvision")  # built for another torch, and not needed


def launched(folder: Path) -> tuple[str, dict[str, str]]:
    return str(folder.with_name("openvino") / "venv" / "bin" / "python"), {}


def install(folder: Path) -> None:
    installed(folder)


def launch(folder: Path) -> tuple[str, dict[str, str]]:
    return launched(folder)


def compiled(path: Path, threads: int, streams: int = 1) -> Any:
    """A model made ready for this processor, with weights of its own. streams: requests that share the threads at once."""
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT", "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": True, "NUM_STREAMS": streams, "ENABLE_MMAP": False,
    }  # fmt: skip
    return openvino.Core().compile_model(str(path), "CPU", options)


def last_row_only(model: Any) -> None:
    """Let the head read the last position of each sequence alone, as OpenVINO's own generation library does."""
    from openvino import opset13 as ops

    node = model.output("logits").get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    row = ops.gather(node.input_value(0), ops.constant(np.array([-1], np.int64)), ops.constant(np.int64(1)))
    node.input(0).replace_source_output(row.output(0))
    model.validate_nodes_and_infer_types()


class PeerEngine(Engine):
    """Of each copy a compiled model; a request that continues sequences, and one for each length of prompts."""

    @staticmethod
    def build(checkpoint: Path, variant: str, target: Path) -> None:
        import openvino
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

        groups = {"group_size": 32, "ratio": 1.0} if variant == "int4" else {}
        form = OVWeightQuantizationConfig(bits=4 if variant == "int4" else 8, sym=True, **groups)
        model = OVModelForCausalLM.from_pretrained(checkpoint, export=True, compile=False, quantization_config=form).model
        last_row_only(model)
        target.mkdir()
        (target / "config.json").write_text((checkpoint / "config.json").read_text())
        openvino.save_model(model, target / "model.xml", compress_to_fp16=False)

    def load(self, model: Path, copies: int, threads: int) -> None:
        self.models = [compiled(model / "model.xml", threads) for _ in range(copies)]
        config = json.loads((model / "config.json").read_text())
        self.heads, self.vocab = config["num_key_value_heads"], config["vocab_size"]
        self.width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        table = 0 if config["tie_word_embeddings"] else self.vocab * config["hidden_size"]
        self.weight_bytes = (model / "model.bin").stat().st_size - table
        self.cache_bytes = 2 * config["num_hidden_layers"] * self.heads * self.width  # of bytes: the plugin's own choice

    def prepare(self, workload: Workload, copies: int) -> None:
        self.workload = workload
        random = np.random.default_rng(0)
        lengths = sorted(set(workload.prompts))
        self.prompts = [random.integers(1, self.vocab, (workload.prompts.count(n), n)) for n in lengths]
        self.running = [model.create_infer_request() for model in self.models[:copies]]
        self.reading = [[model.create_infer_request() for _ in self.prompts] for model in self.models[:copies]]
        shape = (workload.batch, self.heads, workload.context, self.width)
        self.past = random.standard_normal(shape, dtype=np.float32)
        self.chosen = [np.ones((workload.batch, 1), np.int64) for _ in self.running]
        self.lengths = [workload.context] * copies
        for copy in range(copies):
            self.reset(copy)

    def infer(self, request: Any, ids: Any, past: int) -> Any:
        """The greedy choice after these tokens, int64 `[sequences, 1]`."""
        rows, count = ids.shape
        given = {
            "input_ids": ids,
            "attention_mask": np.ones((rows, past + count), np.int64),
            "position_ids": np.broadcast_to(np.arange(past, past + count, dtype=np.int64), (rows, count)).copy(),
            "beam_idx": np.arange(rows, dtype=np.int32),
        }
        names = {name for port in request.model_inputs for name in port.get_names()}
        found = request.infer({k: v for k, v in given.items() if k in names}, share_inputs=True, share_outputs=True)
        return found["logits"].argmax(-1)

    def step(self, copy: int) -> None:
        if self.workload.batch:
            self.chosen[copy] = self.infer(self.running[copy], self.chosen[copy], self.lengths[copy])
            self.lengths[copy] += 1
        for ids, request in zip(self.prompts, self.reading[copy], strict=True):
            self.infer(request, ids, 0)

    def reset(self, copy: int) -> None:
        import openvino

        for request in self.reading[copy]:
            request.reset_state()
        if self.workload.batch:
            for state in self.running[copy].query_state():
                state.state = openvino.Tensor(self.past)
            self.lengths[copy] = self.workload.context
