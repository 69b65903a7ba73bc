"""transformers' models of language at hidden size 32, explained at their embeddings, with attention
masks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .row import Made, Row, library, settled

IDS = torch.tensor([[2, 5, 7, 3, 0, 0], [2, 9, 11, 4, 6, 3]])
MASK = (IDS != 0).long()
SIZES = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 64, "max_position_embeddings": 16}


def _classifier(name: str, sizes: dict[str, Any], closure: bool = False) -> Callable[[], Made]:
    """A model for sequences; the mask is a further argument, or in a closure."""
    def make() -> Made:
        hub = library("transformers")
        model = settled(getattr(hub, f"{name}ForSequenceClassification")(
            getattr(hub, f"{name}Config")(num_labels=3, **sizes)))
        embedded = model.get_input_embeddings()(IDS).detach()

        def with_mask(x: Tensor, mask: Tensor) -> Tensor:
            return model(inputs_embeds=x, attention_mask=mask).logits

        if closure:
            return Made(lambda x: with_mask(x, MASK[:1].expand(len(x), -1)), (embedded[:1],))
        return Made(with_mask, (embedded,), (MASK,))

    return make


def _generator(name: str, sizes: dict[str, Any]) -> Callable[[], Made]:
    """A model of the next token; its logits after the last token that is not padding."""
    def make() -> Made:
        hub = library("transformers")
        model = settled(getattr(hub, f"{name}LMHeadModel" if name == "GPT2"
                                else f"{name}ForCausalLM")(getattr(hub, f"{name}Config")(**sizes)))
        embedded = model.get_input_embeddings()(IDS).detach()

        def function(x: Tensor, mask: Tensor) -> Tensor:
            logits = model(inputs_embeds=x, attention_mask=mask, use_cache=False).logits
            return logits[torch.arange(len(x)), mask.sum(1) - 1]

        return Made(function, (embedded,), (MASK,))

    return make


GPT2 = {"vocab_size": 20, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16, "n_inner": 64}
DISTIL = {"vocab_size": 20, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64,
          "max_position_embeddings": 16}
LLAMA = {**SIZES, "num_hidden_layers": 1, "num_key_value_heads": 1}
HIDDEN = "hidden size 32, 2 layers, 6 tokens"

LANGUAGE = {
    "transformers BERT": Row(_classifier("Bert", SIZES), "transformers", HIDDEN),
    "transformers BERT, mask in a closure": Row(_classifier("Bert", SIZES, closure=True),
                                                "transformers", HIDDEN),
    "transformers BERT, IntegratedGradients": Row(_classifier("Bert", SIZES), "transformers",
                                                  HIDDEN,
                                                  "IntegratedGradients", keywords={"n_steps": 3}),
    "transformers RoBERTa": Row(_classifier("Roberta", SIZES | {"max_position_embeddings": 18}),
                                "transformers", HIDDEN),
    "transformers DistilBERT": Row(_classifier("DistilBert", DISTIL), "transformers", HIDDEN),
    "transformers GPT-2": Row(_generator("GPT2", GPT2), "transformers", HIDDEN),
    "transformers LLaMA block": Row(_generator("Llama", LLAMA), "transformers", "hidden size 32, 1 "
                                    "layer, 6 tokens"),
}
