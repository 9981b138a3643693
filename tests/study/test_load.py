"""The study: what merges, what is refused, and that each refusal names the key and the fix."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deltageom.errors import UserError
from deltageom.study.explain import check_results
from deltageom.study.layers import merge, settings, told
from deltageom.study.load import load_study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The project's config.yaml and its toy study, to write further studies beside."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    (tmp_path / "studies" / "toy.yaml").write_text((ROOT / "studies" / "toy.yaml").read_text())
    return tmp_path


def write(root: Path, text: str, name: str = "mine") -> dict[str, str]:
    (root / "studies" / f"{name}.yaml").write_text(text)
    return {"study": name}


def refusal(root: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load_study(write(root, "extends: toy\n" + text), root)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "studies").glob("*.yaml")))
def test_every_shipped_study_is_valid(name: str) -> None:
    assert load_study({"study": name}, ROOT).study == name


def test_paper_study_has_the_papers_protocol() -> None:
    study = load_study({"study": "qwen3-4b"}, ROOT)
    sft, dpo = study.runs["sft"].training, study.runs["dpo"].training
    assert (sft.learning_rate, dpo.learning_rate, sft.steps, sft.report_step) == (5e-6, 5e-7, 1500, 1000)
    assert (sft.lora.rank, sft.lora.alpha, sft.batch_size, sft.warmup, sft.seed) == (32, 64.0, 32, 0.05, 42)
    assert study.base.layers * len(sft.lora.target_modules) == 144
    assert sorted(study.runs) == ["dft", "dpo", "offline_grpo", "rft", "rift", "rift_linear", "sft"]


def test_extends_merges_and_null_removes(root: Path) -> None:
    config = write(root, "extends: toy\nruns: {dpo: null, again: {method: sft}}\nrollouts: {samples: 8}\n")
    study = load_study(config, root)
    assert "dpo" not in study.runs
    assert "again" in study.runs
    assert study.rollouts.samples == 8
    assert study.rollouts.generator == "teacher"  # from toy


def test_run_overrides_training_and_options_only_for_itself(root: Path) -> None:
    study = load_study(
        write(root, "extends: toy\nruns: {rift: {method: rift, reward_wrong: -0.5, lora: {rank: 6}}}\n"), root
    )
    assert study.runs["rift"].options == {
        "reward_correct": 1.0,
        "reward_wrong": -0.5,
        "probability": "sequence",
    }
    assert study.runs["rift"].training.lora.rank == 6
    assert study.runs["sft"].training.lora.rank == 8


def test_command_line_comes_last(root: Path) -> None:
    study, plain = load_study({"rollouts": {"samples": 3}}, root), load_study({}, root)
    assert (study.rollouts.samples, study.rollouts.max_tokens) == (3, plain.rollouts.max_tokens)


def test_what_was_said_counts_though_it_equals_a_default(root: Path) -> None:
    file = root / "mine.yaml"
    file.write_text("training: {batch_size: 32}\n")
    arguments = ["study=toy", "device=cpu", "rollouts={generator: base}", "training={steps: 3}", "training={seed: 4}"]
    study = load_study(root=root, overrides=told([file], arguments))
    sft = study.runs["sft"].training
    assert (study.rollouts.generator, sft.batch_size, sft.steps, sft.seed) == ("base", 32, 3, 4)
    assert sft.learning_rate == 2.0e-3  # nothing was said of it
    cuda = write(root, "extends: toy\ndevice: cuda\n")
    assert load_study(cuda, root).device == "cuda"
    assert load_study(cuda | {"device": "cpu"}, root).device == "cpu"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("a={steps: 3, rate: 1.0e-5, on: true, none: null}", {"steps": 3, "rate": 1e-5, True: True, "none": None}),
        ("a={runs: {sft: null, more: [1, x]}}", {"runs": {"sft": None, "more": [1, "x"]}}),
        ("a=", None),
        ("a=b=c", "b=c"),
    ],
)
def test_values_of_the_command_line_have_their_types(argument: str, value: Any) -> None:
    (layer,) = told([], [argument])
    assert layer.tree == {"a": value}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training={steps: 3"], r"^--config training={steps: 3: the value is not YAML \(.*\): write it as 'training="),
        (["training={steps: 3, steps: 4}"], r"key 'steps' stands twice"),
        (["training={stepz: 3}"], r"training.stepz: unknown key \(did you mean 'steps'\?\)"),
        (["trainign={steps: 3}"], r"--config: trainign: unknown key \(did you mean 'training'\?\)"),
        (["training=3"], r"--config: training: is a section of keys and values; got 3"),
        (["rollouts={samples: many}"], r"^--config: rollouts.samples: .*got 'many'"),
        (["study=nothing"], r"unknown study 'nothing'"),
        (["study=5"], r"study name 5"),
    ],
)
def test_mistakes_on_the_command_line_name_it(arguments: list[str], message: str, root: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_study(root=root, overrides=told([], arguments))


def test_an_error_names_what_really_holds_the_value(root: Path) -> None:
    """A study's own mistake is not blamed on the command line, nor the other way round."""
    config = write(root, "extends: toy\nrollouts: {samples: none}\n", "mine")
    with pytest.raises(UserError, match=r"^studies/mine.yaml: rollouts.samples"):
        load_study(root=root, overrides=told([], ["study=mine", "device=cpu"]))
    assert load_study(config | {"rollouts": {"samples": 2}}, root).rollouts.samples == 2
    file = root / "theirs.yaml"
    file.write_text("rollouts: {samples: none}\n")
    with pytest.raises(UserError, match=rf"^--configfile {file}: rollouts.samples"):
        load_study(root=root, overrides=told([file], ["study=toy"]))


