"""The loop over layers: memory that changes hands, operands in two roles, weights and caches of each layer."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.generate import Generator
from llmc.backends.eager.backend import EagerBackend
from llmc.capture.capture import capture
from llmc.conformance.forms import CACHE_BLOCKS, chunked, prefill, relative_error
from llmc.conformance.modules import SelfAttention, library_model
from llmc.ir.blocks import Blocks
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default
from tests.backends.cpu.programs import step

WIDTH, VOCAB = 32, 50
IDS = np.random.default_rng(0).integers(0, VOCAB, 45).tolist()


class Layers(nn.Module):
    """Attention layers over an embedding."""

    def __init__(self, layers=4):
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.attentions = nn.ModuleList(SelfAttention(WIDTH, 2) for _ in range(layers))
        self.ups = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))
        self.setup()

    def setup(self):
        pass


class EmbeddingEverywhere(Layers):
    """The embedding is the first residual stream, and what every layer reads besides."""

    def forward(self, ids):
        x = start = self.embed(ids)
        for attention in self.attentions:
            x = x * 0.7 + start * 0.3
            x = x + attention(x)
        return self.head(x)


class TwoStreams(Layers):
    """Both streams start as the same node."""

    def forward(self, ids):
        a = b = self.embed(ids)
        for attention, up in zip(self.attentions, self.ups, strict=True):
            a = a + attention(b)
            b = b + torch.relu(up(a)) * 0.5
        return self.head(a - b)


class Crossing(Layers):
    """What is one stream in a layer is the other in the next."""

    def forward(self, ids):
        a = self.embed(ids)
        b = torch.sin(a)
        for attention, up in zip(self.attentions, self.ups, strict=True):
            a, b = b + attention(a), a * 0.5 + torch.relu(up(b))
        return self.head(a - b)


class FirstTied(Layers):
    """The first layer has one matrix in two places, the others two."""

    def setup(self):
        self.downs[0].weight = self.ups[0].weight

    def forward(self, ids):
        x = self.embed(ids)
        for attention, up, down in zip(self.attentions, self.ups, self.downs, strict=True):
            x = x + attention(x)
            x = x + torch.relu(up(x)) - torch.relu(down(torch.sin(x)))
        return self.head(x)


class LayerTables(Layers):
    """Every layer adds rows of a table of its own; one of them is the head's matrix too."""

    tied = 0

    def setup(self):
        self.tables = nn.ModuleList(nn.Embedding(VOCAB, WIDTH) for _ in self.ups)
        self.head.weight = self.tables[self.tied].weight

    def forward(self, ids):
        x = self.embed(ids)
        for attention, table in zip(self.attentions, self.tables, strict=True):
            x = x + table(ids)
            x = x + attention(x)
        return self.head(x)


class SecondTied(LayerTables):
    tied = 1


