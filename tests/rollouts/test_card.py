"""The rollouts' dataset card: the hub's own tools read it, and nothing that a study says can break it."""

import html.parser
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from deltageom.rollouts import card as dataset_card
from deltageom.rollouts import reward

FACTS: dict[str, Any] = {
    "study": "toy",
    "generator": "some/model",
    "revision": "abc123",
    "file": None,
    "engine": "transformers",
    "samples": 4,
    "temperature": 0.7,
    "top_p": 0.95,
    "top_k": 20,
    "max_tokens": 81,
    "thinking": False,
    "seed": 42,
    "template": "{question}\nThink.",
    "system": None,
    "opening": "<|user|>",
    "grader": "strict",
    "problems": {
        "source": "hub",
        "path": "some/problems",
        "config": "main",
        "split": "train",
        "revision": None,
        "limit": 256,
        "id_field": None,
    },
    "counts": {
        "problems": 256,
        "rollouts": 1024,
        "correct": 700,
        "mixed_problems": 90,
        "truncated": 3,
        "references": 12,
        "graders_disagree": 5,
        "no_second_verdict": 1,
        "symbolic_golds": 0,
        "unread_golds": 0,
    },
}
NASTY = (
    "x | `y` <script>alert(1)</script>\n---\n# *h* [l](javascript:1) & ![i](u) {a: b} 'q' \"d\" # c\n\n| a | b |\n```\n"
)


def front_matter(card: str) -> dict[str, Any]:
    opening, matter, _ = card.split("---\n", 2)
    assert opening == ""
    loaded: dict[str, Any] = yaml.safe_load(matter)
    return loaded


def cells(card: str) -> list[list[str]]:
    """The tables' rows as a Markdown reader sees them: the text of each cell."""
    body = card.split("---\n", 2)[2]
    rows: list[list[str]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    for token, following in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("td_open", "th_open"):
            rows[-1].append("".join(child.content for child in following.children or []))
    return rows


def test_it_says_how_the_rollouts_were_made() -> None:
    card = dataset_card.card(FACTS)
    rows = dict(row for row in cells(card) if len(row) == 2)
    assert rows["generator"] == "some/model"
    assert rows["revision"] == "abc123"
    assert rows["completions a problem (K)"] == "4"
    assert (rows["temperature"], rows["top_p"], rows["top_k"]) == ("0.7", "0.95", "20")
    assert (rows["most tokens"], rows["thinking"], rows["seed"]) == ("81", "false", "42")
    assert (rows["path"], rows["split"], rows["limit"]) == ("some/problems", "train", "256")
    assert rows["rollouts"] == "1,024"
    assert rows["rollouts that are correct"] == "700"
    assert rows["problems with both correct and wrong rollouts"] == "90"
    assert "```text\n{question}\nThink.\n```" in card
    assert "licence of the problem set applies" in card
    assert "license" not in front_matter(card)


def test_it_says_whose_verdict_the_reward_is() -> None:
    assert "`reward` is the strict grader's verdict" in dataset_card.card(FACTS)
    card = dataset_card.card(FACTS | {"grader": "math_verify"})
    assert "`reward` is math-verify's verdict" in card
    assert "the strict grader's verdict," not in card


def test_what_is_off_or_not_known_is_said() -> None:
    off = FACTS | {"top_p": 1.0, "top_k": 0, "thinking": None, "revision": None, "system": "Be brief."}
    card = dataset_card.card(off)
    rows = dict(row for row in cells(card) if len(row) == 2)
    assert (rows["top_p"], rows["top_k"], rows["thinking"], rows["revision"]) == ("off", "off", "not set", "not given")
    assert "```text\nBe brief.\n```" in card


def test_of_imported_rollouts_no_sampling_is_claimed() -> None:
    card = dataset_card.card(FACTS | {"file": "theirs.jsonl"})
    names = [row[0] for row in cells(card)]
    assert dict(row for row in cells(card) if len(row) == 2)["imported from"] == "theirs.jsonl"
    assert not {"generator", "temperature", "seed", "top_p", "engine"} & set(names)
    assert "some/model" not in card


def test_every_column_of_the_rollouts_is_explained() -> None:
    assert list(dataset_card.COLUMNS) == reward.SCHEMA.names
    shown = cells(dataset_card.card(FACTS))
    for name, meaning in dataset_card.COLUMNS.items():
        assert [name, meaning.replace("`", "")] in shown


@pytest.mark.parametrize(
    ("rollouts", "size"),
    [(987, "n<1K"), (988, "1K<n<10K"), (9_988, "10K<n<100K"), (150_000, "100K<n<1M"), (999_988, "n>1M")],
)
def test_size_category_counts_the_rows(rollouts: int, size: str) -> None:
    counts = FACTS["counts"] | {"rollouts": rollouts}  # and 12 reference solutions
    assert front_matter(dataset_card.card(FACTS | {"counts": counts}))["size_categories"] == [size]


def test_the_hubs_own_card_reads_it() -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard(dataset_card.card(FACTS))
    assert card.data.task_categories == ["text-generation"]
    assert card.data.to_dict()["configs"] == [{"config_name": "default", "data_files": "rollouts.parquet"}]
    assert card.text.strip().startswith("# Rollouts of the study toy")


def test_load_dataset_takes_the_rollouts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "rollouts"
    folder.mkdir()
    (folder / "README.md").write_text(dataset_card.card(FACTS | {"study": NASTY}))
    pq.write_table(pa.table({"problem_id": ["a", "b"], "reward": [1.0, 0.0]}), folder / "rollouts.parquet")
    for other in ("completions.parquet", "train.parquet", "base_log_probs.parquet"):
        pq.write_table(pa.table({"something": [1, 2, 3]}), folder / other)
    loaded = datasets.load_dataset(str(folder))
    assert list(loaded) == ["train"]
    assert loaded["train"].to_list() == [{"problem_id": "a", "reward": 1.0}, {"problem_id": "b", "reward": 0.0}]


TEXT = st.one_of(st.just(NASTY), st.text(max_size=40), st.text("|`<>\n\\*_[]#-~&$ ab", max_size=40))


@given(TEXT, TEXT, TEXT, TEXT, TEXT)
def test_nothing_that_a_study_says_breaks_it(study: str, generator: str, path: str, template: str, system: str) -> None:
    odd = FACTS | {
        "study": study,
        "generator": generator,
        "revision": study,
        "template": template,
        "system": system,
        "problems": FACTS["problems"] | {"path": path, "config": generator},
    }
    card, plain = dataset_card.card(odd), dataset_card.card(FACTS | {"system": "s"})
    matter = front_matter(card)
    assert matter["pretty_name"] == " ".join(["Rollouts of", *study.split()])
    assert matter | {"pretty_name": ""} == front_matter(plain) | {"pretty_name": ""}
    # the same tables of the same shape, headings and code blocks, and no HTML: what differs is text
    assert structure(card) == structure(plain)
    assert Tags.of(card) == Tags.of(plain)


def structure(card: str) -> list[str]:
    body = card.split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inline = [
        child.type
        for token in tokens
        for child in token.children or []
        if child.type not in ("text", "text_special", "softbreak")
    ]
    return [token.type for token in tokens] + inline


class Tags(html.parser.HTMLParser):
    """The tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(f"{tag} {attrs}")

    @classmethod
    def of(cls, card: str) -> list[str]:
        parser = cls()
        parser.feed(MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2]))
        return parser.found
