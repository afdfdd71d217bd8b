"""The frequencies of rotary positions: buffers that a model carries beside its weights."""

from collections.abc import Iterator

from quatro.planner.fields import Fields
from quatro.planner.tensors import Role, Tensor


def rotary(fields: Fields, prefix: str, head_dim: int, default_share: float = 1.0) -> Iterator[Tensor]:
    """float32 for every second number that is turned, kept twice: as it is used, and as it was."""
    turned = int(head_dim * _share(fields, default_share))
    for name in ("inv_freq", "original_inv_freq"):
        yield Tensor(f"{prefix}.rotary_emb.{name}", ((turned + 1) // 2,), Role.BUFFER)


def rotary_by_kind(fields: Fields, prefix: str, head_dim: int) -> Iterator[Tensor]:
    """As Gemma 3 has it: frequencies for each kind of attention that its layers use."""
    kinds = set(fields.words("layer_types")) or {"sliding_attention", "full_attention"}
    for kind in sorted(kinds):
        for name in (f"{kind}_inv_freq", f"{kind}_original_inv_freq"):
            yield Tensor(f"{prefix}.rotary_emb.{name}", (head_dim // 2,), Role.BUFFER)


def _share(fields: Fields, default: float) -> float:
    """Of a head's numbers; newer configurations have it among rope_parameters, older ones on top."""
    parameters = fields.config.get("rope_parameters")
    if isinstance(parameters, dict) and "partial_rotary_factor" in parameters:
        return Fields({**parameters, "model_type": fields.model_type}).share("partial_rotary_factor", default)
    return fields.share("partial_rotary_factor", fields.share("rotary_pct", default))
