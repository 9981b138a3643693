"""Where models and runs are looked for: a folder, the cache, the hub."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from deltageom.deltas import hub
from deltageom.errors import UserError
from tests.deltas.test_whole_model import write_shards


def test_a_bases_weights_are_looked_for_in_the_folder_then_the_cache_then_the_hub(tmp_path, monkeypatch):
    assert hub.weights_folder(str(tmp_path), None) == tmp_path
    calls = []

    def snapshot_download(source, *, local_files_only=False, **options):
        calls.append((source, local_files_only, options["revision"]))
        assert {"*.safetensors", "model.safetensors.index.json", "config.json"} == set(options["allow_patterns"])
        if not (tmp_path / "snapshot").exists() and local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    ask = [("some/base", True, "v1"), ("some/base", False, "v1")]

    def asked():
        calls.clear()
        assert hub.weights_folder("some/base", "v1") == tmp_path / "snapshot"
        return calls

    assert asked() == ask
    (tmp_path / "snapshot").mkdir()
    assert asked() == ask  # there, with other files alone
    shards = {"one": {"a": torch.ones(1)}, "two": {"b": torch.ones(1)}}
    (tmp_path / "snapshot").rmdir()
    write_shards(tmp_path / "snapshot", **shards)
    assert asked() == ask[:1]  # whole
    (tmp_path / "snapshot" / "two.safetensors").unlink()
    assert asked() == ask


@pytest.mark.parametrize("source", ["./nowhere", "no/such-base"])
def test_a_base_that_cannot_be_had_is_named(tmp_path, source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=f"'{source}' is no folder, and its weights cannot be fetched"):
        hub.weights_folder(source, None)


class Hub:
    """In place of the hub: a snapshot's folder that a download fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, str | None, bool]] = []
        self.patterns: list[str] = []

    def snapshot_download(self, source, *, revision, allow_patterns, local_files_only=False):
        self.calls.append((source, revision, local_files_only))
        self.patterns = allow_patterns
        if local_files_only and not self.folder.exists():
            raise LocalEntryNotFoundError("not in the cache")
        if not local_files_only:
            self.folder.mkdir(exist_ok=True)
        return str(self.folder)


@pytest.fixture
def snapshots(tmp_path, monkeypatch):
    found = Hub(tmp_path / "snapshot")
    monkeypatch.setattr("huggingface_hub.snapshot_download", found.snapshot_download)
    return found


def test_a_run_is_a_folder_or_in_the_cache_or_on_the_hub(tmp_path, snapshots):
    assert hub.adapter_folder(str(tmp_path)) == tmp_path
    assert not snapshots.calls
    assert hub.adapter_folder("owner/name@v1") == snapshots.folder
    assert snapshots.calls == [("owner/name", "v1", True), ("owner/name", "v1", False)]
    assert hub.adapter_folder("owner/name") == snapshots.folder
    assert snapshots.calls[2:] == [("owner/name", None, True), ("owner/name", None, False)]  # there, but empty


def test_a_run_is_whole_in_the_cache_with_all_of_its_files(snapshots):
    def fetched():
        snapshots.calls.clear()
        hub.adapter_folder("owner/name")
        return len(snapshots.calls) == 2

    snapshots.folder.mkdir()
    for name, missing in (("adapter_config.json", True), ("adapter_model.safetensors", False)):
        (snapshots.folder / name).write_text("{}")
        assert fetched() is missing, name
    for path in snapshots.folder.iterdir():
        path.unlink()
    (snapshots.folder / "model.safetensors").touch()
    assert fetched()
    (snapshots.folder / "config.json").touch()
    assert not fetched()
    (snapshots.folder / "model.safetensors").unlink()
    (snapshots.folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors"}})
    )
    assert fetched()
    (snapshots.folder / "model-1.safetensors").touch()
    assert not fetched()


def test_only_what_is_read_of_a_run_is_fetched(snapshots):
    from huggingface_hub.utils import filter_repo_objects

    hub.adapter_folder("owner/name")
    wanted = ["adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"]
    wanted += ["model-00001-of-00002.safetensors", "model.safetensors-00001-of-00002.safetensors"]
    wanted += ["model.safetensors.index.json"]
    others = ["adapter_model.bin", "tokenizer.json", "checkpoint-5/adapter_model.safetensors", "optimizer.pt"]
    others += ["checkpoint-5/model.safetensors", "README.md"]
    assert list(filter_repo_objects(wanted + others, allow_patterns=snapshots.patterns)) == wanted


@pytest.mark.parametrize("source", ["./nowhere", "no/such-run", "no/such-run@v2", "a/b/c"])
def test_a_run_that_cannot_be_had_is_named(tmp_path, source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=f"'{source.split('@')[0]}' is no folder, and no run of this name"):
        hub.adapter_folder(source)


def test_a_folder_may_have_an_at_sign(tmp_path):
    (tmp_path / "run@2").mkdir()
    assert hub.adapter_folder(str(tmp_path / "run@2")) == tmp_path / "run@2"


def test_a_file_is_told_from_its_folder(tmp_path):
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: is a file: give the folder that holds it"):
        hub.adapter_folder(str(tmp_path / "adapter_model.safetensors"))