def test_mistakes_in_runs_name_the_file_that_says_them(root: Path) -> None:
    write(root, "extends: toy\ngrid: {g: {method: sft, seed: [1, 2], stepz: 3}}\n", "parent")
    with pytest.raises(UserError) as caught:
        load_study(write(root, "extends: parent\nruns: {sft-0.1: {method: sft, lerning_rate: 1.0}, b: 3}\n"), root)
    message = str(caught.value)
    assert "studies/mine.yaml: runs.sft-0.1.lerning_rate: unknown key; a run takes" in message
    assert "studies/mine.yaml: runs.b: write the run as {method: NAME, ...}" in message.splitlines()
    assert "studies/parent.yaml: grid.g.stepz: unknown key; a run takes" in message


def test_a_clash_is_not_blamed_on_a_default(root: Path) -> None:
    """replicates.vary is config.yaml's own; count and file are what a study can change."""
    write(root, "extends: toy\nreplicates: {count: 2}\n", "parent")
    says = "studies/mine.yaml: replicates.vary names rollouts, but rollouts.file holds finished ones: set "
    for vary, fix in (("", "replicates.vary: [order, init_a], or count: 1"), ("[rollouts]", "replicates.count: 1")):
        own = f"replicates: {{vary: {vary}}}\n" if vary else ""
        with pytest.raises(UserError) as caught:
            load_study(write(root, f"extends: parent\nrollouts: {{file: x.jsonl}}\n{own}"), root)
        assert str(caught.value) == says + fix
    with pytest.raises(UserError, match=r"^--config: base\.layers is 5, but toy\.layers is 4"):
        load_study(root=root, overrides=told([], ["study=toy", "base={layers: 5}"]))


def test_a_configfile_is_no_study(root: Path) -> None:
    (root / "theirs.yaml").write_text("extends: toy\n")
    with pytest.raises(UserError, match=r"theirs.yaml: extends: only a study extends another: .*--config study=NAME"):
        told([root / "theirs.yaml"], [])


def test_order_of_keys_changes_no_setting(root: Path) -> None:
    a = load_study(write(root, "extends: toy\ntraining: {steps: 5, seed: 1}\n"), root)
    b = load_study(write(root, "training: {seed: 1, steps: 5}\nextends: toy\n"), root)
    assert settings(a.runs["sft"]) == settings(b.runs["sft"])


