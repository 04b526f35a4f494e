"""A campaign fills a board: planned, killed, shared among machines, and made again."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import pytest
from fast import FAST
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import methods
from benchmark import cli, records
from benchmark.campaigns import Campaign
from benchmark.errors import BenchmarkError, ContractError, OutOfMemory
from benchmark.evaluations import Smoothing
from benchmark.manifest import read_manifest, write_manifest
from benchmark.pipeline import Project
from benchmark.pipeline.campaigning import (
    Plan,
    Share,
    fill,
    first_of,
    plan_campaign,
    progress_of,
    share_of,
)
from benchmark.pipeline.collecting import collect
from benchmark.pipeline.compressing import Order, compress_all, failures_of, id_of
from benchmark.pipeline.forecasting import cost, forecast, parent_passes, training_passes
from benchmark.pipeline.remaking import draw, remake
from benchmark.protocols import protocol
from benchmark.pruning import Scope, Structure
from benchmark.recipes import RECIPES
from benchmark.workers import Workers

TINY = replace(
    RECIPES["digits"],
    id="few-epochs",
    pretrain=replace(RECIPES["digits"].pretrain, epochs=3),
    prune=replace(RECIPES["digits"].prune, epochs=1),
    finetune=replace(RECIPES["digits"].finetune, epochs=2),
)


# As `fast` does with its protocol: campaigns name recipes of the table.
RECIPES[TINY.id] = TINY


def campaign(*groups: dict[str, object], top: str = "") -> Campaign:
    defaults = {
        "recipe": TINY.id,
        "methods": ["dense", "lwm-layerwise"],
        "objectives": ["benign"],
        "sparsities": ["0.9"],
    }
    return Campaign.model_validate(
        {
            "schema_version": 1,
            "title": "Few",
            "protocol": FAST.id,
            "top": top,
            "networks": [{**defaults, **group} for group in groups or ({},)],
        }
    )


def project(root: Path) -> Project:
    root.mkdir(parents=True, exist_ok=True)
    return Project(root, device="cpu", workers=Workers(1))


def digests(where: Project) -> dict[str, tuple[str, str]]:
    """Returns, by checkpoint, the digests of its weights and of its record's content."""
    found = {}
    for entry in where.manifest().checkpoints:
        path = records.record_path(where.results, FAST.id, entry.id)
        found[entry.id] = (entry.sha256, records.read(path)[0].content_digest)
    return found


def fill_all(where: Project, said: Campaign) -> tuple[int, int]:
    done = fill(where, said, plan_campaign(said).networks)
    return len(done.trained), len(done.evaluated)


