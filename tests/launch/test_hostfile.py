"""Lists of hosts as people and batch systems write them: read, or refused with what to do."""

import subprocess

import pytest

from hvd_yolo.errors import InputError
from hvd_yolo.launch.hostfile import parse, read, shown
from tests.conftest import REPOSITORY, job_environment

READ = {
    "open mpi": ("node1 slots=8\nnode2 slots=4 max_slots=8\n", "node1:8,node2:4"),
    "blanks and tabs": (" node1\tslots = 8 \n\nnode2 max-slots=8\tslots=2", "node1:8,node2:2"),
    "horovodrun": ("node1:8\nnode2 : 4\n", "node1:8,node2:4"),
    "pbs and oar": ("n1.lan\nn1.lan\nn2.lan\nn2.lan\nn1.lan\n", "n1.lan:3,n2.lan:2"),
    "added up": ("node1 slots=2\nnode2:1\nnode1:3\n", "node1:5,node2:1"),
    "grid engine": ("node1 8 q@node1 UNDEFINED\nnode2 4 q@node2 <NULL>\n", "node1:8,node2:4"),
    "slurm": ("node[01-03,07]:8\n", "node01:8,node02:8,node03:8,node07:8"),
    "slurm slots": ("rack[1-2]n[08-09] slots=4\n", "rack1n08:4,rack1n09:4,rack2n08:4,rack2n09:4"),
    "trailing comma": ("node1:8,\nnode2 slots=4,\n", "node1:8,node2:4"),
    "one line": ("node1:8, node2:4\n", "node1:8,node2:4"),
    "comments": ("# all\nnode1:8 # the first\n", "node1:8"),
    "windows": ("node1:8\r\nnode2:4\r\n", "node1:8,node2:4"),
    "address": ("10.0.0.1:8\n10.0.0.2 slots=8\n", "10.0.0.1:8,10.0.0.2:8"),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_are_read(tmp_path, kind, encoding):
    text, expected = READ[kind]
    file = tmp_path / "hosts"
    file.write_bytes(text.encode(encoding))
    assert shown(read(file)) == expected


def test_the_option_is_read_alike():
    assert shown(parse("node1:8, node[2-3]:4,")) == "node1:8,node2:4,node3:4"
    assert shown(parse("node[2,4],node2")) == "node2:2,node4:1"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("alice@node2:8", "write node2:8, and put into ~/.ssh/config the lines `Host node2` and"),
        ("alice@node2 slots=8", "`User alice`"),
        ("fe80::1", "IPv6 address, which horovodrun and mpirun cannot tell from a name"),
        ("[2001:db8::1]:8", "give the host's name or IPv4 address"),
        ("2001:db8::1 slots=8", "IPv6"),
        ("node[04-01]", "the lower number first"),
        ("node[a-c]", "write node[01-04]"),
        ("node[1-999999999]", "no range of hosts"),
        ("node[1-4", "no host and its slots; write"),
        ("node2 slots 2", "no host and its slots; write `node1 slots=8`"),
        ("node2:eight", "no host and its slots"),
        ("node2:", "no host and its slots"),
        ("node2:8 slots=8", "no host and its slots"),
        ("node2 slots=0", "node2 has 0 slots; leave it out"),
        ("node2 cpus=8", "no host and its slots"),
        ("node2 node3", "no host and its slots"),
        ("-oProxyCommand=x", "no host and its slots"),
    ],
)
def test_what_no_launcher_takes_is_refused_with_the_remedy(tmp_path, line, told):
    file = tmp_path / "hosts"
    file.write_text(f"node1:1\n{line}\n")
    with pytest.raises(InputError) as caught:
        read(file)
    assert f"{file}:2: " in str(caught.value)
    assert told in str(caught.value)


def test_a_file_without_hosts_is_refused(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# none\n\n,\n")
    with pytest.raises(InputError, match="names no host"):
        read(file)


def discovered(file):
    """What horovodrun is told by the script for elastic jobs."""
    return subprocess.run(
        [str(REPOSITORY / "hostfiles" / "discover_hosts.sh")], capture_output=True, text=True,
        check=False, env=job_environment(HVD_YOLO_HOSTS=str(file), HVD_YOLO_SLOTS="1"),
    )  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in READ if kind not in ("grid engine",)])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_elastic_jobs_find_the_same_hosts_or_none(tmp_path, kind, encoding):
    text, expected = READ[kind]
    file = tmp_path / "hosts"
    file.write_bytes(text.encode(encoding))
    found = discovered(file)
    if "[" in text:
        assert found.returncode == 1
        assert "no host and its slots" in found.stderr
    else:
        assert found.stdout.split() == expected.split(",")


@pytest.mark.parametrize("line", ["alice@node2:8", "fe80::1", "node2:eight"])
def test_elastic_jobs_are_told_what_is_no_host(tmp_path, line):
    file = tmp_path / "hosts"
    file.write_text(f"node1:1\n{line}\n")
    found = discovered(file)
    assert found.returncode == 1
    assert line in found.stderr
