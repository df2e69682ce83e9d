"""A folder in which others may write is listed and deleted without following a link."""

from __future__ import annotations

import contextlib
import os
import shutil
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


@pytest.mark.parametrize(
    "path", ["link/inner/precious", "a/link/inner/precious", "a/../../elsewhere/x", "file"]
)
@pytest.mark.parametrize("is_new", [True, False])
def test_nothing_outside_is_read_or_written(root, elsewhere, path, is_new):
    (root / "a").mkdir()
    for place in (root, root / "a"):
        (place / "link").symlink_to(elsewhere)
    (root / "file").symlink_to(elsewhere / "inner" / "precious")
    with pytest.raises(OSError):  # noqa: PT011 - the system's own error, one of several
        tree.open_file(root, path)
    if path == "file":  # the link itself is replaced, or stays
        assert tree.write_file(root, path, [b"mine"], is_new=is_new) is not is_new
        assert (root / "file").is_symlink() is is_new
    else:
        with pytest.raises(NotADirectoryError):
            tree.write_file(root, path, [b"mine"], is_new=is_new)
    assert (elsewhere / "inner" / "precious").read_text() == "data"
    assert sorted(os.listdir(elsewhere)) == ["inner"]


def test_a_write_makes_the_folders_on_its_way_and_leaves_nothing_else(root):
    assert tree.write_file(root / "new", "a/b/c", [b"1", memoryview(b"23"), b""], is_new=True)
    assert not tree.write_file(root / "new", "a/b/c", [b"other"], is_new=True)
    assert (root / "new" / "a" / "b" / "c").read_bytes() == b"123"
    assert tree.write_file(root / "new", "a/b/c", [b"other"], is_new=False)
    assert (root / "new" / "a" / "b" / "c").read_bytes() == b"other"
    assert os.listdir(root / "new" / "a" / "b") == ["c"]


def test_a_write_whose_folder_is_removed_meanwhile(root):
    """As ``gc`` removes folders that are empty. It is removed less often than a write is tried."""
    over = threading.Event()

    def remove():
        count = 0
        while not over.is_set() and count < 50:
            for name in ("a/b", "a"):
                with contextlib.suppress(OSError):
                    os.rmdir(root / name)
                    count += 1

    removing = threading.Thread(target=remove)
    removing.start()
    try:
        for number in range(100):
            assert tree.write_file(root, f"a/b/{number}", [b"x"], is_new=True)
            tree.delete_file(root, f"a/b/{number}")
    finally:
        over.set()
        removing.join()


def test_a_link_that_takes_the_place_of_a_folder_while_files_are_written(root, elsewhere):
    """Another process removes a folder and puts a link there, over and over."""
    over = threading.Event()

    def swap():
        while not over.is_set():
            with contextlib.suppress(OSError):
                os.symlink(elsewhere, root / "a")
            with contextlib.suppress(OSError):
                os.unlink(root / "a")
            shutil.rmtree(root / "a", ignore_errors=True)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(300):
            with contextlib.suppress(OSError):
                tree.write_file(root, f"a/inner/{number}", [b"x"], is_new=True)
            with contextlib.suppress(OSError):
                os.close(tree.open_file(root, "a/inner/precious"))
                pytest.fail("a file outside was opened")
    finally:
        over.set()
        swapping.join()
    assert os.listdir(elsewhere / "inner") == ["precious"]


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
