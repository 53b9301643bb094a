"""A file is in place whole or not at all."""

from pathlib import Path

import pytest

from include.nightshift import durable


def test_a_file_takes_its_place_only_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with durable.placed(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "after")]


def interrupted(path: Path) -> None:
    with durable.placed(path) as temporary:
        temporary.write_text("ha")
        raise KeyboardInterrupt


def test_what_fails_half_way_leaves_what_was_there_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "before")]
