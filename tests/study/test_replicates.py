"""Replicates: what is drawn anew, what is shared, and what cannot be."""

from pathlib import Path

import pytest

from deltageom.study.load import ancestors, load_study
from deltageom.study.places import Places
from deltageom.study.replicates import replicate, replicates
from deltageom.study.sharing import View, views
from tests.study.test_load import refusal, root, write

__all__ = ["root"]  # a fixture

NEW_ROLLOUTS = {"rollouts", "reward", "reference"}
OF_RUNS = {"train", "evaluate", "grade", "hidden_states", "geometry", "connectivity", "cka"}


def seen(root: Path, text: str, name: str = "mine") -> list[View]:
    toy = root / "studies" / "toy.yaml"
    toy.write_text(toy.read_text().replace("replicates: {count: 3}", "replicates: {count: 1}"))
    config = write(root, text, name)
    return views(load_study(config, root), ancestors(name, root))


def own_kinds(view: View) -> set[str]:
    """The kinds of stages that this replicate computes itself, but for what of them is the base's."""
    mine = view.study.study
    return {stage.split("/")[0] for stage, owner in view.owners.items() if owner == mine}


@pytest.mark.parametrize(
    ("vary", "own"),
    [
        ("rollouts", NEW_ROLLOUTS | OF_RUNS),
        ("order", OF_RUNS),
        ("init_a", OF_RUNS),
        ("order, init_a", OF_RUNS),
        (
            "base",
            NEW_ROLLOUTS | OF_RUNS | {"pretrain", "teacher", "problems", "decontaminate", "base_spectrum"},
        ),
    ],
)
def test_a_replicate_computes_what_varies_and_what_follows(root: Path, vary: str, own: set[str]) -> None:
    found = seen(root, f"extends: toy\nreplicates: {{count: 3, vary: [{vary}]}}\nruns: {{mine: {{method: sft}}}}\n")
    assert [view.study.study for view in found] == ["mine", "mine/replicates/2", "mine/replicates/3"]
    for view in found[1:]:
        assert own_kinds(view) == own
        assert set(view.owners.values()) <= {view.study.study, "mine", "toy"}
        base = {view.owners[f"{kind}/base"] for kind in ("evaluate", "grade")}
        assert base == ({view.study.study} if vary == "base" else {"toy"})


def test_the_seeds_of_a_replicate(root: Path) -> None:
    study = load_study(
        write(root, "extends: toy\nreplicates: {count: 2, vary: [rollouts, order, init_a, base]}\n"), root
    )
    one, two = replicates(study)
    assert one == study
    assert (two.toy.seed, two.rollouts.seed) == (study.toy.seed + 1000, study.rollouts.seed + 1000)
    for name, run in two.runs.items():
        before = study.runs[name].training
        assert (run.training.seed, run.training.lora.init_seed) == (before.seed + 1000, before.lora.init_seed + 1000)
    assert two.reference == study.reference
    only_order = replicate(load_study(write(root, "extends: toy\nreplicates: {count: 2, vary: [order]}\n"), root), 2)
    assert only_order.rollouts == study.rollouts
    assert only_order.runs["sft"].training.lora == study.runs["sft"].training.lora


def test_one_more_replicate_and_a_changed_run_leave_the_others_alone(root: Path) -> None:
    three = seen(root, "extends: toy\nreplicates: {count: 3}\n")
    four = seen(root, "extends: toy\nreplicates: {count: 4}\n")
    assert [dict(view.stages) for view in three] == [dict(view.stages) for view in four[:3]]
    other = seen(root, "extends: toy\nreplicates: {count: 3}\nruns: {rift: {learning_rate: 1.0e-3}}\n")
    for before, after in zip(three, other, strict=True):
        changed = {stage for stage in before.stages if before.stages[stage] != after.stages[stage]}
        assert changed == {"train/rift"}


def test_a_child_shares_replicate_by_replicate(root: Path) -> None:
    write(root, "extends: toy\nreplicates: {count: 2}\n", "parent")
    found = seen(root, "extends: parent\nreplicates: {count: 3}\nruns: {new: {method: sft, seed: 5}}\n")
    assert [view.owners["train/dft"] for view in found] == ["toy", "parent/replicates/2", "mine/replicates/3"]
    assert [view.owners["train/new"] for view in found] == ["mine", "mine/replicates/2", "mine/replicates/3"]
    assert found[1].chain == ("toy", "parent", "parent/replicates/2", "mine", "mine/replicates/2")
    places = Places(found[1])
    assert places.run("dft") == "results/parent/replicates/2/runs/dft"
    assert places.earlier("geometry", "geometry")[0] == "results/mine/geometry"
    assert places.shared()["train/dft"] == "results/parent/replicates/2"
    assert "train/new" not in places.shared()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("replicates: {count: 0}", "studies/mine.yaml: replicates.count: input should be greater than or equal to 1"),
        ("replicates: {count: 2, vary: []}", "replicates.vary is empty: name what each replicate draws anew"),
        ("replicates: {count: 2, vary: [teacher]}", "replicates.vary.0"),
        ("base: {model: o/m}\nreplicates: {vary: [base]}", "replicates.vary names base, but base.model is 'o/m'"),
        ("rollouts: {file: x.jsonl}\nreplicates: {count: 2}", "replicates.vary names rollouts, but rollouts.file"),
    ],
)
def test_what_cannot_be(root: Path, text: str, says: str) -> None:
    assert says in refusal(root, text)


def test_what_a_parents_replicate_has_is_not_drawn_again(root: Path) -> None:
    """Also where the child varies less: its rollouts are the parent's replicate's, its order is replicate 1's."""
    write(root, "extends: toy\nreplicates: {count: 2}\n", "parent")
    found = seen(root, "extends: parent\nreplicates: {count: 2, vary: [rollouts]}\n")
    assert {found[1].owners[stage] for stage in NEW_ROLLOUTS} == {"parent/replicates/2"}
    assert found[1].owners["train/sft"] == "mine/replicates/2"
