"""TRL's online trainers, told what TRL cannot know: exact prompts, a seed per completion, the grader, the samples.

Nothing of TRL is copied: beside RunTrainer's, the seams are `_generate_and_score_completions`, `_tokenize_prompts`,
`_generate_single_turn`, `_get_per_token_logps_and_entropies` and the reward function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from trl.trainer.distillation_trainer import DistillationTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from deltageom.errors import UserError
from deltageom.generation.engine import Completion, Request, Sampling
from deltageom.generation.engines.transformers import TransformersEngine
from deltageom.generation.generate import complete, seed_of
from deltageom.models.prompts import Tokenizer, end_tokens
from deltageom.problems.problem import Problem
from deltageom.study.running import Grader
from deltageom.training.online.order import Groups
from deltageom.training.online.samples import Asked, Drawn, Samples, grade
from deltageom.training.trainers import RunTrainer

PATIENCE = 5  # steps in a row without a gradient before the log says so


@dataclass(frozen=True)
class Draws:
    """How a run is sampled while it trains. prompts: token ids of each problem's; at_once: sequences of a batch, and
    the tokens that it may hold; iterations: optimiser steps per batch of samples."""

    problems: Sequence[Problem]
    prompts: Sequence[Sequence[int]]
    group: int
    sampling: Sampling
    seed: int
    at_once: tuple[int, int | None]
    grader: Grader
    iterations: int = 1


class SamplingTrainer(RunTrainer):
    """What every online run adds to a TRL trainer that generates; it stands first among the bases.

    Each completion has a generator of its own, seeded by the run's seed, the step, the problem and its number in the
    group, so that neither the batch nor a kill changes it. The data set has each problem's `row`, its place in
    `draws.problems`, and its prompt's token ids (`prompt`). `samples` is set before the training starts.
    """

    samples: Samples
    learns_from_rewards = False

    def __init__(self, *, draws: Draws, tokenizer: Tokenizer, **trainer: Any) -> None:
        self.draws, self.own_tokenizer = draws, tokenizer
        self.without_signal = 0
        self.asked: list[Asked] = []
        super().__init__(universe=None, processing_class=tokenizer, **trainer)
        self.mask_hook.remove()  # TRL pads prompts on the left here
        model: Any = self.model  # type: ignore[attr-defined]
        causal_lm = model.get_base_model()
        # TRL's own list may lack the token that closes a turn, and it takes what ends otherwise for cut off
        self.ends = self.eos_token_ids = end_tokens(tokenizer, causal_lm.generation_config or GenerationConfig())
        # the head of TRL's loss is of the sampling's temperature; whoever else scores the model wants that of 1
        self.own_head = causal_lm.forward
        add_fused_lm_head(causal_lm)

    def _get_train_sampler(self, train_dataset: Any = None) -> Groups:  # type: ignore[override]  # noqa: ARG002
        args, draws = self.args, self.draws  # type: ignore[attr-defined]
        asked = self.rows_a_step() // draws.group
        batches = -(-args.max_steps // draws.iterations)
        repeats = args.gradient_accumulation_steps * draws.iterations
        return Groups(len(draws.problems), asked, draws.group, batches, repeats, args.seed)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        first = self.accelerator.process_index * len(inputs)  # type: ignore[attr-defined]
        self.asked = [
            Asked(self.draws.problems[row["row"]], (first + i) % self.draws.group, row["prompt"])
            for i, row in enumerate(inputs)
        ]
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        return batch

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
        """They are token ids already."""
        return prompts, None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any) -> Any:
        """The completions' token ids; they are graded and kept beside."""
        return [list(one.token_ids) for one in self._made(prompt_ids, *rest)]

    def _made(self, prompt_ids: list[list[int]], *rest: Any) -> list[Completion]:
        made = self._by_vllm(prompt_ids, *rest) if self.use_vllm else self._by_transformers()  # type: ignore[attr-defined]
        self._keep(grade(self.own_tokenizer, self.draws.grader, self.asked, made))
        return made

    def _by_transformers(self) -> list[Completion]:
        model = self.accelerator.unwrap_model(self.model)  # type: ignore[attr-defined]
        step = self.state.global_step  # type: ignore[attr-defined]
        engine = TransformersEngine(model, self.own_tokenizer.pad_token_id, self.ends, *self.draws.at_once)
        requests = [
            Request(ask.prompt, seed_of(self.draws.seed, f"{step}/{ask.problem.id}", ask.sample)) for ask in self.asked
        ]
        model.eval()
        made = complete(engine, requests, self.draws.sampling, quiet=True)
        model.train()
        return made

    def _by_vllm(self, prompt_ids: list[list[int]], *rest: Any) -> list[Completion]:
        drawn = super()._generate_single_turn(prompt_ids, *rest)  # type: ignore[misc]
        ids, log_probs = drawn if isinstance(drawn, tuple) else (drawn, [[] for _ in drawn])
        return [
            Completion(tokens, scores, "stop" if tokens and tokens[-1] in self.ends else "length")
            for tokens, scores in zip(ids, log_probs, strict=True)
        ]

    def _keep(self, drawn: Drawn) -> None:
        """Keeps the samples, and logs what the step has drawn. Raises UserError where all were cut in the first."""
        step, name = self.state.global_step, self.run_name  # type: ignore[attr-defined]
        group = self.draws.group
        facts = [
            [reward, len(one.token_ids), one.finish_reason == "length"]
            for reward, one in zip(drawn.rewards, drawn.completions, strict=True)
        ]
        accelerator = self.accelerator  # type: ignore[attr-defined]
        own_facts = torch.tensor(facts, dtype=torch.float64, device=accelerator.device)
        rewards, lengths, were_cut = accelerator.gather(own_facts).T
        cut = int(were_cut.sum())
        groups = rewards.view(-1, group)
        mixed = int((groups.amax(1) != groups.amin(1)).sum())
        self.extras |= {
            "reward": float(rewards.mean()),
            "reward_deviation": float(groups.std(1, correction=0).mean()),
            "mixed_groups": mixed / len(groups),
            "completion_length": float(lengths.mean()),
            "truncated_share": cut / len(rewards),
        }
        right = int(rewards.sum())
        counts = {"rows": len(rewards), "correct": right, "wrong": len(rewards) - right}
        counts |= {"groups": len(groups), "mixed_groups": mixed, "truncated": cut}
        if cut == len(rewards) and not right and step == 0:
            raise UserError(
                f"run {name!r}: all {cut} completions of the first step were cut off at max_tokens "
                f"{self.draws.sampling.max_tokens}, and none is right: raise max_tokens"
            )
        self._warn(mixed, f"{right} of {len(rewards)} completions are right, {cut} were cut off")
        # of several processes' shards one has the counts, which are of all
        own = counts if self.is_world_process_zero() else {}  # type: ignore[attr-defined]
        before = step // self.draws.iterations * self.rows_a_step()
        first = before + accelerator.process_index * len(drawn.asked)
        self.samples.add(step, first, drawn, own)

    def _warn(self, mixed: int, what: str) -> None:
        self.without_signal = 0 if mixed else self.without_signal + 1
        if self.without_signal and self.without_signal % PATIENCE == 0 and self.learns_from_rewards:
            print(
                f"warning: run {self.run_name!r}: in the last {self.without_signal} steps the rewards of every group "
                f"were all equal (in the last one {what}), which gives no gradient",
                flush=True,
            )

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """With the tokens so far. TRL's `kl`, the penalty's estimate on the run's own samples, is not that of KTO."""
        self.extras["tokens"] = float(self.state.num_input_tokens_seen)  # type: ignore[attr-defined]
        found = self._metrics["train"].pop("kl", None)  # type: ignore[attr-defined]
        if found:
            self.extras["kl_penalty"] = sum(found) / len(found)
        super().log(logs, *args)


