"""Probes: each way to be no fixed function of declared weights is seen, honest networks are not."""

import copy
import sys

import pytest
import torch
from tiny import digits, rng, state_of, trained, untouched
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from benchmark.architectures import ARCHITECTURES, build, initialise
from benchmark.errors import ContractError, InvariantViolation
from benchmark.evaluations import Flag
from benchmark.evaluations.probes import (
    ASKED,
    DIFFERENCE,
    Steadiness,
    batch_dependent,
    computes_gradients,
    distance,
    explained,
    hidden_weights,
    unit,
    what_varies,
)
from benchmark.pruning import Mask, mask_from_scores, prunable_parameters

SHAPES = ((1, 8, 8), (1, 28, 28), (3, 32, 32))


class Net(nn.Module):
    """A linear layer, and whatever a function makes of it and of hidden things beside it."""

    def __init__(self, forward):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("mask", (drawn(10, 64) > 0).float())
        self.register_buffer("stored", drawn(10, 64))
        self.register_buffer("pixels", drawn(64))
        self.dense = drawn(10, 64)
        self.kernel = drawn(10, 1, 8, 8)
        self.parts = [drawn(10, 8) for _ in range(8)]
        self.rows = list(drawn(64, 10))
        self.beside = [nn.Linear(64, 10)]
        self.order = torch.randperm(64, generator=rng(8))
        self.kept = drawn(64) > 0
        self.compute = forward
        with torch.no_grad():
            self.layer.weight.copy_(drawn(10, 64))

    def forward(self, inputs):
        return self.compute(self, inputs.flatten(1))


def drawn(*shape):
    return torch.randn(shape, generator=rng(sum(shape)))


def sparse(net):
    """Returns the net with only the first five of its columns kept."""
    with torch.no_grad():
        net.layer.weight[:, 5:] = 0
    return net


OUTSIDE = drawn(10, 64)


class Product(torch.autograd.Function):
    """A matrix product that autograd does not see into."""

    @staticmethod
    def forward(ctx, inputs, weight):
        ctx.save_for_backward(weight)
        return inputs @ weight.T

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.saved_tensors[0], None


def by_parts(net, x):
    return sum(x[:, 8 * i : 8 * i + 8] @ part.T for i, part in enumerate(net.parts))


def by_rows(net, x):
    return sum(x[:, i : i + 1] * row for i, row in enumerate(net.rows))


def overwritten(net, x):
    """Swaps the dense weights in for one pass, so that nobody sees them before or after."""
    before = net.layer.weight.data.clone()
    net.layer.weight.data.copy_(net.dense)
    answer = net.layer(x)
    net.layer.weight.data.copy_(before)
    return answer


def exchanged(net, x):
    before = net.layer.weight.data
    net.layer.weight.data = net.dense
    answer = net.layer(x)
    net.layer.weight.data = before
    return answer


def laundered(net, x):
    """Copies the hidden weights into a tensor that was made from the inputs."""
    weight = torch.zeros_like(x[:1]).expand(10, 64).clone()
    weight.copy_(net.dense)
    return x @ weight.T


def partly_overwritten(net, x):
    weight = net.dense.clone()
    weight[:1].copy_(net.layer.weight[:1])
    return x @ weight.T


