"""quatro: QLoRA, whole. 4-bit weights, adapters trained on them, and the measure of whether it helped.

`import quatro` is light: names are loaded when they are first used, and transformers learns of quatro's models the moment it
is imported, whichever comes first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wrapt import register_post_import_hook

if TYPE_CHECKING:
    from quatro import nn
    from quatro.format.errors import QuatroError
    from quatro.format.spec import QuantSpec
    from quatro.integrations.config import QuatroConfig
    from quatro.integrations.loading import load
    from quatro.integrations.planning import plan
    from quatro.integrations.saving import save
    from quatro.kernels.dispatch import backends, use_backend
    from quatro.tensor.codebook import codebook
    from quatro.tensor.quantized import QuantizedTensor, quantize

__version__ = "0.1.0"
__all__ = [
    "QuantSpec",
    "QuantizedTensor",
    "QuatroConfig",
    "QuatroError",
    "backends",
    "codebook",
    "load",
    "merge",
    "nn",
    "plan",
    "quantize",
    "save",
    "use_backend",
]

_HOMES = {
    "QuantSpec": "quatro.format.spec",
    "QuantizedTensor": "quatro.tensor.quantized",
    "QuatroConfig": "quatro.integrations.config",
    "QuatroError": "quatro.format.errors",
    "backends": "quatro.kernels.dispatch",
    "codebook": "quatro.tensor.codebook",
    "load": "quatro.integrations.loading",
    "merge": "quatro.integrations.merging",
    "plan": "quatro.integrations.planning",
    "quantize": "quatro.tensor.quantized",
    "save": "quatro.integrations.saving",
    "use_backend": "quatro.kernels.dispatch",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home when it is first asked for."""
    if name == "nn":
        return import_module("quatro.nn")
    if name not in _HOMES:
        raise AttributeError(f"module 'quatro' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def _meet_transformers(module: object) -> None:
    """Register the quantizer as soon as transformers can build models; its registry is complete by then."""
    import_module("quatro.integrations.registration").register()


register_post_import_hook(_meet_transformers, "transformers.modeling_utils")
