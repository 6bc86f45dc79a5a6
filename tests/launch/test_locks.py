"""The locks below the leases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ft_dagster.launch.locks import EXCLUSIVE, lock, locked, read_json, unlock, write_json
from tests.present import present


def test_a_lock_excludes_others_although_the_file_is_removed_again_and_again(tmp_path: Path) -> None:
    path, inside, crowded = tmp_path / "file", [], []

    def enter_and_remove(me: int) -> None:
        for _ in range(60):
            with locked(path, patience=60):
                inside.append(me)
                crowded.append(len(inside) > 1)
                inside.remove(me)
                path.unlink()  # from here on the next may enter, by a new file

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter_and_remove, range(4)))
    assert (len(crowded), any(crowded)) == (240, False)


def test_shorter_content_replaces_longer(tmp_path: Path) -> None:
    descriptor = present(lock(tmp_path / "file", EXCLUSIVE))
    write_json(descriptor, {"long": "x" * 5000})
    write_json(descriptor, {"short": 1})
    assert read_json(descriptor) == {"short": 1}
    unlock(descriptor)


def test_files_in_a_folder_of_several_users_can_be_written_by_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    unlock(present(lock(tmp_path / "file", EXCLUSIVE)))
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o660
