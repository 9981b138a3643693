"""What a plan is computed from: the sizes of the models and of the problem sets, and where each is known from."""

import contextlib
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deltageom import problems
from deltageom.errors import UserError
from deltageom.plan_assumptions import Assumptions
from deltageom.resolved import Study
from deltageom.schema import EMBEDDED, Dataset, Embedded

CONFIG = "config.json"
EMBEDDED_TOKENS = 28  # of a prompt; of a worked solution as many
PROMPT_TOKENS = 120  # of a question elsewhere, with its template
# Rows by hub id and split, as the hub says (docs/data.md); some have answers that are dropped.
HUB_ROWS = {
    ("agentica-org/DeepScaleR-Preview-Dataset", "train"): 40315,
    ("openai/gsm8k", "train"): 7473,
    ("openai/gsm8k", "test"): 1319,
    ("madrylab/gsm8k-platinum", "test"): 1209,
    ("math-ai/aime24", "test"): 30,
    ("math-ai/aime25", "test"): 30,
    ("math-ai/aime26", "test"): 30,
    ("HuggingFaceH4/MATH-500", "test"): 500,
}
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
OTHERWISE = {"n_routed_experts", "kv_lora_rank"}  # DeepSeek's layers are built otherwise
SIZE_IN_NAME = re.compile(
    r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BM])(?:-A(\d+(?:\.\d+)?)B)?(?![A-Za-z0-9])", re.IGNORECASE
)
WIDTH_PER_LAYER = 80  # hidden size over layers: 71 in Qwen3-4B, 114 in Qwen3-8B, 128 in Llama 3 8B


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes.

    parameters: of all matrices, biases and norms left out. active: of those that a token is multiplied with, so no
    input embeddings, and of the experts only the chosen ones. cache: numbers that a token adds to the key-value cache.
    modules: (d_out, d_in) by name within a layer. stored: bytes a parameter in the model's own files.
    """

    parameters: float
    active: float
    hidden: float
    layers: int
    cache: float
    modules: Mapping[str, tuple[float, float]]
    stored: int
    origin: str


@dataclass(frozen=True)
class Inputs:
    """problems, prompt_tokens: by data set, `train` and the benchmarks; NaN where nothing says how many.

    mean_tokens: of a completion, by data set, as far as the user has said. generator: None for finished rollouts.
    downloads: hub models that are not in the cache, and their bytes. notes: where all is from.
    """

    base: Shape
    generator: Shape | None
    problems: Mapping[str, float]
    prompt_tokens: Mapping[str, float]
    mean_tokens: Mapping[str, float] = field(default_factory=dict)
    downloads: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def gather(
    study: Study,
    assumed: Assumptions,
    parameters: float | None = None,
    generator_parameters: float | None = None,
    rows: Mapping[str, int] | None = None,
    mean_tokens: Mapping[str, float] | None = None,
) -> Inputs:
    """Reads configurations, of folders and of the hub's cache, and counts local problems. Asks no network.

    `rows`: numbers of problems that the user knows better; `mean_tokens`: of a completion, under "" of any.
    Raises UserError for a local problem set that cannot be read and for names that no data set of the study has.
    """
    datasets = {"train": study.problems} | {name: b.dataset for name, b in study.benchmarks.items()}
    given, tokens = dict(rows or {}), dict(mean_tokens or {})
    for option, names in (("--problems", given), ("--mean-tokens", tokens)):
        if unknown := [name for name in names if name not in ("", *datasets)]:
            raise UserError(f"{option} {unknown[0]}=...: the study's data sets are {', '.join(datasets)}")
    if study.base.model == EMBEDDED:
        base = embedded_shape(study.embedded, stored=4 if study.base.dtype == "float32" else 2)
    else:
        base = shape_of(study.base.model, study.base.revision, study.base.layers, parameters, "--parameters")
    notes = [f"base: {base.origin}"]
    downloads = _download(study.base.model, study.base.revision, base)
    generator = None
    if study.rollouts.file is None:
        generator, name = base, study.rollouts.generator
        if name not in ("base", "teacher"):
            generator = shape_of(name, None, None, generator_parameters, "--generator-parameters")
            notes.append(f"generator: {generator.origin}")
            downloads |= _download(name, None, generator)
    counts: dict[str, float] = {}
    for name, dataset in datasets.items():
        counts[name], origin = (given[name], "as given") if name in given else count(dataset)
        notes.append(f"{name}: {_count_text(counts[name])} problems, {origin}")
    prompts = {name: _prompt_tokens(dataset, assumed) for name, dataset in datasets.items()}
    if "" in tokens:
        tokens = dict.fromkeys(datasets, tokens[""]) | tokens
    return Inputs(base, generator, counts, prompts, tokens, downloads, tuple(notes))


def count(dataset: Dataset) -> tuple[float, str]:
    """How many problems, and how that is known; NaN for a hub data set of unknown size without a limit."""
    if dataset.source == EMBEDDED:
        assert dataset.limit is not None
        return dataset.limit, "made by the embedded world"
    if dataset.source == "file":
        with contextlib.redirect_stdout(io.StringIO()) as said:
            found = problems.from_file(dataset)
        return len(found), f"counted in {dataset.path}{f' ({said.getvalue().strip()})' if said.getvalue() else ''}"
    known = HUB_ROWS.get((dataset.path or "", dataset.split or "train"))
    if known is None and dataset.limit is None:
        return math.nan, f"{dataset.path} is none of the known sizes: give --problems N or NAME=N"
    if known is None:
        return dataset.limit or 0, "its limit; if the set has so many"
    least = min(known, dataset.limit or known)
    return least, f"of {known} in {dataset.path}{'; those without a usable answer are dropped' * _drops(dataset)}"


def _drops(dataset: Dataset) -> bool:
    return dataset.bad_answers == "drop"


def embedded_shape(sizes: Embedded, stored: int) -> Shape:
    """The embedded model's, by the study; its vocabulary as if the tokenizer used it up."""
    config = {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "vocab_size": sizes.vocabulary,
        "tie_word_embeddings": True,
    }
    return replace(from_config(config, "the embedded model"), stored=stored)


