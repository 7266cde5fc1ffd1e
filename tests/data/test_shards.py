"""Data sets in tar shards: what webdataset wrote is read, what is written webdataset reads."""

import gzip
import io
import logging
import os
import pickle
import random
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch
import webdataset
import yaml
from braceexpand import braceexpand

from hvd_yolo.config import AugmentConfig
from hvd_yolo.data import UnreadableImage, open_dataset
from hvd_yolo.data.__main__ import main
from hvd_yolo.data.cache import cache_place, cached, staged
from hvd_yolo.data.inputs import TrainingInputs
from hvd_yolo.data.loader import training_batches
from hvd_yolo.data.order import Dealing, Order
from hvd_yolo.data.shard_index import index_shards
from hvd_yolo.data.shards import expand_braces
from hvd_yolo.errors import InputError
from hvd_yolo.memory import free_on_host
from tests.conftest import REPOSITORY, job_environment, needs_mpi, run_job
from tests.data.small_files import encode, picture

LABEL = "0 0.5 0.5 0.5 0.5\n"


def make_shards(folder, *shards, source=None):
    """A data.yaml whose train split is these tar files, each a list of (member, bytes)."""
    folder.mkdir(exist_ok=True)
    for number, members in enumerate(shards):
        with tarfile.open(folder / f"train-{number}.tar", "w") as tar:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    source = source or f"train-{{0..{len(shards) - 1}}}.tar"
    content = {"format": "webdataset", "train": source, "names": ["a", "b"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def labelled(*stems, label=LABEL):
    return [
        (f"{stem}{suffix}", content)
        for stem in stems
        for suffix, content in ((".png", encode(".png", picture())), (".txt", label.encode()))
    ]


def make_loose(folder, count=12):
    """YOLO text with names that a tar cannot hold as they are, and a background image."""
    for kind in ("images/train", "labels/train"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        name, suffix = (f"im.{i}", ".png") if i % 3 else (f"im {i:03}", ".jpg")
        encoded = encode(suffix, picture(64 + 8 * i, 48))
        (folder / "images" / "train" / f"{name}{suffix}").write_bytes(encoded)
        if i != 5:
            text = f"{i % 2} 0.5 0.25 0.{i + 10} 0.125\n" * (i % 4)
            (folder / "labels" / "train" / f"{name}.txt").write_text(text)
    content = {"path": ".", "train": "images/train", "names": ["a", "b"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def convert(source, output, *options, to="webdataset"):
    main(["convert", "--data", str(source), "--to", to, "--output", str(output), *options])
    return output / "data.yaml"


def opened(path, split="train"):
    return open_dataset(str(path), split)


def refusal(path):
    with pytest.raises(InputError) as caught:
        opened(path)
    return str(caught.value)


def assert_equal(found, expected, tolerance=0.0):
    """The same images in the same order, with the same objects."""
    assert len(found) == len(expected)
    for i in range(len(expected)):
        assert np.array_equal(found.encoded(i), expected.encoded(i))
        assert found.image_id(i) == expected.image_id(i)
        truths = [dataset.annotations(i, 640, 480) for dataset in (found, expected)]
        assert truths[0].labels.tolist() == truths[1].labels.tolist()
        boxes, expected_boxes = (truth.boxes for truth in truths)
        assert np.abs(boxes - expected_boxes).max(initial=0) <= tolerance


def test_what_is_written_webdataset_reads(tmp_path, capsys):
    loose = opened(make_loose(tmp_path / "loose"))
    file = convert(tmp_path / "loose" / "data.yaml", tmp_path / "tar", "--shard_images", "5")
    assert "file names: 8 (the first is now im_1.png)" in capsys.readouterr().out
    content = yaml.safe_load(file.read_text())
    assert content["train"] == "train-{000000..000002}.tar"
    assert sum(name.endswith(".tar") for name in os.listdir(file.parent)) == 3
    shards = opened(file)
    assert_equal(shards, loose, 1e-6 * 640)

    urls = str(file.parent / content["train"])
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == len(loose)
    for i, sample in enumerate(samples):
        key = os.path.splitext(os.path.basename(loose.files[i]))[0].replace(".", "_")
        image = sample.get("png", sample.get("jpg"))
        assert sample["__key__"] == key
        assert image == loose.encoded(i).tobytes()
        assert len(sample["txt"].splitlines()) == len(loose.annotations(i, 1, 1).labels)
        assert str(shards.files[i]).startswith(f"{sample['__url__']}/{key}.")


def test_what_webdataset_wrote_is_read(tmp_path):
    """As its users write: nested keys, several files a sample, and images without labels."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(7)]
    pattern = str(tmp_path / "shard-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as writer:
        for i, image in enumerate(pictures):
            sample = {
                "__key__": f"part{i % 2}/im{i}", "PNG": encode(".png", image), "cls": i,
                "json": {"width": 64}, "mask.png": encode(".png", image // 2),
            }  # fmt: skip
            writer.write(sample if i == 4 else {**sample, "txt": f"{i % 2} .5 .5 .25 .5"})
    content = {"format": "webdataset", "path": str(tmp_path), "names": ["a", "b"]}
    content["train"] = ["shard-{000001..000000}.tar", str(tmp_path / "shard-000002.tar")]
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump(content))
    dataset = opened(file)
    for i, number in enumerate((3, 4, 5, 0, 1, 2, 6)):
        assert np.array_equal(dataset.image(i), pictures[number])
        assert dataset.image(i).shape == (48, 64, 3)
        truth = dataset.annotations(i, 64, 48)
        expected = [] if number == 4 else [[24.0, 12.0, 40.0, 36.0]]
        assert truth.boxes.tolist() == expected
        assert truth.labels.tolist() == [number % 2] * len(expected)


def test_bccd_comes_round_through_shards(bccd, tmp_path):
    loose = opened(bccd / "data.yaml", "test")
    options = ("--splits", "test", "--shard_images", "30")
    file = convert(bccd / "data.yaml", tmp_path / "tar", *options)
    # Nine digits of a share of the image.
    assert_equal(opened(file, "test"), loose, 1e-8 * 640)
    back = convert(file, tmp_path / "back", "--images", "link", to="yolo")
    assert_equal(opened(back, "test"), opened(file, "test"), 1e-8 * 640)


def inputs_of(dataset):
    dealing = Dealing(num_images=len(dataset), global_batch=4, micro_batch=4, size=1)
    order = Order(3, len(dataset), 96)
    return TrainingInputs(dataset, AugmentConfig(mixup=0.5), order, dealing, (0, 0), 0, 9)


def batches_of(dataset, num_workers=0):
    """Inputs, boxes and labels of six micro-batches: two epochs of 12 images."""
    batches = training_batches(inputs_of(dataset), num_workers, 2, torch.device("cpu"))
    return [
        (
            batch.images.numpy().tobytes(),
            batch.num_objects,
            # The objects' bytes, behind those of the images.
            batch.record[batch.layout.image_bytes :].numpy().tobytes(),
        )
        for batch in islice(batches, 6)
    ]


def test_training_sees_the_same_as_with_loose_files(tmp_path):
    """The same seed and order: the same bytes and boxes, read as they lie, cached, staged, and by
    loader processes."""
    make_loose(tmp_path / "source")
    # Names that a tar can hold, so that both have one order.
    loose = convert(tmp_path / "source" / "data.yaml", tmp_path / "loose", to="yolo")
    for kind in ("images", "labels"):
        for file in (tmp_path / "loose" / kind / "train").iterdir():
            file.rename(file.with_name(file.name.replace("im.", "im_")))
    shards = opened(convert(loose, tmp_path / "tar", "--shard_images", "5"))
    expected = batches_of(opened(loose))
    assert sum(sum(num_objects) for _, num_objects, _ in expected) > 24
    place = cache_place("disk", str(tmp_path / "packs"), 2, free_on_host)
    with staged(shards, place) as local, cached(shards, 96, place) as pixels:
        for dataset, num_workers in ((shards, 0), (shards, 2), (local, 0), (local, 1), (pixels, 1)):
            assert batches_of(dataset, num_workers) == expected
        for shard in (tmp_path / "tar").glob("*.tar"):
            shard.unlink()
        assert len(pickle.loads(pickle.dumps(local)).image(0))
        with pytest.raises(UnreadableImage, match=r"train-000000.tar, byte \d+: No such file"):
            pickle.loads(pickle.dumps(shards)).image(0)


def test_the_index_is_kept_until_a_shard_changes(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def is_made_anew():
        caplog.clear()
        opened(file)
        return "indexed 2 shards" in caplog.text

    file = make_shards(tmp_path / "a", labelled("x"), labelled("y", "z"))
    before = opened(file).fingerprint()
    (index,) = file.parent.glob("hvd_yolo-index-*.json")
    assert not is_made_anew()
    index.write_bytes(index.read_bytes().replace(b"0.5", b"0.4", 1))
    assert is_made_anew()
    assert not is_made_anew()
    os.utime(file.parent / "train-1.tar", ns=(1, 1))
    assert is_made_anew()
    assert opened(file).fingerprint() != before
    make_shards(file.parent, labelled("x"), labelled("y"))
    assert len(opened(file)) == 2

    # The folder may be found elsewhere, by another path.
    file.parent.rename(tmp_path / "b")
    file = tmp_path / "b" / "data.yaml"
    assert not is_made_anew()
    (index,) = file.parent.glob("hvd_yolo-index-*.json")
    index.unlink()
    index.mkdir()
    assert is_made_anew()
    assert "not kept" in caplog.text
    assert sorted(os.listdir(file.parent))[:2] == ["data.yaml", index.name]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (labelled("x", "y", "x"), "train-0.tar: x.png and x.png are both the image of one key"),
        ([*labelled("x"), ("x.jpg", b"")], "x.png and x.jpg are both the image of one key"),
        ([*labelled("x"), ("x.TXT", b"")], "x.txt and x.TXT are both the .txt of one key"),
        (labelled("x")[:1], "no image of the train split has a .txt"),
        (labelled("x.rf.1"), "KEY.jpg beside KEY.txt, where KEY has no dot"),
        (labelled("x", label="0 .5 .5 .5 .5\n7 .5 .5 .5 .5"), "train-0.tar/x.txt:2: class 7"),
        (labelled("x", label="0 .5 .5"), "train-0.tar/x.txt:1: 3 columns"),
        ([("x.png", b""), ("x.txt", b"\xff")], "train-0.tar/x.txt: not a text in UTF-8"),
        (labelled("../x"), "train-0.tar: 'train-0.tar/../x.png' leads out of train-0.tar"),
        (labelled("y" * 5000), "characters are too many for a path"),
    ],
)
def test_shards_that_cannot_be_used_are_named(tmp_path, members, told):
    assert told in refusal(make_shards(tmp_path / "set", members)).replace(f"{tmp_path}/set/", "")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("train-{0..2}.tar", "train-1.tar: no such file; 2 of 3 shards are not there"),
        ("x\0.tar", "1 of 1 shards are not there"),
        ("https://host/train-{0..1}.tar", "shards are read at random places, from files"),
        ("pipe:cat train-0.tar", "copy them to a folder"),
        (["train-0.tar", "train-{0..0}.tar"], "names a shard twice"),
        ("train-{0..1.tar", "braces do not match"),
        ("train-{a,{b,c}}.tar", "lie in braces"),
        ("train-{0}.tar", "{0} is neither a range"),
        ("{0..999999999999999999}.tar", "more than 100,000 shards"),
        ("{0..9}{0..999}{0..999}.tar", "more than 100,000 shards"),
        ("", "no train split; expected tar files, as train-{000000..000146}.tar"),
        (".", "cannot be read: Is a directory"),
    ],
)
def test_sources_that_are_no_shards_are_refused(tmp_path, source, told):
    file = make_shards(tmp_path, labelled("x"))
    content = {"format": "webdataset", "train": source, "names": ["a"]}
    file.write_text(yaml.safe_dump(content))
    assert told in refusal(file)


@pytest.mark.parametrize(
    "pattern",
    [
        "a.tar",
        "a-{0..3}.tar",
        "{07..11}",
        "{3..1}",
        "{a,b}/{8..10}.tar",
        "{000000..000146}",
        "x{,y}",
    ],
)
def test_braces_mean_what_they_mean_to_webdataset(pattern):
    assert expand_braces(pattern, "") == list(braceexpand(pattern))


def test_stray_labels_are_told_and_members_in_any_order_find_each_other(tmp_path, caplog):
    members = [("y.txt", LABEL.encode()), *labelled("./x"), ("z.txt", b""), ("._x.png", b"")]
    dataset = opened(make_shards(tmp_path, [*reversed(members), *labelled("y")[:1]]))
    assert [str(file).rsplit("/", 1)[1] for file in dataset.files] == ["x.png", "y.png"]
    assert len(dataset.labels) == 2
    assert "label files without an image, left out: 1 (" in caplog.text
    assert "train-0.tar/z.txt" in caplog.text


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    file = make_shards(tmp_path, labelled("x", "y"))
    shard = tmp_path / "train-0.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        end = tar.getmember("y.txt").offset_data + 512
    for length in (*range(0, end + 512, 256), end):
        shard.write_bytes(whole[:length])
        assert str(shard) in refusal(file)
    assert f"{shard}: truncated or damaged after y.txt" in refusal(file)
    shard.write_bytes(gzip.compress(whole))
    assert "compressed" in refusal(file)
    shard.write_bytes(whole[: end + 512])
    assert len(opened(file)) == 2


def test_mutated_tars_are_read_or_refused_by_name(tmp_path):
    """Random bytes, and headers whose checksum is right but whose fields are not."""
    make_shards(tmp_path, labelled("x", "long" * 40))
    shard, rng = tmp_path / "train-0.tar", random.Random(0)
    whole = shard.read_bytes()
    headers = [i for i in range(0, len(whole), 512) if whole[i + 257 : i + 262] == b"ustar"]
    refused = 0
    for number in range(250):
        data = bytearray(whole)
        head = rng.choice(headers)
        first, length = rng.choice([(0, 9), (100, 8), (124, 12), (156, 1), (345, 9)])
        places = range(first, first + length) if number % 2 else rng.sample(range(512), 3)
        for place in places:
            data[head + place] = rng.choice((0x80, 0xFF, 0x37, 0x78, rng.randrange(256)))
        if number % 2:
            data[head + 148 : head + 156] = b" " * 8
            data[head + 148 : head + 156] = b"%06o\0 " % sum(data[head : head + 512])
        shard.write_bytes(data)
        started = time.monotonic()
        try:
            index_shards([shard])
        except InputError as error:
            refused += 1
            assert str(shard) in str(error)
        assert time.monotonic() - started < 2
    assert 60 < refused < 250


def test_more_shards_than_stay_open_are_read_by_many_threads(tmp_path):
    content = encode(".bmp", picture(4, 4))
    shards = [[(f"{i}.bmp", content), (f"{i}.txt", LABEL.encode())] for i in range(400)]
    dataset = opened(make_shards(tmp_path, *shards))
    assert [dataset.image_id(i) for i in (0, 399)] == [0, 399]
    before = len(os.listdir("/proc/self/fd"))
    indices = np.random.default_rng(0).permutation(np.repeat(np.arange(400), 4)).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: dataset.encoded(index).tobytes(), indices))
    assert set(found) == {content}
    assert len(os.listdir("/proc/self/fd")) - before <= 256


def test_a_shard_cut_after_it_was_indexed_is_an_unreadable_image(tmp_path):
    dataset = opened(make_shards(tmp_path, labelled("x")))
    os.truncate(tmp_path / "train-0.tar", 600)
    with pytest.raises(UnreadableImage, match=r"train-0.tar, byte 512: the shard is shorter"):
        dataset.image(0)


def test_writing_without_webdataset_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    file = make_shards(tmp_path, labelled("x"))
    with pytest.raises(InputError, match=r"pip install 'hvd_yolo\[shards\]'"):
        convert(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reading_needs_no_webdataset(tmp_path):
    file = make_shards(tmp_path, labelled("x"))
    code = (
        "import sys; sys.modules['webdataset'] = sys.modules['braceexpand'] = None\n"
        "from hvd_yolo.data import open_dataset\n"
        f"print(open_dataset({str(file)!r}, 'train').image(0).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, cwd=REPOSITORY, env=job_environment(),
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("(48, 64, 3)\n", "")


@needs_mpi
def test_two_ranks_write_the_shards_that_one_writes(tmp_path):
    options = ["--shard_images", "4", "--splits", "train"]
    convert("shapes:10", tmp_path / "1", *options)
    words = ["--data", "shapes:10", "--to", "webdataset", "--output", str(tmp_path / "2")]
    done = run_job(2, ["-m", "hvd_yolo.data", "convert", *words, *options])
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (
        {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("hvd")}
        for folder in (tmp_path / "1", tmp_path / "2")
    )
    assert one == two
    assert sorted(one) == ["data.yaml", *(f"train-00000{i}.tar" for i in range(3))]
    drawn, written = open_dataset("shapes:10", "train"), opened(tmp_path / "2" / "data.yaml")
    assert all(np.array_equal(drawn.image(i), written.image(i)) for i in range(10))
