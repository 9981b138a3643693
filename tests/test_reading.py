"""Every number that docs/reading_numbers.py prints stands on the page."""

import re
import subprocess
import sys

from tests.conftest import ROOT


def test_the_page_has_the_numbers_of_its_command() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "reading_numbers.py"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    page = (ROOT / "docs" / "reading.md").read_text()
    said = set(re.findall(r"(?<![\d.])-?\d*\.?\d+", page))
    printed = {
        number for line in done.stdout.splitlines() for number in re.findall(r"-?\d+\.\d+", line.split(":", 1)[-1])
    }
    assert len(printed) > 25
    assert {number for number in printed if not {short(number), number} & said} == set()


def short(number: str) -> str:
    """As the project writes it: .97 for 0.97."""
    return re.sub(r"^(-?)0\.", r"\1.", number)
