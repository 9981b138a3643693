"""Every rule of workflow/rules with its jobs, their seconds and their bytes.

A rule that is added there gets its line here: a test holds the jobs against what Snakemake plans.
"""

import math
from dataclasses import dataclass

from deltageom import plan_costs as costs
from deltageom.methods import interface as methods
from deltageom.plan_work import RunRows, Stage, Work, least
from deltageom.schema import EMBEDDED, Run

CORRECT_ONLY = ("rft",)  # methods that see the right rollouts alone
GRADED_THREADS = 2  # of `reward`, and of pretrain, teacher, rollouts and reference
# Measured (docs/benchmarks.md): a module's geometry takes so long a run and a pair; its base weight's triplets, and a
# run against them, so long a number of the weight; a dense SVD of (m, n) so long times m n min(m, n).
RUN_SECONDS, PAIR_SECONDS = 2.4e-3, 0.7e-3
TRIPLET_SECONDS, AGAINST_SECONDS, DENSE_SECONDS = 0.57e-6, 86e-9, 0.5e-9
ANSWER_TOKENS = 8  # \boxed{answer}
# Bytes, as the toy has them
METRIC_BYTES = 14 * 12  # of metrics.parquet, a step
CONFIG_BYTES, HEADER_BYTES = 1500, 130  # of a run's json files; of the weights' header, a tensor
RUN_JSON, PAIR_JSON = 3000, 6000  # of a module's file in geometry/
PATH_ROW, CKA_ROW = 60, 60  # of a row of these csv
PAIR_TABLE, TABLES = 8000, 1e5  # of geometry_module.csv, a pair and module; of the other tables
FIGURES, SUMMARY = 1.5e6, 3.5e4
PROBLEM_BYTES = 60  # of a problem's line beside its question
SCORE_BYTES = 8  # of a rollout, and of a held-out token, in reference/
GRADE_BYTES = 120  # of a record, beside the answer
RECORD_BYTES = 2e3  # of a job, in provenance.json
JOB_BYTES = 5e3  # of a job's provenance, log and benchmark


