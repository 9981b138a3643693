"""Which stages a study shares with those that it extends: all that are told and read the same, and no other."""

import shutil
from pathlib import Path

import pytest

from deltageom.study.load import ancestors, load_study
from deltageom.study.sharing import owners, stage_of, stages
from tests.conftest import ROOT

RUNS = ["dft", "dpo", "offline_grpo", "rft", "rift", "rift_linear", "sft", "sft_seed7"]
MEASURED = {"connectivity", "cka"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's settings: the defaults and the studies."""
    shutil.copy(ROOT / "config.yaml", tmp_path)
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    return tmp_path


def owned(root: Path, study: str) -> dict[str, str]:
    return owners(load_study({"study": study}, root), ancestors(study, root))


def own_stages(root: Path, study: str) -> set[str]:
    return {stage for stage, owner in owned(root, study).items() if owner == study}


def write(root: Path, name: str, text: str) -> None:
    (root / "studies" / f"{name}.yaml").write_text(text)


def follows(*runs: str) -> set[str]:
    """What follows from these runs' adapters."""
    of_each = {f"{stage}/{run}" for stage in ("evaluate", "grade", "hidden_states") for run in runs}
    return of_each | {f"train/{run}" for run in runs} | MEASURED | {"geometry"}


ANSWERS = {f"{stage}/{model}" for stage in ("evaluate", "grade") for model in ("base", *RUNS)}
GRADES = {f"grade/{model}" for model in ("base", *RUNS)}
NEW_DATA = {"reward", "reference", *follows(*RUNS)}
CHILDREN: dict[str, tuple[str, set[str]]] = {
    "nothing": ("", set()),
    "one more run": ("runs: {mine: {method: sft, seed: 11}}", follows("mine")),
    "a run's learning rate": ("runs: {rift: {learning_rate: 1.0e-3}}", follows("rift")),
    "a removed run": ("runs: {rift: null}", {"geometry", *MEASURED}),
    "a run that another is matched to": (
        "runs: {sft: {seed: 9}, rft: {match_norm: {run: sft, how: scale}}}",
        follows("sft", "rft"),
    ),
    "a value that the parent has too": ("training: {steps: 64}", set()),
    "the order of keys": ("runs: {sft_seed7: {seed: 7, method: sft}}", set()),
    "how jobs run": ("execution: {checkpoint_every: 2, shard_size: 5}", set()),
    "what only tables read": ("statistics: {family: all}\nmeasures: {compare_with: rft}", set()),
    "a benchmark": (
        "benchmarks: {more: {source: toy, split: easy, limit: 4}}",
        {"problems/more", "decontaminate", *ANSWERS, *MEASURED},
    ),
    "K of the rollouts": ("rollouts: {samples: 6}", {"rollouts", *NEW_DATA}),
    "the teacher": ("teacher: {documents: 900}", {"teacher", "rollouts", *NEW_DATA}),
    "the grader of the scores": ("grading: {primary: math_verify, rewards: strict}", {*GRADES, *MEASURED}),
    "the grader of the rewards": ("grading: {rewards: math_verify}", NEW_DATA),
    "the grader of both": ("grading: {primary: math_verify}", {*GRADES, *NEW_DATA}),
    "pooling of CKA": (
        "measures: {cka: {pooling: completion}}",
        {"cka", "connectivity", *(f"hidden_states/{r}" for r in RUNS)},
    ),
    "prompts of CKA": ("measures: {cka: {prompts: 7}}", {"cka", "connectivity", *(f"hidden_states/{r}" for r in RUNS)}),
    "top-k": ("measures: {geometry: {top_k: [2, 3]}}", {"geometry", *MEASURED}),
    "the base's spectrum": ("measures: {geometry: {base_rank: 48}}", {"geometry", "base_spectrum", *MEASURED}),
    "the grid of alpha": ("measures: {connectivity: {points: 5}}", {"connectivity"}),
    "gradients": ("measures: {gradients: {batches: 4}}", {"gradients", *(f"base_gradient/{run}" for run in RUNS)}),
    "behaviour": (
        "measures: {behaviour: {benchmark: easy, prompts: 8, max_tokens: 8, batch_size: 4, seed: 1}}",
        {"behaviour"},
    ),
    "representations": (
        "measures: {representations: {resamples: 100, seed: 1}}",
        {"representations", "hidden_states/base"},
    ),
}


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_owns_what_differs_and_what_follows_from_it(root: Path, name: str) -> None:
    text, expected = CHILDREN[name]
    write(root, "child", f"extends: toy\n{text}\n")
    assert own_stages(root, "child") == expected
    assert set(owned(root, "child").values()) <= {"toy", "child"}


def test_another_grader_is_another_problem_set_only_where_problems_are_dropped(root: Path) -> None:
    data = "benchmarks: {easy: {source: file, path: a.jsonl, split: null, limit: null, bad_answers: BAD}}"
    for bad, expected in (("error", set()), ("drop", {"problems/easy"})):
        write(root, "parent", f"extends: toy\n{data.replace('BAD', bad)}\n")
        write(root, "child", "extends: parent\ngrading: {primary: math_verify, rewards: strict}\n")
        assert {stage for stage in own_stages(root, "child") if "problems" in stage} == expected
        assert "rollouts" not in own_stages(root, "child")
        answered = {stage for stage in own_stages(root, "child") if stage.startswith("evaluate/")}
        assert bool(answered) == bool(expected)


def test_another_base_shares_only_the_problems_that_do_not_depend_on_it(root: Path) -> None:
    write(root, "child", "extends: toy\ntoy: {hidden: 64}\n")
    assert own_stages(root, "child") == {
        stage for stage in owned(root, "child") if not stage.startswith("problems/") and stage != "decontaminate"
    }


def test_problems_that_are_dropped_are_of_every_benchmark(root: Path) -> None:
    """Another benchmark may drop other problems: what is trained on them is another's."""
    write(root, "parent", "extends: toy\ndecontamination: {overlap: drop}\n")
    write(root, "child", "extends: parent\nbenchmarks: {more: {source: toy, split: easy, limit: 4}}\n")
    assert {"decontaminate", "rollouts", "train/sft"} <= own_stages(root, "child")
    assert not {"pretrain", "teacher", "problems/train"} & own_stages(root, "child")


def test_a_gradient_is_the_runs_own_and_belongs_to_no_other(root: Path) -> None:
    """A changed run changes its gradient and the comparison; whole runs have none; a benchmark changes neither."""
    write(root, "parent", "extends: toy\nmeasures: {gradients: {batches: 4}}\n")
    write(root, "child", "extends: parent\nruns: {rift: {reward_wrong: -0.3}}\n")
    assert own_stages(root, "child") == follows("rift") | {"base_gradient/rift", "gradients"}
    write(root, "child", "extends: parent\nbenchmarks: {more: {source: toy, split: easy, limit: 4}}\n")
    assert not {"gradients", "base_gradient/rift"} & own_stages(root, "child")
    write(root, "child", "extends: parent\nruns: {mine: {method: sft, adapter: none}}\n")
    assert own_stages(root, "child") == follows("mine")
    made = stages(load_study({"study": "child"}, root))
    assert "base_gradient/mine" not in made
    assert "reference" in made["base_gradient/dpo"].needs
    assert "reference" not in made["base_gradient/sft"].needs


def test_mismatched_completions_belong_to_the_runs_whose_kl_term_reads_them(root: Path) -> None:
    """Those of equal seed and length share them; no other run reads them, nor anything that was there before."""
    kto = "{a: {method: kto}, b: {method: kto, beta: 0.2}, apo: {method: kto, loss_type: apo_zero_unpaired}}"
    write(root, "child", f"extends: toy\nruns: {kto}\nmeasures: {{gradients: {{batches: 4}}}}\n")
    made = stages(load_study({"study": "child"}, root))
    pairs = {"mismatched/seed42-length256"}
    assert {stage for stage in made if stage.startswith("mismatched")} == pairs
    readers = {stage for stage, one in made.items() if pairs & set(one.needs)} - MEASURED
    assert readers == {f"{stage}/{run}" for stage in ("train", "base_gradient") for run in ("a", "b")}
    assert own_stages(root, "child") & {"reference", *(f"train/{run}" for run in RUNS)} == set()
    write(root, "grandchild", "extends: child\nruns: {b: {kl_seed: 7}}\n")
    own = own_stages(root, "grandchild")
    assert {stage for stage in own if stage.startswith(("train", "mismatched"))} == {
        "train/b",
        "mismatched/seed7-length256",
    }


def test_the_bases_hidden_states_are_made_for_the_measure_that_reads_them(root: Path) -> None:
    """A changed run changes its own hidden states and the comparison; another seed changes the comparison alone."""
    assert "hidden_states/base" not in owned(root, "toy")
    write(root, "parent", "extends: toy\nmeasures: {representations: {resamples: 100, seed: 1}}\n")
    write(root, "child", "extends: parent\nruns: {rift: {reward_wrong: -0.3}}\n")
    assert own_stages(root, "child") == follows("rift") | {"representations"}
    write(root, "child", "extends: parent\nmeasures: {representations: {seed: 2}}\n")
    assert own_stages(root, "child") == {"representations"}


def test_the_farthest_study_with_the_same_owns_it(root: Path) -> None:
    write(root, "middle", "extends: toy\nruns: {mine: {method: sft, seed: 11}, rift: {learning_rate: 1.0e-3}}\n")
    write(root, "child", "extends: middle\nruns: {rift: {learning_rate: 3.0e-3}, rft: {seed: 3}}\n")
    found = owned(root, "child")
    assert {found[f"train/{run}"] for run in ("dft", "dpo", "sft")} == {"toy"}
    assert found["train/mine"] == "middle"
    assert found["train/rift"] == found["train/rft"] == found["geometry"] == "child"
    # what the middle one changes is taken back
    write(root, "child", "extends: middle\nruns: {rift: {learning_rate: 2.0e-3}, mine: null}\n")
    assert set(owned(root, "child").values()) == {"toy"}


def test_an_edit_of_the_parent_is_inherited_and_what_is_kept_against_it_becomes_own(root: Path) -> None:
    write(root, "parent", "extends: toy\nruns: {rift: {learning_rate: 1.0e-3}, rft: {seed: 3}}\n")
    write(root, "child", "extends: parent\nruns: {rift: {learning_rate: 1.0e-3}}\n")
    assert own_stages(root, "child") == set()
    write(root, "parent", "extends: toy\nruns: {rift: {learning_rate: 5.0e-4}, rft: {seed: 4}}\n")
    assert own_stages(root, "child") == follows("rift")


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("runs: {rift: {method: ppo}}", "runs: {rift: {method: rift}}"),
        ("measures: {compare_with: gone}", "measures: {compare_with: sft}"),
        ("training: {learning_rate: 1e-5}", "training: {learning_rate: 2.0e-3}"),
    ],
)
def test_a_parent_that_is_broken_owns_nothing(root: Path, broken: str, mended: str) -> None:
    """Nor does it keep a study from running that overrides what is broken."""
    write(root, "parent", f"extends: toy\n{broken}\n")
    write(root, "child", f"extends: parent\n{mended}\n")
    assert [study.study for study in ancestors("child", root)] == ["toy"]
    assert set(owned(root, "child").values()) == {"toy"}