def shape_of(model: str, revision: str | None, layers: int | None, parameters: float | None, option: str) -> Shape:
    """By its config.json, else by `parameters`, its name or its layers, in this order; `parameters` always counts."""
    config = read_config(model, revision)
    if config is not None and (shape := from_config(config, f"config.json of {model}")):
        if parameters is None:
            return shape
        return replace(shape, parameters=parameters, active=parameters, origin=f"{option}, and {shape.origin}")
    better = "no config.json of it here"
    if parameters is not None:
        return from_size(parameters, parameters, layers, f"{_amount(parameters)} parameters by {option}; {better}")
    if match := SIZE_IN_NAME.search(model):
        unit = 1e9 if match[2] in "bB" else 1e6
        size, active = float(match[1]) * unit, float(match[3] or match[1]) * (1e9 if match[3] else unit)
        return from_size(
            size, active, layers, f"{_amount(size)} parameters by its name {model}; {better}: else {option} N"
        )
    if layers is None:
        return from_size(math.nan, math.nan, None, f"the size of {model} is not known; {better}: give {option} 4.0e9")
    size = 12 * layers * (WIDTH_PER_LAYER * layers) ** 2
    return from_size(
        size, size, layers, f"{_amount(size)} parameters guessed from {layers} layers; {better}: give {option} 4.0e9"
    )