BOARD = campaign(
    {"sparsities": ["0.5", "0.9"], "objectives": ["benign", "adversarial"]},
    {"methods": ["lwm-layerwise"], "sparsities": ["0.9"], "tier": "standard"},
    top="full",
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    where = project(tmp_path_factory.mktemp("filled"))
    assert fill_all(where, BOARD)[0] == 6
    return where


# --- The plan -------------------------------------------------------------------------------------


def named(plan: Plan) -> list[str]:
    return [
        f"{n.order.method} {n.order.objective} {float(n.order.sparsity):g} {n.order.seed} {n.tier}"
        for n in plan.networks
    ]


def test_dense_is_made_once_and_the_larger_tier_counts() -> None:
    assert named(plan_campaign(BOARD)) == [
        "dense benign 0 0 quick",
        "lwm-layerwise benign 0.5 0 quick",
        "lwm-layerwise benign 0.9 0 standard",
        "dense adversarial 0 0 quick",
        "lwm-layerwise adversarial 0.5 0 quick",
        "lwm-layerwise adversarial 0.9 0 quick",
    ]


def test_what_a_method_does_not_support_is_left_out_with_its_reason() -> None:
    said = campaign(
        {"methods": ["bap", "random"]},
        {"methods": ["hydra", "random"], "structure": "filter", "seeds": [3]},
    )
    plan = plan_campaign(said)
    assert named(plan) == ["random benign 0.9 0 quick", "random benign 0.9 3 quick"]
    assert plan.left_out == (
        "bap works under adversarial, not benign",
        "hydra prunes unstructured, not filter",
    )
    with pytest.raises(ContractError, match="expected networks that can be made, got none: bap"):
        plan_campaign(campaign({"methods": ["bap"]}))
    with pytest.raises(BenchmarkError, match="no-such"):
        plan_campaign(campaign({"methods": ["no-such"]}))


def test_one_network_by_two_recipes_is_refused() -> None:
    RECIPES["other"] = replace(TINY, id="other")
    try:
        with pytest.raises(ContractError, match="by few-epochs and other, which would have one id"):
            plan_campaign(campaign({}, {"recipe": "other"}))
        named(plan_campaign(campaign({}, {"recipe": "other", "seeds": [1]})))
    finally:
        del RECIPES["other"]


def test_an_architecture_that_does_not_take_the_data_is_refused() -> None:
    with pytest.raises(ContractError, match="expected inputs of shape .* for cnn-small"):
        plan_campaign(campaign({"architecture": "cnn-small"}))


# --- Parts ----------------------------------------------------------------------------------------

MANY = plan_campaign(
    campaign(
        {"objectives": ["benign", "adversarial", "trades"], "sparsities": ["0.5", "0.9", "0.99"]},
        {"seeds": [1, 2, 3]},
    )
).networks


@given(count=st.integers(1, 9))
def test_parts_are_all_networks_once_and_keep_cells_together(count: int) -> None:
    parts = [
        share_of(MANY, Share(number, count), lambda network: cost(network, FAST))
        for number in range(1, count + 1)
    ]
    assert sorted(map(str, MANY)) == sorted(str(n) for part in parts for n in part)
    cells = [{network.cell for network in part} for part in parts]
    assert sum(map(len, cells)) == len(set.union(*cells)) == 6


def test_parts_are_even_where_cells_allow() -> None:
    same = [n for n in MANY if n.order.seed]
    parts = [share_of(same, Share(k, 3), lambda network: 1.0) for k in (1, 2, 3)]
    assert [len(part) for part in parts] == [2, 2, 2]


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1" * 30])
def test_parts_that_there_are_not(text: str) -> None:
    with pytest.raises(ContractError, match="expected a part such as"):
        Share.parse(text)
    assert Share.parse("2/3") == Share(2, 3)


# --- Filling --------------------------------------------------------------------------------------


def test_a_board_is_filled_once(filled: Project) -> None:
    plan = plan_campaign(BOARD)
    tiers = {
        entry.id: records.read(records.record_path(filled.results, FAST.id, entry.id))[0].tier
        for entry in filled.manifest().checkpoints
    }
    assert len(tiers) == 6
    entries = filled.manifest().checkpoints
    may_be = first_of(filled, FAST, entries, "quick")
    are = {entry.id for entry in first_of(filled, FAST, may_be, "standard")}
    assert {name for name, tier in tiers.items() if tier == "full"} == are
    assert are <= {entry.id for entry in may_be} and 3 <= len(are)
    assert tiers["lwm-layerwise/digits/cnn-tiny/benign/unstructured-90/seed0"] in (
        "standard",
        "full",
    )
    progress = progress_of(filled, FAST.id, plan.networks)
    assert not progress.untrained and not progress.unevaluated and len(progress.trained) == 6
    assert fill_all(filled, BOARD) == (0, 0)


def test_a_network_by_another_recipe_keeps_its_place(tmp_path: Path, filled: Project) -> None:
    where = project(tmp_path)
    said = campaign({"methods": ["dense"]})
    networks = plan_campaign(said).networks
    entry = filled.manifest().find("dense/digits/cnn-tiny/benign/unstructured-0/seed0")
    manifest = filled.manifest().model_copy(update={"checkpoints": ()})
    older = entry.model_copy(update={"recipe_digest": "0" * 64})
    write_manifest(where.manifest_path, manifest.with_entry(older))
    assert len(progress_of(where, FAST.id, networks).untrained) == 1
    theirs = entry.model_copy(update={"recipe": "published elsewhere"})
    write_manifest(where.manifest_path, manifest.with_entry(theirs))
    for look in (
        lambda: fill(where, said, networks),
        lambda: progress_of(where, FAST.id, networks),
    ):
        with pytest.raises(ContractError, match="or not at all, got one by 'published elsewhere'"):
            look()
    assert where.manifest().checkpoints == (theirs,)


class Killed(Exception):
    """Stands for a kill."""


def test_killed_anywhere_and_run_again(tmp_path: Path, filled: Project) -> None:
    where, calls, kills = project(tmp_path), 0, 0

    def watch(done: int, total: int, text: str, left: float | None = None) -> None:
        nonlocal calls
        calls += 1
        if calls % 11 == 0:
            raise Killed

    while True:
        try:
            fill(where, BOARD, plan_campaign(BOARD).networks, watch=watch)
            break
        except Killed:
            kills += 1
    assert kills >= 5
    assert digests(where) == digests(filled)


@pytest.mark.slow(30)
def test_parts_of_two_machines_make_the_board(tmp_path: Path, filled: Project) -> None:
    plan = plan_campaign(BOARD)
    machines = [project(tmp_path / name) for name in ("one", "two")]
    for number, machine in enumerate(machines, 1):
        part = share_of(plan.networks, Share(number, 2), lambda network: cost(network, FAST))
        assert 0 < len(part) < len(plan.networks)
        fill(machine, BOARD, part, with_top=False)
    where = project(tmp_path / "whole")
    found = [collect(where, machine, FAST, plan.networks) for machine in machines]
    assert sum(len(one.checkpoints) for one in found) == 6
    assert sum(len(one.records) for one in found) == 6
    assert not any(one.refused for one in found)
    again = collect(where, machines[0], FAST, plan.networks)
    assert (again.checkpoints, again.records, again.refused) == ((), (), ())
    assert fill_all(where, BOARD)[0] == 0
    assert digests(where) == digests(filled)
    for entry in where.manifest().checkpoints:
        record, _ = records.read(records.record_path(where.results, FAST.id, entry.id))
        folder = records.evidence_folder(where.evidence, FAST.id, entry.id)
        assert all((folder / file.name).stat().st_size == file.bytes for file in record.evidence)


def test_what_does_not_fit_is_not_collected(tmp_path: Path, filled: Project) -> None:
    plan = plan_campaign(BOARD)
    other = project(tmp_path / "other")
    said = campaign({"methods": ["dense", "lwm-layerwise"]})
    fill(other, said, plan_campaign(said).networks)
    name = "lwm-layerwise/digits/cnn-tiny/benign/unstructured-90/seed0"
    record, _ = records.read(records.record_path(other.results, FAST.id, name))
    folder = records.evidence_folder(other.evidence, FAST.id, name)
    altered = folder / record.evidence[0].name
    altered.write_bytes(altered.read_bytes()[:-1] + b"x")
    where = project(tmp_path / "where")
    found = collect(where, other, FAST, plan.networks)
    assert len(found.checkpoints) == 2 and len(found.records) == 1
    (line,) = found.refused
    assert line.startswith(name) and "evidence" in line or altered.name in line
    assert not records.record_path(where.results, FAST.id, name).exists()
    # Other weights under an id that is taken.
    manifest = read_manifest(other.manifest_path)
    seeds = campaign({"methods": ["lwm-layerwise"], "seeds": [7]})
    fill(other, seeds, plan_campaign(seeds).networks, evaluate=False)
    odd = read_manifest(other.manifest_path).find(name.replace("seed0", "seed7"))
    entry = manifest.find(name)
    forged = odd.model_copy(update={"id": entry.id, "seed": 0, "file": entry.file})
    (other.root / entry.file).write_bytes((other.root / odd.file).read_bytes())
    write_manifest(other.manifest_path, manifest.with_entry(forged))
    found = collect(where, other, FAST, plan.networks)
    assert any("has other weights" in line for line in found.refused)
    assert read_manifest(where.manifest_path).find(name) == entry


def test_weights_go_where_a_project_has_them(tmp_path: Path, filled: Project) -> None:
    networks = plan_campaign(BOARD).networks
    other, where = project(tmp_path / "other"), project(tmp_path / "where")
    name = "lwm-layerwise/digits/cnn-tiny/benign/unstructured-90/seed0"
    entry = filled.manifest().find(name)
    victim = where.root / "campaigns" / "digits.toml"
    for root in (other.root, where.root):
        (root / "campaigns").mkdir()
        (root / "campaigns" / "digits.toml").write_text("ours")
    (other.root / "campaigns" / "digits.toml").write_bytes((filled.root / entry.file).read_bytes())
    forged = entry.model_copy(update={"file": "campaigns/digits.toml"})
    empty = filled.manifest().model_copy(update={"checkpoints": ()})
    write_manifest(other.manifest_path, empty.with_entry(forged))
    found = collect(where, other, FAST, networks)
    assert victim.read_text() == "ours" and not found.checkpoints
    assert "got campaigns/digits.toml; move them there" in found.refused[0]


def test_what_is_damaged_or_of_an_older_recipe_is_replaced(tmp_path: Path, filled: Project) -> None:
    networks = plan_campaign(BOARD).networks
    where = project(tmp_path)
    name = "lwm-layerwise/digits/cnn-tiny/benign/unstructured-90/seed0"
    assert len(collect(where, filled, FAST, networks).checkpoints) == 6
    file = where.root / where.manifest().find(name).file
    file.write_bytes(b"half")
    assert collect(where, filled, FAST, networks).checkpoints == (name,)
    older = {"recipe_digest": "0" * 64, "sha256": "1" * 64}
    entry = where.manifest().find(name).model_copy(update=older)
    write_manifest(where.manifest_path, where.manifest().with_entry(entry))
    assert collect(where, filled, FAST, networks).checkpoints == (name,)
    assert where.manifest() == filled.manifest()


def test_evidence_that_cannot_be_read_there_stops_no_other(tmp_path: Path, filled: Project) -> None:
    networks = plan_campaign(BOARD).networks
    other, where = project(tmp_path / "other"), project(tmp_path / "where")
    collect(other, filled, FAST, networks)
    name = filled.manifest().checkpoints[0].id
    record, _ = records.read(records.record_path(other.results, FAST.id, name))
    file = records.evidence_folder(other.evidence, FAST.id, name) / record.evidence[0].name
    file.unlink()
    file.mkdir()
    found = collect(where, other, FAST, networks)
    assert (len(found.checkpoints), len(found.records)) == (6, 5)
    assert found.refused[0].startswith(name)


@dataclass(frozen=True)
class Breaks:
    """A method that finds nothing to prune at 90 %."""

    info: ClassVar[methods.Info] = methods.Info("Breaks", (), "", "", "A test.")
    structures: ClassVar[tuple[Structure, ...]] = ("unstructured",)
    scope: ClassVar[Scope] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    def compress(self, model: nn.Module, task: methods.Task) -> methods.Pruned:
        """Returns what magnitude pruning does, but at 90 %."""
        if task.sparsity == Fraction(9, 10):
            raise ContractError("expected another sparsity, got <this>")
        return methods.configured("lwm-layerwise").compress(model, task)


def test_a_network_that_cannot_be_made_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))
    methods.register("breaks")(Breaks)
    said = campaign({"methods": ["breaks", "dense"], "sparsities": ["0.9", "0.5"]})
    where = project(tmp_path)
    done = fill(where, said, plan_campaign(said).networks, evaluate=False)
    assert [entry.method for entry in done.trained] == ["breaks", "dense"]
    ((order, error),) = done.failed.items()
    assert (order.method, order.sparsity) == ("breaks", Fraction(9, 10))
    assert "expected another sparsity" in str(error)
    left = progress_of(where, FAST.id, plan_campaign(said).networks).untrained
    assert [network.order for network in left] == [order]
    # Why is kept, and comes along with what another machine did.
    (kept,) = failures_of(where)
    assert kept.checkpoint_id == id_of(order) and kept.error == str(error)
    assert kept.network[:2] == ("breaks", "digits") and kept.recipe == TINY.id
    other = project(tmp_path / "other")
    found = collect(other, where, FAST, plan_campaign(said).networks)
    assert found.failures == (kept.checkpoint_id,) and failures_of(other) == [kept]
    # Made after all, there is nothing left to say.
    monkeypatch.setattr(Breaks, "compress", mended)
    assert not fill(where, said, plan_campaign(said).networks, evaluate=False).failed
    assert failures_of(where) == [] and not list(where.failures.iterdir())
    assert collect(other, where, FAST, plan_campaign(said).networks).failures == ()
    assert not list(other.failures.iterdir())


