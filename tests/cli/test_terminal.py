"""Drawing for terminals: widths, encodings, colour."""

from __future__ import annotations

import io
import os
import sys

import pytest
from rich.cells import cell_len
from rich.text import Text

from siftlm.cli import main
from siftlm.cli.charts import Curve, bar, chart
from siftlm.cli.tables import side_by_side
from siftlm.cli.terminal import (
    Terminal,
    amount,
    can_show,
    clip,
    clip_start,
    one_line,
    printable,
    progress_line,
    resumable,
    table,
)
from siftlm.progress import Progress


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
    assert terminal.render(Text("x", "red")) == ("\x1b[31mx\x1b[0m" if colour else "x")


def test_the_cell_len_a_pipe():
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


def test_clip():
    assert clip("short", 10) == "short"
    assert cell_len(clip("日本日本日本", 5)) <= 5
    assert clip("a long sentence", 8, "...") == "a lon..."
    assert cell_len(clip_start("日本日本日本", 5)) <= 5


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


def test_beside_each_other_rows_are_level_and_below_each_other_where_there_is_no_room():
    left, right = [Text("one"), Text("two " * 20)], [Text("right"), Text("more"), Text("last")]
    lines = Terminal(width=100).render(*side_by_side(left, right, 100)).split("\n")
    assert [line.split("│")[1].strip() for line in lines] == ["right", "more", "", "last"]
    assert len({line.index("│") for line in lines}) == 1
    assert Terminal(width=40).render(*side_by_side([Text("l")], [Text("r")], 40)) == "l\n\nr"
    plain = Terminal(width=100, unicode=False).render(*side_by_side(left, right, 100))
    assert plain.isascii()


@pytest.mark.parametrize("width", [12, 40, 100])
@pytest.mark.parametrize("unicode", [True, False])
def test_a_chart(width, unicode):
    text = chart([FALLING, STAYING], Terminal(unicode=unicode), width=width, x_name="picks").plain
    lines = text.split("\n")
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
    lines = chart(flat, Terminal(unicode=False), width=20).plain.split("\n")
    for label, y in (("1 |", "1.0"), ("0.5 |", "0.5"), ("0 |", "0.0")):
        row = next(line for line in lines if line.lstrip().startswith(label))
        assert row.endswith(f"* {y} {float(y):.2f}")


def test_labels_of_curves_that_end_together_move_apart():
    same = [Curve(name, [1.0, 0.0], "cyan", "●", "*") for name in ("one", "two", "three")]
    text = chart(same, Terminal(), width=20).plain
    assert all(f"{name} 0.00" in text for name in ("one", "two", "three"))


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1.0, float("nan")], [1.0] * 500])
def test_a_chart_of_little_or_much(values):
    lines = chart([Curve("c", values, "cyan", "●", "*")], Terminal(), width=30, x_name="picks").plain.split("\n")
    assert max(map(cell_len, lines)) < 60


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "colour"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_real_terminal(environment, colour):
    """Under a pseudo-terminal: colour, and the width of the window."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import subprocess
    import termios

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
    terminal = Terminal(width=20, fixed=True)
    for text in ("一二三四五六七八九十" * 5, "naïve 一二 " * 20, "e\u0301" * 60, "plain words " * 9):
        for part in (terminal.prose(text), terminal.verbatim("    " + text), terminal.excerpt(text, 20, 99)):
            lines = terminal.render(part).split("\n")
            assert max(cell_len(line) for line in lines) <= 20
            kept = "".join(lines).replace(" ", "")
            assert kept == text.replace(" ", "")


def test_a_text_keeps_its_lines_and_indentation_and_the_rest_is_disarmed():
    terminal = Terminal(width=20, fixed=True)
    assert terminal.render(terminal.verbatim("a\n\n\tb\x1b[2J\r\nc")) == "a\n\n    b?[2J\nc"
    assert terminal.render(terminal.verbatim("    one two three four")) == "    one two three\n    four"


def test_an_excerpt_says_where_it_goes_on():
    terminal = Terminal(width=20, fixed=True)
    assert terminal.excerpt("one two three", 9, 2).plain.split("\n")[1:] == ["three"]
    first, second = terminal.excerpt("one two three four five", 9, 2).plain.split("\n")
    assert (first.strip(), second) == ("one two", "three…")


@pytest.mark.parametrize("text", ["[bold]x[/bold] :smile: [red", "[link=http://a.b]c[/link] https://a.b 'q' 3.5"])
def test_nothing_in_a_text_is_read_as_markup(text):
    terminal = Terminal(colour=True)
    rows = table(header=False)
    rows.add_row(terminal.line(text))
    for part in (text, terminal.prose(text), terminal.line(text), terminal.verbatim(text), rows):
        assert terminal.render(part) == text


def test_words_are_emphasized_whole_and_without_regard_to_case():
    screen = Terminal(colour=True)
    shown = screen.render(screen.line("Sort sorted SORT", words={"sort"}))
    assert shown == "\x1b[1mSort\x1b[0m sorted \x1b[1mSORT\x1b[0m"
    assert Terminal().render(Terminal().line("Sort", words={"sort"})) == "Sort"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_line_that_is_cut_says_so_in_letters_that_the_stream_has(encoding):
    screen = Screen(encoding)
    terminal = Terminal.of(screen, {"NO_COLOR": "1"})
    shown = terminal.render(terminal.line("λ " * 99), width=10)
    assert shown == ("λ λ λ λ λ…" if encoding == "utf-8" else "lambda la~")


def test_amounts_change_their_unit_before_they_need_a_fourth_digit():
    sizes = [0, 999, 1000, 9949, 9950, 999_499, 999_500, 10**9, 10**12, 10**16]
    shown = ["0 bytes", "999 bytes", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "1.0 GB", "1.0 TB", "10000 TB"]
    assert [amount(size) for size in sizes] == shown


def test_progress_is_one_line_that_keeps_to_the_screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    with progress_line(quiet=False) as report:
        report(Progress("embedding", 2000, 8000, "passages", 4.0))
        report(Progress("embedding", 8000, 8000, "passages", 9.0, finished=True))
    assert "━━━━             embedding 25 % 2,000 of 8,000 passages, 500/s, 12 s left" in screen.getvalue()
    assert screen.getvalue().endswith("embedding 8,000 passages in 9 s, 889/s\n")
    assert max(map(len, screen.getvalue().rstrip("\n").split("\r"))) <= 99
    assert "\x1b" not in screen.getvalue()


def test_progress_is_for_a_person_who_watches(monkeypatch, capsys):
    with progress_line(quiet=False) as report:
        report(Progress("embedding", 1, 2, "passages", 1.0))
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress_line(quiet=True) as report:
        report(Progress("embedding", 1, 2, "passages", 1.0))
    assert (screen.getvalue(), capsys.readouterr().err) == ("", "")


def test_after_an_interrupt_the_remark_has_a_line_of_its_own(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)

    def interrupted() -> None:
        with resumable("stopped"), progress_line(quiet=False) as report:
            report(Progress("embedding", 1, 2, "passages", 1.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert screen.getvalue().split("\n")[1:] == ["siftlm: stopped", ""]


@pytest.mark.parametrize("columns", [30, 40, 200])
def test_help_is_there_for_every_command(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ("index", "search", "info", "delete", "compact", "verify", "score", "generate", "chat", "calibrate",
                    "eval", "report", "select", "methods", "spread", "serve", "keys", "demo"):  # fmt: skip
        assert main([command, "--help"]) == 0
        assert "examples:" in capsys.readouterr().out
