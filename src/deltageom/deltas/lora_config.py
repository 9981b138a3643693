"""PEFT's adapter_config.json: is the update scale * B @ A alone, of which rank and scale, and on which base?"""

import json
import math
import re
from pathlib import Path
from typing import Any

from deltageom.deltas.folder import CONFIG, MLX
from deltageom.errors import UserError

# Keys of LoraConfig that leave the update what it is, scale * B @ A, whatever they say: where factors go, how they
# were trained or began, what PEFT wrote them. What is trained beside the factors shows in the tensors' names.
HARMLESS = frozenset(
    (
        *("task_type", "auto_mapping", "peft_version", "inference_mode", "runtime_config"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
        *("lora_dropout", "fan_in_fan_out", "megatron_config", "megatron_core", "qalora_group_size"),
        *("bias", "lora_bias", "modules_to_save", "trainable_token_indices"),
        *("eva_config", "corda_config", "lora_ga_config"),  # only init_lora_weights puts them to use
        # of earlier versions of PEFT and of ms-swift
        *("enable_lora", "merge_weights", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),
    )
)
# Those that are read here.
READ = frozenset(
    (
        *("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "use_rslora"),
        *("rank_pattern", "alpha_pattern", "init_lora_weights", "target_parameters"),
    )
)
_WHY = {
    "layer_replication": "so its layers are copies of others of the base, of other numbers",
    "loftq_config": "so the base's weights were quantised and changed",
}
# Initialisations after which the base is as it was. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change it.
_INITS = ("gaussian", "eva", "orthogonal", "mica")


class LoraConfig:
    """What the configuration of a LoRA adapter says.

    `base_name`, `base_revision`: of its base, as far as named; `parameters`: what it adapts by target_parameters.
    Raises UserError, naming the key, for a file that is none or of another method, for values that cannot be, and for
    every key that is set and not known to leave the update scale * B @ A.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CONFIG
        self._said = _read(folder)
        self._check_form()
        for key in ("r", "lora_alpha"):
            self._positive(key, self._said.get(key), whole=key == "r")
        self._patterns = {key: self._pattern(key) for key in ("rank_pattern", "alpha_pattern")}
        self.base_name: str | None = self._typed("base_model_name_or_path", str, "text") or None
        self.base_revision: str | None = self._typed("revision", str, "text") or None
        self._rslora = self._typed("use_rslora", bool, "true or false")
        self.parameters: list[str] = self._typed("target_parameters", list, "a list of names") or []
        if unnamed := [name for name in self.parameters if not isinstance(name, str)]:
            raise UserError(f"{self.path}: target_parameters must be a list of names, not of {unnamed[0]!r}")

    def rank(self, target: str) -> int:
        """Of a module, or of a parameter that target_parameters names, by PEFT's name for it."""
        return int(self._of("rank_pattern", target, self._said["r"]))

    def scale(self, target: str) -> float:
        """alpha / r, or alpha / sqrt(r) with use_rslora (2312.03732), both of the target's own."""
        alpha, rank = self._of("alpha_pattern", target, self._said["lora_alpha"]), self.rank(target)
        return alpha / (math.sqrt(rank) if self._rslora else rank)

    def _of(self, key: str, target: str, default: float) -> float:
        """PEFT's rule: a pattern that, as a regular expression, matches the name or its end at a dot.

        Of several PEFT takes the first that it was given, but sorts them when it saves: which that was is lost.
        """
        found = {name: value for name, value in self._patterns[key].items() if re.match(rf"(.*\.)?({name})$", target)}
        if len(set(found.values())) > 1:
            raise UserError(
                f"{self.path}: of {key}, {' and '.join(map(repr, found))} match {target} with other values, and PEFT "
                "sorts them when it saves, so which of them came first in the training is not known"
            )
        return next(iter(found.values()), default)

    def _check_form(self) -> None:
        init = self._said.get("init_lora_weights")
        if not isinstance(init, bool | None) and str(init).lower() not in _INITS:
            raise UserError(
                f"{self.path}: init_lora_weights {init!r} changes the base's weights, so B @ A is not the update: "
                "save it with PEFT's path_initial_model_for_weight_conversion"
            )
        for key, value in self._said.items():
            if value and key not in HARMLESS | READ:
                why = _WHY.get(key, "which is not known to leave the update scale * B @ A")
                raise UserError(f"{self.path}: {key} is set, {why}: train a plain LoRA adapter")

    def _pattern(self, key: str) -> dict[str, float]:
        patterns = self._said.get(key) or {}
        if not isinstance(patterns, dict):
            raise UserError(f"{self.path}: {key} must be a mapping of names to numbers, not {patterns!r}")
        for pattern, value in patterns.items():
            self._positive(f"{key}[{pattern!r}]", value, whole=key == "rank_pattern")
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"{self.path}: {key} has {pattern!r}, no regular expression: {error}") from error
        return patterns

    def _positive(self, key: str, value: Any, whole: bool) -> None:
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise UserError(f"{self.path}: {key} must be a positive number, not {value!r}")
        if whole and value != int(value):
            raise UserError(f"{self.path}: {key} must be a whole number, not {value!r}")

    def _typed(self, key: str, kind: type, called: str) -> Any:
        value = self._said.get(key)
        if value is not None and not isinstance(value, kind):
            raise UserError(f"{self.path}: {key} must be {called}, not {value!r}")
        return value


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; an adapter is a folder with {CONFIG} and its weights")
    if not path.is_file():
        raise UserError(f"{folder}: not an adapter folder: it has no {CONFIG}")
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if isinstance(config, dict) and "fine_tune_type" in config:
        raise UserError(f"{path}: {MLX}")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else config
        raise UserError(f"{path}: peft_type must be LORA, not {found!r}: other adapters have no factors B and A")
    return config
