"""What is set for Horovod and torch.distributed before they start."""

import os

import pytest

from hvd_yolo.comm import launch, stream_group
from hvd_yolo.comm.horovod_settings import choose_settings
from hvd_yolo.config import CommConfig

ASYNC, CYCLE = "HOROVOD_ENABLE_ASYNC_COMPLETION", "HOROVOD_CYCLE_TIME"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in [name for name in os.environ if name.startswith("HOROVOD_")]:
        monkeypatch.delenv(name)
    # What a test sets beyond that is undone too.
    monkeypatch.setattr(os, "environ", os.environ.copy())


def on_gpus(*, has_nccl=True, latency_bound=False, **options):
    return choose_settings(False, has_nccl, latency_bound, CommConfig(**options))


def test_sums_of_nccl_do_not_make_the_host_wait():
    assert on_gpus()[ASYNC] == "1"
    assert os.environ[ASYNC] == "1"


def test_a_host_waits_where_something_forbids_otherwise(monkeypatch):
    assert ASYNC not in choose_settings(True, False, False, CommConfig())
    assert ASYNC not in on_gpus(has_nccl=False)
    assert ASYNC not in on_gpus(timeline="timeline.json")
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    assert ASYNC not in on_gpus()


def test_a_users_own_setting_stays(monkeypatch):
    monkeypatch.setenv(ASYNC, "0")
    monkeypatch.setenv(CYCLE, "3")
    assert on_gpus(latency_bound=True)[ASYNC] == "0"
    assert os.environ[CYCLE] == "3"


def test_sums_of_sync_batch_norm_through_horovod_wait_for_short_cycles(monkeypatch):
    """In an elastic job they go through Horovod, whatever torch has."""
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    assert on_gpus(latency_bound=True)[CYCLE] == "0.1"
    assert CYCLE not in on_gpus()


def test_sync_batch_norm_has_a_group_where_each_rank_has_a_gpu():
    def places(*gpus):
        return [{"host": "node1", "cpus": [0], "gpu": gpu} for gpu in gpus]

    assert stream_group.has_own_gpus(places("a", "b"))
    assert not stream_group.has_own_gpus(places("a", "a"))
    assert not stream_group.has_own_gpus(places("a", ""))
    assert not stream_group.is_supported(is_elastic=True)


def test_this_hosts_addresses_end_with_the_loopback():
    assert stream_group.own_addresses()[-1].startswith("127.")


def test_a_store_is_joined_by_the_address_that_leads_to_it():
    store, place = stream_group.host_store(2)
    store.set("key", "value")
    place["addresses"] = ["127.0.0.1", *place["addresses"]]
    assert stream_group.join_store(place, 2).get("key") == b"value"
    assert stream_group.join_store(place | {"identity": "another host"}, 2) is None


def test_torch_waits_longer_than_the_watchdog():
    assert launch.collective_timeout(300).total_seconds() == 1800
    assert launch.collective_timeout(3600).total_seconds() == 7200
    assert launch.collective_timeout(0).days == 7
