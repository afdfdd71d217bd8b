"""How a tensor is quantized: one frozen value that every floor passes along."""

from dataclasses import dataclass

from quatro.format.codebooks import CUSTOM, CodeTable, code_table
from quatro.format.errors import BlockSizeError, QuantTypeError
from quatro.format.layout import BLOCK_SIZES


@dataclass(frozen=True)
class QuantSpec:
    """quant_type, block_size and double_quant as bitsandbytes means them, checked at birth.

    symmetric: False gives int4 a zero point a block (value = scale * (q - zero)).
    table: a user's own ascending values in [-1, 1]; quant_type is then "custom" and may be left out.
    Raises QuantTypeError, BlockSizeError or CodebookError.
    """

    quant_type: str = "nf4"
    block_size: int = 64
    double_quant: bool = True
    symmetric: bool = True
    table: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.table is not None:
            object.__setattr__(self, "table", tuple(float(value) for value in self.table))
            object.__setattr__(self, "quant_type", CUSTOM if self.quant_type == "nf4" else self.quant_type)
        if isinstance(self.block_size, bool) or self.block_size not in BLOCK_SIZES:
            raise BlockSizeError(
                f"block_size {self.block_size!r} is not allowed; choose one of {', '.join(map(str, BLOCK_SIZES))}"
            )
        if not isinstance(self.quant_type, str):
            raise QuantTypeError(f"quant_type must be a name, got {self.quant_type!r}")
        _ = self.code_table

    @property
    def code_table(self) -> CodeTable:
        """What the codes mean."""
        return code_table(self.quant_type, self.table, self.symmetric)