HIDDEN = {
    "attribute in linear": lambda net, x: functional.linear(x, net.dense),
    "attribute in convolution": lambda net, x: functional.conv2d(
        x.view(-1, 1, 8, 8), net.kernel
    ).flatten(1),
    "global": lambda net, x: x @ OUTSIDE.T,
    "closure": (lambda weight: lambda net, x: x @ weight.T)(drawn(10, 64)),
    "list of tensors": by_parts,
    "list of short rows": by_rows,
    "module in a list": lambda net, x: net.beside[0](x),
    "broadcast and sum": lambda net, x: (x[:, None] * net.dense).sum(-1),
    "einsum": lambda net, x: torch.einsum("nd,kd->nk", x, net.dense),
    "operator": lambda net, x: torch.ops.aten.mm(x, net.dense.T),
    "vmap": lambda net, x: torch.vmap(lambda one: net.dense @ one)(x),
    "custom function": lambda net, x: Product.apply(x, net.dense),
    "eight bits": lambda net, x: x @ (net.dense * 10).to(torch.int8).float().T,
    "half precision": lambda net, x: (x.bfloat16() @ net.dense.bfloat16().T).float(),
    "sparse": lambda net, x: torch.sparse.mm(net.dense.to_sparse(), x.T).T,
    "numpy": lambda net, x: torch.from_numpy(x.numpy() @ net.dense.numpy().T),
    "gate on the answer": lambda net, x: (
        functional.linear(x, net.dense) * (net.layer.weight.abs().sum() > 0)
    ),
    "gate on the weight": lambda net, x: functional.linear(
        x, net.dense * (net.layer.weight.abs().sum() > 0)
    ),
    "mixture": lambda net, x: functional.linear(x, net.layer.weight + net.dense),
    "noise over it": lambda net, x: x @ (net.dense + 1e-9 * torch.randn(10, 64)).T,
    "drawn from a seed": lambda net, x: x @ torch.randn(10, 64, generator=rng(5)).T,
    "drawn in place": lambda net, x: x @ x.new_empty(10, 64).normal_(generator=rng(5)).T,
    "drawn like the inputs": lambda net, x: (
        x @ torch.empty_like(x[:1].expand(10, 64)).normal_(generator=rng(5)).T
    ),
    "laundered": laundered,
    "overwritten in part": partly_overwritten,
    "overwritten for one pass": overwritten,
    "exchanged for one pass": exchanged,
    "undeclared mask": lambda net, x: net.layer(torch.where(net.kept, x, 0.0)),
    "table": lambda net, x: (
        net.layer(x) + functional.embedding((9 * x[:, 0]).long(), net.dense[:, :10])
    ),
    "buffer as weights": lambda net, x: functional.linear(x, net.stored),
    "buffer, broadcast and sum": lambda net, x: (x[:, None] * net.stored).sum(-1),
}

# Only sparse weights can show that more entries are in use than they have.
REVIVED = {
    "buffer added": lambda net, x: functional.linear(x, net.layer.weight + net.stored),
    "running sum": lambda net, x: functional.linear(x, net.layer.weight.cumsum(1)),
    "tiny everywhere": lambda net, x: functional.linear(x, net.layer.weight + 1e-6),
}

DECLARED = {
    "linear": lambda net, x: net.layer(x),
    "weight times mask": lambda net, x: functional.linear(x, net.layer.weight * net.mask),
    "unit rows": lambda net, x: functional.linear(
        x, net.layer.weight / net.layer.weight.norm(dim=1, keepdim=True)
    ),
    "statistics of pixels": lambda net, x: net.layer((x - net.pixels) / 2),
    "constants of a channel": lambda net, x: net.layer((x - torch.tensor([0.3])) / 0.2),
    "order of pixels": lambda net, x: net.layer(x[:, net.order]),
    "zeros to pad with": lambda net, x: net.layer(
        torch.cat([x[:, :32], torch.zeros(len(x), 16), torch.ones(len(x), 16)], 1)
    ),
    "strided shortcut": lambda net, x: net.layer(
        functional.pad(x.view(-1, 1, 8, 8)[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)).flatten(1)
    ),
    "noise": lambda net, x: net.layer(x + torch.randn(x.shape)),
    "noise like the inputs": lambda net, x: net.layer(x + torch.randn_like(x)),
    "dropout": lambda net, x: net.layer(functional.dropout(x, 0.5, training=True)),
    "custom function": lambda net, x: Product.apply(x, net.layer.weight),
    "half precision": lambda net, x: (x.bfloat16() @ net.layer.weight.bfloat16().T).float(),
    "broadcast and sum": lambda net, x: (x[:, None] * net.layer.weight).sum(-1),
    "vmap": lambda net, x: torch.vmap(lambda one: net.layer.weight @ one)(x),
    "sparse": lambda net, x: torch.sparse.mm(net.layer.weight.to_sparse(), x.T).T,
    "constant answer": lambda net, x: net.layer.bias.expand(len(x), 10),
}


def pair(shape=(1, 8, 8)):
    return torch.rand(2, *shape, generator=rng(1))


@pytest.mark.parametrize("forward", HIDDEN.values(), ids=HIDDEN)
def test_undeclared_weights_are_found(forward):
    assert 0 < hidden_weights(Net(forward), pair()) <= 1


@pytest.mark.parametrize("forward", REVIVED.values(), ids=REVIVED)
def test_entries_that_sparse_weights_cannot_give_are_found(forward):
    assert 0 < hidden_weights(sparse(Net(forward)), pair()) <= 1


