"""Load tokenizers: the language model's, from a checkpoint folder, and the gate's."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers.implementations import BertWordPieceTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from omni_rlvr.models.chat_template import CHAT_TEMPLATE
from omni_rlvr.models.composed.processor import GATE
from omni_rlvr.models.loading.untrusted import one_error
from omni_rlvr.models.loading.weights import check_pointer
from omni_rlvr.models.tokenizing import with_padding
from omni_rlvr.types import UserError

PACKAGED = Path(__file__).parents[1] / "bert_base_uncased" / "vocab.txt"
MAX_GATE_TOKENS = 512


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a published checkpoint's tokenizer, with its chat template.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    with one_error(f"model.path={folder}: the tokenizer cannot be read"):
        if (folder / "tokenizer.json").exists():
            check_pointer(folder / "tokenizer.json")
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
        elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            tokenizer = Qwen2Tokenizer.from_pretrained(folder, trust_remote_code=False)
        else:
            raise UserError(
                f"model.path={folder} has no tokenizer (tokenizer.json, or vocab.json with "
                "merges.txt); copy it from the model that this one was trained from"
            )
        if tokenizer.chat_template is None:
            tokenizer.chat_template = _saved_template(folder) or CHAT_TEMPLATE
    return with_padding(tokenizer, folder)


def load_gate_tokenizer(folder: Path, vocab: str | None, *, size: int) -> BertWordPieceTokenizer:
    """Load the gate's tokenizer: from ``vocab``, else the folder's own, else bert-base-uncased's.

    Args:
        folder: The checkpoint.
        vocab: A vocab.txt, or None.
        size: The size of BERT's vocabulary.

    Raises:
        UserError: The file is missing, or not a vocabulary of this size.
    """
    own = folder / f"{GATE}-vocab.txt"
    path = Path(vocab) if vocab else own if own.exists() else PACKAGED
    if not path.is_file():
        raise UserError(f"model.options.gate_vocab={path} is not a file; give BERT's vocab.txt")
    try:
        tokenizer = BertWordPieceTokenizer(str(path), lowercase=True)
    except Exception as error:  # the library raises plain Exceptions for an invalid file
        raise UserError(f"{path} is not a vocabulary for BERT: {error}") from error
    if tokenizer.get_vocab_size() != size:
        raise UserError(
            f"{path} has {tokenizer.get_vocab_size()} tokens, but the gate's BERT has {size}; "
            "give the vocab.txt of this BERT as model.options.gate_vocab=FILE"
        )
    tokenizer.enable_padding()
    tokenizer.enable_truncation(MAX_GATE_TOKENS)
    return tokenizer


def _saved_template(folder: Path) -> str | None:
    """Read chat_template.json, which some processors save next to the tokenizer."""
    path = folder / "chat_template.json"
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["chat_template"]