def mended(method: Breaks, model: nn.Module, task: methods.Task) -> methods.Pruned:
    return methods.configured("lwm-layerwise").compress(model, task)


def test_running_out_of_memory_says_nothing_of_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(method: Breaks, model: nn.Module, task: methods.Task) -> methods.Pruned:
        raise OutOfMemory("expected more memory; take another machine")

    monkeypatch.setattr(methods, "_registered", dict(methods._registered))
    methods.register("breaks")(Breaks)
    monkeypatch.setattr(Breaks, "compress", small)
    said = campaign({"methods": ["breaks"]})
    where = project(tmp_path)
    assert len(fill(where, said, plan_campaign(said).networks, evaluate=False).failed) == 1
    assert failures_of(where) == []


# --- Again ----------------------------------------------------------------------------------------


def test_drawn_networks_come_out_the_same(filled: Project) -> None:
    progress = progress_of(filled, FAST.id, plan_campaign(BOARD).networks)
    drawn = draw(progress, 2, seed=1)
    assert len(drawn) == 2 and drawn == draw(progress, 2, seed=1)
    before = digests(filled)
    found = remake(filled, FAST, progress, drawn)
    assert all(one.same and one.expected for one in found) and digests(filled) == before
    with pytest.raises(ContractError, match="run the campaign first"):
        draw(replace(progress, trained={}), 1, seed=0)