def from_config(config: Mapping[str, Any], origin: str) -> Shape:
    """From the keys that Llama, Qwen and their kin share. Raises KeyError where one is missing."""
    config = config.get("text_config") or config
    hidden, layers, heads = (int(config[k]) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    groups = int(config.get("num_key_value_heads") or heads)
    width = int(config.get("head_dim") or hidden // heads)
    attention = {"q_proj": (heads, hidden), "k_proj": (groups, hidden), "v_proj": (groups, hidden)}
    modules = {f"self_attn.{name}": (n * width, d_in) for name, (n, d_in) in attention.items()}
    modules["self_attn.o_proj"] = (hidden, heads * width)
    shared = sum(d_out * d_in for d_out, d_in in modules.values())
    experts = int(config.get("num_experts") or config.get("num_local_experts") or 0)
    if experts:
        one = 3 * hidden * int(config.get("moe_intermediate_size") or config["intermediate_size"])
        router = hidden * experts
        chosen = int(config["num_experts_per_tok"])
        layer, layer_active = shared + router + experts * one, shared + router + chosen * one
    else:
        inner = int(config["intermediate_size"])
        modules |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
        layer = layer_active = shared + 3 * hidden * inner
    head = int(config["vocab_size"]) * hidden
    tied = bool(config.get("tie_word_embeddings", False))
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return Shape(
        parameters=layers * layer + head * (1 if tied else 2),
        active=layers * layer_active + head,
        hidden=hidden,
        layers=layers,
        cache=2 * layers * groups * width,
        modules=modules,
        stored=4 if dtype == "float32" else 2,
        origin=origin,
    )


def from_size(parameters: float, active: float, layers: int | None, origin: str) -> Shape:
    """A decoder of about so many parameters. As wide as 12 L d^2 active ones make it (2001.08361, table 1), attention
    square, d_ff = 8/3 d, keys and values of a quarter of the width; without `layers` as deep as WIDTH_PER_LAYER says.
    """
    if layers is None:
        layers = 0 if math.isnan(active) else max(1, round((active / (12 * WIDTH_PER_LAYER**2)) ** (1 / 3)))
    width = math.sqrt(active / (12 * layers)) if layers else math.nan
    inner = 8 / 3 * width
    modules = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
    modules |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    return Shape(parameters, active, width, layers, 2 * layers * width / 4, modules, 2, origin)


def read_config(model: str, revision: str | None) -> dict[str, Any] | None:
    """A model's config.json from its folder or from the hub's cache; None if there is none that can be read."""
    path = Path(model) / CONFIG if Path(model).is_dir() else _cached(model, revision)
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    wanted = config.get("text_config") or config
    return config if all(type(wanted.get(key)) is int for key in NEEDED) and not OTHERWISE & wanted.keys() else None


def is_cached(model: str, revision: str | None) -> bool:
    """Whether the hub's cache has the model's configuration and all its weights."""
    config = _cached(model, revision)
    if config is None:
        return False
    from deltageom.tensors import weight_files

    try:
        return all((config.parent / file).is_file() for file in weight_files(config.parent))
    except UserError:
        return False


def _cached(model: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, CONFIG, revision=revision)
    except HFValidationError:  # a folder that is not there
        return None
    return Path(found) if isinstance(found, str) else None


def _download(model: str, revision: str | None, shape: Shape) -> dict[str, float]:
    """Bytes that the hub sends for a model: none for the embedded one, a folder, and one that is in the cache."""
    local = model == EMBEDDED or Path(model).is_dir() or is_cached(model, revision)
    return {} if local else {model: shape.parameters * shape.stored}


def _prompt_tokens(dataset: Dataset, assumed: Assumptions) -> float:
    if assumed.prompt_tokens is not None:
        return assumed.prompt_tokens
    return EMBEDDED_TOKENS if dataset.source == EMBEDDED else PROMPT_TOKENS


def _count_text(count: float) -> str:
    return "unknown" if math.isnan(count) else f"{count:,.0f}"


def _amount(parameters: float) -> str:
    return f"{parameters:.2g}" if parameters < 1e6 else f"{parameters / 1e9:.3g}e9"
