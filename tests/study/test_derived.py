"""Derived runs in a study: what resolves, what is refused in one line, what they share and what plans them."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from deltageom.planning import disk, work
from deltageom.planning.jobs import Job, job_names, jobs, of_replicates
from deltageom.study import sharing
from deltageom.study.derived.check import in_order, ranks_of
from deltageom.study.derived.recipe import Recipe
from deltageom.study.layers import settings
from deltageom.study.load import ancestors, load_study
from deltageom.study.places import Places
from deltageom.study.resolved import Study
from tests.study.test_load import refusal, root, write

__all__ = ["root"]  # a fixture

PARTS = """
extends: toy
derived:
  rest: {of: offline_grpo, remove: sft}
  late: {of: sft, layers: [2, 3], rank: 2}
  both: {mean: [rest, late], norm_of: dpo}
"""


def loaded(root: Path, text: str = PARTS, name: str = "parts") -> Study:
    return load_study(write(root, text, name), root)


def test_they_stand_behind_the_trained_runs_and_are_none_of_them(root: Path) -> None:
    study = loaded(root)
    assert study.all_runs() == [*study.runs, "both", "late", "rest"]
    assert study.derived["both"].operands() == ["late", "rest", "dpo"]
    assert in_order(study.derived) == ["late", "rest", "both"]
    # of rest the ranks of both, of both the sum, which rank 2 has cut
    assert ranks_of(study.derived, study.ranks()) == {"late": 2, "rest": 16, "both": 18}
    assert loaded(root, PARTS + "measures: {compare_with: rest}\n").measures.compare_with == "rest"


def test_the_order_of_keys_and_a_number_written_otherwise_are_the_same(root: Path) -> None:
    told = [
        loaded(root, f"extends: toy\nderived: {text}\n").derived["x"]
        for text in ("{x: {sum: {rft: 1, dpo: 4.0}, rank: 2}}", "{x: {rank: 2, sum: {dpo: 4, rft: 1.0}}}")
    ]
    assert settings(told[0]) == settings(told[1]) == '{"rank": 2, "sum": {"dpo": 4.0, "rft": 1.0}}'


def test_extending_studies_may_change_and_remove_them(root: Path) -> None:
    loaded(root)
    child = loaded(root, "extends: parts\nderived: {both: null, rest: {remove: null, keep: sft}}\n", "child")
    assert {name: settings(recipe) for name, recipe in child.derived.items()} == {
        "late": '{"layers": [2, 3], "of": "sft", "rank": 2}',
        "rest": '{"keep": "sft", "of": "offline_grpo"}',
    }


def test_a_run_of_a_grid_may_be_one_of_them(root: Path) -> None:
    text = "grid: {g: {method: sft, learning_rate: [1.0e-3, 3.0e-3]}}\nderived: {x: {of: g-lr0.003, remove: sft}}\n"
    assert loaded(root, "extends: toy\n" + text).derived["x"].of == "g-lr0.003"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ("{x: {of: stf}}", "derived.x.of 'stf' is none of the runs: sft, "),
        ("{x: {of: sftt}}", "(did you mean 'sft'?)"),
        ("{x: {of: base}}", "derived.x.of 'base' is none of the runs"),
        ("{x: {of: sft, norm_of: gone}}", "derived.x.norm_of 'gone' is none of the runs"),
        ("{x: {sum: {sft: 1.0, gone: 2.0}}}", "derived.x.sum 'gone' is none of the runs"),
        ("{sft: {of: dpo}}", "derived.sft: there is a run of this name: choose another"),
        ("{base: {of: dpo}}", "derived.base: the name is taken by the workflow's own files: choose another"),
        ("{'a/b': {of: dpo}}", "derived: name 'a/b' becomes a file name"),
        ("{x: {of: x}}", "derived.x is made from itself, by way of x -> x: break the circle"),
        ("{x: {of: sft, norm_of: y}, y: {mean: [z, dpo]}, z: {of: y}}", "by way of y -> z -> y: break the circle"),
        ("{x: {of: sft, rank: 0}}", "derived.x.rank: input should be greater than or equal to 1; got 0"),
        ("{x: {of: sft, rank: 9}}", "derived.x.rank 9 is more than the rank 8 that its update can have: lower it"),
        ("{x: {of: sft, remove: dpo, rank: 17}}", "derived.x.rank 17 is more than the rank 16"),
        ("{x: {of: y, keep: y, rank: 3}, y: {of: sft, rank: 2}}", "derived.x.rank 3 is more than the rank 2"),
        (
            "{x: {of: sft, layers: [3, 4]}}",
            "derived.x.layers names layer 4, which the runs do not adapt; they adapt 0, ",
        ),
        ("{x: {of: sft, layers: []}}", "derived.x.layers: "),
        ("{x: {of: sft, layers: [1, 1]}}", "derived.x.layers: names 1 twice: name each once"),
        ("{x: {sum: {}}}", "derived.x.sum: "),
        ("{x: {sum: {sft: .nan}}}", "derived.x.sum.sft: "),
        ("{x: {sum: {sft: 1e-5}}}", "which YAML reads as text: write 1.0e-05"),
        ("{x: {mean: []}}", "derived.x.mean: "),
        ("{x: {mean: [sft, dpo, sft]}}", "derived.x.mean: names 'sft' twice: name each once"),
        ("{x: {of: sft, mean: [dpo]}}", "derived.x: has both of and mean: a derived run starts from one of them"),
        ("{x: {remove: sft}}", "derived.x: has nothing to start from: give one of of, sum, mean"),
        ("{x: {of: dpo, remove: sft, keep: rft}}", "derived.x: has both remove and keep: make two derived runs"),
        (
            "{x: {of: dpo, project: module}}",
            "derived.x: project says how remove or keep projects, and there is neither",
        ),
        ("{x: {of: dpo, remvoe: sft}}", "derived.x.remvoe: unknown key (did you mean 'remove'?)"),
        ("{x: 3}", "derived.x: "),
        ("[x]", "derived: is a section of keys and values"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(root: Path, entries: str, says: str) -> None:
    message = refusal(root, f"derived: {entries}\n")
    assert message.startswith("studies/mine.yaml: derived")
    assert says in message
    assert "\n" not in message


def test_a_run_without_an_adapter_is_refused(root: Path) -> None:
    text = "runs: {whole: {method: sft, adapter: none}}\nderived: {x: {of: sft, remove: whole}}\n"
    assert refusal(root, text) == (
        "studies/mine.yaml: derived.x.remove 'whole' trains without an adapter: name a LoRA run, whose update has thin "
        "factors"
    )


def test_a_study_without_them_is_told_nothing_of_them(root: Path) -> None:
    """So nothing of it runs again."""
    study = load_study({"study": "toy"}, root)
    assert "derived" not in json.loads(settings(study))
    assert loaded(root, "extends: toy\nderived: {}\n").derived == {}
    assert not [stage for stage in sharing.stages(study) if stage.startswith("derive/")]
    assert not [job for job in jobs(study) if job.rule == "derive"]
    assert Study.model_validate_json(settings(study)) == study


def test_a_study_with_them_is_read_back_as_it_was(root: Path) -> None:
    study = loaded(root)
    plain = json.loads(settings(study))
    assert plain["derived"]["rest"] == {"of": "offline_grpo", "remove": "sft"}
    assert Study.model_validate_json(settings(study)) == study


def own_stages(root: Path, study: Study) -> set[str]:
    found = sharing.owners(study, ancestors(study.study, root))
    return {stage for stage, owner in found.items() if owner == study.study}


def follow(*runs: str) -> set[str]:
    return {f"{stage}/{run}" for stage in ("derive", "evaluate", "grade", "hidden_states") for run in runs}


MEASURED = {"geometry", "connectivity", "cka"}


def test_what_a_child_adds_or_changes_is_its_own_with_all_that_follows(root: Path) -> None:
    parent = loaded(root)
    assert own_stages(root, parent) == {*follow("rest", "late", "both"), *MEASURED}
    changed = loaded(root, "extends: parts\nderived: {late: {rank: 3}}\n", "child")
    assert own_stages(root, changed) == {*follow("late", "both"), *MEASURED}
    trained = loaded(root, "extends: parts\nruns: {offline_grpo: {seed: 3}}\n", "child")
    grpo = {f"{stage}/offline_grpo" for stage in ("train", "evaluate", "grade", "hidden_states")}
    assert own_stages(root, trained) == {*grpo, *follow("rest", "both"), *MEASURED}
    assert own_stages(root, loaded(root, "extends: parts\nderived: {both: {project: null}}\n", "child")) == set()


def test_every_replicate_derives_from_its_own_runs(root: Path) -> None:
    study = loaded(root)
    views = sharing.views(study, ancestors(study.study, root))
    places = [Places(view) for view in views]
    assert [one.run("rest") for one in places] == [
        f"results/parts{where}/runs/rest" for where in ("", "/replicates/2", "/replicates/3")
    ]
    assert places[2].adapters(study.derived["rest"].operands())[0] == (
        "results/toy/replicates/3/runs/offline_grpo/adapter_config.json"
    )
    derive = [(job.record, str(folder)) for job, folder in of_replicates(views) if job.rule == "derive"]
    assert len(derive) == 9
    assert ("derive/both", "results/parts/replicates/2") in derive


def test_plans_count_their_jobs_answers_and_bytes(root: Path) -> None:
    study, toy = loaded(root), load_study({"study": "toy"}, root)
    assert Job("derive", "derive/rest") in jobs(study)
    assert {"evaluate/both", "hidden_states/both", "connectivity/both"} <= set(job_names(study))
    assert {job.rule for job in jobs(study) if job.record.startswith("train/")} == {"train"}
    asked = [one.what for one in work.generation(study, work.problem_counts(study, {}), None)]
    assert f"easy, {len(toy.runs) + 4} models" in asked
    assert len(work.training(study, None)) == len(toy.runs)
    assert disk.run_bytes(study, "late") == (disk.run_bytes(study, "sft") or 0) / 4  # rank 2 of 8
    trained = work.training(study, None)
    more = (disk.results(study, [], trained)["runs"] or 0) - (disk.results(toy, [], trained)["runs"] or 0)
    assert more == (2 + 16 + 18) / 8 * (disk.run_bytes(study, "sft") or 0)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({"of": "a", "remove": "b"}, "a without its projection on b"),
        ({"of": "a", "keep": "b", "project": "module"}, "a projected on b in each module"),
        ({"sum": {"b": 4.0, "a": -0.5}}, "-0.5 a + 4 b"),
        ({"mean": ["b", "a"], "layers": [3], "rank": 2, "norm_of": "c"}, "mean of a, b, layer 3, rank 2, as long as c"),
    ],
)
def test_a_recipe_in_words(steps: dict[str, object], words: str) -> None:
    assert Recipe.model_validate(steps).words() == words


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe(of="a").rank = 3  # type: ignore[misc]
