"""A pruned network as sparse matrices over single features: what is zero is not computed.

A convolution is one matrix from all features (channel, row, column) of its input to all of its
output; with 99 % of its weights gone, that matrix has as many fewer entries. Features leave as
channels do in `compaction`: those that the input does not reach are constants and move into biases,
those that nobody looks at are left out. That is finer than by channel, since a sparse linear layer
looks at a few places of a channel only.

The answers are the same function of the input but for rounding. An example's sums are taken in one
order whatever stands beside it, so that its answer does not depend on the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from benchmark.architectures import Classifier
from benchmark.compaction import Compact, Operation, compacted, multiply_adds, shadows
from benchmark.tuning import Tuning

# A scipy matrix in compressed rows.
Matrix = Any
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

# Entries of all matrices together: 1.2 GB for matrices and their transposes, more than a ResNet-50
# at 99 % has.
_LARGEST = 100_000_000

# What writing a feature and reading it again takes, in multiply-adds of a matrix's entries, and in
# those of dense layers, which are many times as fast (measured on `benchmark/architectures`).
_PASS, _DENSE_PASS = 4, 40


@dataclass(frozen=True)
class Step:
    """One step of a network over features.

    Attributes:
        inputs: positions of the values that it takes; 0 is the network's input.
        matrix: (F', F), for `matrix` steps; else None.
        bias: (F',) for `matrix` steps.
        windows: (k, F') features of which the largest is taken, -1 for padding, for pooling steps.

    A step with neither matrix nor windows is a ReLU of one input or the sum of two.
    """

    inputs: tuple[int, ...]
    matrix: Matrix = None
    bias: NDArray[np.float64] | None = None
    windows: NDArray[np.int64] | None = None


def entries(network: Compact, shape: tuple[int, int, int]) -> int:
    """Returns an example's multiply-adds in a forward pass without those by zero weights.

    Args:
        network: compacted.
        shape: (C, H, W) of an input.
    """
    count = 0
    for operation, _, after in _shapes(network, shape):
        if "weight" in operation.tensors:
            places = after[1] * after[2] if len(after) == 3 else 1
            count += int(torch.count_nonzero(operation.tensors["weight"])) * places
    return count


def dense_work(network: Compact, shape: tuple[int, int, int]) -> int:
    """Returns what a forward pass of one example takes, in multiply-adds of dense layers.

    Args:
        network: compacted.
        shape: (C, H, W) of an input.
    """
    features = sum(int(np.prod(after)) for _, _, after in _shapes(network, shape))
    return multiply_adds(network, shape) + _DENSE_PASS * (int(np.prod(shape)) + features)


def leanest(network: nn.Module, tuning: Tuning) -> nn.Module:
    """Returns the form of a network that takes the least time; the network where there is no other.

    Args:
        network: in eval mode; left untouched.
        tuning: of the machine.
    """
    if type(network) is not Classifier:
        return network
    small = compacted(network)
    if small is None:
        return network
    if not next(small.buffers()).is_cuda:
        dense = dense_work(small, network.shape)
        # Following features takes out more than following channels did, seldom more than half.
        hopeful = tuning.sparse_cost * entries(small, network.shape) < 2 * dense
        unrolled = unroll(small, network.shape) if hopeful else None
        if unrolled is not None and tuning.sparse_cost * unrolled.work < dense:
            return unrolled
    return small.to(memory_format=torch.channels_last)


def unroll(network: Compact, shape: tuple[int, int, int]) -> "Unrolled | None":
    """Returns the same function over features, on the CPU; None if its matrices were too large.

    Args:
        network: compacted; left untouched.
        shape: (C, H, W) of an input.
    """
    if entries(network, shape) > _LARGEST:
        return None
    steps: list[Step] = []
    # Flattening keeps the order of features, so that it is no step.
    places = [0]
    for operation, before, after in _shapes(network, shape):
        inputs = tuple(places[position] for position in operation.inputs)
        if operation.kind != "flatten":
            steps.append(_step(operation, inputs, before, after))
        places.append(inputs[0] if operation.kind == "flatten" else len(steps))
    steps = _merged(steps)
    known = _constants(steps, int(np.prod(shape)))
    kept = _needed(steps, known)
    return Unrolled([_cut(step, at, known, kept) for at, step in enumerate(steps)], kept[0])


def _shapes(
    network: Compact, shape: tuple[int, int, int]
) -> Iterator[tuple[Operation, tuple[int, ...], tuple[int, ...]]]:
    """Yields operations with the shapes of their first input and of their value."""
    known: list[tuple[int, ...]] = [shape]
    for operation, value in zip(
        network.operations, shadows(network.operations, shape), strict=True
    ):
        known.append(tuple(value.shape[1:]))
        yield operation, known[operation.inputs[0]], known[-1]


# --- From operations to steps


def _step(
    operation: Operation,
    inputs: tuple[int, ...],
    before: tuple[int, ...],
    after: tuple[int, ...],
) -> Step:
    tensors = {name: t.detach().cpu().double() for name, t in operation.tensors.items()}
    if operation.kind in ("relu", "add"):
        return Step(inputs)
    if operation.kind == "max-pool":
        return Step(inputs, windows=_windows(operation, before))
    count = int(np.prod(before))
    if operation.kind == "convolution":
        matrix = _matrix_of(tensors["weight"], operation, before, after)
        bias = tensors["image"] if "image" in tensors else tensors["bias"][:, None, None]
        bias = bias.expand(after)
    elif operation.kind == "linear":
        matrix, bias = sparse.csr_matrix(tensors["weight"].numpy()), tensors["bias"]
    elif operation.kind == "affine":
        matrix = sparse.diags(tensors["scale"][:, None, None].expand(before).flatten().numpy())
        bias = tensors["shift"][:, None, None].expand(before)
    else:  # means over places: linear, and small enough to be asked for feature by feature
        matrix, bias = _read_off(operation, before, count), torch.zeros(after).double()
    return Step(inputs, matrix=matrix.tocsr(), bias=bias.flatten().numpy())


def _matrix_of(
    weight: Tensor, operation: Operation, before: tuple[int, ...], after: tuple[int, ...]
) -> Matrix:
    """Returns the matrix (F', F) of a convolution: each weight once at every place it meets."""
    (_, height, width), (_, rows, columns) = before, after
    entries = weight.nonzero()
    out, channel, down, right = (entries[:, i, None, None] for i in range(4))
    stride, padding, dilation = (
        cast(tuple[int, int], operation.settings[n]) for n in ("stride", "padding", "dilation")
    )
    i, j = torch.arange(rows)[:, None], torch.arange(columns)
    y = i * stride[0] + down * dilation[0] - padding[0]
    x = j * stride[1] + right * dilation[1] - padding[1]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    target = ((out * rows + i) * columns + j)[inside]
    source = ((channel * height + y) * width + x)[inside]
    values = weight[tuple(entries.T)][:, None, None].expand(inside.shape)[inside]
    shape = (int(np.prod(after)), int(np.prod(before)))
    return sparse.csr_matrix((values.numpy(), (target.numpy(), source.numpy())), shape)


def _read_off(operation: Operation, before: tuple[int, ...], count: int) -> Matrix:
    """Returns the matrix of a linear operation that treats all channels alike."""
    places = count // before[0]
    unit = torch.eye(places, dtype=torch.float64).view(places, 1, *before[1:])
    one = operation(unit).flatten(1).T.numpy()
    return sparse.kron(sparse.identity(before[0]), sparse.csr_matrix(one))


def _windows(operation: Operation, before: tuple[int, ...]) -> NDArray[np.int64]:
    """Returns (k, F') which features each window of a max-pooling holds, -1 outside."""
    numbers = torch.arange(int(np.prod(before)), dtype=torch.float64).view(1, *before) + 1
    settings = operation.settings
    kernel, stride, padding, dilation = (
        _pair(settings[n]) for n in ("kernel_size", "stride", "padding", "dilation")
    )
    after = operation(numbers).shape[2:]
    wide = nn.functional.pad(
        numbers,
        # With room for windows that ceil_mode lets hang over the border.
        (padding[1], padding[1] + kernel[1] * dilation[1] + stride[1])
        + (padding[0], padding[0] + kernel[0] * dilation[0] + stride[0]),
    )[0]
    taken = []
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            top, left = y * dilation[0], x * dilation[1]
            rows = slice(top, top + stride[0] * after[0], stride[0])
            columns = slice(left, left + stride[1] * after[1], stride[1])
            taken.append(wide[:, rows, columns].flatten())
    return (torch.stack(taken).numpy() - 1).astype(np.int64)


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, tuple) else (value, value)


def _merged(steps: list[Step]) -> list[Step]:
    """Returns the steps with each matrix that only one other matrix reads multiplied into it.

    The normalisation in front is diagonal, and means over places have one entry a feature, so that
    products gain no entries.
    """
    readers = [sum(at + 1 in step.inputs for step in steps) for at in range(len(steps))]
    merged: list[Step] = []
    new = {0: 0}
    for at, step in enumerate(steps):
        before = step.inputs[0] - 1
        first = steps[before] if before >= 0 else None
        if step.matrix is not None and first is not None and first.matrix is not None:
            product = step.matrix @ first.matrix
            if readers[before] == 1 and before == at - 1 and product.nnz <= step.matrix.nnz:
                bias = step.matrix @ first.bias + step.bias
                merged[-1] = Step(merged[-1].inputs, matrix=product, bias=bias)
                new[at + 1] = len(merged)
                # Whoever merges into this one later sees what it has become.
                steps[at] = merged[-1]
                continue
        merged.append(replace(step, inputs=tuple(new[i] for i in step.inputs)))
        new[at + 1] = len(merged)
    return merged


# --- Following features


@dataclass(frozen=True)
class _Known:
    """What is known of a value before any input is seen.

    Attributes:
        varies: (F,) does the input reach the feature?
        constant: (F,) the value of those that do not vary, 0 elsewhere.
    """

    varies: Flags
    constant: NDArray[np.float64]


def _constants(steps: Sequence[Step], features: int) -> list[_Known]:
    known = [_Known(np.ones(features, dtype=bool), np.zeros(features))]
    for step in steps:
        inputs = [known[position] for position in step.inputs]
        first = inputs[0]
        if step.matrix is not None:
            varies = (abs(step.matrix) @ first.varies.astype(float)) > 0
            constant = step.matrix @ first.constant + step.bias
        elif step.windows is not None:
            varies = _padded(first.varies, False)[step.windows].any(axis=0)
            constant = _padded(first.constant, -np.inf)[step.windows].max(axis=0)
        elif len(inputs) == 2:
            varies = first.varies | inputs[1].varies
            constant = first.constant + inputs[1].constant
        else:
            varies, constant = first.varies, np.maximum(first.constant, 0)
        known.append(_Known(varies, np.where(varies, 0, constant)))
    return known


def _padded(values: NDArray[Any], filler: Any) -> NDArray[Any]:
    """Returns values with one more at the end, which the windows' -1 stands for."""
    return np.append(values, np.array(filler, dtype=values.dtype))


def _needed(steps: Sequence[Step], known: Sequence[_Known]) -> list[Flags]:
    """Returns for the input and each value (F,) which features have to be there.

    The two sides of a ReLU and all three of a sum keep the same ones, so that what one takes is
    marked on the others until nothing is added.
    """
    kept = [np.zeros_like(value.varies) for value in known]
    kept[-1][:] = True
    before = -1
    while before != (before := sum(int(features.sum()) for features in kept)):
        for at in reversed(range(len(steps))):
            step, here = steps[at], kept[at + 1]
            source = step.inputs[0]
            if step.matrix is not None:
                looked_at = (abs(step.matrix).T @ here.astype(float)) > 0
                kept[source] |= looked_at & known[source].varies
            elif step.windows is not None:
                inside = step.windows[:, here]
                kept[source][inside[inside >= 0]] = True
            else:
                together = np.logical_or.reduce([here, *(kept[i] for i in step.inputs)])
                for features in (here, *(kept[i] for i in step.inputs)):
                    features |= together
    return kept


def _cut(step: Step, at: int, known: Sequence[_Known], kept: Sequence[Flags]) -> Step:
    """Returns a step on the features that stay."""
    source, here = step.inputs[0], kept[at + 1]
    if step.matrix is not None:
        # What the features that are left out add is the matrix's answer to them alone.
        away = np.where(kept[source], 0, known[source].constant)
        bias = step.matrix @ away + step.bias
        matrix = step.matrix[here][:, kept[source]]
        return replace(step, matrix=matrix.astype(np.float32), bias=bias[here])
    if step.windows is not None:
        numbers = np.where(kept[source], np.cumsum(kept[source]) - 1, -1)
        return replace(step, windows=_padded(numbers, -1)[step.windows[:, here]])
    return step


def _sizes(steps: Sequence[Step], features: int) -> list[int]:
    """Returns how many features the input and each value have."""
    sizes = [features]
    for step in steps:
        if step.matrix is not None:
            sizes.append(int(step.matrix.shape[0]))
        elif step.windows is not None:
            sizes.append(int(step.windows.shape[1]))
        else:
            sizes.append(sizes[step.inputs[0]])
    return sizes


# --- Running


_NOTHING = np.empty((0, 0), dtype=np.float32)


class Unrolled(nn.Module):
    """A network over features, on the CPU; gradients are those of the inputs alone.

    Attributes:
        steps: in order.
        work: of a forward pass of one example, in multiply-adds: one an entry of the matrices, and
            what reading and writing the values takes.
    """

    def __init__(self, steps: Sequence[Step], seen: Flags) -> None:
        """Takes the steps, and (F,) which features of the input they look at."""
        super().__init__()
        self.steps = tuple(steps)
        self.seen = torch.from_numpy(np.flatnonzero(seen))
        count = sum(step.matrix.nnz for step in steps if step.matrix is not None)
        self.work = count + _PASS * sum(_sizes(steps, len(self.seen)))
        # By step, the values that it is the last to read.
        last = {position: at for at, step in enumerate(steps) for position in step.inputs}
        self._done = [[i for i, by in last.items() if by == at] for at in range(len(steps))]
        # Sorted columns, so that sums run through memory in order.
        self._matrices = [s.matrix.sorted_indices() if s.matrix is not None else 0 for s in steps]
        self._transposed = [s.matrix.T.tocsr() if s.matrix is not None else 0 for s in steps]
        self._biases: list[Any] = [
            None if s.bias is None else s.bias.astype(np.float32)[:, None] for s in steps
        ]

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits (N, K) of (N, C, H, W) inputs in [0, 1]."""
        return cast(Tensor, _Run.apply(inputs, self))

    def values(self, features: Floats, *, keep: bool = True) -> list[Floats]:
        """Returns the input's features (F, N) and all values (F', N).

        Args:
            features: (F, N).
            keep: else what nobody reads any more is given back, and stands there empty.
        """
        values = [features]
        for at, step in enumerate(self.steps):
            first = values[step.inputs[0]]
            if step.matrix is not None:
                made = self._matrices[at] @ first
                made += self._biases[at]
            elif step.windows is not None:
                filler = np.full((1, first.shape[1]), -np.inf, dtype=np.float32)
                made = np.concatenate([first, filler])[step.windows].max(axis=0)
            elif len(step.inputs) == 2:
                made = first + values[step.inputs[1]]
            else:
                made = np.maximum(first, 0)
            values.append(made)
            for position in () if keep else self._done[at]:
                values[position] = _NOTHING
        return values

    def pulled_back(self, values: Sequence[Floats], gradient: Floats) -> Floats:
        """Returns the gradient (F, N) of the input for one (K, N) of the last value."""
        gradients: list[Floats | None] = [None] * len(values)
        gradients[-1] = gradient
        for at in reversed(range(len(self.steps))):
            step, here = self.steps[at], gradients[at + 1]
            if here is None:
                continue
            gradients[at + 1] = None  # it has been read, and memory is short in deep networks
            first = values[step.inputs[0]]
            if step.matrix is not None:
                back = self._transposed[at] @ here
            elif step.windows is not None:
                back = _into_windows(step.windows, first, values[at + 1], here)
            elif len(step.inputs) == 2:
                _add(gradients, step.inputs[1], here.copy())
                back = here
            else:
                back = here * (first > 0)
            _add(gradients, step.inputs[0], back)
        found = gradients[0]
        return np.zeros_like(values[0]) if found is None else found


def _add(gradients: list[Floats | None], at: int, back: Floats) -> None:
    """Adds to what other readers of a value have sent back."""
    known = gradients[at]
    if known is None:
        gradients[at] = back
    else:
        known += back


def _into_windows(
    windows: NDArray[np.int64], before: Floats, after: Floats, gradient: Floats
) -> Floats:
    """Returns gradients handed to the first of the largest features of each window."""
    back = np.zeros((len(before) + 1, before.shape[1]), dtype=np.float32)
    unclaimed = np.ones(after.shape, dtype=bool)
    for features in windows:
        # Padding stands for the last row, which is cut off; no two windows share a place of one
        # row of `windows`, so that nothing is written twice.
        chosen = (before[features] == after) & unclaimed
        chosen &= (features >= 0)[:, None]
        back[features] += np.where(chosen, gradient, 0)
        unclaimed &= ~chosen
    return back[:-1]


class _Run(torch.autograd.Function):
    """A pass through an unrolled network, which keeps its values for the way back."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, network: Unrolled) -> Tensor:
        flat = inputs.detach().flatten(1)
        features = flat.index_select(1, network.seen).t().contiguous().numpy()
        values = network.values(features, keep=inputs.requires_grad)
        context.network, context.shape = network, inputs.shape
        context.values = values if inputs.requires_grad else None
        return torch.from_numpy(np.ascontiguousarray(values[-1].T))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        network = context.network
        found = network.pulled_back(context.values, gradient.t().contiguous().numpy())
        flat = gradient.new_zeros(len(gradient), int(np.prod(context.shape[1:])))
        flat[:, network.seen] = torch.from_numpy(found).t()
        return flat.view(context.shape), None
