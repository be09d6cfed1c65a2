"""Small encoders with random weights and odd numbers of heads: of the library, and as a person writes one."""

from __future__ import annotations

import copy
import math

import torch
import transformers as library
from torch import Tensor, nn

SIZES = {"vocab_size": 101, "num_hidden_layers": 2, "hidden_size": 60, "num_attention_heads": 3, "intermediate_size": 88}


def bert(head: str = "Model", **changes):
    config = library.BertConfig(**{**SIZES, "max_position_embeddings": 64, **changes})
    return getattr(library, f"Bert{head}")(config)


def roberta(head: str = "Model", **changes):
    config = library.RobertaConfig(**{**SIZES, "max_position_embeddings": 66, "type_vocab_size": 1, **changes})
    return getattr(library, f"Roberta{head}")(config)


def mpnet(head: str = "Model"):
    return getattr(library, f"MPNet{head}")(library.MPNetConfig(**{**SIZES, "max_position_embeddings": 66, "num_labels": 4}))


def distilbert(head: str = "Model"):
    sizes = {"vocab_size": 101, "dim": 60, "n_heads": 5, "hidden_dim": 88, "n_layers": 2, "max_position_embeddings": 64}
    return getattr(library, f"DistilBert{head}")(library.DistilBertConfig(**sizes))


MODELS = {
    "bert": bert,
    "bert-classifier": lambda: bert("ForSequenceClassification", num_labels=3, num_attention_heads=5),
    "bert-tokens": lambda: bert("ForTokenClassification", num_labels=7),
    "roberta": roberta,
    "roberta-classifier": lambda: roberta("ForSequenceClassification", num_labels=2),
    "roberta-masked": lambda: roberta("ForMaskedLM"),
    "mpnet": mpnet,
    "mpnet-classifier": lambda: mpnet("ForSequenceClassification"),
    "distilbert": distilbert,
    "distilbert-answers": lambda: distilbert("ForQuestionAnswering"),
}


def made(name: str) -> nn.Module:
    """A model whose weights are large enough that all of it matters."""
    torch.manual_seed(7)
    module = MODELS[name]().eval()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def exact(module: nn.Module, ids: list[int], **others: list[int]) -> dict[str, Tensor]:
    """Outputs of one sequence alone in float64, without the batch."""
    given = {name: torch.tensor(values)[None] for name, values in others.items()}
    with torch.no_grad():
        found = copy.deepcopy(module).double()(torch.tensor(ids)[None], **given)
    return {name: value[0] for name, value in found.items() if isinstance(value, Tensor)}


class Written(nn.Module):
    """An encoder that masks padding, adds a learned bias by clipped distance, and averages the tokens that are not padding."""

    def __init__(self, vocab: int = 61, width: int = 45, heads: int = 5, reach: int = 6) -> None:
        super().__init__()
        self.embed, self.kinds, self.heads, self.reach = nn.Embedding(vocab, width), nn.Embedding(3, width), heads, reach
        self.qkv, self.out, self.head = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, 9)
        self.distances = nn.Parameter(torch.randn(2 * reach + 1, heads))

    def forward(self, input_ids: Tensor, kinds: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        batch, length = input_ids.shape
        x = self.embed(input_ids) + self.kinds(kinds)
        q, k, v = (y.view(batch, length, self.heads, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        place = torch.arange(length)
        apart = (place[None, :] - place[:, None]).clamp(-self.reach, self.reach) + self.reach
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + self.distances[apart].permute(2, 0, 1)
        scores = scores + (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        mask = attention_mask.unsqueeze(-1).expand(x.size()).float()
        mean = (x * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        ends = torch.cat((x[:, 0], x[:, -1]), -1)
        return {"tokens": x, "mean": mean, "largest": x.amax(1), "ends": ends, "scores": self.head(mean)}