def test_the_command_line_counts_for_the_study_and_not_for_its_ancestors(root: Path) -> None:
    write(root, "child", "extends: toy\n")
    study = load_study({"study": "child", "rollouts": {"samples": 6}}, root)
    found = owners(study, ancestors("child", root))
    assert {stage for stage, owner in found.items() if owner == "child"} == {"rollouts", *NEW_DATA}


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "studies").glob("*.yaml")))
def test_an_owner_is_told_the_same_and_reads_the_same_files(root: Path, name: str) -> None:
    """So its own jobs find nothing to do where another study's have made its files."""
    study, chain = load_study({"study": name}, root), ancestors(name, root)
    mine, found = stages(study), owners(study, chain)
    assert {need for stage in mine.values() for need in stage.needs} <= mine.keys()
    for number, ancestor in enumerate(chain):
        theirs, of_them = stages(ancestor), owners(ancestor, chain[:number])
        for stage in (stage for stage, owner in found.items() if owner == ancestor.study):
            assert theirs[stage] == mine[stage]
            assert {need: of_them[need] for need in theirs[stage].needs} == {
                need: found[need] for need in mine[stage].needs
            }
            assert of_them[stage] == ancestor.study


def test_the_stage_of_a_job() -> None:
    known = {"train/sft": 1, "geometry": 1, "cka": 1}
    assert [stage_of(job, known) for job in ("train/sft", "geometry/0", "cka/sft", "tables")] == [
        *("train/sft", "geometry", "cka", "tables")
    ]
