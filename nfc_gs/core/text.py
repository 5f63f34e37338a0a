"""Numbers in words, for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in words: '8.4 s', '1 min 5 s', '2 h 3 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def gigabytes(size: float) -> str:
    """Bytes in words, of gigabytes: '0.03 GB', '2.7 GB', '31 GB'."""
    size /= 1e9
    return f"{size:.2f} GB" if size < 0.95 else f"{size:.1f} GB" if size < 9.95 else f"{size:.0f} GB"


def in_one_line(text: object, longest: int = 200) -> str:
    """What an error of a library says, on one line and cut short."""
    words = " ".join(str(text).split())
    return words if len(words) <= longest else f"{words[: longest - 3]}..."
