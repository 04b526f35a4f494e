"""Splits: examples as integer pixels, handed out as tensors in [0, 1]."""

import hashlib
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from benchmark.digests import digest_of
from benchmark.errors import ContractError

# How many examples a digest decodes at once: 40 MB of ImageNet pixels.
_DIGEST_CHUNK = 256


class Split(ABC):
    """One part of a data set.

    Attributes:
        labels: (N,) int64 in [0, classes).
        shape: (channels, height, width) of one input.
        scale: the pixel value that becomes 1.0.
    """

    labels: Tensor
    shape: tuple[int, int, int]
    scale: int

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)

    @abstractmethod
    def pixels(self, indices: Tensor) -> Tensor:
        """Returns (n, C, H, W) uint8 in [0, scale], a copy.

        Args:
            indices: (n,) int64 positions in this split.
        """

    @abstractmethod
    def subset(self, indices: Tensor) -> "Split":
        """Returns the split that consists of these examples, in this order.

        Args:
            indices: (n,) int64 positions in this split.
        """

    def inputs(self, indices: Tensor) -> Tensor:
        """Returns (n, C, H, W) float32 in [0, 1].

        Args:
            indices: (n,) int64 positions in this split.

        Raises:
            ContractError: `indices` is not a one-dimensional int64 tensor, or leaves the split.
            DataUnavailable: an image that is decoded on demand is missing or damaged.
        """
        return self.pixels(indices).to(torch.float32).div_(self.scale)

    def digest(self, indices: Tensor) -> str:
        """Returns the SHA-256 (64 hex digits) over shape, scale, labels and pixels of examples.

        Args:
            indices: (n,) int64 positions in this split; their order matters.

        Raises:
            ContractError: as for `inputs`.
            DataUnavailable: as for `inputs`.
        """
        self._check(indices)
        header = {"shape": self.shape, "scale": self.scale, "examples": len(indices)}
        total = hashlib.sha256(digest_of(header).encode())
        total.update(self.labels[indices].numpy().astype("<i8").tobytes())
        for start in range(0, len(indices), _DIGEST_CHUNK):
            chunk = indices[start : start + _DIGEST_CHUNK]
            total.update(self.pixels(chunk).numpy().tobytes())
        return total.hexdigest()

    def _check(self, indices: Tensor) -> None:
        # Tensor indexing would silently take a mask or a negative position for something else.
        if indices.dtype != torch.int64 or indices.dim() != 1:
            raise ContractError(
                f"expected indices (n,) int64, got {tuple(indices.shape)} {indices.dtype}; "
                "convert them first"
            )
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise ContractError(
                f"expected indices in [0, {len(self)}), got {int(indices.min())} to "
                f"{int(indices.max())}; use positions in this split"
            )


class TensorSplit(Split):
    """A split whose pixels are all in memory."""

    def __init__(self, pixels: Tensor, labels: Tensor, scale: int) -> None:
        """Takes the examples as they are, without copying.

        Args:
            pixels: (N, C, H, W) uint8 in [0, scale].
            labels: (N,) int64.
            scale: the pixel value that becomes 1.0.

        Raises:
            ContractError: a wrong type or shape, or pixels above `scale`.
        """
        if pixels.dtype != torch.uint8 or pixels.dim() != 4:
            raise ContractError(
                f"expected pixels (N, C, H, W) uint8, got {tuple(pixels.shape)} {pixels.dtype}"
            )
        if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
            raise ContractError(
                f"expected labels ({len(pixels)},) int64, got {tuple(labels.shape)} {labels.dtype}"
            )
        if scale < 255 and pixels.numel() and int(pixels.max()) > scale:
            raise ContractError(f"expected pixels up to {scale}, got {int(pixels.max())}")
        _, channels, height, width = pixels.shape
        self.labels = labels
        self.shape = (channels, height, width)
        self.scale = scale
        self._pixels = pixels

    def pixels(self, indices: Tensor) -> Tensor:
        """Returns (n, C, H, W) uint8 in [0, scale], a copy."""
        self._check(indices)
        return self._pixels[indices]

    def subset(self, indices: Tensor) -> "TensorSplit":
        """Returns the split that consists of these examples, in this order."""
        return TensorSplit(self.pixels(indices), self.labels[indices], self.scale)
