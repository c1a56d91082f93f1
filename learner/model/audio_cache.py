"""A cache of a frozen audio tower's outputs, so that each clip is encoded once instead of once per step.

Invariant: a cached output equals what the tower would compute again. The key of a clip is a digest of its features, and
the folder of a tower on disk a digest of its weights, so a changed file or another model never yields a stale output.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file
from torch import distributed, nn

from learner.model.packing import EncodedPrompt
from learner.model.tensor_file import write_tensors
from learner.settings import AudioCacheSettings

Encode = Callable[[Sequence[EncodedPrompt], int], list[torch.Tensor]]
"""The tower's output for each prompt's clip, shape (A, E), after at least so many passes of the tower."""

PassesNeeded = Callable[[Sequence[EncodedPrompt]], int]
"""The number of passes of the tower that the prompts' clips need."""


def tower_digest(tower: nn.Module) -> str:
    """Return the digest of a tower's weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def clip_digest(mel: torch.Tensor, valid_frames: int) -> str:
    """Return the digest of a clip's features."""
    digest = hashlib.blake2b(mel.contiguous().numpy().tobytes(), digest_size=16)
    digest.update(str((tuple(mel.shape), valid_frames)).encode())
    return digest.hexdigest()


class AudioCache:
    """Outputs of one frozen tower by clip: the most recent in memory, all of them on disk if there is a folder."""

    def __init__(self, *, limit_bytes: int, folder: Path | None = None, synchronized: bool = False) -> None:
        """Create an empty cache.

        Args:
            limit_bytes: size of the cache in CPU memory.
            folder: outputs are also stored there, across runs.
            synchronized: every rank runs the tower as often as any of them has to, as ZeRO-3 requires of a forward.
        """
        self._limit, self._folder, self._in_step = limit_bytes, folder, synchronized
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0
        self.encoded_clips = 0
        """Number of clips that the tower was run on."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_tower(cls, tower: nn.Module, settings: AudioCacheSettings, *, synchronized: bool) -> Self:
        """Return a cache for the outputs of a frozen tower, by a job's settings."""
        folder = None if settings.folder is None else Path(settings.folder) / tower_digest(tower)
        return cls(limit_bytes=int(settings.memory_gib * 2**30), folder=folder, synchronized=synchronized)

    @torch.no_grad()
    def get(self, prompts: Sequence[EncodedPrompt], encode: Encode, passes_needed: PassesNeeded) -> list[torch.Tensor]:
        """Return the tower's output for each prompt's clip, without gradient."""
        found = {prompt.clip: cached for prompt in prompts if (cached := self._find(prompt.clip)) is not None}
        missing = list({p.clip: p for p in prompts if p.clip not in found}.values())
        for prompt, encoded in zip(missing, self._encode(missing, prompts, encode, passes_needed), strict=True):
            found[prompt.clip] = encoded
            self._store(prompt.clip, encoded.cpu().contiguous())
        return [found[prompt.clip] for prompt in prompts]

    def _encode(
        self,
        missing: Sequence[EncodedPrompt],
        prompts: Sequence[EncodedPrompt],
        encode: Encode,
        passes_needed: PassesNeeded,
    ) -> list[torch.Tensor]:
        self.encoded_clips += len(missing)
        passes = passes_needed(missing)
        if self._in_step:
            most = torch.tensor(float(passes), device="cuda" if torch.cuda.is_available() else "cpu")
            distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
            passes = int(most.item())
            if passes and not missing:
                encode([min(prompts, key=lambda prompt: prompt.valid_frames)], passes)
        return encode(missing, passes) if missing else []

    def _find(self, clip: str) -> torch.Tensor | None:
        if clip in self._kept:
            self._kept.move_to_end(clip)
            return self._kept[clip]
        path = self._path(clip)
        if path is None or not path.is_file():
            return None
        encoded: torch.Tensor = load_file(path)["encoded"]
        self._keep_in_memory(clip, encoded)
        return encoded

    def _store(self, clip: str, encoded: torch.Tensor) -> None:
        self._keep_in_memory(clip, encoded)
        path = self._path(clip)
        if path is None:
            return
        # Ranks may write the same clip at the same time.
        write_tensors(path, {"encoded": encoded})

    def _keep_in_memory(self, clip: str, encoded: torch.Tensor) -> None:
        if clip not in self._kept:
            self._bytes += encoded.nbytes
        self._kept[clip] = encoded
        while self._bytes > self._limit and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes

    def _path(self, clip: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{clip}.safetensors"
