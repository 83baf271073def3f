from __future__ import annotations

import json
import platform

import pytest
import torch

from rmeeto.evaluate import environment
from rmeeto.evaluate.environment import _named, _version


def test_the_environment_is_plain_and_true():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] >= 1
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert found["cpu"]


def test_a_package_that_is_not_installed_has_no_version():
    assert _version("no-such-package-here") is None


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nmodel\t\t: 1\n", "AMD EPYC (family 25, model 17)"),
        ("model name\t: Some: CPU\n", "Some: CPU"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", ""),
        ("", ""),
    ],
)
def test_a_processor_is_named_by_its_first_entry(cpuinfo: str, name: str):
    assert _named(cpuinfo) == name
