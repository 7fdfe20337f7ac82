"""Drawing for terminals: widths, encodings, colour."""

from __future__ import annotations

import io
import os
import sys

import pytest

from siftlm.cli.charting import Curve, chart
from siftlm.cli.drawing import (
    Terminal,
    amount,
    bar,
    beside,
    can_show,
    clip,
    emphasized,
    one_line,
    pad,
    paragraphs,
    printable,
    width_of,
    wrap,
)


class Screen(io.StringIO):
    def __init__(self, encoding="utf-8", screen=True):
        super().__init__()
        self._encoding, self._screen = encoding, screen

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return self._screen


FALLING = Curve("falling", [1.0, 0.5, 0.25, 0.125], "cyan", "●", "*")
STAYING = Curve("staying", [1.0, 0.9, 0.9, 0.9], "yellow", "○", "o")


@pytest.mark.parametrize(
    ("screen", "environ", "colour"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: only when not empty
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_only_on_a_screen_that_wants_it(screen, environ, colour):
    terminal = Terminal.of(Screen(screen=screen), environ)
    assert terminal.colour is colour
    assert terminal.fixed is screen
    assert terminal.paint("x", "red") == ("\x1b[31mx\x1b[0m" if colour else "x")


def test_the_width_of_a_pipe():
    assert Terminal.of(Screen(screen=False), {}).width == 100
    assert Terminal.of(Screen(screen=False), {"COLUMNS": "60"}).width == 60
    assert Terminal.of(Screen(screen=False), {"COLUMNS": "wide"}).width == 100
    assert Terminal.of(Screen(screen=False), {"COLUMNS": "3"}).width == 20


@pytest.mark.parametrize(("encoding", "fine"), [("utf-8", True), ("ascii", False), ("cp437", False), (None, False)])
def test_unicode_only_where_the_encoding_has_it(encoding, fine):
    assert Terminal.of(Screen(encoding), {}).unicode is fine


def test_printable_text_can_always_be_written():
    for encoding in ("utf-8", "ascii", "latin-1", "cp437", "no-such-encoding"):
        shown = printable("σₙ² ≤ λ… naïve 日本 \ud800", Screen(encoding))
        assert can_show(shown, Screen(encoding if encoding != "no-such-encoding" else "ascii"))
    assert printable("σₙ² ≤ λ…", Screen("ascii")) == "sigman^2 <= lambda..."


def test_widths():
    assert width_of("abc") == 3
    assert width_of("日本") == 4
    assert width_of("e\u0301") == 1
    assert pad("日本", 6) == "日本  "


def test_clip():
    assert clip("short", 10) == "short"
    assert width_of(clip("日本日本日本", 5)) <= 5
    assert clip("a long sentence", 8, "...") == "a lon..."


def test_one_line_lets_no_control_through():
    assert one_line(" a\n\tb\x1b[31m\u202ec ") == "a b?[31m?c"


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.999, 1.0, 2.0, -1.0, float("nan")])
@pytest.mark.parametrize("unicode", [True, False])
def test_a_bar_keeps_its_width(fraction, unicode):
    drawn = bar(fraction, 10, Terminal(unicode=unicode))
    assert len(drawn) == 10
    assert unicode or drawn.isascii()


def test_bars_grow():
    drawn = [bar(step / 80, 10, Terminal()).strip() for step in range(81)]
    assert len(set(drawn)) == 81


def test_wrap_indents():
    assert wrap("one two three four", 12, first="1 ", rest="  ") == ["1 one two", "  three four"]
    assert wrap("", 20, first="1 ") == ["1 "]


def test_beside_pads_and_fills():
    lines = beside([("left", ())], [("right", ()), ("more", ())], 6, Terminal())
    assert lines == ["left   │ right", "       │ more"]


