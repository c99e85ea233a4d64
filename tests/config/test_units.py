from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbridge.config.issues import BadValue
from rollbridge.config.units import duration_fix, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("0ms", 0.0),
        ("1ms", 0.001),
        ("250ms", 0.25),
        ("30s", 30.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("7d", 604800.0),
        ("1d1h1m1s1ms", 90061.001),
        ("3650d", 3650 * 86400.0),
    ],
)
def test_duration_means_its_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "30",
        "30 s",
        " 30s",
        "30s\n",
        "-1s",
        "+1s",
        "30m1h",
        "1s1s",
        "1e3s",
        "٣s",
        "1.s",
        ".5s",
        "forever",
        "1S",
    ],
)
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(BadValue):
        parse_duration(text)


def test_duration_without_a_unit_is_refused_with_the_fix_spelled_out() -> None:
    with pytest.raises(BadValue, match=r'duration "30" has no unit; write "30s" for seconds'):
        parse_duration("30")


@pytest.mark.parametrize("text", ["0.1ms", "0.0001s"])
def test_duration_finer_than_a_millisecond_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="finer than a millisecond"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["3650d1ms", "999999999999999999h"])
def test_duration_beyond_ten_years_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="longer than ten years"):
        parse_duration(text)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1, 10**400, pytest.param(10**5000, id="huge"), 1e-9])
def test_fix_of_a_strange_bare_number_is_still_a_fix(number: float) -> None:
    assert duration_fix(number).startswith("write a number and its unit")


@given(st.integers(min_value=0, max_value=3650 * 86_400_000))
def test_every_duration_survives_being_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("0B", 0), ("1KiB", 1024), ("1.5KiB", 1536), ("512MiB", 512 * 1024**2),
     ("2 GiB", 2 * 1024**3), ("1kB", 1000), ("1MB", 10**6), ("8192TiB", 2**53)],
)  # fmt: skip
def test_size_means_its_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1MiB", "1e3", "1  MiB", "0.1B", "8193TiB", "1XiB", "1MiBs per day"])
def test_other_text_is_no_size(text: str) -> None:
    with pytest.raises(BadValue):
        parse_size(text)


@pytest.mark.parametrize(("text", "fix"), [("512M", "512MiB"), ("512mb", "512MiB"), ("64k", "64KiB"), ("1g", "1GiB")])
def test_size_with_an_unclear_unit_is_refused_with_the_nearest_clear_one(text: str, fix: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_size(text)
    assert caught.value.fix == f'write "{fix}"'


@given(st.integers(min_value=0, max_value=2**53))
def test_every_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size