def test_merge_goes_key_by_key_and_null_replaces() -> None:
    below = {"a": 1, "b": {"c": 2, "d": 3}}
    assert merge(below, {"b": {"c": 5}, "e": None}) == {"a": 1, "b": {"c": 5, "d": 3}, "e": None}
    assert merge(below, {"b": None}) == {"a": 1, "b": None}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rollout: {samples: 2}", ["studies/mine.yaml: rollout: unknown key", "did you mean 'rollouts'"]),
        ("rollouts: {sample: 2}", ["rollouts.sample: unknown key", "did you mean 'samples'"]),
        ("training: {learning_rat: 0.1}", ["training.learning_rat: unknown key", "'learning_rate'"]),
        ("training: {learning_rate: 1e-5}", ["training.learning_rate", "'1e-5'", "write 1.0e-05", "text"]),
        ("training: {steps: many}", ["training.steps", "integer", "'many'"]),
        ("training: {steps: 1.5}", ["training.steps", "1.5"]),
        ("training: {steps: true}", ["training.steps", "integer"]),
        ("training: {learning_rate: .nan}", ["training.learning_rate", "finite"]),
        ("training: {report_step: 100}", ["report_step 100", "64 steps"]),
        ("training: {micro_batch_size: 5}", ["micro_batch_size 5", "divide batch_size 16"]),
        ("training: 3", ["studies/mine.yaml: training: is a section", "got 3"]),
        ("methods: {dop: {beta: 1.0}}", ["methods.dop: unknown method", "did you mean 'dpo'"]),
        ("runs: {sft: {method: sftt}}", ["runs.sft.method: unknown method 'sftt'", "did you mean 'sft'"]),
        ("runs: {sft: {beta: 1.0}}", ["runs.sft.beta: unknown key", "sft has no options"]),
        ("runs: {x: {method: dpo, betas: 1.0}}", ["runs.x.betas: unknown key", "did you mean 'beta'"]),
        ("runs: {x: {method: dpo, beta: high}}", ["runs.x.beta", "number"]),
        ("runs: {x: {method: dft, learning_rate: 1e-4}}", ["runs.x.learning_rate", "write 0.0001"]),
        ("runs: {x: sft}", ["runs.x: write the run as {method: NAME"]),
        ("runs: {'a b': {method: sft}}", ["'a b'", "A-Z a-z 0-9 . _ -"]),
        ("runs: {'../x': {method: sft}}", ["'../x'", "begin with a letter or digit"]),
        ("runs: {'$(rm)': {method: sft}}", ["'$(rm)'"]),
        ("runs: {base: {method: sft}}", ["'base' is taken"]),
        ("runs: {1: {method: sft}}", ["runs", "string"]),
        ("measures: {compare_with: stf}", ["measures.compare_with 'stf' is none of the runs"]),
        ("measures: {cka: {benchmark: gsm}}", ["measures.cka.benchmark 'gsm' is none of the benchmarks"]),
        ("measures: {geometry: {top_k: 9}}", ["top_k 9 is more than the rank 8"]),
        ("prompt: {template: 'Solve it'}", ["prompt.template", "{question}"]),
        ("prompt: {template: '{question} \\boxed{x}'}", ["prompt.template", "{{ and }}"]),
        ("base: {model: some/model}", ["source is toy, but base.model is 'some/model'"]),
        ("benchmarks: {easy: {split: medium}}", ["benchmarks.easy", "train, easy or hard"]),
        ("benchmarks: {x: {source: toy, split: easy}}", ["benchmarks.x", "toy needs limit"]),
        ("benchmarks: {x: {source: file}}", ["benchmarks.x", "path: the jsonl file"]),
        ("runs: {x: {method: sft, lora: {target_modules: [self_attn.q_proj]}}}", ["module by module"]),
        ("a: [1", ["studies/mine.yaml", "not valid YAML"]),
        ("training: {steps: 1, steps: 2}", ["studies/mine.yaml", "'steps' stands twice"]),
    ],
)
def test_mistake_is_named_with_its_fix(root: Path, text: str, says: list[str]) -> None:
    message = refusal(root, text)
    for part in says:
        assert part in message
    assert "Traceback" not in message


def test_zero_runs(root: Path) -> None:
    with pytest.raises(UserError, match="runs: is empty"):
        load_study(write(root, "benchmarks: {easy: {source: toy, split: easy, limit: 3}}\n"), root)


