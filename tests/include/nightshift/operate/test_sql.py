import socket

import pytest

from include.nightshift.operate import sql


def test_columns_are_aligned_numbers_to_the_right_and_null_is_told() -> None:
    lines = sql.lay_out(["card", "score"], [["a", 1.5], ["long name", None]])
    assert lines == ["card       score", "---------  -----", "a            1.5", "long name   null"]


def test_a_long_value_is_cut_so_that_a_row_stays_a_line() -> None:
    lines = sql.lay_out(["text"], [["first line\nsecond " + "x" * 100]])
    assert len(lines) == 3
    assert lines[2].startswith("first line second x")
    assert lines[2].endswith("…")
    assert len(lines[2]) == 60


def test_a_lakehouse_that_does_not_answer_is_one_line_and_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("NIGHTSHIFT_SPARK_REMOTE", f"sc://127.0.0.1:{nobody.getsockname()[1]}")
        assert sql.main(["select 1"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "make up" in error


def test_an_empty_question_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert sql.main([" "]) == 1
    assert "there is no question" in capsys.readouterr().err
