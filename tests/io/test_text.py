"""Text of the user's, where it is shown."""

import sys
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccsi.io.text import all_printable, first_line, printable, warn


@given(st.text(st.characters()))
def test_printable_is_one_line_of_utf8(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1 and "\x1b" not in shown
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\udce9", r"caf\xe9"),
        ("a\ud800", r"a\ud800"),
        ("a\nb", r"a\nb"),
        ("a\u202eb", r"a\u202eb"),
        ("Zürich 日本 a_b $5$", "Zürich 日本 a_b $5$"),
        ("a\nb\x1b[0m\udcff\u202e", r"a\nb\x1b[0m\xff\u202e"),
        ("\x1b[31m", r"\x1b[31m"),
        ("Ω é 细 $x_1$", "Ω é 细 $x_1$"),
    ],
)
def test_what_cannot_be_shown_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert all_printable({text: [text, {"a": (text, 1, None)}]}) == {shown: [shown, {"a": [shown, 1, None]}]}


def test_a_warning_is_one_line_and_costs_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warn("caf\udce9\nis gone")
    assert capsys.readouterr().err == "ccsi: caf\\xe9\\nis gone\n"
    closed = StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    warn("no one hears it")


def test_an_exception_in_a_line() -> None:
    assert first_line(ValueError("first\nsecond")) == "ValueError: first"
    assert first_line(MemoryError()) == "MemoryError"
