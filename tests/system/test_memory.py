import subprocess
import sys

import numpy as np
import pytest

from mxsplicer.errors import InputError
from mxsplicer.system.memory import Budget, format_bytes, give_back, measured_peak, parse_bytes, resident_bytes


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2G", 2 << 30), ("2GB", 2 << 30), (" 1.5 gib ", 3 << 29), ("512M", 512 << 20), ("8k", 8192), ("77", 77)],
)
def test_amounts_of_memory_are_read_as_people_write_them(text, n_bytes):
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "G", "2 gigs", "-2G", "0", "2,5G", "1e9"])
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match=r"is not an amount of memory\. Write it as 2G"):
        parse_bytes(text)


@pytest.mark.parametrize("n_bytes", [1, 1023, 1025, 123_456_789, (2 << 30) + 1, 5 << 40])
def test_a_reported_amount_is_never_too_small(n_bytes):
    assert n_bytes <= parse_bytes(format_bytes(n_bytes)) <= n_bytes * 1.011


def test_a_budget_allocates_the_memory_that_is_not_in_use():
    budget = Budget.of(resident_bytes() * 2 + (1 << 30))

    assert 0 < budget.tiles + budget.queue + budget.batches <= budget.free < budget.total - budget.taken
    assert Budget.of(1 << 20).free == 0
    assert Budget.of(None, default=1 << 30).free == pytest.approx(1 << 30, rel=1e-6)
    with pytest.raises(InputError, match=r"^1M of memory is too little: a tile takes 1K, .* Raise `max_bytes`"):
        Budget.of(1 << 20).require(1024, "a tile")


@pytest.mark.skipif(sys.platform != "linux", reason="reads VmHWM")
def test_the_peak_is_remembered():
    program = """
import numpy
from mxsplicer.system.memory import measured_peak, resident_bytes
numpy.ones(100 << 17)
print(measured_peak(), resident_bytes())
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    peak, now = map(int, output.split())
    assert peak > now + (90 << 20)
    assert measured_peak() >= np.ones(1).nbytes


@pytest.mark.skipif(sys.platform != "linux", reason="memory that the C library keeps")
def test_freed_memory_is_returned_to_the_system():
    many = [bytearray(1000) for _ in range(100_000)]
    del many[:-1]  # the last of them holds all before it
    before = resident_bytes()

    give_back()

    assert resident_bytes() < before - (50 << 20)