def test_a_network_of_other_bits_is_found_out(tmp_path: Path, filled: Project) -> None:
    progress = progress_of(filled, FAST.id, plan_campaign(BOARD).networks)
    network = next(n for n in progress.trained if n.order.method == "lwm-layerwise")
    entry = progress.trained[network]
    for changed in (entry.model_copy(update={"sha256": "0" * 64}), entry):
        trained = {**progress.trained, network: changed}
        (one,) = remake(filled, FAST, replace(progress, trained=trained), [network])
        assert one.same == (changed is entry)
    assert not replace(one, content="0" * 64).same


def test_parents_beside_the_campaign_and_stale_records(tmp_path: Path, filled: Project) -> None:
    where = project(tmp_path)
    collect(where, filled, FAST, plan_campaign(BOARD).networks)
    progress = progress_of(
        where, FAST.id, plan_campaign(campaign({"methods": ["lwm-layerwise"]})).networks
    )
    assert [network.order.method for network in progress.trained] == ["lwm-layerwise"]
    (one,) = remake(where, FAST, progress, list(progress.trained))
    assert one.same and one.expected
    # A record that counts as none is nothing to compare with.
    path = records.record_path(where.results, FAST.id, one.checkpoint.id)
    record, outcomes = records.read(path)
    changed = {"protocol_version": record.protocol_version + 1}
    old = records.sealed(record.model_copy(update=changed))
    records.write(where.results, old, outcomes)
    (one,) = remake(where, FAST, progress, list(progress.trained))
    assert one.same and not one.expected