@dataclass(frozen=True)
class Stages:
    work: Work

    def all(self) -> tuple[Stage, ...]:
        """In the order of the workflow, those with jobs; last the files that every job leaves."""
        parts = (self.data, self.made_models, self.rollouts, self.reference, self.training, self.scores)
        found = [stage for part in (*parts, self.measures, self.report) for stage in part() if stage.jobs]
        jobs = sum(len(stage.jobs) for stage in found)
        merged = self.light("provenance", 1, 0, RECORD_BYTES * jobs, "provenance.json")
        beside = Stage("(logs, records)", (), 0, 1, JOB_BYTES * (jobs + 1), ("provenance", "logs", "benchmarks"))
        return (*found, merged, beside)

    def light(self, rule: str, jobs: int, seconds: float, disk: float, files: str) -> Stage:
        """A rule whose jobs, all alike, need no torch."""
        return Stage(rule, (self.work.assumed.light_start + seconds,) * jobs, 0, 1, disk, (files,))

    def jobs_of_pairs(self, start: float, pair: float) -> tuple[float, ...]:
        """Seconds of a job a run but the last, each with the runs after it."""
        return tuple(start + after * pair for after in range(len(self.work.runs) - 1, 0, -1))

    def data(self) -> list[Stage]:
        prompts = self.work.inputs.prompt_tokens
        # a solution as long as the question beside it
        sets = {
            name: count * (costs.TEXT * 2 * prompts[name] + PROBLEM_BYTES)
            for name, count in self.work.inputs.problems.items()
        }
        return [
            self.light("problems", len(sets), 0, sum(sets.values()), "problems"),
            self.light("decontaminate", 1, 0, sets["train"], "decontamination"),
        ]

    def made_models(self) -> list[Stage]:
        """The embedded base and its teacher: every weight trained on documents of a question and a solution."""
        work, study = self.work, self.work.study
        documents = {}
        if study.base.model == EMBEDDED:
            documents["pretrain"] = ("base", study.embedded.documents)
        if study.rollouts.file is None and study.rollouts.generator == "teacher":
            documents["teacher"] = ("teacher", study.teacher.documents)
        found = []
        for rule, (folder, number) in documents.items():
            tokens = number * 2 * work.inputs.prompt_tokens["train"]
            flops = costs.training_flops(work.inputs.base.active, tokens, whole=True, checkpointing=False)
            seconds = work.assumed.torch_start + work.compute(flops, GRADED_THREADS)
            disk = work.inputs.base.parameters * work.inputs.base.stored
            found.append(Stage(rule, (seconds,), work.on_gpu, GRADED_THREADS, disk, (folder,)))
        return found

    def rollouts(self) -> list[Stage]:
        work, rows, shape = self.work, self.work.rollouts, self.work.inputs.generator
        table = costs.table_bytes(rows.completions, rows.prompt, rows.tokens)
        made = "rollouts/completions.parquet"
        if shape is None:
            first = self.light("import_rollouts", 1, work.assumed.torch_start, table, made)
        else:
            engine = work.study.rollouts.engine
            seconds = work.start(shape, engine) + work.generate([rows], engine, shape, 2)
            shards = costs.shard_bytes(rows.completions, rows.tokens)
            first = Stage("rollouts", (seconds,), work.engine_gpus(engine), 2, table, (made,), shards)
        workers = min(GRADED_THREADS, work.machine.cores)
        grading = work.assumed.torch_start + rows.completions * work.assumed.grade_seconds / workers
        files = ("rollouts/rollouts.parquet", "rollouts/README.md")
        return [first, Stage("reward", (grading,), 0, GRADED_THREADS, table, files)]

    def reference(self) -> list[Stage]:
        """The base's log-probs of the rollouts and its held-out samples, where a run needs either."""
        work = self.work
        runs = work.study.runs.values()
        if not any("base" in methods.load(run.method).NEEDS or run.training.kl_every for run in runs):
            return []
        base, completions = work.inputs.base, work.rollouts.completions
        seconds = work.start(base) + work.forward(completions * work.row_tokens + work.held_out_tokens, 2)
        if work.held_out:
            seconds += work.generate([work.held_out], "transformers", base, 2)
        disk = SCORE_BYTES * (completions + work.held_out_tokens)
        return [Stage("reference", (seconds,), work.on_gpu, 2, disk, ("reference",))]

    def run_rows(self, name: str) -> RunRows:
        run = self.work.study.runs[name]
        method = methods.load(run.method)
        paired = method.FAMILY in ("preference", "pairwise")
        rows, unit = self._rows(run, method.SOURCE, paired)
        seen = self.work.steps(name) * run.training.batch_size
        tokens = seen * self.work.row_tokens * (2 if paired else 1)
        return RunRows(name, run.method, unit, rows, seen / rows if rows else math.nan, tokens)

    def _rows(self, run: Run, source: str, paired: bool) -> tuple[float, str]:
        work = self.work
        problems, correct = work.inputs.problems["train"], work.assumed.correct_share
        if source == "reference":
            return problems, "solutions"
        if paired:
            most = run.options.get("max_pairs")
            samples, mixed = work.study.rollouts.samples, work.assumed.mixed_share
            return problems * costs.pairs_a_problem(samples, correct, most, mixed), "pairs"
        if run.method in CORRECT_ONLY:
            return work.rollouts.completions * correct, "right rows"
        return work.rollouts.completions, "all rows"

    def train_seconds(self, name: str) -> float:
        """Of a run's job, on all its processes."""
        work, active = self.work, self.work.inputs.base.active
        run = work.study.runs[name]
        whole = run.training.adapter == "none"
        # KTO scores another problem's completions under the run and under the base, for its KL term
        extra = 2 if run.options.get("loss_type") == "kto" else 0
        tokens = self.run_rows(name).tokens
        flops = costs.training_flops(active, tokens, whole, run.training.gradient_checkpointing, extra)
        if run.training.kl_every:
            times = work.steps(name) // run.training.kl_every + 1
            flops += costs.forward_flops(active, times * work.held_out_tokens)
        return work.start(work.inputs.base) + work.compute(flops) / work.study.execution.processes

    def run_bytes(self, name: str) -> tuple[float, float]:
        """What a run leaves, and its checkpoints while it is trained: weights and AdamW's two moments, twice."""
        work, training = self.work, self.work.study.runs[name].training
        if training.adapter == "none":
            weights, header = 4 * work.inputs.base.parameters, 0.0
        else:
            weights = costs.adapter_bytes(work.shapes, training.lora.rank)
            header = 2.0 * HEADER_BYTES * len(work.shapes)
        steps, every = work.steps(name), work.study.execution.checkpoint_every
        checkpoints = 2 * 3 * weights if every and every <= steps else 0.0
        return weights + header + CONFIG_BYTES + METRIC_BYTES * steps, checkpoints

    def training(self) -> list[Stage]:
        work = self.work
        processes = work.study.execution.processes
        gpus, threads = work.on_gpu * processes, 1 if work.on_gpu else processes
        adapted = [run for run in work.runs if run not in work.whole]
        found = []
        for rule, runs in (("train", adapted), ("train_whole", work.whole)):
            sizes = [self.run_bytes(run) for run in runs]
            disk, scratch = sum(kept for kept, _ in sizes), max((more for _, more in sizes), default=0.0)
            jobs, files = tuple(map(self.train_seconds, runs)), tuple(f"runs/{run}" for run in runs)
            found.append(Stage(rule, jobs, gpus, threads, disk, files, scratch))
        return found

    def scores(self) -> list[Stage]:
        work, wanted, base = self.work, self.work.study.evaluation, self.work.inputs.base
        models = len(work.runs) + 1
        asked = [work.sampling(name, b, wanted.batch_size) for name, b in work.study.benchmarks.items()]
        seconds = work.start(base, wanted.engine) + work.generate(asked, wanted.engine, base, 1)
        disk = sum(costs.record_bytes(one.completions, one.prompt, one.tokens) for one in asked)
        shards = sum(costs.shard_bytes(one.completions, one.tokens) for one in asked)
        completions = sum(one.completions for one in asked)
        gpus = work.engine_gpus(wanted.engine)
        grading = completions * work.assumed.grade_seconds
        return [
            Stage("evaluate", (seconds,) * models, gpus, 1, models * disk, ("evaluation",), shards),
            self.light("grade", models, grading, models * (disk + GRADE_BYTES * completions), "graded"),
        ]

    def measures(self) -> list[Stage]:
        return [*self.cka(), self.connectivity(), *self.spectra(), self.geometry()]

    def cka(self) -> list[Stage]:
        work, wanted, base = self.work, self.work.study.measures.cka, self.work.inputs.base
        prompts = least(wanted.prompts, work.inputs.problems[wanted.benchmark])
        seconds = work.start(base) + work.forward(prompts * work.inputs.prompt_tokens[wanted.benchmark])
        runs = len(work.runs) if work.pairs else 0
        states = 4 * base.layers * prompts * base.hidden
        # of a layer: Gram matrices of both runs, 2 n^2 d each, for each of two estimators
        flops = base.layers * 8 * prompts**2 * base.hidden
        pair = flops / costs.cores(1, work.assumed).flops
        jobs = self.jobs_of_pairs(work.assumed.light_start, pair)
        disk = CKA_ROW * 2 * base.layers * work.pairs
        return [
            Stage("hidden_states", (seconds,) * runs, work.on_gpu, 1, runs * states, ("hidden",)),
            Stage("cka", jobs, 0, 1, disk, ("cka",)),
        ]

    def connectivity(self) -> Stage:
        work, wanted = self.work, self.work.study.measures.connectivity
        used = least(wanted.problems, work.inputs.problems[wanted.benchmark])
        tokens = used * (work.inputs.prompt_tokens[wanted.benchmark] + ANSWER_TOKENS)
        path = work.forward(wanted.points * tokens)
        jobs = self.jobs_of_pairs(work.start(work.inputs.base), path)
        rows = work.pairs * wanted.points * used
        return Stage("connectivity", jobs, work.on_gpu, 1, PATH_ROW * rows, ("connectivity",))

    def spectra(self) -> list[Stage]:
        rank, shapes = self.work.study.measures.geometry.base_rank, self.work.shapes
        if not rank:
            return []
        from deltageom.geometry.base_spectrum import DENSE

        seconds = TRIPLET_SECONDS * sum(d_out * d_in for d_out, d_in in shapes) / self.work.layers
        disk = costs.spectra_bytes(shapes, rank, DENSE)
        return [self.light("base_spectrum", self.work.layers, seconds, disk, "base_spectrum")]

    def geometry(self) -> Stage:
        work, runs, pairs, shapes = self.work, len(self.work.runs), self.work.pairs, self.work.shapes
        seconds = len(shapes) * (runs * RUN_SECONDS + pairs * PAIR_SECONDS)
        if work.study.measures.geometry.base_rank:
            seconds += runs * AGAINST_SECONDS * sum(d_out * d_in for d_out, d_in in shapes)
        if work.whole:
            dense = sum(d_out * d_in * least(d_out, d_in) for d_out, d_in in shapes)
            seconds += len(work.whole) * DENSE_SECONDS * dense
        disk = len(shapes) * (runs * RUN_JSON + pairs * PAIR_JSON)
        return self.light("geometry", work.layers, seconds / work.layers, disk, "geometry")

    def report(self) -> list[Stage]:
        numbers = len(self.work.shapes) * self.work.pairs
        return [
            self.light("tables", 1, 3 + 2e-3 * numbers, PAIR_TABLE * numbers + TABLES, "tables"),
            self.light("figures", 1, 6, FIGURES, "figures"),
            self.light("summary", 1, 1, SUMMARY, "summary.md"),
        ]
