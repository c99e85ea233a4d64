"""Durations and sizes: text with a unit to a number, and back without loss."""

from __future__ import annotations

import re

from rollbridge.config.issues import BadValue
from rollbridge.config.showing import show_text

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,9})?"
_DURATION = re.compile(rf"(?:({_NUMBER})d)?(?:({_NUMBER})h)?(?:({_NUMBER})m)?(?:({_NUMBER})s)?(?:({_NUMBER})ms)?")
_BARE_NUMBER = re.compile(_NUMBER)
_DURATION_FIX = 'write a number and its unit: "250ms", "30s", "5m", "1h30m" or "7d"'
# Ten years: nothing in here runs that long, and every clock and select() takes it.
LONGEST_DURATION_SECONDS = 3650 * 86400.0

_BYTES = {
    "B": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
}
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]{{0,5}})")
_SIZE_FIX = 'write a number and its unit: "64KiB", "512MiB" or "2GiB"'
LARGEST_SIZE_BYTES = 2**53  # 8 PiB: exact as a float and in JSON everywhere


def parse_duration(text: str) -> float:
    """Return the seconds of ``"250ms"``, ``"30s"``, ``"1h30m"``; raise BadValue when ``text`` is no duration.

    Units are d, h, m, s, ms, each at most once and in this order. The result is a whole number of milliseconds.
    """
    if _BARE_NUMBER.fullmatch(text):
        raise BadValue(f"duration {show_text(text)} has no unit", duration_fix(text))
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise BadValue(f"{show_text(text)} is not a duration", _DURATION_FIX)
    milliseconds = 0
    for number, scale in zip(match.groups(), _MILLISECONDS.values(), strict=True):
        whole, is_exact = _scaled(number or "0", scale)
        if not is_exact:
            raise BadValue(f"duration {show_text(text)} is finer than a millisecond", "round it to milliseconds")
        milliseconds += whole
    if milliseconds > LONGEST_DURATION_SECONDS * 1000:
        raise BadValue(f"duration {show_text(text)} is longer than ten years", "choose at most 3650d")
    return milliseconds / 1000


def duration_fix(number: object) -> str:
    """What to do about a duration written as the bare ``number``."""
    try:
        seconds = float(str(number))
    except ValueError:  # an int of more digits than Python prints
        return _DURATION_FIX
    if not (seconds == 0 or 0.001 <= seconds <= LONGEST_DURATION_SECONDS):  # NaN is not, either
        return _DURATION_FIX
    shown = format_duration(seconds)
    return f'write "{shown}" for seconds, or another unit: "250ms", "5m", "1h30m", "7d"'


def format_duration(seconds: float) -> str:
    """Return ``seconds`` as parse_duration reads it, in the largest units: ``"1h30m"``, ``"0s"``."""
    rest = round(seconds * 1000)
    shown = ""
    for unit, scale in _MILLISECONDS.items():
        count, rest = divmod(rest, scale)
        if count:
            shown += f"{count}{unit}"
    return shown or "0s"


def parse_size(text: str) -> int:
    """Return the bytes of ``"512MiB"`` (or ``"512"``); raise BadValue when ``text`` is no size."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise BadValue(f"{show_text(text)} is not a size", _SIZE_FIX)
    number, unit = match.groups()
    scale = _BYTES.get(unit or "B")
    if scale is None:
        raise BadValue(f"size {show_text(text)} has the unknown unit {unit}", _unit_fix(number, unit))
    size, is_exact = _scaled(number, scale)
    if not is_exact:
        raise BadValue(f"size {show_text(text)} is not a whole number of bytes", _SIZE_FIX)
    if size > LARGEST_SIZE_BYTES:
        raise BadValue(f"size {show_text(text)} is above 8192TiB", "choose a size that a machine can have")
    return size


def _unit_fix(number: str, unit: str) -> str:
    for known in ("KiB", "MiB", "GiB", "TiB"):
        if unit[:1].upper() == known[0]:
            return f'write "{number}{known}"'
    return _SIZE_FIX


def format_size(size: int) -> str:
    """Return ``size`` bytes as parse_size reads it, in the largest unit that shows it exactly."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def _scaled(number: str, scale: int) -> tuple[int, bool]:
    """Return the decimal ``number`` times ``scale``, rounded down, and whether that is exact."""
    whole, _, fraction = number.partition(".")
    product = int(whole + fraction) * scale
    divisor = 10 ** len(fraction)
    return product // divisor, product % divisor == 0
