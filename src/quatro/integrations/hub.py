"""From what a person names to a directory: one that is there, or a repository of the hub, downloaded or from the cache."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from quatro.format.errors import CheckpointError, MachineError
from quatro.planner.asking import read_configuration

SMALL = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
SAFE, PICKLED = ["model*.safetensors"], ["pytorch_model*.bin"]


def directory_of(id_or_dir: str, revision: str | None = None) -> Path:
    """The local directory of a model. Raises CheckpointError for a hub's refusal, MachineError where it cannot be reached."""
    path = Path(id_or_dir).expanduser()
    if path.is_dir():
        return path
    found = _downloaded(id_or_dir, revision, SMALL + SAFE)
    if any(found.glob(SAFE[0])):
        return found
    return _downloaded(id_or_dir, revision, SMALL + PICKLED)


def config_of(repository: str, revision: str | None = None) -> dict[str, Any]:
    """The values of a repository's config.json; nothing else is downloaded. Raises as directory_of does."""
    return read_configuration(_downloaded(repository, revision, ["config.json"]) / "config.json")


def _downloaded(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """In the cache; what is there already is not asked for again. HF_HUB_OFFLINE=1 takes only that."""
    at = f"{repository} at revision {revision}" if revision else repository
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(
            f"the hub does not give {at} to everybody: accept its terms on its page there and log in (`hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"the hub has {repository}, but no revision {revision!r}; leave --revision out for the newest"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no {at}, or you may not see it; check the name, and log in (`hf auth login`) if it is private"
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"{repository} is neither a directory here nor a name that a hub could have: {error}") from error
    except LocalEntryNotFoundError as error:
        raise MachineError(
            f"{at} is not in the cache, and the hub cannot be reached; check the connection (and HF_HUB_OFFLINE), or name a directory"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise MachineError(f"the hub did not give {at}: {str(error).splitlines()[0]}; try again later") from error
