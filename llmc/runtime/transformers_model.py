"""A compiled model where code of the `transformers` library expects one of its own: `generate`, pipelines, streamers.

Generation is the library's: its loop, logits processors, stopping criteria, beams and assistants. What runs here is the model,
by the step contract: a padded batch becomes ragged runs, and the library's cache is a set of sequences that are forked, cut and
freed (`llmc.runtime.sequences`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import make_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from llmc.errors import InputError
from llmc.runtime.contract import Context, Executable
from llmc.runtime.encode import complete, run_whole
from llmc.runtime.forward import forward, step_rows
from llmc.runtime.generate import check_prompts
from llmc.runtime.info import ModelInfo
from llmc.runtime.sequences import Rows, Sequences, blocks_for, split_steps

TOKEN_TYPES = "token_type_ids"

Lease = Callable[[int], AbstractContextManager[Context]]

REFUSED = {
    "output_attentions": "the weights of attention are never stored",
    "output_hidden_states": "activations are not kept",
    "cache_implementation": "the cache is llmc's own",
    "cache_config": "the cache is llmc's own",
    "compile_config": "the model is compiled already",
    "guidance_scale": "it runs the model beside the cache",
    "penalty_alpha": "it needs hidden states",
    "dola_layers": "it needs hidden states",
    "constraints": "the library fetches code for it",
    "force_words_ids": "the library fetches code for it",
    "num_beam_groups": "the library fetches code for it",
    "custom_generate": "it is code from elsewhere",
    "past_key_values": "a cache cannot be brought along",
    "inputs_embeds": "the program reads token ids",
    "position_ids": "positions follow from the attention mask",
}
"""Arguments of `generate` and of a call, and fields of its config, that mean nothing here, and why."""


class CompiledConfig(PreTrainedConfig):
    """What the library asks a config for."""

    model_type = "llmc"


class SequenceCache:
    """The library's `past_key_values`: a sequence of the context for each row of the batch."""

    is_compileable = False
    is_croppable = True
    layers: Sequence[Any] = ()

    def __init__(self, lease: Lease, rows: int, length: int) -> None:
        # While beams change places a row may hold the block it writes and the one it was copied from.
        blocks = rows * (blocks_for(length) + 1)
        self._stack = ExitStack()
        self._context = self._stack.enter_context(lease(blocks))
        self._sequences = Sequences(blocks)
        self._rows: list[int] = []
        self._padded = 0

    def close(self) -> None:
        """Give the context back."""
        self._stack.close()
        self._rows = []

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the batch that were read, padding included."""
        return self._padded

    def advance(self, runs: list[list[int]], columns: int, last: bool) -> list[NDArray[np.float32]]:
        """Read a run of ids for each row, none empty; their logits `[len, V]`, or `[1, V]` for the last alone.

        Raises InputError if the context is full.
        """
        if not self._rows:
            self._rows = [self._sequences.create() for _ in runs]
        parts: list[list[NDArray[np.float32]]] = [[] for _ in runs]
        for step in split_steps(runs):
            wanted: list[Rows] = ["all" if not last else "last" if stop == len(runs[i]) else "none" for i, _, stop in step]
            batch = self._sequences.batch([(self._rows[i], runs[i][start:stop]) for i, start, stop in step], wanted)
            values = step_rows(self._context, batch, "logits")
            owner = batch.run[batch.out_rows]
            for run, (i, _, _) in enumerate(step):
                parts[i].append(values[owner == run])
        self._padded += columns
        return [np.concatenate(part) for part in parts]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i continues what row `beam_idx[i]` was."""
        old, wanted = self._rows, beam_idx.tolist()
        self._rows = [self._sequences.fork(old[index]) for index in wanted]
        for sequence in old:
            self._sequences.free(sequence)

    def crop(self, max_length: int) -> None:
        """Forget columns: all but the first `max_length`, or the last `-max_length`."""
        gone = -max_length if max_length <= 0 else max(self._padded - max_length, 0)
        for sequence in self._rows:
            self._sequences.truncate(sequence, self._sequences.length(sequence) - gone)
        self._padded -= gone

    def activate_past_recording(self) -> None:
        """Nothing to do: a sequence can always be cut."""