@pytest.mark.parametrize("forward", DECLARED.values(), ids=DECLARED)
def test_declared_weights_are_not(forward):
    assert hidden_weights(Net(forward), pair()) == 0
    assert hidden_weights(sparse(Net(forward)), pair()) == 0


def test_the_share_is_counted():
    # 640 hidden entries beside 50 declared ones and 10 biases, as many as are in use.
    net = sparse(Net(lambda net, x: net.layer(x) + x @ net.dense.T))
    assert hidden_weights(net, pair()) == pytest.approx(640 / (640 + 50 + 10))
    used_twice = sparse(Net(lambda net, x: net.layer(x) + x @ net.dense.T + x @ net.dense.T))
    assert hidden_weights(used_twice, pair()) == hidden_weights(net, pair())


@pytest.mark.parametrize(("entries", "found"), [(10, False), (11, True)])
def test_as_many_entries_as_classes_are_let_through(entries, found):
    few = drawn(entries)
    net = Net(lambda net, x: net.layer(torch.cat([x[:, :entries] * few, x[:, entries:]], 1)))
    assert (hidden_weights(net, pair()) > 0) is found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_of_the_table_break_no_contract(name):
    shape = next(s for s in (*SHAPES, (3, 64, 64)) if ARCHITECTURES[name].shapes.accept(s))
    channels = shape[0]
    model = build(name, shape=shape, classes=10, mean=[0.5] * channels, std=[0.2] * channels)
    initialise(model, rng())
    model.eval()
    inputs = pair(shape)
    with untouched(model):
        assert hidden_weights(model, inputs) == 0
        assert not computes_gradients(model, inputs)
        assert not batch_dependent(model, inputs).any()
        assert what_varies(model, inputs) == ""


def test_pruned_networks_break_no_contract():
    model = trained()
    scores = {name: p.detach().abs() for name, p in prunable_parameters(model).items()}
    mask_from_scores(scores, 0.9, "layerwise", "unstructured").apply(model)
    assert Mask.ones(model).zeros == 0
    assert hidden_weights(model, digits(2).inputs) == 0


# --- derivatives


def own_gradient(net, x):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(net.layer(leaf).sum(), leaf)
    return net.layer(x + gradient)


def own_backward(net, x):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        net.layer(leaf).sum().backward()
    return net.layer(x + leaf.grad)


def only_with_gradients(net, x):
    return own_gradient(net, x) if torch.is_grad_enabled() else net.layer(x)


grad_by_another_name = torch.autograd.grad


def renamed(net, x):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = grad_by_another_name(net.layer(leaf).sum(), leaf)
    return net.layer(x + gradient)


def forward_mode(net, x):
    with forward_ad.dual_level():
        dual = net.layer(forward_ad.make_dual(x, torch.ones_like(x)))
        return sum(forward_ad.unpack_dual(dual))


DYNAMIC = {
    "grad": own_gradient,
    "backward": own_backward,
    "under another name": renamed,
    "only where gradients are on": only_with_gradients,
    "functional": lambda net, x: net.layer(x + torch.func.grad(lambda y: net.layer(y).sum())(x)),
    "forward mode": forward_mode,
}


# Forward mode loads decompositions that torch itself deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("forward", DYNAMIC.values(), ids=DYNAMIC)
def test_gradients_inside_the_forward_pass_are_seen(forward):
    assert computes_gradients(Net(forward), pair())