class SharedCache(Layers):
    """One pair of keys and values for all layers (Sun et al. 2024)."""

    def setup(self):
        self.kv = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, ids):
        x = self.embed(ids)
        b, t, c = x.shape
        k, v = (y.view(b, t, 2, c // 2).transpose(1, 2) for y in self.kv(x).split(c, 2))
        for up in self.ups:
            q = up(x).view(b, t, 2, c // 2).transpose(1, 2)
            x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        return self.head(x)


class LastCacheAgain(SharedCache):
    """Each layer has keys and values of its own; what follows reads those of the last once more."""

    def setup(self):
        self.kv = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in self.ups)

    def forward(self, ids):
        x = self.embed(ids)
        b, t, c = x.shape
        for up, kv in zip([*self.ups, None], [*self.kv, None], strict=True):
            q = torch.sin(x) if up is None else up(x)
            if kv is not None:
                k, v = (y.view(b, t, 2, c // 2).transpose(1, 2) for y in kv(x).split(c, 2))
            q = q.view(b, t, 2, c // 2).transpose(1, 2)
            x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        return self.head(x)


def lowered(module, recipe, *example):
    return passed(capture(module.eval(), *example).program, recipe)


def passed(program, recipe):
    """A program after the passes of a recipe, and its executable."""
    program = resolve(recipe).run(program, default()).program
    return program, CpuBackend().lower(program)


@cache
def case_captured(case):
    """The module of a case, and its program."""
    module = case().eval()
    return module, capture(module, (torch.arange(6)[None],)).program


@cache
def captured(layers):
    return capture(library_model("rope", num_hidden_layers=layers)).program


CASES = (EmbeddingEverywhere, TwoStreams, Crossing, FirstTied, LayerTables, SecondTied, SharedCache, LastCacheAgain)


@pytest.mark.parametrize("recipe", [[], "fuse"], ids=["raw", "fuse"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_layers_of_unusual_shape_agree_with_the_original(case, recipe):
    module, program = case_captured(case)
    _, executable = passed(program, recipe)
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(torch.tensor(IDS)[None])[0].numpy()
    whole = prefill(executable.context(CACHE_BLOCKS, 2), IDS)
    assert relative_error(whole, expected) <= 1e-5
    assert np.array_equal(whole, chunked(executable.context(CACHE_BLOCKS, 1), IDS, 7))


RECIPES = {"raw": [], "fuse": "fuse", "int8": "int8"}
QUICK = {*((layers, "fuse") for layers in (1, 2, 3, 4)), *((layers, recipe) for layers in (3, 4) for recipe in RECIPES)}
"""Numbers of layers and recipes of every run: with two layers or fewer there is no loop, for which one recipe will do."""


def counted(layers, recipe):
    return pytest.param(layers, recipe, marks=[] if (layers, recipe) in QUICK else pytest.mark.slow)


@pytest.mark.parametrize(("layers", "recipe"), [counted(layers, recipe) for layers in range(1, 7) for recipe in RECIPES])
def test_rows_are_the_same_however_they_are_asked_for_with_any_number_of_layers(layers, recipe):
    """After an odd number of swaps the residual stream is where the other buffer was."""
    program, executable = passed(captured(layers), RECIPES[recipe])
    whole = prefill(executable.context(CACHE_BLOCKS, 2), IDS)
    eager = prefill(EagerBackend().lower(program).context(CACHE_BLOCKS), IDS)
    assert relative_error(whole, eager) <= (0.02 if recipe == "int8" else 1e-5)
    permuted = np.random.default_rng(layers).permutation(len(IDS)).tolist()
    for rows in (permuted, [3, 44, 3, 17], [44], []):
        for threads in (1, 2):
            assert np.array_equal(step(executable, IDS, rows, threads)["logits"], whole[rows]), rows


def test_shared_keys_and_values_have_one_cache():
    program, _ = lowered(SharedCache(), "fuse", (torch.arange(6)[None],))
    generator = Generator(program)
    assert generator.layers >= 2 and len(generator.caches.floats) == 2
    assert not any("write_keys" in statement.text for statement in (*generator.body, *generator.epilogue))


def test_table_tied_to_the_head_is_stored_once_and_a_layers_table_in_one_layout():
    program, _ = lowered(library_model("rope", tie_word_embeddings=True), "fuse")
    plain = sum(weight.bytes for weight in program.weights.values())
    assert Generator(program).packer.size < plain + 64 * 128 * len(program.weights)
    program, _ = lowered(LayerTables(), "fuse", (torch.arange(6)[None],))
    assert "embedding_f32" not in " ".join(s.text for s in Generator(program).body)


def test_operand_that_is_not_the_same_in_every_layer_is_refused_loudly():
    """The generator does not rely on what `llmc.ir.blocks` proved."""
    program, _ = lowered(TwoStreams(6), "fuse", (torch.arange(6)[None],))
    blocks = program.blocks
    assert blocks is not None and len(blocks.carried) == 2
    first, second = blocks.carried
    swapped = [list(layer) for layer in blocks.layers]
    swapped[1][first], swapped[1][second] = swapped[1][second], swapped[1][first]
    program.__dict__["blocks"] = Blocks(tuple(map(tuple, swapped)), blocks.carried)
    with pytest.raises(AssertionError, match="operand"):
        Generator(program)