class Adapted(PreTrainedModel):
    """A compiled model as the `transformers` library sees it; without parameters, on the CPU, in float32.

    `CompiledModel.for_transformers` makes it, as a subclass named like the class of the original, which is how pipelines ask
    whether a model is for them.
    """

    config_class = CompiledConfig
    main_input_name = "input_ids"
    _supports_sdpa = True  # asked of every model; there is no attention of the library's in this one

    def __init__(self, lease: Lease, info: ModelInfo) -> None:
        eos = list(info.eos_ids) or None
        config = CompiledConfig(
            vocab_size=info.vocab_size,
            max_position_embeddings=info.max_context,
            bos_token_id=info.bos_id,
            eos_token_id=eos,
            architectures=[info.architecture] if info.architecture else None,
            name_or_path=info.name,
        )
        super().__init__(config)
        self._lease, self._info = lease, info

    @property
    def device(self) -> torch.device:
        """Where inputs are read from and outputs go."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the outputs."""
        return torch.float32

    def to(self, *args: Any, **kwargs: Any) -> Adapted:
        """Stay. Raises InputError for another device or dtype: which it runs on was decided when it was compiled."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
        if device not in (None, self.device) or dtype not in (None, self.dtype):
            raise InputError(f"a compiled model cannot be moved to {device or dtype}; compile it for another backend")
        return self


class CausalModel(Adapted, GenerationMixin):
    """A model that continues texts. Raises InputError naming an argument or field of a generation config that means nothing."""

    _is_stateful = False

    def __init__(self, lease: Lease, info: ModelInfo) -> None:
        super().__init__(lease, info)
        self.generation_config = GenerationConfig(bos_token_id=info.bos_id, eos_token_id=list(info.eos_ids) or None)
        self._caches: list[SequenceCache] = []

    def generate(  # type: ignore[override]
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **arguments: Any
    ) -> Any:
        """`transformers.GenerationMixin.generate`: ids `[B, S]` and padding mask in, ids `[B, S + new]` out."""
        given = {**(generation_config.to_diff_dict() if generation_config is not None else {}), **arguments}
        refuse(given)
        try:
            return super().generate(inputs, generation_config, **arguments)
        finally:
            while self._caches:
                self._caches.pop().close()

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], mode: Any, batch_size: int, max_length: int
    ) -> None:
        mask = model_kwargs.get("attention_mask")
        longest = max_length - (int((mask == 0).sum(1).min()) if mask is not None else 0)
        if longest > self._info.max_context:
            raise InputError(
                f"prompt and new tokens need {longest} positions; the model's context has {self._info.max_context}: "
                "ask for fewer new tokens"
            )
        if generation_config.use_cache is not False:
            rows = batch_size * max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
            cache = SequenceCache(self._lease, rows, max_length + 1)
            self._caches.append(cache)
            model_kwargs["past_key_values"] = cache

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: SequenceCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> Any:
        """Logits for a padded batch.

        input_ids: int64 `[B, S]`. attention_mask: `[B, past + S]`, zeros at either end of a row are padding. logits_to_keep:
        give the last so many columns alone; 0 for all. Output: float32 `[B, S or logits_to_keep, ...]`, zeros for padding.
        """
        refuse(ignored)
        if past_key_values is not None and not isinstance(past_key_values, SequenceCache):
            raise InputError(f"past_key_values: {REFUSED['past_key_values']}")
        columns = input_ids.shape[1]
        runs, starts = unpadded(input_ids, attention_mask)
        if past_key_values is None:
            checked = check_prompts(runs, self._info.vocab_size, self._info.max_context)
            rows = forward(self._lease, "logits", checked, "last" if logits_to_keep == 1 else "all")
        else:
            rows = past_key_values.advance(runs, columns, last=logits_to_keep == 1)
        width = min(logits_to_keep, columns) if logits_to_keep else columns
        values = torch.zeros(len(runs), width, *rows[0].shape[1:])
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            end = width - (columns - start - len(runs[i]))  # where the row's last token stands
            first = max(end - len(row), 0)
            if end > first:
                values[i, first:end] = torch.from_numpy(np.ascontiguousarray(row[len(row) - (end - first) :]))
        made = CausalLMOutputWithPast(logits=values, past_key_values=past_key_values)  # type: ignore[arg-type]
        return made if return_dict is not False else made.to_tuple()


class EncoderModel(Adapted):
    """A model that reads whole sequences."""

    def __init__(self, lease: Lease, info: ModelInfo, executable: Executable) -> None:
        super().__init__(lease, info)
        self._executable = executable
        self._made = make_dataclass("EncoderOutput", [(name, Any, None) for name in executable.outputs], bases=(ModelOutput,))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> Any:
        """Every output of the program by name for a padded batch.

        input_ids, attention_mask, token_type_ids and the program's other inputs: `[B, S]`; zeros of the mask at either end of
        a row are padding, and the first token is at position 0. Outputs: `[B, S, ...]` of tokens, zeros for padding, or
        `[B, ...]` of sequences. Raises InputError for a tensor that the program does not read.
        """
        refuse(others)
        runs, starts = unpadded(input_ids, attention_mask)
        checked = check_prompts(runs, self._info.vocab_size, self._info.max_context, self._info.padding)
        given = {name: value for name, value in others.items() if isinstance(value, Tensor)}
        if token_type_ids is not None and TOKEN_TYPES in self._executable.inputs:
            given[TOKEN_TYPES] = token_type_ids
        cut = {
            name: [row[start : start + len(run)] for row, start, run in zip(value.tolist(), starts, runs, strict=True)]
            for name, value in given.items()
        }
        found = run_whole(self._lease, self._executable, complete(self._executable, checked, cut))
        made = self._made(**{name: self._padded(name, values, starts, input_ids.shape[1]) for name, values in found.items()})
        return made if return_dict is not False else made.to_tuple()

    def _padded(self, name: str, values: list[NDArray[Any]], starts: list[int], columns: int) -> Tensor:
        """An output of each sequence as one tensor."""
        rows = [torch.from_numpy(np.array(value)) for value in values]
        if self._executable.outputs[name].rows == "S":
            return torch.stack(rows)
        whole = torch.zeros(len(rows), columns, *rows[0].shape[1:], dtype=rows[0].dtype)
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            whole[i, start : start + len(row)] = row
        return whole


def unpadded(ids: Tensor, mask: Tensor | None) -> tuple[list[list[int]], list[int]]:
    """The ids of each row without padding, and the column at which they start.

    Raises InputError if padding is not at the ends of a row, or leaves nothing.
    """
    if ids.ndim != 2 or ids.is_floating_point():
        raise InputError(f"input_ids should be whole numbers [batch, sequence], not {ids.dtype} {list(ids.shape)}")
    if mask is None:
        return ids.tolist(), [0] * len(ids)
    if mask.ndim != 2 or mask.shape[0] != ids.shape[0] or mask.shape[1] < ids.shape[1]:
        raise InputError(f"attention_mask should be [batch, sequence], not {list(mask.shape)}")
    runs, starts = [], []
    for row, kept in zip(ids, mask[:, -ids.shape[1] :] != 0, strict=True):
        places = kept.nonzero().flatten().tolist()
        if not places or places[-1] - places[0] + 1 != len(places):
            raise InputError("attention_mask: padding must be at the ends of a row, and leave a token")
        runs.append(row[places[0] : places[-1] + 1].tolist())
        starts.append(places[0])
    return runs, starts


def refuse(given: dict[str, Any]) -> None:
    """Raise InputError for an argument that has no meaning here and asks for something."""
    for name, value in given.items():
        asks_nothing = value is None or value is False or (isinstance(value, int | float) and value is not True and value == 1)
        if name in REFUSED and not asks_nothing:
            raise InputError(f"{name} cannot be used with a compiled model: {REFUSED[name]}")


def adapt(lease: Lease, info: ModelInfo, executable: Executable) -> Adapted:
    """The model under the name of the original's class."""
    kind, more = (EncoderModel, (executable,)) if executable.whole_sequences else (CausalModel, ())
    named = type(info.architecture, (kind,), {"__module__": __name__}) if info.architecture else kind
    return named(lease, info, *more)
