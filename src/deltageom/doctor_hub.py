"""Asks the hub: `python -m deltageom.doctor_hub '[["model", "owner/name", null], ...]'`, a line of JSON an answer.

A process of its own, for looking a name up has no time limit: the doctor kills it. An empty list asks whether there is
a hub at all.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SECONDS = 4.0
Asked = list[Any]  # kind ("model" or "dataset"), id, revision


def answer(asked: Asked | None) -> dict[str, Any]:
    """{"id": ..., "answer": "there" | "gated" | "not found" | "no answer"}, with `says` where that is more."""
    from huggingface_hub import HfApi, constants, get_session
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if asked is None:
        try:
            get_session().head(constants.ENDPOINT, timeout=SECONDS)
        except Exception as error:  # whatever the client of the day raises
            return {"id": None, "answer": "no answer", "says": type(error).__name__}
        return {"id": None, "answer": "there"}
    kind, name, revision = asked
    try:
        info: Any = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except GatedRepoError:
        return {"id": name, "answer": "gated"}
    except RepositoryNotFoundError:
        return {"id": name, "answer": "not found"}
    except RevisionNotFoundError:
        return {"id": name, "answer": "not found", "says": f"no revision {revision}"}
    except Exception as error:
        return {"id": name, "answer": "no answer", "says": type(error).__name__}
    return {"id": name, "answer": "gated" if info.gated and not _token() else "there"}


def _token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def main() -> None:
    asked: list[Asked | None] = json.loads(sys.argv[1]) or [None]
    with ThreadPoolExecutor(len(asked)) as pool:
        for found in pool.map(answer, asked):
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
