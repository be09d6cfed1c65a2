"""A compiled model: text or ids in, logits or text out, and what there is to know about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError
from llmc.runtime.contexts import ContextPool
from llmc.runtime.contract import Executable
from llmc.runtime.encode import complete, pooled_output, run_whole
from llmc.runtime.forward import forward
from llmc.runtime.generate import Generator, check_prompts
from llmc.runtime.generation import GenerationOptions, GenerationResult
from llmc.runtime.info import ModelInfo
from llmc.runtime.sampling import SamplingOptions
from llmc.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmc.ir.program import Program
    from llmc.runtime.transformers_model import Adapted

__all__ = ["CompiledModel", "ModelInfo"]

Prompt = str | Sequence[int]
TOKEN_TYPES = "token_type_ids"


class CompiledModel:
    """What `llmc.compile` and `llmc.load` give.

    program: what the passes gave, or what reads it when it is first asked for; to run, it is not needed. executable: what
    runs. records: of each pass, in order, and of lowering if it changed anything. snapshots: the program after each pass, by
    its key; a loaded model has none.
    """

    def __init__(
        self,
        program: Program | Callable[[], Program],
        executable: Executable,
        info: ModelInfo,
        tokenizer: Tokenizer | None = None,
        records: Sequence[Any] = (),
        snapshots: dict[str, Program] | None = None,
    ) -> None:
        self._program, self.executable, self.info, self.tokenizer = program, executable, info, tokenizer
        self.records, self.snapshots = list(records), dict(snapshots or {})
        self._contexts = ContextPool(executable, info.threads)

    @cached_property
    def program(self) -> Program:
        """What was lowered. Raises ArtifactError if it has to be read from a saved model's folder and is damaged."""
        return self._program() if callable(self._program) else self._program

    @property
    def _first_output(self) -> str:
        return next(iter(self.executable.outputs))

    def __call__(
        self, sequences: Sequence[Sequence[int]], rows: Literal["all", "last"] = "all", **others: Sequence[Sequence[int]] | None
    ) -> list[NDArray[np.float32]]:
        """The first output for sequences of token ids of any lengths: float32 `[len, V]` each, or `[1, V]` for rows="last".

        Of a model over whole sequences it is `[len, ...]`, or `[...]` of the sequence, and others are its other inputs
        (`outputs`). Raises InputError for an empty or too long sequence, and for ids outside the vocabulary.
        """
        if rows not in ("all", "last"):
            raise InputError(f"rows must be 'all' or 'last', not {rows!r}")
        if self.executable.whole_sequences:
            found = self.outputs(sequences, **others)[self._first_output]
            return found if rows == "all" else [values[-1:] for values in found]
        if others:
            raise InputError(f"this model reads token ids only, not {next(iter(others))}")
        runs = check_prompts(sequences, self.info.vocab_size, self.info.max_context, self.info.padding)
        return forward(self._contexts.lease, self._first_output, runs, rows)

    def outputs(
        self, sequences: Sequence[Sequence[int]], **others: Sequence[Sequence[int]] | None
    ) -> dict[str, list[NDArray[np.float32]]]:
        """Each output by name for whole sequences of token ids: `[len, ...]` each, or `[...]` where it is of the sequence.

        others: further inputs by name, such as `token_type_ids`, a number for each token; zeros if they are left out. Raises
        InputError if this model does not read whole sequences, or for sequences that it cannot read.
        """
        if not self.executable.whole_sequences:
            raise InputError("this model is causal and has one output, which calling it gives")
        info = self.info
        runs = check_prompts(sequences, info.vocab_size, info.max_context, info.padding)
        return run_whole(self._contexts.lease, self.executable, complete(self.executable, runs, others))

    def encode(
        self,
        texts: Prompt | Sequence[Prompt],
        pairs: str | Sequence[str] | None = None,
        output: str | None = None,
        truncate: bool = False,
    ) -> NDArray[np.float32]:
        """Values of whole texts (or lists of token ids): `[n, ...]` for several, `[...]` for one; of an embedding `[n, D]`.

        pairs: a second text for each. output: by name; the first that has an entry for each sequence by default. truncate: cut
        texts that are too long for the context, which is an error otherwise.
        """
        name = pooled_output(self.executable, output)
        single = _is_single(texts)
        given: Any = [texts] if single else texts
        seconds: Any = [None] * len(given) if pairs is None else [pairs] if single else pairs
        if isinstance(seconds, str) or len(seconds) != len(given):
            raise InputError(f"pairs must be a text for each of the {len(given)} texts")
        read = [self._read(text, second, truncate) for text, second in zip(given, seconds, strict=True)]
        ids, types = [r[0] for r in read], [r[1] for r in read]
        typed = TOKEN_TYPES in self.executable.inputs
        found = self.outputs(ids, **({TOKEN_TYPES: types} if typed else {}))[name]
        if single:
            return found[0]
        return np.stack(found) if found else np.zeros((0, *self.executable.outputs[name].fixed), np.float32)

    def _read(self, text: Prompt, pair: str | None, truncate: bool) -> tuple[Sequence[int], Sequence[int]]:
        """Ids, and which of two texts each belongs to."""
        if not isinstance(text, str):
            if pair is not None:
                raise InputError("pairs go with texts, not with token ids")
            return text, [0] * len(text)
        if self.tokenizer is None:
            raise InputError("this model has no tokenizer; give the text as a list of token ids")
        return self.tokenizer.encode_pair(text, pair, self.info.max_context if truncate else None)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        stream: bool = False,
        prompt_lookup_num_tokens: int = 0,
    ) -> GenerationResult | list[GenerationResult] | Iterator[str] | Iterator[int]:
        """Continue a prompt (text or token ids), giving one result, or several prompts, giving a list.

        stop: a string or several that end the text. stream: for one prompt, give an iterator of pieces of text instead (of
        ids for a model without tokenizer). prompt_lookup_num_tokens: guess at most so many tokens at a time from what prompt
        and text repeat, while that is faster; the text is the same. `for_transformers().generate` takes tensors, and the
        arguments of the `transformers` library. Raises InputError naming the argument that cannot be used.
        """
        self.check_causal()
        options = GenerationOptions(
            max_new_tokens,
            SamplingOptions(temperature, top_k, top_p, seed),
            frozenset(self.info.eos_ids),
            (stop,) if isinstance(stop, str) else stop,
            prompt_lookup_num_tokens,
        )
        generator = self.generator
        single = _is_single(prompts)
        ids = [self._ids(prompt) for prompt in ([prompts] if single else prompts)]  # type: ignore[list-item, arg-type]
        if not stream:
            results = generator.generate(ids, options)
            return results[0] if single else results
        if not single:
            raise InputError("stream takes one prompt, not a list of prompts")
        return generator.stream(ids[0], options)

    @property
    def generator(self) -> Generator:
        """What `generate` works with, for callers that want each token as it comes: token ids and `GenerationOptions` in."""
        self.check_causal()
        info, exact = self.info, self.executable.row_exact
        return Generator(self._contexts.lease, info.vocab_size, info.max_context, self.tokenizer, exact, info.backend)

    def for_transformers(self) -> Adapted:
        """The model where code of the `transformers` library expects one of its own: `generate`, pipelines."""
        from llmc.runtime.transformers_model import adapt

        if not self.executable.whole_sequences:
            self.check_causal()
        return adapt(self._contexts.lease, self.info, self.executable)

    def check_causal(self) -> None:
        """Raise InputError unless the model can continue a text."""
        if self.executable.whole_sequences:
            raise InputError("this model reads whole sequences and continues none; use encode() or outputs()")
        if "logits" not in self.executable.outputs:
            raise InputError(f"generation needs logits; this model gives {', '.join(self.executable.outputs)}")
        if self.info.padding is not None:
            raise InputError(f"this model was captured for texts without the id {self.info.padding}, which might come next")

    def _ids(self, prompt: Prompt) -> Sequence[int]:
        if not isinstance(prompt, str):
            return prompt
        if self.tokenizer is None:
            raise InputError("this model has no tokenizer; give the prompt as a list of token ids")
        return self.tokenizer.encode(prompt)

    def explain(self) -> str:
        """Every pass: what it matched, what it left alone and why; what a token costs, and how fast it could be."""
        from llmc.runtime.explain import explain

        return explain(self.info, self.program, self.records, self.executable)

    def source(self, name: str | None = None) -> str:
        """The code that runs: the main file, or the one of a name. Raises InputError listing the names if there is none."""
        sources = self.executable.sources()
        if name is None:
            return next(iter(sources.values()), "")
        if name not in sources:
            raise InputError(f"there is no source '{name}'; there are: {', '.join(sources)}")
        return sources[name]

    def graph(self, after: str | None = None) -> Program:
        """The program that was lowered, or as it was after a pass. Raises InputError listing the passes if there is none."""
        if after is None:
            return self.program
        if after not in self.snapshots:
            known = ", ".join(self.snapshots) or "none (a loaded model keeps only its last program)"
            raise InputError(f"there is no program after '{after}'; passes: {known}")
        return self.snapshots[after]

    def save(self, folder: Path | str) -> None:
        """Write the model into a folder that `llmc.load` reads. Raises ArtifactError if something else is there."""
        from llmc.runtime.artifact import save

        save(self, folder)


def _is_single(prompts: Any) -> bool:
    """Whether this is one prompt: a text, or a list that does not hold texts or lists."""
    if isinstance(prompts, str):
        return True
    if not isinstance(prompts, Sequence | np.ndarray):
        found = type(prompts).__name__
        hint = "; for_transformers() gives a model that takes tensors" if hasattr(prompts, "tolist") else ""
        raise InputError(f"prompts must be a text, a list of token ids, or a list of either, not {found}{hint}")
    return len(prompts) > 0 and not isinstance(prompts[0], str | Sequence | np.ndarray)