def test_no_file_no_parent_and_a_circle(root: Path) -> None:
    with pytest.raises(UserError, match=r"unknown study 'toi'.*known: toy.*did you mean 'toy'"):
        load_study({"study": "toi"}, root)
    with pytest.raises(UserError, match=r"unknown study 'gone' \(extended by studies/mine.yaml\)"):
        load_study(write(root, "extends: gone\n"), root)
    write(root, "extends: b\n", "a")
    with pytest.raises(UserError, match="extends itself by way of b -> a -> b"):
        load_study(write(root, "extends: a\n", "b"), root)
    with pytest.raises(UserError, match=r"study name '\.\./toy'"):
        load_study({"study": "../toy"}, root)


def test_reading_a_study_imports_nothing_heavy() -> None:
    code = (
        "import sys; from deltageom.study.load import load_study; from deltageom.problems import load;"
        "from deltageom.jobs import code; load_study();"
        "print([m for m in ('torch', 'numpy', 'pandas', 'transformers', 'scipy', 'pyarrow') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_anchor_may_be_merged_and_overridden(root: Path) -> None:
    """Two benchmarks of the same problems, answered in two ways."""
    text = """
extends: toy
benchmarks:
  easy: &easy {source: toy, split: easy, limit: 7}
  sampled:
    <<: *easy
    samples: 4
    temperature: 0.7
"""
    easy, sampled = (load_study(write(root, text), root).benchmarks[name] for name in ("easy", "sampled"))
    assert sampled.dataset == easy.dataset
    assert (easy.samples, easy.temperature) == (1, 0.0)
    assert (sampled.samples, sampled.temperature, sampled.max_tokens) == (4, 0.7, easy.max_tokens)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "benchmarks: {hard: {samples: 0}}",
            "studies/mine.yaml: benchmarks.hard.samples: input should be greater than",
        ),
        ("benchmarks: {hard: {samples: 4}}", "samples 4 at temperature 0 would be equal: set temperature above 0"),
        (
            "benchmarks: {hard: {temprature: 1.0}}",
            "benchmarks.hard.temprature: unknown key (did you mean 'temperature'?)",
        ),
        ("benchmarks: {hard: {thinking: maybe}}", "benchmarks.hard.thinking"),
        ("rollouts: {samples: 0}", "rollouts.samples: input should be greater than or equal to 1; got 0"),
        ("rollouts: {engine: sglang}", "rollouts.engine"),
        ("evaluation: {max_tokens: 5}", "evaluation.max_tokens: unknown key"),
        ("decontamination: {overlap: keep}", "decontamination.overlap"),
        ("statistics: {family: none}", "statistics.family"),
        ("execution: {memory_share: 1.5}", "execution.memory_share"),
    ],
)
def test_mistakes_in_decoding_and_engines_name_the_key(root: Path, text: str, says: str) -> None:
    assert says in refusal(root, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("embedded: {layers: 4}", "embedded: is called toy now: rename the key"),
        ("measures: {reference: sft}", "measures.reference: is called measures.compare_with now: rename the key"),
        ("base: {model: embedded}", "base.model: embedded is called toy now: write that"),
        ("benchmarks: {x: {source: embedded}}", "benchmarks.x.source: embedded is called toy now: write that"),
        ("statistics: {family: reference}", "statistics.family: reference is called compare_with now: write that"),
    ],
)
def test_what_has_another_name_now_is_named(root: Path, text: str, says: str) -> None:
    assert refusal(root, text) == f"studies/mine.yaml: {says}"


def test_a_method_that_has_another_name_now_is_named(root: Path) -> None:
    said = "sft_reference is called sft_solutions now: write that"
    assert refusal(root, "runs: {a: {method: sft_reference}}") == f"studies/mine.yaml: runs.a.method: {said}"
    assert (
        refusal(root, "methods: {sft_reference: {}}")
        == "studies/mine.yaml: methods.sft_reference: is called sft_solutions now: write that"
    )


def test_results_of_the_first_version_are_not_written_over(tmp_path: Path) -> None:
    for name, kept in {"old": {"embedded": {}}, "new": {"toy": {}}, "other": []}.items():
        (tmp_path / name / "provenance").mkdir(parents=True)
        (tmp_path / name / "provenance" / "pretrain.json").write_text(json.dumps({"settings": kept}))
    check_results(tmp_path / "new")
    check_results(tmp_path / "other")
    check_results(tmp_path / "none")
    with pytest.raises(UserError, match=r"old: is of version 0.1, .* move it away to keep it, or delete it"):
        check_results(tmp_path / "old")
