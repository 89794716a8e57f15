"""Prompts: as tokens, and as weighted mixtures of embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from diffboost3d.errors import ConfigError

if TYPE_CHECKING:
    from diffboost3d.diffusion.networks import ConditionalDenoiser

START, END = 256, 257
VOCABULARY = 258
CLIP_LENGTH = 77


class Tokenizer(Protocol):
    """Prompt -> token ids (T,), int64, always of the same length T."""

    length: int

    def __call__(self, prompt: str) -> torch.Tensor:
        """The empty prompt is the unconditional one; a prompt that doesn't fit is cut."""
        ...

    def fits(self, prompt: str) -> bool:
        """Whether a prompt is read to its end."""
        ...


class ByteTokenizer:
    """The bytes of a prompt's UTF-8 between a start and an end token, so that no vocabulary has to be downloaded."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, prompt: str) -> torch.Tensor:
        """Token ids (length,): start, the bytes, then end tokens as padding."""
        body = list(prompt.encode("utf-8"))[: self.length - 2]
        return torch.tensor([START, *body, *[END] * (self.length - 1 - len(body))], dtype=torch.int64)

    def fits(self, prompt: str) -> bool:
        """Whether a prompt is read to its end."""
        return len(prompt.encode("utf-8")) <= self.length - 2


class ClipTokenizer:
    """The vocabulary of CLIP, as `transformers` keeps it in a local folder (vocab.json, merges.txt); 77 tokens.

    Attributes:
        clip: the tokenizer of `transformers`.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTokenizer

        self.clip: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self.length = min(int(self.clip.model_max_length), CLIP_LENGTH)
        self.clip.model_max_length = self.length

    def __call__(self, prompt: str) -> torch.Tensor:
        """Token ids (length,): start, the words, end, and padding as the vocabulary says."""
        read = self.clip(prompt, padding="max_length", max_length=self.length, truncation=True)
        return torch.tensor(read["input_ids"], dtype=torch.int64)

    def fits(self, prompt: str) -> bool:
        """Whether a prompt is read to its end."""
        return len(self.clip(prompt, truncation=False)["input_ids"]) <= self.length

    def save(self, folder: Path) -> None:
        """Write the vocabulary for any version of `transformers`."""
        self.clip.save_pretrained(folder)
        if not (folder / "vocab.json").is_file():  # from version 5 on, tokenizer.json alone
            self.clip.backend_tokenizer.model.save(str(folder))


def require_fitting(tokenizer: Tokenizer, prompt: str) -> None:
    """Raises ConfigError for a prompt whose end the text encoder would not read."""
    if not tokenizer.fits(prompt):
        raise ConfigError(
            f"the prompt {prompt!r} is longer than the text encoder reads ({tokenizer.length} tokens; one a byte where it was "
            "trained from nothing); shorten it (prompt, synthesize.text), or set diffusion.denoiser.text_length and train anew"
        )


def fill_templates(mixture: Mapping[str, float], prompt: str, look: str) -> dict[str, float]:
    """A mixture with `{prompt}` and `{look}` put in; a term that is left with an empty look loses its comma too."""
    filled: dict[str, float] = {}
    for template, weight in mixture.items():
        text = template.replace("{prompt}", prompt).replace("{look}", look)
        text = ", ".join(part.strip() for part in text.split(",") if part.strip())
        filled[text] = filled.get(text, 0.0) + weight
    return filled


@torch.no_grad()
def embed_mixture(denoiser: ConditionalDenoiser, mixture: Mapping[str, float]) -> torch.Tensor:
    """The weighted sum (1, T, width) of the prompts' embeddings; the published recipe mixes three so."""
    device = next(denoiser.text_encoder.parameters()).device
    embed: Callable[[str], torch.Tensor] = lambda prompt: denoiser.embed(denoiser.tokenizer(prompt)[None].to(device))  # noqa: E731
    return torch.stack([weight * embed(prompt) for prompt, weight in mixture.items()]).sum(dim=0)