@pytest.mark.parametrize("width", [12, 40, 100])
@pytest.mark.parametrize("unicode", [True, False])
def test_a_chart(width, unicode):
    lines = chart([FALLING, STAYING], Terminal(unicode=unicode), width=width, x_name="picks")
    text = "\n".join(lines)
    assert len(lines) == 13
    assert "falling 0.12" in text
    assert "staying 0.90" in text
    assert text.count("○" if unicode else "o") >= 3
    assert unicode or text.isascii()
    # who ends lower stands lower
    at = {name: next(row for row, line in enumerate(lines) if name in line) for name in ("falling", "staying")}
    assert at["falling"] > at["staying"]


def test_the_scale_of_a_chart_is_where_it_says():
    flat = [Curve(str(y), [1.0, y], "cyan", "●", "*") for y in (1.0, 0.5, 0.0)]
    lines = chart(flat, Terminal(unicode=False), width=20)
    for label, y in (("1 |", "1.0"), ("0.5 |", "0.5"), ("0 |", "0.0")):
        row = next(line for line in lines if line.lstrip().startswith(label))
        assert row.endswith(f"* {y} {float(y):.2f}")


def test_labels_of_curves_that_end_together_move_apart():
    same = [Curve(name, [1.0, 0.0], "cyan", "●", "*") for name in ("one", "two", "three")]
    text = "\n".join(chart(same, Terminal(), width=20))
    assert all(f"{name} 0.00" in text for name in ("one", "two", "three"))


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1.0, float("nan")], [1.0] * 500])
def test_a_chart_of_little_or_much(values):
    lines = chart([Curve("c", values, "cyan", "●", "*")], Terminal(), width=30, x_name="picks")
    assert max(map(width_of, lines)) < 60


def test_a_real_terminal(tmp_path):
    """Under a pseudo-terminal: colour, and the width of the window."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import subprocess
    import termios

    for environment, colour in (({}, True), ({"NO_COLOR": "1"}, False)):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 60, 0, 0))
        clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "TERM")}
        program = subprocess.Popen(
            [sys.executable, "-m", "siftlm", "demo", "jordan"],
            stdout=slave,
            stdin=slave,
            env=clean | {"PYTHONIOENCODING": "utf-8", "TERM": "xterm"} | environment,
        )
        os.close(slave)
        output = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux: the other end was closed
                break
            if not piece:
                break
            output += piece
        assert program.wait() == 0
        os.close(master)
        assert (b"\x1b[" in output) is colour
        assert max(len(line) for line in output.decode().splitlines() if "\x1b" not in line) <= 60


def test_a_wrapped_line_keeps_to_its_columns_however_wide_its_letters_are():
    for text in ("一二三四五六七八九十" * 5, "naïve 一二 " * 20, "e\u0301" * 60, "plain words " * 9):
        for lines in (wrap(text, 17, first="* ", rest="  "), paragraphs("    " + text, 17)):
            assert max(width_of(line) for line in lines) <= 17
            kept = "".join(lines).replace("*", "").replace(" ", "")
            assert kept == text.replace(" ", "")


def test_paragraphs_keep_lines_and_indentation_and_disarm_the_rest():
    assert paragraphs("a\n\n\tb\x1b[2J\r\nc", None) == ["a", "", "    b?[2J", "c"]
    assert paragraphs("    one two three four", 14) == ["    one two", "    three four"]


def test_words_are_emphasized_whole_and_without_regard_to_case():
    screen = Terminal(colour=True)
    assert emphasized("Sort sorted SORT", {"sort"}, screen) == "\x1b[1mSort\x1b[0m sorted \x1b[1mSORT\x1b[0m"
    assert emphasized("Sort", {"sort"}, Terminal()) == "Sort"


def test_amounts_change_their_unit_before_they_need_a_fourth_digit():
    sizes = [0, 999, 1000, 9949, 9950, 999_499, 999_500, 10**9, 10**12, 10**16]
    shown = ["0 bytes", "999 bytes", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "1.0 GB", "1.0 TB", "10000 TB"]
    assert [amount(size) for size in sizes] == shown
