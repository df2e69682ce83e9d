"""A folder in which others may write is listed and deleted without following a link."""

from __future__ import annotations

import os
import threading

import pytest

from airflow_stepop.core import tree


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def elsewhere(tmp_path):
    """A folder of somebody else, with a file."""
    folder = tmp_path / "elsewhere"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "precious").write_text("data")
    return folder


def listed(root, path=""):
    told: list[str] = []
    return [found.path for found in tree.files_below(root, path, told.append)], told


def test_links_are_named_and_not_followed(root, elsewhere):
    (root / "a").mkdir()
    (root / "a" / "file").write_text("12345")
    (root / "a" / "out").symlink_to(elsewhere)
    (root / "a" / "one").symlink_to(elsewhere / "inner" / "precious")
    (root / "a" / "loop").symlink_to(root / "a")
    (root / "self").symlink_to("self")
    assert listed(root) == (
        ["a/file"],
        ["a/loop is a link", "a/one is a link", "a/out is a link", "self is a link"],
    )
    with pytest.raises(NotADirectoryError):
        listed(root, "a/out")


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"\x1b[31mred", "red"), (b"a\xff", r"a\xff"), ("a\u202eb".encode(), "a\N{REPLACEMENT CHARACTER}b")],
)
def test_names_that_are_no_text_are_named_printably(root, name, shown):
    folder = os.fsencode(root) + b"/results"
    os.makedirs(folder + b"/" + name)
    with open(folder + b"/kept", "wb"):
        pass
    with open(folder + b"/" + name + b"/in", "wb"):
        pass
    files, told = listed(root)
    assert files == ["results/kept"]
    assert told == [f"results/{shown} has a name that this package never writes"]
    assert told[0].isprintable()


def test_what_is_no_file_is_named(root):
    os.mkfifo(root / "pipe")
    assert listed(root) == ([], ["pipe is neither a file nor a folder"])


def test_too_many_folders_in_one_another_end(root):
    os.makedirs(root / "/".join("a" * 50))
    files, (told,) = listed(root)
    assert files == []
    assert told.endswith("lies in too many folders")


def test_a_folder_that_does_not_exist_is_empty(root):
    assert listed(root, "a/b") == ([], [])
    tree.delete_folder(root, "a/b")
    tree.delete_file(root, "a/b")


def test_the_root_may_be_a_link(root, tmp_path):
    """The administrator has chosen it."""
    (root / "file").touch()
    (tmp_path / "link").symlink_to(root)
    assert listed(tmp_path / "link") == (["file"], [])


@pytest.mark.parametrize("path", ["link", "link/inner", "a/link", "a/link/inner", "..", "a/../../elsewhere"])
def test_nothing_outside_is_deleted(root, elsewhere, path):
    (root / "a").mkdir()
    for place in (root, root / "a"):
        (place / "link").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        tree.delete_folder(root, path)
    with pytest.raises(OSError):  # noqa: PT011 - the system's own error, one of several
        tree.delete_file(root, f"{path}/inner")
    tree.delete_empty_folders(root, path, depth=1, before=2e10)
    assert (elsewhere / "inner" / "precious").read_text() == "data"


def test_a_folder_is_deleted_with_the_links_in_it(root, elsewhere):
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "link").symlink_to(elsewhere)
    (root / "a" / "file").touch()
    tree.delete_folder(root, "a")
    assert list(root.iterdir()) == []
    assert (elsewhere / "inner" / "precious").exists()


def test_empty_folders_of_others_stay(root, elsewhere):
    (elsewhere / "empty").mkdir()
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "out").symlink_to(elsewhere)
    tree.delete_empty_folders(root, "a", depth=2, before=2e10)
    assert (elsewhere / "empty").exists()
    assert not (root / "a" / "b" / "c").exists()
    assert (root / "a" / "b").exists()


def test_a_link_that_takes_the_place_of_a_folder_meanwhile(root, elsewhere):
    """Another process swaps a folder and a link, over and over. Nothing outside is listed or deleted."""
    (root / "a" / "inner").mkdir(parents=True)
    (root / "link").symlink_to(elsewhere)
    over = threading.Event()

    def swap():
        while not over.is_set():
            os.rename(root / "a", root / "b")
            os.rename(root / "link", root / "a")
            os.rename(root / "a", root / "link")
            os.rename(root / "b", root / "a")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(300):
            try:
                assert list(tree.files_below(root, "a", lambda text: None)) == []
                tree.delete_folder(root, "a/inner")
            except NotADirectoryError:
                pass
    finally:
        over.set()
        swapping.join()
    assert (elsewhere / "inner" / "precious").exists()