def test_profilers_are_put_back():
    def profiler(frame, event, argument):
        return None

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        assert not computes_gradients(trained(), pair())
        assert sys.getprofile() is profiler
        with pytest.raises(ZeroDivisionError):
            computes_gradients(Net(lambda net, x: x / (1 // 0)), pair())
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(before)


# --- answers


def test_distances_are_free_of_scale():
    vectors = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [1e-38, 0.0]])
    others = torch.tensor([[30.0, 40.0], [-3.0, -4.0], [0.0, 0.0], [0.0, 1e38]])
    assert distance(vectors, others).tolist() == pytest.approx([0, 2, 0, 2**0.5])
    assert unit(vectors)[2].tolist() == [0, 0]


def shifted(net, x, amount):
    """Adds to the logits what depends on the batch through `amount`."""
    return net.layer(x) + amount * torch.arange(10.0)


BATCHED = {
    "mean of the batch": lambda net, x: net.layer(x - x.mean(0)),
    "statistics left on": lambda net, x: net.layer(
        functional.batch_norm(x, None, None, training=True)
    ),
    "position in the batch": lambda net, x: shifted(net, x, torch.arange(len(x))[:, None]),
    "alone only": lambda net, x: shifted(net, x, float(len(x) == 1)),
    "order alone": lambda net, x: shifted(
        net, x, float(len(x) == 12 and torch.equal(x[0], digits(12).inputs[-1].flatten()))
    ),
    "half batches only": lambda net, x: shifted(net, x, float(len(x) == 6)),
    "large batches only": lambda net, x: shifted(net, x, float(len(x) > 8)),
}


@pytest.mark.parametrize("forward", BATCHED.values(), ids=BATCHED)
def test_answers_that_depend_on_the_batch_are_seen(forward):
    inputs = digits(12).inputs
    assert batch_dependent(Net(forward), inputs).any()
    assert "batch" in what_varies(Net(forward), inputs)


@pytest.mark.parametrize("size", [1e-7, 1e-4, 1e-2, 1.0])
def test_noise_is_not_mistaken_for_the_batch(size):
    generator = rng(4)

    def noisy(net, x):
        return net.layer(x) + size * torch.randn((len(x), 10), generator=generator)

    inputs = digits(12).inputs
    assert not batch_dependent(Net(noisy), inputs).any()
    assert ("passes" in what_varies(Net(noisy), inputs)) == (size > 1e-3)


def test_broken_rules_are_blamed_on_the_network_that_broke_them():
    inputs = digits(12).inputs
    moving = Flag("stateful-forward", 1.0, "answers or gradients changed")
    broken = InvariantViolation("expected adversarial inputs, got others")
    cases = [
        (Net(lambda net, x: net.layer(x - x.mean(0))), [], "others in its batch"),
        (Net(lambda net, x: net.layer(x + torch.randn(x.shape))), [], "two passes"),
        (trained(), [moving], "answers or gradients changed; no success"),
    ]
    with torch.random.fork_rng():
        for model, flags, reason in cases:
            with pytest.raises(ContractError, match=reason), explained(model, inputs, flags):
                raise broken
    honest = Flag("softmax-output", 1.0, "no matter")
    with pytest.raises(InvariantViolation, match="got others"):
        with explained(trained(), inputs, [honest]):
            raise broken
    with explained(trained(), inputs, [moving]):
        pass


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_examples_are_enough(count):
    assert not batch_dependent(trained(), digits(count).inputs).any()


# --- state


class Counting(nn.Module):
    """Does something else from its n-th pass on."""

    def __init__(self, turn, change, where="attribute"):
        super().__init__()
        self.body = trained()
        self.turn, self.change, self.calls = turn, change, 0
        shared = [0]

        def count():
            shared[0] += 1
            return shared[0]

        self.count = count if where == "closure" else None

    def forward(self, inputs):
        self.calls += 1
        calls = self.count() if self.count else self.calls
        return self.change(self, inputs) if calls > self.turn else self.body(inputs)


def flags_after(network, passes=6, published=None):
    examples = digits(20)
    steadiness = Steadiness(network, examples.inputs, examples.labels, published)
    for _ in range(passes):
        network(examples.inputs)
    return {flag.name: flag for flag in steadiness.flags(20)}


def other_answer(net, inputs):
    return net.body(inputs).roll(1, dims=1)


def no_gradient(net, inputs):
    logits = net.body(inputs)
    return logits.detach() + 0 * inputs.sum()


def other_gradient(net, inputs):
    logits = net.body(inputs)
    return logits.detach() + inputs.flatten(1)[:, :10] - inputs.flatten(1)[:, :10].detach()


def only_away_from_the_data(net, inputs):
    # Digits have seventeen grey levels; to those it answers as ever.
    return net.body((16 * inputs).round() / 16 + inputs - inputs.detach())


@pytest.mark.parametrize("turn", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize("where", ["attribute", "closure"])
def test_networks_that_count_their_calls_are_seen(turn, where):
    # Two passes before, six in between, two after: whenever it turns.
    found = flags_after(Counting(turn, other_answer, where))
    assert set(found) == {"stateful-forward"}
    assert found["stateful-forward"].rate == 1.0
    assert "20 examples" in found["stateful-forward"].detail


CHANGES = [other_answer, no_gradient, other_gradient, only_away_from_the_data]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_each_change_is_seen(change):
    assert set(flags_after(Counting(5, change))) == {"stateful-forward"}


def test_the_rate_is_the_share_of_the_examples_asked():
    def some(net, inputs):
        return net.body(inputs) * (1 - 2 * (inputs.flatten(1).sum(1) > limit).float())[:, None]

    sums = digits(ASKED).inputs.flatten(1).sum(1)
    limit = float(sums.sort().values[-2:].mean())
    flag = flags_after(Counting(5, some))["stateful-forward"]
    assert flag.rate == pytest.approx(1 / ASKED, abs=1 / ASKED)
    assert flag.rate > 0


def test_honest_networks_are_steady_and_untouched():
    model = trained()
    with untouched(model):
        assert flags_after(model, published=trained()) == {}


class Drawing(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.body, self.size = trained(), size

    def forward(self, inputs):
        return self.body(inputs + self.size * torch.randn(inputs.shape))


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 1.0])
def test_noise_is_not_called_a_state(size):
    with torch.random.fork_rng():
        assert flags_after(Drawing(size)) == {}


class Restless(nn.Module):
    """Changes a buffer or a weight in its third pass, which its answer may not show."""

    def __init__(self, change):
        super().__init__()
        self.body, self.change, self.calls = trained(), change, 0
        self.register_buffer("counter", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        if self.calls == 3:
            with torch.no_grad():
                self.change(self)
        return self.body(inputs)


def prunable(net):
    return prunable_parameters(net.body)["body.0.weight"]


def add_to_counter(net):
    net.counter += 1


def revive(net):
    weight = prunable(net)
    weight[weight == 0] = 1e-20


def scale_up(net):
    prunable(net).mul_(1.5)


def pruned(net, share=0.5):
    weight = prunable(net)
    with torch.no_grad():
        weight.flatten()[: int(share * weight.numel())] = 0
    return net


def test_state_that_answers_do_not_show_is_seen():
    flag = flags_after(Restless(add_to_counter))["stateful-forward"]
    assert flag.rate == 1.0 and "buffers" in flag.detail


def test_revived_weights_are_counted():
    found = flags_after(pruned(Restless(revive)))
    assert set(found) == {"revived-weights"}
    assert found["revived-weights"].rate == 1.0

    def revive_one(net):
        weight = prunable(net)
        weight.view(-1)[0] = 1e-20

    net = pruned(Restless(revive_one))
    zeros = int((prunable(net) == 0).sum())
    # The other layers of the trained network hold zeros by chance alone.
    assert flags_after(net)["revived-weights"].rate == pytest.approx(1 / zeros, rel=0.5)


def test_weights_that_change_without_reviving_are_a_state():
    assert set(flags_after(pruned(Restless(scale_up)))) == {"stateful-forward"}


def test_zeros_are_those_of_the_published_network():
    published = pruned(Restless(add_to_counter))
    evaluated = copy.deepcopy(published)
    with torch.no_grad():
        revive(evaluated)
    evaluated.calls = 9
    assert flags_after(evaluated) == {}
    assert set(flags_after(evaluated, published=published)) == {"revived-weights"}


class Odd(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.body, self.change = trained(), change

    def forward(self, inputs):
        return self.change(self.body(inputs))


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: (logits, None),
        lambda logits: logits[:, :2],
        lambda logits: logits[:3],
        lambda logits: logits.detach(),
        lambda logits: logits.sum(),
        lambda logits: logits * float("nan"),
    ],
)
def test_answers_that_are_no_logits_are_left_to_others(change):
    assert flags_after(Odd(change)) == {}


def test_answers_that_turn_into_none_are_a_state():
    found = flags_after(Counting(5, lambda net, inputs: net.body(inputs) * float("inf")))
    assert found["stateful-forward"].rate == 1.0


def test_states_are_copies():
    model = trained()
    before: dict[str, Tensor] = state_of(model)
    examples = digits(4)
    steadiness = Steadiness(model, examples.inputs, examples.labels)
    with torch.no_grad():
        prunable_parameters(model)["body.0.weight"].add_(DIFFERENCE)
    assert {flag.name for flag in steadiness.flags(4)} == {"stateful-forward"}
    model.load_state_dict(before)
    assert steadiness.flags(4) == ()
