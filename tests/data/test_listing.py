"""Which entries of a folder are photos, in which order, and that a long folder is not read to its
end at once.
"""

import pytest

from finetune.data.photos import list_photos
from finetune.errors import DataError


def put(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    return folder


def found(folder):
    return [path.relative_to(folder).as_posix() for path in list_photos([folder])]


def test_photos_at_any_depth_are_sorted_and_nothing_else_is_taken(tmp_path):
    put(tmp_path, "b.JPG", "a.jpeg", "c/d/e.webp", "c/a.png", "z.tiff", "notes.txt")
    put(tmp_path, ".hidden.jpg", ".git/a.jpg", "__MACOSX/a.jpg", "Thumbs.db")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    assert found(tmp_path) == ["a.jpeg", "b.JPG", "c/a.png", "c/d/e.webp", "z.tiff"]


def test_paths_come_in_the_order_in_which_they_were_given(tmp_path):
    put(tmp_path, "b/1.png", "a/1.png", "no-suffix")
    paths = [tmp_path / "no-suffix", tmp_path / "b", tmp_path / "a" / "1.png", tmp_path / "b"]
    files = [path.relative_to(tmp_path).as_posix() for path in list_photos(paths)]
    assert files == ["no-suffix", "b/1.png", "a/1.png", "b/1.png"]


def test_links_to_folders_are_followed_once_and_never_upwards(tmp_path):
    put(tmp_path, "outside.png", "elsewhere/1.png", "given/a/2.png")
    (tmp_path / "given" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "given" / "link again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "given" / "a" / "loop").symlink_to(tmp_path / "given")
    (tmp_path / "given" / "up").symlink_to(tmp_path)
    assert found(tmp_path / "given") == ["a/2.png", "link/1.png"]


def test_missing_paths_are_named_all_at_once_and_before_the_first_photo(tmp_path):
    put(tmp_path, "1.png")
    with pytest.raises(DataError, match=r"No such file or folder: .*gone\.jpg, .*also gone"):
        list_photos([tmp_path / "1.png", tmp_path / "gone.jpg", tmp_path / "also gone"])


def test_later_folders_are_not_read_before_they_are_needed(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png")
    photos = list_photos([tmp_path])
    assert next(photos).name == "1.png"
    put(tmp_path, "b/3.png")
    assert [path.name for path in photos] == ["2.png", "3.png"]