# --- How long -------------------------------------------------------------------------------------


def test_passes_are_those_of_the_recipe() -> None:
    dense, half, sparse, *_ = (n.order for n in plan_campaign(BOARD).networks)
    # One forward and one back are three; one epoch of pruning and two of finetuning.
    assert training_passes(dense) == training_passes(half) == 3 * (1 + 2)
    assert parent_passes(half) == 3 * 3
    untrained = replace(sparse, method="snip")
    assert training_passes(untrained) == 3 * (3 + 1 + 2)
    adversarial = replace(half, objective="adversarial")
    assert training_passes(adversarial) == (1 + TINY.steps.count) * training_passes(half)


def test_a_forecast_goes_by_what_was_measured(tmp_path: Path, filled: Project) -> None:
    networks = plan_campaign(BOARD).networks
    progress = progress_of(filled, FAST.id, networks)
    assert forecast(filled, FAST, networks, progress).basis == "nothing is left"
    trained = {
        n: e.model_copy(update={"budget": e.budget.model_copy(update={"hours": 0.105})})
        for n, e in progress.trained.items()
    }
    known = dict(list(trained.items())[:3])
    left = tuple(n for n in networks if n not in known)
    found = forecast(filled, FAST, networks, replace(progress, trained=known, untrained=left))
    # A tenth of an hour for each network, whose passes the adversarial ones take several times; and
    # their parent's, which takes as many.
    each = 360 * (1 + TINY.steps.count)
    assert found.training == pytest.approx(3 * each + each)
    assert found.evaluation > 0 and "3 trained networks and 3 records" in found.basis
    fresh = progress_of(project(tmp_path), FAST.id, networks)
    assert not fresh.trained
    guess = forecast(project(tmp_path), FAST, networks, fresh)
    assert guess.training > 0 and guess.evaluation > 0 and "timed now" in guess.basis
    # What nothing measured is like takes time as well.
    others = plan_campaign(campaign({"architecture": "lenet5"})).networks
    mixed = forecast(filled, FAST, others, replace(progress, untrained=others))
    assert mixed.training > 0 and mixed.evaluation > 0
    assert "6 records" in mixed.basis and "for what is like none of these" in mixed.basis


