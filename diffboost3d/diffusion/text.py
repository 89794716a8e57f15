"""Prompts as tokens: the bytes of their UTF-8, so that no vocabulary has to be downloaded."""

from __future__ import annotations

import torch

START, END = 256, 257
VOCABULARY = 258


def tokenize(prompt: str, length: int) -> torch.Tensor:
    """Token ids (length,), int64: start, the bytes, then end tokens as padding. A longer prompt is cut.

    The empty prompt is the unconditional one.
    """
    body = list(prompt.encode("utf-8"))[: length - 2]
    return torch.tensor([START, *body, *[END] * (length - 1 - len(body))], dtype=torch.int64)