class GroupTrainer(SamplingTrainer, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO and its kin. The reward is what the grader says of the completions that are in hand."""

    learns_from_rewards = True

    def __init__(self, **trainer: Any) -> None:
        def graded(completion_ids: list[Any], **_: Any) -> list[float]:
            assert len(completion_ids) == len(self.rewards)
            return self.rewards

        self.rewards: list[float] = []
        super().__init__(reward_funcs=graded, **trainer)

    def _keep(self, drawn: Drawn) -> None:
        self.rewards = list(drawn.rewards)
        super()._keep(drawn)

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any) -> tuple[list[list[int]], Any]:
        """The log-probs are vLLM's, whose arithmetic is another than the loss's: TRL corrects for the difference."""
        made = self._made(prompt_ids, *rest)
        log_probs = [list(one.token_log_probs or ()) for one in made] if self.use_vllm else None
        return [list(one.token_ids) for one in made], log_probs

    def _get_per_token_logps_and_entropies(self, *args: Any, **named: Any) -> Any:
        causal_lm = self.accelerator.unwrap_model(self.model).get_base_model()
        causal_lm.forward, plain = self.own_head, causal_lm.forward
        try:
            return super()._get_per_token_logps_and_entropies(*args, **named)
        finally:
            causal_lm.forward = plain


class DistilledTrainer(SamplingTrainer, DistillationTrainer):  # type: ignore[misc]
    """TRL's on-policy distillation: `teacher_model`'s distribution of each token of the run's own samples."""