def test_smoothing_is_charged_for_the_examples_that_it_takes() -> None:
    network = plan_campaign(BOARD).networks[0]
    smoothed = protocol("cifar10-jpeg-linf")
    per_example = {
        tier: (
            cost(replace(network, tier=tier), smoothed) - training_passes(network.order) * 50_000
        )
        / smoothed.examples(tier)
        for tier in ("quick", "full")
    }
    settings = dict(smoothed.evaluations)["smoothing"]
    assert isinstance(settings, Smoothing) and settings.examples < smoothed.examples("full")
    spared = 1 - settings.examples / smoothed.examples("full")
    quick_spared = 1 - min(1, settings.examples / smoothed.examples("quick"))
    assert per_example["quick"] - per_example["full"] == pytest.approx(
        (spared - quick_spared) * (settings.n0 + settings.n)
    )


# --- The command ----------------------------------------------------------------------------------


def command(
    where: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
) -> tuple[int, str, str]:
    options = ["robustprune", "--root", str(where.root), "--workers", "1", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", [*options, *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0), *capsys.readouterr()


def test_why_a_network_could_not_be_made_is_told_wherever_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in methods.names():  # what is forgotten afterwards does not load twice
        methods.method(name)
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))
    methods.register("breaks")(Breaks)
    file = tmp_path / "few.toml"
    file.write_text(
        f'schema_version = 1\ntitle = "Few"\nprotocol = "{FAST.id}"\n[[networks]]\n'
        f'recipe = "{TINY.id}"\nmethods = ["breaks", "dense"]\nobjectives = ["benign"]\n'
        "sparsities = [0.9]\n"
    )
    where, other = project(tmp_path / "where"), project(tmp_path / "other")
    code, out, err = command(where, monkeypatch, capsys, "campaign", str(file))
    assert code == 7 and "1 trained, 1 evaluated" in out and "failed: breaks, benign" in err
    page = (where.site / FAST.id / "coverage.html").read_text()
    assert "in 1 a network could not be trained" in page
    assert "could not be trained (seed 0): method &#39;breaks&#39; broke its contract" in page
    assert "got &lt;this&gt;" in page and "<this>" not in page
    name = "breaks/digits/cnn-tiny/benign/unstructured-90/seed0"
    code, out, _ = command(where, monkeypatch, capsys, "campaign", str(file), "--plan")
    assert code == 0 and f"failed before: {name}: method 'breaks' broke its contract" in out
    again = ("campaign", str(file), "--plan", "--collect", str(where.root))
    code, out, _ = command(other, monkeypatch, capsys, *again)
    assert code == 0 and "1 records, and why 1 could not be trained" in out
    assert "failed before: " in out
    code, out, _ = command(other, monkeypatch, capsys, *again)
    assert code == 0 and "collected 0 checkpoints and 0 records\n" in out


