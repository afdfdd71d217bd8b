"""The finished adapter: PEFT's files in the run's directory, written beside it first; a full disk leaves nothing half."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from quatro.data.templates import Template
from quatro.integrations.base import base_of, write_record
from quatro.integrations.files import whole_directory

STAGING, MODEL_CARD = ".adapter", "README.md"
DISK_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What a full or read-only disk looks like: Python's files, torch.save, safetensors."""


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, template: Template | None, path: Path) -> None:
    """Write the adapter, the tokenizer and the chat template it was trained with into `path`, beside what is there.

    Raises MachineError if the disk fails; then no file of it is there.
    """
    if template:
        tokenizer.chat_template = template.source
    with whole_directory(path / STAGING, overwrite=True) as staging, disk_errors_as_os_errors():
        model.save_pretrained(staging)
        (staging / MODEL_CARD).unlink(missing_ok=True)
        write_record(base_of(model.get_base_model()), staging)
        tokenizer.save_pretrained(staging)
    readable = (path / STAGING).stat().st_mode & 0o666
    for file in sorted((path / STAGING).iterdir(), key=lambda file: file.name == "adapter_config.json"):
        file.chmod(readable)
        file.replace(path / file.name)
    (path / STAGING).rmdir()


@contextmanager
def disk_errors_as_os_errors() -> Iterator[None]:
    """safetensors and torch have errors of their own for a full disk."""
    try:
        yield
    except OSError:
        raise
    except DISK_ERRORS as error:
        raise OSError(str(error).splitlines()[0]) from error
