"""A pack is made once, by processes any of which may be killed at any moment, and gives what the
data set gives."""

import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from hvd_yolo.data import open_dataset
from hvd_yolo.data.balance import read_image_weights
from hvd_yolo.data.cache import cache_place, cached, stage_place, staged
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.pack import in_use, open_pack
from hvd_yolo.data.shapes import Shapes
from hvd_yolo.errors import InputError
from hvd_yolo.memory import free_on_host
from tests.conftest import REPOSITORY
from tests.data.programs.open_pack import NAME, Made, digest, expected_digest, place
from tests.data.small_files import cmyk_jpeg, encode, make_yolo, picture, with_exif

PROGRAM = "tests.data.programs.open_pack"
NUMBER = 300


def start(folder, **asked):
    asked = {"folder": str(folder), "number": NUMBER, **asked}
    return subprocess.Popen(
        [sys.executable, "-m", PROGRAM, json.dumps(asked)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def result(process):
    """What was printed; a process that hangs is an error."""
    return process.communicate(timeout=20)[0]


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def is_right(output):
    return f"DIGEST {expected_digest(NUMBER)}\n" in output


def test_one_leads_all_write_each_item_once_and_read_the_same(tmp_path):
    folder, log = tmp_path / "packs", tmp_path / "log"
    together = [start(folder, log=str(log), pause=0.008) for _ in range(4)]
    outputs = [result(process) for process in together]
    assert all(map(is_right, outputs))
    assert sum(output.count("packing 300 images") for output in outputs) == 1
    assert all(" made in " in output for output in outputs)
    pids, indices = zip(*(line.split() for line in log.read_text().splitlines()), strict=True)
    assert sorted(map(int, indices)) == [i for i in range(NUMBER) if i % 10 != 9]
    assert len(Counter(pids)) > 1
    output = result(start(folder))
    assert is_right(output)
    assert f"loader.cache: 300 images, 0.0 GB in {folder}/{NAME}, made earlier" in output
    assert names(folder) == [NAME, f"{NAME}.lock"]


@pytest.mark.parametrize("moment", ["plan", "write 0", "write 200", "rename"])
def test_a_killed_process_leaves_nothing_that_is_believed(tmp_path, moment):
    killed = start(tmp_path, dies_at=moment)
    output = result(killed)
    assert killed.returncode == -9
    assert "DIGEST" not in output
    assert not (tmp_path / NAME).exists()
    output = result(start(tmp_path))
    assert is_right(output)
    assert "packing 300 images" in output
    assert names(tmp_path) == [NAME, f"{NAME}.lock"]


@pytest.mark.parametrize("moment", ["write 60", "rename"])
def test_who_helps_takes_the_place_of_a_killed_leader(tmp_path, moment):
    # Slowly: the last of its first 64 images, which nobody else can claim, while others help.
    leader = start(tmp_path, dies_at=moment, pause=0.05)
    wait_for(lambda: list(tmp_path.glob("*/table.npy")))
    helpers = [start(tmp_path, pause=0.001) for _ in range(2)]
    outputs = [result(helper) for helper in helpers]
    result(leader)
    assert leader.returncode == -9
    assert all(map(is_right, outputs))
    assert sum(output.count("packing 300 images") for output in outputs) == 1
    assert names(tmp_path) == [NAME, f"{NAME}.lock"]


def test_what_a_killed_helper_claimed_is_written_by_others(tmp_path):
    leader = start(tmp_path, pause=0.02)
    wait_for(lambda: list(tmp_path.glob("*/table.npy")))
    helper = start(tmp_path, dies_at="any write")
    assert is_right(result(leader))
    result(helper)
    assert helper.returncode == -9


def test_nodes_that_share_a_file_system_do_not_write_together(tmp_path):
    """The folder of a leader under another kernel is told by its name."""
    result(start(tmp_path, dies_at="write 100"))
    (work,) = tmp_path.glob("*.unfinished-*")
    work.rename(tmp_path / f"{NAME}.unfinished-00000000-abc")
    with open(tmp_path / f"{NAME}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = start(tmp_path, log=str(tmp_path / "log"))
        time.sleep(1.5)
        assert waiting.poll() is None
        assert not (tmp_path / "log").exists()
    assert is_right(result(waiting))
    assert names(tmp_path) == ["log", NAME, f"{NAME}.lock"]


def test_the_last_user_removes_a_pack_in_memory(tmp_path):
    first, second = (start(tmp_path, is_kept=False) for _ in range(2))
    for process in (first, second):
        line = ""
        while not line.startswith("DIGEST"):
            line = process.stdout.readline()
    first.communicate("\n", timeout=20)
    assert NAME in names(tmp_path)
    third = start(tmp_path, is_kept=False)
    assert "made earlier" in third.stdout.readline()
    second.communicate("\n", timeout=20)
    assert NAME in names(tmp_path)
    third.communicate("\n", timeout=20)
    assert names(tmp_path) == []


def test_a_failed_run_removes_its_pack_in_memory(tmp_path):
    with pytest.raises(KeyError), in_use(place(tmp_path, False), NAME):
        open_pack(place(tmp_path, False), NAME, Made(5))
        raise KeyError
    assert names(tmp_path) == []


def test_what_killed_runs_left_is_removed_by_the_next(tmp_path):
    killed = start(tmp_path, is_kept=False)
    wait_for((tmp_path / NAME).is_dir)
    killed.kill()
    killed.communicate()
    result(start(tmp_path / "disk", dies_at="write 100"))
    assert names(tmp_path) == ["disk", NAME, f"{NAME}.lock", f"{NAME}.use"]
    assert any("unfinished" in name for name in names(tmp_path / "disk"))
    with in_use(place(tmp_path, False), "other"):
        assert names(tmp_path) == ["disk", "other.use"]
    open_pack(place(tmp_path / "disk"), "other", Made(5))
    assert not any("unfinished" in name for name in names(tmp_path / "disk"))


def test_want_of_space_is_told_before_anything_is_written(tmp_path):
    told = "loader.cache: .* would have to hold 0.0 GB, but 0.0 GB .*: free some, or do without"
    with pytest.raises(InputError, match=told):
        open_pack(place(tmp_path, free=1000), NAME, Made(NUMBER))
    assert names(tmp_path) == [f"{NAME}.lock"]
    # The file system refuses, as it does for a quota.
    output = result(start(tmp_path, file_size=9000))
    assert "REFUSED loader.cache: a pack cannot be made" in output
    assert "File too large; mend that, or do without" in output
    assert names(tmp_path) == [f"{NAME}.lock"]


def test_a_folder_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "own").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(InputError, match=f"loader.cache: .*/{name}: .*; mend that, or do"):
            open_pack(place(tmp_path / name), NAME, Made(5))
    assert len(open_pack(place(tmp_path / "own"), NAME, Made(5))) == 5
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    # Nothing is closed to root.
    is_root = os.getuid() == 0
    output = result(start(folder / "new", **({"user": 65534} if is_root else {})))
    assert "REFUSED loader.cache: " in output
    assert "Permission denied" in output
    if is_root:
        os.chown(folder, 65534, 65534)
        with pytest.raises(InputError, match="closed belongs to another user; name a folder"):
            open_pack(place(folder), NAME, Made(5))


@pytest.mark.parametrize("damage", ["table.npy", "states.bin", "items.bin", "shorter", "no table"])
def test_a_damaged_pack_is_made_anew(tmp_path, caplog, damage):
    caplog.set_level(logging.INFO)
    open_pack(place(tmp_path), NAME, Made(NUMBER))
    if damage == "shorter":
        os.truncate(tmp_path / NAME / "items.bin", 5000)
    elif damage == "no table":
        (tmp_path / NAME / "table.npy").unlink()
    else:
        os.truncate(tmp_path / NAME / damage, 0)
    assert digest(open_pack(place(tmp_path), NAME, Made(NUMBER))) == expected_digest(NUMBER)
    assert caplog.text.count("packing 300 images") == 2


def test_a_pack_of_nothing_readable(tmp_path):
    class Nothing(Made):
        """Not one item has a plan."""

        def plan(self, index):
            raise UnreadableImage

    pack = open_pack(place(tmp_path), NAME, Nothing(70))
    assert [pack.item(i) for i in range(70)] == [None] * 70


IMAGES = {
    "a_plain.png": encode(".png", picture(120, 90)),
    "b_head.jpg": b"\xff\xd8\xff but not a JPEG",
    "c_pixels.png": encode(".png", picture(120, 90))[:-900],
    "d_turned.jpg": with_exif(encode(".jpg", picture(120, 90)), 6),
    "e_large.jpg": encode(".jpg", picture(500, 300)),
    "f_cut.jpg": encode(".jpg", picture(500, 300))[:-800],
    "g_cmyk.jpg": cmyk_jpeg(),
    "h_empty.png": b"",
    "i_gone.png": encode(".png", picture(12, 9)),
    "j_small.bmp": encode(".bmp", picture(12, 9)),
}


@pytest.fixture
def dataset(tmp_path):
    """Ten images, half of them broken, each in a way of its own."""
    file = make_yolo(tmp_path / "set", IMAGES["a_plain.png"], name="a_plain.png")
    for name, content in IMAGES.items():
        (tmp_path / "set" / "images" / name).write_bytes(content)
    found = open_dataset(str(file), "train")
    (tmp_path / "set" / "images" / "i_gone.png").unlink()
    return found


def met(read, *arguments):
    try:
        return read(*arguments)
    except UnreadableImage as error:
        return str(error)


@pytest.mark.parametrize("kind", ["ram", "disk", "stage", "stage and disk"])
def test_images_and_errors_are_those_of_the_data_set(tmp_path, dataset, kind):
    def compare(kept):
        for index in range(len(IMAGES)):
            expected, found = (met(d.scaled, index, 64) for d in (dataset, kept))
            assert type(found) is type(expected)
            if isinstance(expected, str):
                assert found == expected
            else:
                assert (found.width, found.height) == (expected.width, expected.height)
                expected, found = met(expected.pixels), met(found.pixels)
                assert np.array_equal(found, expected)

    assert sum(isinstance(met(dataset.image, i), str) for i in range(10)) == 5
    folder = str(tmp_path / "packs")
    if kind.startswith("stage"):
        with staged(dataset, stage_place(folder, 1)) as kept:
            if kind == "stage":
                return compare(kept)
            with cached(kept, 64, cache_place("disk", folder, 1, free_on_host)) as twice:
                return compare(twice)
    with cached(dataset, 64, cache_place(kind, folder, 1, free_on_host)) as kept:
        return compare(kept)


def test_a_changed_file_is_packed_anew(tmp_path, dataset):
    where = cache_place("disk", str(tmp_path / "packs"), 1, free_on_host)
    with cached(dataset, 64, where) as kept:
        before = kept.scaled(0, 64).pixels()
    file = tmp_path / "set" / "images" / "a_plain.png"
    file.write_bytes(encode(".png", 255 - picture(120, 90)))
    with cached(dataset, 64, where) as kept:
        assert not np.array_equal(kept.scaled(0, 64).pixels(), before)
    with cached(dataset, 32, where):
        assert len([name for name in names(tmp_path / "packs") if "lock" not in name]) == 3


def test_ram_and_disk_in_one_folder_keep_apart(tmp_path):
    dataset = Shapes.from_name("shapes:4", "train")
    for kind in ("disk", "ram"):
        with cached(dataset, 64, cache_place(kind, str(tmp_path), 1, free_on_host)):
            pass
    assert len([name for name in names(tmp_path) if name.startswith("pixels-64-")]) == 2


def test_weights_are_given_to_the_images_of_a_cache_too(tmp_path, dataset):
    (tmp_path / "weights.txt").write_text("a_plain.png 3\n")
    with cached(dataset, 64, cache_place("ram", str(tmp_path / "p"), 1, free_on_host)) as kept:
        assert read_image_weights(tmp_path / "weights.txt", kept)[0] == 3


def test_only_files_can_be_staged(tmp_path):
    dataset = Shapes.from_name("shapes:4", "train")
    with pytest.raises(InputError, match="no files"), staged(dataset, stage_place("x", 1)):
        pass


def test_a_line_now_and_then_tells_how_far_it_is(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("hvd_yolo.data.packing._SECONDS_A_LINE", 0.0)
    open_pack(place(tmp_path), NAME, Made(1100))
    assert "loader.cache: looked at 1,100 of 1,100 images" in caplog.messages
    told = [text for text in caplog.messages if text.startswith("loader.cache: packed ")]
    assert len(told) == 18
    assert told[-1] == "loader.cache: packed 1,100 of 1,100 images"
