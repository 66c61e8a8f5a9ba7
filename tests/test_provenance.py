"""Where a number comes from: the book's own repository and no other, and every change of its code."""

import os
import subprocess

import pytest
import torch

from helpers import provenance

ERRORS = (OSError, subprocess.CalledProcessError)


def git(folder, *arguments):
    own = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", check=True, env=own
    )
    return done.stdout.strip()


def repository(folder):
    """A repository with one commit. Returns the commit's first 12 digits."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    (folder / "code.py").write_text(f"x = '{folder.name}'\n", encoding="utf-8")
    (folder / ".gitignore").write_text("_build/\n", encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return git(folder, "rev-parse", "--short=12", "HEAD")


@pytest.fixture(autouse=True)
def book(tmp_path, monkeypatch):
    """The folder that is taken for the book's."""
    monkeypatch.delenv("BOOK_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "book")
    provenance.commit.cache_clear()
    yield tmp_path / "book"
    provenance.commit.cache_clear()


def commit():
    provenance.commit.cache_clear()
    return provenance.commit()


def test_the_commit_with_a_plus_where_the_tree_differs(book):
    head = repository(book)
    assert commit() == head and provenance.dirty() == [] and provenance.changes() == ""
    (book / "code.py").write_text("x = 2\n", encoding="utf-8")
    assert commit() == head + "+" and provenance.dirty() == [" M code.py"] and len(provenance.changes()) == 12


def test_what_recording_writes_does_not_make_the_tree_dirty(book):
    head = repository(book)
    for name in ("results/a/smoke/t.jsonl", "helpers/weights/a.safetensors", "_build/x"):
        (book / name).parent.mkdir(parents=True)
        (book / name).write_text("", encoding="utf-8")
    assert commit() == head and provenance.dirty() == []


def test_a_book_within_another_repository_has_no_commit(book, tmp_path):
    repository(tmp_path)
    book.mkdir()
    (book / "code.py").write_text("", encoding="utf-8")
    assert commit() == "unknown" and provenance.changes() == ""
    with pytest.raises(ERRORS, match="no git repository of its own"):
        provenance.dirty()


def test_a_book_without_any_repository_has_no_commit(book):
    book.mkdir()
    assert commit() == "unknown" and provenance.changes() == ""
    with pytest.raises(ERRORS):
        provenance.dirty()


@pytest.mark.parametrize("variables", [("GIT_DIR",), ("GIT_DIR", "GIT_WORK_TREE"), ("GIT_INDEX_FILE",), ("GIT_WORK_TREE",)])
def test_git_variables_of_the_environment_name_no_other_repository(book, tmp_path, monkeypatch, variables):
    head = repository(book)
    repository(tmp_path / "other")
    (tmp_path / "other/more.py").write_text("", encoding="utf-8")
    places = {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index"}
    for name in variables:
        monkeypatch.setenv(name, str(tmp_path / "other" / places[name]))
    assert commit() == head and provenance.dirty() == [] and provenance.changes() == ""


def test_a_link_to_the_book_and_a_worktree_of_it_are_the_book(book, tmp_path, monkeypatch):
    head = repository(book)
    (tmp_path / "link").symlink_to(book)
    git(book, "worktree", "add", "-q", str(tmp_path / "tree"))
    for name in ("link", "tree"):
        monkeypatch.setattr(provenance, "ROOT", tmp_path / name)
        assert commit() == head


def test_each_change_of_the_code_is_another_one(book):
    repository(book)
    (book / "picture.bin").write_bytes(b"\0\1")
    git(book, "add", ".")
    git(book, "commit", "-qm", "second")
    seen = [provenance.changes()]

    def now(change):
        change()
        assert provenance.changes() not in seen and provenance.changes() == provenance.changes()
        seen.append(provenance.changes())

    now(lambda: (book / "code.py").write_text("x = 2\n", encoding="utf-8"))
    now(lambda: (book / "picture.bin").write_bytes(b"\0\2"))
    now(lambda: (book / "new.py").write_text("y = 1\n", encoding="utf-8"))  # git does not know it yet
    now(lambda: (book / "new.py").write_text("y = 2\n", encoding="utf-8"))
    now(lambda: (book / "new.py").rename(book / "newer name, ε.py"))
    now(lambda: (book / "folder").mkdir() or (book / "folder/b.bin").write_bytes(b"\xff"))
    now(lambda: (book / "link").symlink_to("code.py"))
    now(lambda: git(book, "rm", "-q", "--cached", "picture.bin"))
    (book / "results").mkdir()
    (book / "results/t.jsonl").write_text("", encoding="utf-8")
    assert provenance.changes() == seen[-1]


def test_a_named_commit_counts_and_changes_are_those_of_the_tree(book, monkeypatch):
    repository(book)
    monkeypatch.setenv("BOOK_COMMIT", "abc")
    (book / "new.py").write_text("", encoding="utf-8")
    assert commit() == "abc" and provenance.changes() != ""


def test_no_git_at_all(book, monkeypatch):
    repository(book)
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown" and provenance.changes() == ""
    with pytest.raises(OSError, match="git"):
        provenance.dirty()


def test_the_device_and_the_versions():
    assert provenance.device_name(torch.device("cpu")).endswith("threads")
    assert provenance.versions()["torch"] == torch.__version__ and provenance.versions().keys() == {"python", "torch", "numpy"}
