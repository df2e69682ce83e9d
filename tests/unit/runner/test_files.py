"""What the runner removes: its own folders, and nothing that a link leads to."""

from __future__ import annotations

import os

from airflow_stepop.runner.files import remove_tree


def test_a_tree_goes_whatever_its_modes(tmp_path):
    (tmp_path / "tree" / "shut" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "shut" / "inner" / "file").touch()
    os.mkfifo(tmp_path / "tree" / "pipe")
    (tmp_path / "tree" / "shut" / "inner").chmod(0o000)
    (tmp_path / "tree" / "shut").chmod(0o500)
    remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()
    remove_tree(str(tmp_path / "tree"))


def test_links_are_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (elsewhere / "precious").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(elsewhere)
    (tmp_path / "link").symlink_to(elsewhere)
    remove_tree(str(tmp_path / "link"))
    remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()
    assert (elsewhere / "precious").exists()
    assert elsewhere.stat().st_mode & 0o777 == 0o755
