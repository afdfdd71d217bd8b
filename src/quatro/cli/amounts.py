"""Bytes and counts as people read them."""


def bytes_text(count: float) -> str:
    """12.3 MiB, 4.0 GiB: three or so digits, powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def count_text(count: float) -> str:
    """950, 3.5 M, 1.1 B: how people say how large a model is."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " K")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:.0f}"


def percent_text(share: float | None) -> str:
    """83 %, or – where there is nothing to share."""
    return "–" if share is None else f"{100 * share:.0f} %"
