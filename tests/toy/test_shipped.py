"""The base that comes with the package: when it is used, that it is whole, and that it solves what the toy's does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from deltageom.errors import UserError
from deltageom.study.layers import settings
from deltageom.study.load import load_study
from deltageom.study.settings import PretrainSettings
from deltageom.toy import shipped
from tests.conftest import ROOT


def asked(**changed: Any) -> PretrainSettings:
    study = load_study({"study": "toy", **changed}, ROOT)
    told = settings(toy=study.toy, prompt=study.prompt, device=study.device, dtype=study.base.dtype)
    return PretrainSettings.model_validate_json(told)


def test_the_toys_settings_are_the_shipped_ones() -> None:
    assert shipped.fits(asked())
    assert shipped.fits(asked(device="cuda"))  # where it runs is no part of what it is


@pytest.mark.parametrize(
    "changed",
    [
        {"toy": {"shipped": False}},
        {"toy": {"documents": 23999}},
        {"toy": {"seed": 1}},
        {"toy": {"world": {"hard_documents": 0.2}}},
        {"prompt": {"template": "{question} "}},
        {"base": {"dtype": "bfloat16"}},
    ],
)
def test_other_settings_are_pre_trained(changed: dict[str, Any]) -> None:
    assert not shipped.fits(asked(**changed))


def test_it_is_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped.copy(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    assert sum(tensor.size for tensor in tensors.values()) == 654_336
    assert json.loads((tmp_path / "base" / "config.json").read_text())["num_hidden_layers"] == 4
    shutil.copytree(shipped.FOLDER, tmp_path / "other")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json: is not the file that came with the package: install it again"):
        shipped.copy(tmp_path / "again")
