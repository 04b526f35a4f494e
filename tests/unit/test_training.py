"""The training loop: schedules, masks, resumption, determinism."""

import dataclasses
import math
import pickle
from fractions import Fraction

import pytest
import torch
from tiny import CPU, LINF, random_split, rng, same_bits, state_of, untrained
from torch import nn
from torch.nn import functional

import methods
from benchmark.attacks import Steps
from benchmark.distributed import steady
from benchmark.errors import ContractError, UnknownName
from benchmark.objectives import Adversarial, Benign, Trades
from benchmark.pruning import Mask, mask_from_scores, prunable_parameters
from benchmark.training import (
    Feed,
    Run,
    Stage,
    augment,
    compiler_missing,
    fit,
    fusable,
    hold_mask,
    learning_rate,
    make_optimiser,
)

ADVERSARIAL = Adversarial(LINF, Steps(2, Fraction(1, 2)))
SHORT = Stage(epochs=3, learning_rate=0.05, batch_size=16)


class Normed(nn.Module):
    """Convolution, batch norm, linear: everything that has state."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(256, 10)

    def forward(self, inputs):
        return self.last(functional.relu(self.norm(self.conv(inputs))).flatten(1))


def network():
    with torch.random.fork_rng([]):
        torch.manual_seed(4)
        return Normed()


def half_mask(model, sparsity=Fraction(1, 2)):
    scores = {name: p.abs() for name, p in prunable_parameters(model).items()}
    return mask_from_scores(scores, sparsity, "layerwise")


def train(model=None, stage=SHORT, objective=None, split=None, **run):
    model = network() if model is None else model
    losses = fit(
        model,
        random_split() if split is None else split,
        objective or ADVERSARIAL,
        stage,
        Run(CPU, seed=1, **run),
    )
    return losses, state_of(model)


# --- schedules


def stage_of(**changes):
    return Stage(**({"epochs": 20, "learning_rate": 0.4} | changes))


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.25, 0.5, 0.749, 0.75, 0.89, 0.9, 0.999, 1.0])
def test_schedules_follow_their_formulas(progress):
    assert learning_rate(stage_of(schedule="constant"), progress) == 0.4
    cosine = learning_rate(stage_of(), progress)
    assert cosine == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * progress)), abs=1e-12)
    drops = (progress >= 0.75) + (progress >= 0.9)
    step = learning_rate(stage_of(schedule="step"), progress)
    assert step == pytest.approx(0.4 * 0.1**drops, rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warmup_rises_linearly_to_the_start_of_the_schedule(schedule):
    stage = stage_of(schedule=schedule, warmup_epochs=4)
    assert learning_rate(stage, 0.0) == 0.0
    assert learning_rate(stage, 0.05) == pytest.approx(0.1)
    assert learning_rate(stage, 0.15) == pytest.approx(0.3)
    assert learning_rate(stage, 0.2) == pytest.approx(0.4)


def test_cosine_after_warmup_ends_at_zero():
    stage = stage_of(warmup_epochs=4)
    assert learning_rate(stage, 0.6) == pytest.approx(0.2)
    assert learning_rate(stage, 1.0) == pytest.approx(0.0, abs=1e-12)
    # All of training is warm-up: nothing to divide by, and the start is where it ends.
    assert learning_rate(stage_of(warmup_epochs=20), 1.0) == pytest.approx(0.4)


def test_the_optimiser_sees_the_schedule_batch_by_batch(monkeypatch):
    seen = []
    step = torch.optim.SGD.step

    def spy(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    train(stage=dataclasses.replace(SHORT, warmup_epochs=1), objective=Benign())
    expected = [
        learning_rate(dataclasses.replace(SHORT, warmup_epochs=1), batch / 9) for batch in range(9)
    ]
    assert seen == pytest.approx(expected)


def test_unknown_names_get_near_matches():
    with pytest.raises(UnknownName, match="did you mean cosine"):
        learning_rate(stage_of(schedule="cosinus"), 0.5)
    with pytest.raises(UnknownName, match="did you mean adam"):
        make_optimiser(network(), stage_of(optimiser="adamw"))
    with pytest.raises(UnknownName, match="did you mean crop-flip"):
        augment(torch.zeros(1, 1, 8, 8), "cropflip", rng())


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": -1},
        {"learning_rate": -0.1},
        {"learning_rate": math.nan},
        {"batch_size": 0},
        {"weight_decay": -1.0},
        {"warmup_epochs": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(ContractError, match=next(iter(change))):
        dataclasses.replace(SHORT, **change)


# --- augmentation


def numbered(count=300, height=8, width=6):
    """Returns images whose every pixel is unique and positive."""
    pixels = torch.arange(1, 2 * height * width + 1, dtype=torch.float32)
    return pixels.view(1, 2, height, width).repeat(count, 1, 1, 1)


def windows(image, flipped):
    """Returns every shifted window of one padded image, by its bytes."""
    padded = functional.pad(image, (4, 4, 4, 4))
    found = {}
    for row in range(9):
        for column in range(9):
            window = padded[:, row : row + 8, column : column + 6]
            for flip in (False, True) if flipped else (False,):
                chosen = window.flip(2) if flip else window
                found[chosen.contiguous().numpy().tobytes()] = (row, column, flip)
    return found


@pytest.mark.parametrize("kind", ["crop", "crop-flip"])
def test_augmented_images_are_windows_of_the_padded_image(kind):
    inputs = numbered()
    known = windows(inputs[0], kind == "crop-flip")
    changed = augment(inputs, kind, rng())
    assert changed.shape == inputs.shape and changed.is_contiguous()
    seen = [known[image.numpy().tobytes()] for image in changed]  # KeyError: not a window
    assert {row for row, _, _ in seen} == set(range(9))
    assert {column for _, column, _ in seen} == set(range(9))
    flips = sum(flip for _, _, flip in seen)
    # 300 fair coins: outside 100 … 200 with a chance of 1e-8.
    assert flips == 0 if kind == "crop" else 100 < flips < 200
    assert len(set(seen)) > 60


def test_augmentation_does_not_depend_on_the_batches():
    inputs = numbered(64)
    whole = augment(inputs, "crop-flip", rng(3))
    generator = rng(3)
    parts = [augment(part, "crop-flip", generator) for part in inputs.split([1, 40, 23])]
    assert torch.equal(whole, torch.cat(parts))


def test_no_augmentation_draws_nothing():
    generator = rng()
    before = generator.get_state()
    inputs = numbered(3)
    assert augment(inputs, "none", generator) is inputs
    assert torch.equal(before, generator.get_state())


def test_training_augments(monkeypatch):
    images = []

    class Watch:
        attack_steps = 0

        def loss(self, model, inputs, labels, *, moment, generator):
            images.append(inputs.clone())
            return functional.cross_entropy(model(inputs), labels)

    monkeypatch.setattr("benchmark.training._identity", lambda *_: "")
    train(objective=Watch(), augmentation="crop", stage=dataclasses.replace(SHORT, epochs=1))
    split = random_split()
    raw = {x.numpy().tobytes() for x in split.inputs(torch.arange(len(split)))}
    moved = [x for x in torch.cat(images) if x.numpy().tobytes() not in raw]
    assert len(moved) > 20


# --- data order


def test_every_epoch_sees_every_example_once_in_another_order(monkeypatch):
    split = random_split(40)
    orders = []

    class Watch:
        attack_steps = 0

        def loss(self, model, inputs, labels, *, moment, generator):
            orders.append((inputs.clone(), labels.clone(), moment))
            return functional.cross_entropy(model(inputs), labels)

    monkeypatch.setattr("benchmark.training._identity", lambda *_: "")
    train(objective=Watch(), split=split)
    assert [len(labels) for _, labels, _ in orders] == [16, 16, 8] * 3
    assert [m.epoch for _, _, m in orders] == pytest.approx([i / 3 for i in range(9)])
    assert {m.epochs for _, _, m in orders} == {3}
    known = {
        x.numpy().tobytes(): int(y)
        for x, y in zip(split.inputs(torch.arange(40)), split.labels, strict=True)
    }
    epochs = []
    for start in (0, 3, 6):
        keys = [x.numpy().tobytes() for xs, _, _ in orders[start : start + 3] for x in xs]
        labels = [int(y) for _, ys, _ in orders[start : start + 3] for y in ys]
        assert sorted(keys) == sorted(known) and [known[key] for key in keys] == labels
        epochs.append(keys)
    assert epochs[0] != epochs[1] != epochs[2]


# --- masks


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_masked_weights_stay_exactly_zero(optimiser, weight_decay):
    model = network()
    mask = half_mask(model)
    before = state_of(model)
    stage = Stage(
        epochs=3, learning_rate=0.05, batch_size=8, optimiser=optimiser, weight_decay=weight_decay
    )
    train(model, stage, mask=mask)
    for name, parameter in prunable_parameters(model).items():
        gone = parameter.detach()[~mask[name]]
        assert torch.count_nonzero(gone) == 0
        assert not torch.signbit(gone).any()
        kept = mask[name]
        assert (parameter.detach()[kept] != before[name][kept]).float().mean() > 0.9


def test_masked_weights_stay_zero_after_a_dense_past():
    # Momentum of an earlier, dense run must not move what is removed now.
    model = network()
    train(model)
    mask = half_mask(model, Fraction(9, 10))
    train(model, mask=mask)
    assert all(
        torch.count_nonzero(p.detach()[~mask[name]]) == 0
        for name, p in prunable_parameters(model).items()
    )


def test_without_silencing_masked_weights_would_move():
    model = network()
    mask = half_mask(model)
    silence = hold_mask(model, mask)
    functional.cross_entropy(model(torch.rand(4, 1, 8, 8)), torch.arange(4)).backward()
    gone = [p.grad[~mask[name]] for name, p in prunable_parameters(model).items()]
    assert any(bool(g.ne(0).any()) for g in gone)
    silence()
    assert all(bool((p.grad[~mask[n]] == 0).all()) for n, p in prunable_parameters(model).items())


def test_no_epochs_only_apply_the_mask():
    model = network()
    mask = half_mask(model)
    before = state_of(model)
    losses, after = train(model, dataclasses.replace(SHORT, epochs=0), mask=mask)
    assert losses == ()
    mask_only = network()
    mask_only.load_state_dict(before)
    mask.apply(mask_only)
    assert same_bits(after, mask_only.state_dict())
    assert not model.training


# --- determinism and resumption


def test_same_arguments_same_bits_whatever_the_global_generators():
    state = torch.get_rng_state()
    first = train(augmentation="crop-flip")
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    second = train(augmentation="crop-flip")
    assert first[0] == second[0] and same_bits(first[1], second[1])
    other = fit(network(), random_split(), ADVERSARIAL, SHORT, Run(CPU, seed=2))
    assert other != first[0]


class Killed(Exception):
    pass


def killer(after):
    def report(done, epochs, loss):
        assert epochs == SHORT.epochs and math.isfinite(loss)
        if done == after:
            raise Killed

    return report


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_run_continues_to_the_same_bits(tmp_path, after, optimiser):
    stage = dataclasses.replace(SHORT, optimiser=optimiser)
    settings = {"mask": half_mask(network()), "augmentation": "crop-flip"}
    whole = train(stage=stage, **settings)
    path = tmp_path / "run.state"
    with pytest.raises(Killed):
        train(stage=stage, state=path, report=killer(after), **settings)
    seen = []
    resumed = train(
        stage=stage, state=path, report=lambda done, epochs, loss: seen.append(done), **settings
    )
    assert seen == list(range(after + 1, 4))
    assert resumed[0] == whole[0]
    assert same_bits(resumed[1], whole[1])


def test_a_run_killed_within_an_epoch_continues_to_the_same_bits(tmp_path):
    whole = train()

    @dataclasses.dataclass(frozen=True)
    class Dying:
        inner: Adversarial = ADVERSARIAL

        def loss(self, model, inputs, labels, *, moment, generator):
            if moment.epoch > 1.5:
                raise Killed
            return self.inner.loss(model, inputs, labels, moment=moment, generator=generator)

    @dataclasses.dataclass(frozen=True)
    class Surviving:
        inner: Adversarial = ADVERSARIAL
        loss = ADVERSARIAL.loss

    Surviving.__name__ = "Dying"
    path = tmp_path / "run.state"
    with pytest.raises(Killed):
        train(objective=Dying(), state=path)
    reports = []
    resumed = train(objective=Surviving(), state=path, report=lambda done, *_: reports.append(done))
    assert reports == [2, 3]
    assert resumed[0] == whole[0] and same_bits(resumed[1], whole[1])


def interrupted(path, **settings):
    with pytest.raises(Killed):
        train(state=path, report=killer(2), **settings)


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "one bit": flipped,
    "garbage": lambda data: b"\0" * len(data),
    "text": lambda data: b"not a state",
    "a pickle": lambda data: pickle.dumps({"identity": "x"}),
    "unsealed": lambda data: data[64:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_starts_over(tmp_path, damage):
    path = tmp_path / "run.state"
    interrupted(path)
    path.write_bytes(damage(path.read_bytes()))
    reports = []
    losses, state = train(state=path, report=lambda done, *_: reports.append(done))
    assert reports == [1, 2, 3]
    whole = train()
    assert losses == whole[0] and same_bits(state, whole[1])


@pytest.mark.parametrize(
    "what", ["seed", "stage", "objective", "mask", "start", "augmentation", "data"]
)
def test_the_state_of_another_run_is_not_taken_over(tmp_path, what):
    path = tmp_path / "run.state"
    interrupted(path)
    reports = []
    run = Run(CPU, seed=1, state=path, report=lambda done, *_: reports.append(done))
    model, split, objective, stage = network(), random_split(), ADVERSARIAL, SHORT
    if what == "seed":
        run = dataclasses.replace(run, seed=2)
    if what == "stage":
        stage = dataclasses.replace(SHORT, learning_rate=0.01)
    if what == "objective":
        objective = Benign()
    if what == "mask":
        run = dataclasses.replace(run, mask=half_mask(model))
    if what == "start":
        model.last.weight.data[0, 0] += 1
    if what == "augmentation":
        run = dataclasses.replace(run, augmentation="crop")
    if what == "data":
        split = random_split(41)
    fit(model, split, objective, stage, run)
    assert reports == [1, 2, 3]


def test_a_second_run_of_the_same_model_trains_on(tmp_path):
    # A method may train twice in one task; the first end must not pass for the second.
    path = tmp_path / "run.state"
    model = network()
    _, first = train(model, state=path)
    _, second = train(model, state=path)
    assert not same_bits(first, second)


def test_the_state_appears_whole(tmp_path):
    path = tmp_path / "folder" / "run.state"
    train(state=path)
    assert [found.name for found in path.parent.iterdir()] == ["run.state"]


# --- what goes wrong


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    path = tmp_path / "run.state"
    model = network()
    model.last.weight.data[0, 0] = math.nan
    with pytest.raises(ContractError, match="finite loss, got nan in epoch 1; lower"):
        train(model, state=path)
    assert not path.exists()
    wild = dataclasses.replace(SHORT, learning_rate=1e30, weight_decay=0.0)
    with pytest.raises(ContractError, match="finite loss"):
        train(stage=wild, objective=Benign())


def test_nothing_to_learn_from_is_refused():
    split = random_split().subset(torch.arange(0))
    with pytest.raises(ContractError, match="empty split"):
        train(split=split)


def test_an_unmasked_run_ends_in_eval_mode_and_reports_mean_losses():
    reports = []
    model = network()
    losses, _ = train(model, report=lambda *entry: reports.append(entry))
    assert not model.training
    assert reports == [(i + 1, 3, loss) for i, loss in enumerate(losses)]
    assert losses[-1] < losses[0]


def test_frozen_parameters_stay():
    model = network()
    model.conv.weight.requires_grad_(False)
    before = model.conv.weight.detach().clone()
    train(model)
    assert torch.equal(before, model.conv.weight)


# --- options


def test_channels_last_gives_the_same_network():
    plain = train(objective=Benign())[1]
    model = network()
    _, other = train(model, dataclasses.replace(SHORT, channels_last=True), Benign())
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    for name, tensor in plain.items():
        # Sums in another order: float32 rounding, grown over nine steps.
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", [Benign(), ADVERSARIAL])
def test_bfloat16_keeps_weights_in_float32(objective):
    dtypes = []
    model = network()
    model.last.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    losses, state = train(
        model, dataclasses.replace(SHORT, precision="bfloat16", epochs=4), objective
    )
    assert set(dtypes) == {torch.bfloat16}
    assert all(t.dtype == torch.float32 for t in state.values() if t.is_floating_point())
    assert losses[-1] < losses[0]
    plain = train(stage=dataclasses.replace(SHORT, epochs=4), objective=objective)[0]
    # bfloat16 has 8 significant bits.
    assert losses[0] == pytest.approx(plain[0], rel=0.05)


class Flags:
    """A loss that notes how products are rounded while it is asked."""

    attack_steps = 0

    def __init__(self):
        self.seen = []

    def loss(self, model, inputs, labels, *, moment, generator):
        self.seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return functional.cross_entropy(model(inputs), labels)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_tf32_is_on_where_it_is_declared_and_only_there(monkeypatch, precision):
    monkeypatch.setattr("benchmark.training._identity", lambda *_: "")
    stage = dataclasses.replace(SHORT, precision=precision)
    with steady():
        loss = Flags()
        train(stage=stage, objective=loss)
        assert set(loss.seen) == {(precision == "tf32",) * 2}
        with pytest.raises(Killed):
            train(stage=stage, objective=Flags(), report=killer(1))
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32


def test_on_the_cpu_nothing_is_fused():
    # The bits of published checkpoints rest on that.
    for name in ("sgd", "adam"):
        optimiser = make_optimiser(network(), dataclasses.replace(SHORT, optimiser=name))
        assert not optimiser.defaults["fused"] and not optimiser.defaults["foreach"]
    assert not fusable([]) and not fusable(list(network().parameters()))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_fused_optimiser_learns_the_same_and_keeps_every_promise(
    tmp_path, monkeypatch, optimiser
):
    stage = dataclasses.replace(SHORT, optimiser=optimiser, learning_rate=0.01)
    mask = half_mask(network())
    plain = train(stage=stage, mask=mask)[1]
    monkeypatch.setattr("benchmark.training.fusable", lambda parameters: True)
    assert make_optimiser(network(), stage).defaults["fused"]
    whole = train(stage=stage, mask=mask)
    for name, tensor in plain.items():
        torch.testing.assert_close(whole[1][name], tensor, rtol=1e-3, atol=1e-4)
    assert all(torch.count_nonzero(whole[1][name][~kept]) == 0 for name, kept in mask.items())
    path = tmp_path / "run.state"
    with pytest.raises(Killed):
        train(stage=stage, mask=mask, state=path, report=killer(2))
    resumed = train(stage=stage, mask=mask, state=path)
    assert resumed[0] == whole[0] and same_bits(resumed[1], whole[1])


def test_batches_come_in_the_layout_and_from_the_draws_that_were_always_drawn():
    split = random_split(40)
    stage = dataclasses.replace(SHORT, channels_last=True)
    feed = Feed(split, stage, Run(CPU, seed=1, augmentation="crop-flip"))
    generator = rng(7)
    order = torch.randperm(40, generator=generator)
    for (inputs, labels), indices in zip(feed.epoch(rng(7)), order.split(16), strict=True):
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(inputs, augment(split.inputs(indices), "crop-flip", generator))
        assert torch.equal(labels, split.labels[indices])


# --- compiled passes


def traced(monkeypatch, backend):
    """Compiles by a backend that needs no compiler, and returns the graphs it was given."""
    graphs = []
    inner = torch._dynamo.lookup_backend(backend)

    def count(graph, inputs, **options):
        graphs.append(graph)
        return inner(graph, inputs, **options)

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend=count))
    monkeypatch.setattr("benchmark.training.compiler_missing", lambda device: "")
    return graphs


@pytest.mark.filterwarnings("ignore")  # the compiler's own deprecations are not ours
@pytest.mark.parametrize("objective", [ADVERSARIAL, Trades(LINF, Steps(2, Fraction(1, 2)))])
def test_a_compiled_run_learns_the_same_and_leaves_no_compiler_behind(monkeypatch, objective):
    graphs = traced(monkeypatch, "eager")
    plain = train(objective=objective)
    assert graphs == []
    model = network()
    losses, state = train(model, dataclasses.replace(SHORT, compiled=True), objective)
    assert len(graphs) >= 4  # attack and training, whole and last batches
    assert losses == pytest.approx(plain[0], rel=1e-4)
    for name, tensor in plain[1].items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-4)
    done = len(graphs)
    model(random_split().inputs(torch.arange(3)))
    assert len(graphs) == done and model._compiled_call_impl is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["hydra", "atmc:bits=4", "bap", "pwoa:lambda-x=0.5:lambda-y=0.5"])
def test_methods_that_wrap_a_network_compile_it(monkeypatch, name):
    # One makes weights of others, one of factors, one asks for many gradients, one hangs hooks.
    def compress(compiled):
        stage = Stage(epochs=1, learning_rate=0.01, batch_size=16, compiled=compiled)
        parts = [methods.Training(random_split(), ADVERSARIAL, stage, Run(CPU, s)) for s in (1, 2)]
        task = methods.Task(Fraction(9, 10), "unstructured", rng(), *parts)
        return methods.configured(name).compress(untrained(), task).model.state_dict()

    plain = compress(compiled=False)
    graphs = traced(monkeypatch, "aot_eager")
    state = compress(compiled=True)
    assert graphs
    for key, tensor in plain.items():
        torch.testing.assert_close(state[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_machine_code_learns_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # Processes that compile side by side take longer to start than this network takes.
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    compiler_missing.cache_clear()
    if reason := compiler_missing(CPU):
        pytest.skip(reason)
    stage = dataclasses.replace(SHORT, precision="bfloat16", batch_size=40)
    plain = train(stage=stage)
    losses, state = train(stage=dataclasses.replace(stage, compiled=True))
    # bfloat16 has 8 significant bits, and compiled passes round less often.
    assert losses == pytest.approx(plain[0], rel=0.03)
    for name, tensor in plain[1].items():
        torch.testing.assert_close(state[name], tensor, rtol=0.03, atol=0.03)


def test_without_a_compiler_training_goes_on(monkeypatch):
    def broken(function):
        raise RuntimeError("no C compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    compiler_missing.cache_clear()
    plain = train()
    with pytest.warns(UserWarning, match="RuntimeError: no C compiler found; training goes on"):
        compiled = train(stage=dataclasses.replace(SHORT, compiled=True))
    compiler_missing.cache_clear()
    assert compiled[0] == plain[0] and same_bits(compiled[1], plain[1])


def test_training_learns_digits_architecture():
    model = untrained()
    split = random_split(64)
    stage = Stage(epochs=12, learning_rate=0.1, batch_size=16)
    losses = fit(model, split, Benign(), stage, Run(CPU, seed=0, mask=Mask.ones(model)))
    assert losses[-1] < 0.5 * losses[0]
