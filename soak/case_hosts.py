"""Two hosts, each a network namespace of its own, joined by a pair of virtual cards, train one model."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from common import Try, command, finish, judged, paint

TITLE = "two hosts (network namespaces) against one process of the same batch"
HOSTS = {"soak-a": "10.213.7.1", "soak-b": "10.213.7.2"}


def trial(place: Path, tries: int) -> Iterator[Try]:  # noqa: ARG001  the face of all scenarios
    photos, whole, both = paint(place / "photos"), place / "whole", place / "both"
    finish(command(photos, whole))
    with _network():
        hosts = [_torchrun(host, place, command(photos, both)) for host in HOSTS]
        said = [host.communicate()[0] for host in hosts]
    verdict = judged(whole, both, most=1e-4)
    last = [line for text in said for line in text.strip().splitlines()[-1:]]
    yield verdict if verdict.survived else Try(survived=False, said=f"{verdict.said}: {last}")


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """The namespaces and the wire between them."""
    try:
        for host in HOSTS:
            _ip("netns", "add", host)
        _ip("link", "add", "soak-va", "netns", "soak-a", "type", "veth", "peer", "name", "soak-vb", "netns", "soak-b")
        for host, card in zip(HOSTS, ("soak-va", "soak-vb"), strict=True):
            _ip("-n", host, "addr", "add", f"{HOSTS[host]}/24", "dev", card)
            for name in ("lo", card):
                _ip("-n", host, "link", "set", name, "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


def _ip(*words: str) -> None:
    ended = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise PermissionError(f"network namespaces need root ({ended.stderr.strip()})")


def _torchrun(host: str, place: Path, words: list[str]) -> subprocess.Popen[str]:
    first = next(iter(HOSTS))
    # Names of hosts are looked up by nobody here: every address is a number, and gloo is told its card.
    card = "soak-va" if host == first else "soak-vb"
    started = [
        "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
        "--node-rank", str(int(host != first)), "--nproc-per-node", "1", "--master-addr", HOSTS[first],
        "--master-port", "29517", "--local-addr", HOSTS[host], *words,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": card}
    return subprocess.Popen(
        started, env=environment, cwd=place.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
