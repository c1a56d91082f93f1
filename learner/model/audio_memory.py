"""Remembers what a frozen audio tower made of a clip, so that each clip is encoded once and not once a step.

Invariant: what is remembered is what the tower would compute again. A clip is named by its features, a tower on disk by
its weights, so neither a changed file nor another model is ever answered with something old.
"""

import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn

from learner.model.packing import EncodedPrompt

Encode = Callable[[Sequence[EncodedPrompt]], list[torch.Tensor]]
"""The tower's output for each prompt's clip, shape (A, E)."""


def tower_digest(tower: nn.Module) -> str:
    """Names a tower by its weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def clip_digest(mel: torch.Tensor, valid_frames: int) -> str:
    """Names a clip by its features."""
    digest = hashlib.blake2b(mel.contiguous().numpy().tobytes(), digest_size=16)
    digest.update(str((tuple(mel.shape), valid_frames)).encode())
    return digest.hexdigest()


class AudioMemory:
    """Outputs of one frozen tower by clip: the latest in memory, all on disk where a folder is given."""

    def __init__(self, *, limit_bytes: int, folder: Path | None = None, in_step: bool = False) -> None:
        """
        Args:
            limit_bytes: what is kept, in the CPU's memory.
            folder: where outputs are also kept on disk, across runs.
            in_step: every rank must run the tower whenever one of them does, as ZeRO-3 demands of its forwards.
        """
        self._limit, self._folder, self._in_step = limit_bytes, folder, in_step
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0
        self.encoded_clips = 0
        """Clips the tower was really run on."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @torch.no_grad()
    def get(self, prompts: Sequence[EncodedPrompt], encode: Encode) -> list[torch.Tensor]:
        """The tower's output for each prompt's clip, without gradient."""
        found = {prompt.clip: recalled for prompt in prompts if (recalled := self._recall(prompt.clip)) is not None}
        missing = list({p.clip: p for p in prompts if p.clip not in found}.values())
        for prompt, encoded in zip(missing, self._encode(missing, prompts[0], encode), strict=True):
            found[prompt.clip] = encoded
            self._remember(prompt.clip, encoded.cpu().contiguous())
        return [found[prompt.clip] for prompt in prompts]

    def _encode(
        self, missing: Sequence[EncodedPrompt], any_prompt: EncodedPrompt, encode: Encode
    ) -> list[torch.Tensor]:
        self.encoded_clips += len(missing)
        if self._in_step:
            wanted = torch.tensor(float(len(missing)), device="cuda" if torch.cuda.is_available() else "cpu")
            distributed.all_reduce(wanted, op=distributed.ReduceOp.MAX)
            if wanted.item() and not missing:
                encode([any_prompt])
        return encode(missing) if missing else []

    def _recall(self, clip: str) -> torch.Tensor | None:
        if clip in self._kept:
            self._kept.move_to_end(clip)
            return self._kept[clip]
        path = self._path(clip)
        if path is None or not path.is_file():
            return None
        encoded: torch.Tensor = load_file(path)["encoded"]
        self._keep(clip, encoded)
        return encoded

    def _remember(self, clip: str, encoded: torch.Tensor) -> None:
        self._keep(clip, encoded)
        path = self._path(clip)
        if path is None:
            return
        # Ranks may write the same clip at once: each its own file, renamed when it is whole.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(descriptor)
        save_file({"encoded": encoded}, temporary)
        Path(temporary).replace(path)

    def _keep(self, clip: str, encoded: torch.Tensor) -> None:
        if clip not in self._kept:
            self._bytes += encoded.nbytes
        self._kept[clip] = encoded
        while self._bytes > self._limit and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes

    def _path(self, clip: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{clip}.safetensors"