def test_an_architecture_that_does_not_fit_is_no_failure(tmp_path: Path) -> None:
    said = campaign()
    order = replace(plan_campaign(said).networks[0].order, architecture="resnet50")
    failed: dict[Order, BenchmarkError] = {}
    with pytest.raises(ContractError, match="expected"):
        compress_all(project(tmp_path), [order], failed=failed)
    assert not failed and failures_of(project(tmp_path)) == []


def test_the_command_plans_fills_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "few.toml"
    file.write_text(
        f'schema_version = 1\ntitle = "Few"\nprotocol = "{FAST.id}"\n[[networks]]\n'
        f'recipe = "{TINY.id}"\nmethods = ["dense", "bap", "random"]\nobjectives = ["benign"]\n'
        "sparsities = [0.5]\n"
    )
    where = project(tmp_path / "project")
    monkeypatch.delenv("ROBUSTPRUNE_DATA", raising=False)

    def run(*more: str, board: str = str(file)) -> tuple[int, str, str]:
        return command(where, monkeypatch, capsys, "campaign", board, *more)

    code, out, _ = run("--plan")
    assert code == 0 and "Few: 2 networks" in out and "left out: bap works under" in out
    assert "left: about" in out and not where.manifest_path.exists()
    code, out, _ = run("--only", "train")
    assert code == 0 and "2 trained, 0 evaluated" in out and len(where.manifest().checkpoints) == 2
    code, out, _ = run()
    assert code == 0 and "0 trained, 2 evaluated" in out and "index.html" in out
    code, out, _ = run("--plan")
    assert code == 0 and "nothing is left" in out
    file.write_text(f'top = "quick"\n{file.read_text()}')
    code, out, _ = run("--plan")
    assert code == 0 and "whoever may be first is looked at up to quick" in out
    code, out, _ = run("--check", "1")
    assert code == 0 and out.count("same") == 2
    path = where.root / where.manifest().checkpoints[0].file
    assert path.exists()
    code, _, err = run("--collect", str(tmp_path))
    assert code == 9 and "expected a project with checkpoints_manifest.json" in err
    code, out, err = run("--plan", board=str(Path(__file__).parents[1] / "campaigns/mnist.toml"))
    assert code == 0 and "no estimate: expected a data root that holds mnist" in " ".join(
        err.split()
    )
    code, _, err = run("--part", "2/2")
    assert code == 7 and "there are 1 cells to deal" in err
    code, _, err = run("--only", "sing")
    assert code == 3
