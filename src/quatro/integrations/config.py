"""The configuration that transformers passes around and writes into config.json."""

from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from quatro.format.errors import CheckpointError, InputError, did_you_mean
from quatro.format.spec import QuantSpec
from quatro.kernels.compute import COMPUTE_DTYPES
from quatro.nn.linear import PRECISIONS

QUANT_METHOD = "quatro"


class QuatroConfig(QuantizationConfigMixin):
    """How a model's linear layers become 4 bits: `from_pretrained(..., quantization_config=QuatroConfig())`.

    quant_type, block_size, double_quant, symmetric, table: as in quatro.quantize.
    compute_dtype: "auto" (the hidden states' dtype where the device has units for it, else float32) or a dtype's name.
    precision: "high" may use integer products, "exact" is float32 throughout.
    skip_modules: names (or suffixes, or patterns) of linear layers that stay dense; the output head always does.
    Raises InputError's family at birth.
    """

    def __init__(
        self,
        quant_type: str = "nf4",
        block_size: int = 64,
        double_quant: bool = True,
        compute_dtype: str = "auto",
        skip_modules: list[str] | None = None,
        precision: str = "high",
        symmetric: bool = True,
        table: list[float] | None = None,
        **others: Any,
    ) -> None:
        self.quant_method = QUANT_METHOD
        others.pop("quant_method", None)
        spec = QuantSpec(quant_type, block_size, double_quant, symmetric, None if table is None else tuple(table))
        self.quant_type, self.block_size, self.double_quant = spec.quant_type, block_size, double_quant
        self.symmetric, self.table = symmetric, None if spec.table is None else list(spec.table)
        self.compute_dtype, self.precision = compute_dtype, precision
        self.skip_modules = None if skip_modules is None else list(skip_modules)
        self._check(others)

    def _check(self, others: dict[str, Any]) -> None:
        known = [key for key in self.__dict__ if key != "quant_method"]
        for key in others:
            raise CheckpointError(
                f"quatro's configuration has no key {key!r}; {did_you_mean(key, known)}. "
                "If a checkpoint brought it, a newer quatro wrote that checkpoint: upgrade quatro to read it"
            )
        if self.compute_dtype not in ("auto", *COMPUTE_DTYPES):
            raise InputError(
                f"unknown compute_dtype {self.compute_dtype!r}; {did_you_mean(self.compute_dtype, ['auto', *COMPUTE_DTYPES])}"
            )
        if self.precision not in PRECISIONS:
            raise InputError(f"unknown precision {self.precision!r}; {did_you_mean(self.precision, PRECISIONS)}")

    @property
    def spec(self) -> QuantSpec:
        """The same choices as the value that lower floors take."""
        own = None if self.table is None else tuple(self.table)
        return QuantSpec(self.quant_type, self.block_size, self.double_quant, self.symmetric, own)


def stated_dtype(config: PreTrainedConfig) -> torch.dtype | None:
    """The dtype that a model's configuration says its weights have, or had before they were quantized."""
    found = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    return found if isinstance(found, torch.dtype) else None
