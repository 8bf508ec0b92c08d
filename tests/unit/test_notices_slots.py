"""Every key finds its notices next to it: one cell in each sixteenth of the slots."""

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.notices import CELLS, cell_for
from services.runtime.resp import SLOTS, key_slot, pack


def test_cell_i_lies_in_the_ith_sixteenth() -> None:
    assert [cell.slot // 1024 for cell in CELLS] == list(range(16))
    assert all(cell.slot == key_slot(cell.key) for cell in CELLS)


def test_cells_have_the_names_that_operators_look_for() -> None:
    assert all(cell.key.startswith(b"runtime:notices:{n") and cell.key.endswith(b"}") for cell in CELLS)
    assert len({cell.key for cell in CELLS}) == 16


def test_the_head_command_reads_the_newest_entry() -> None:
    assert all(cell.head == pack("LINDEX", cell.key, 0) for cell in CELLS)


@given(st.integers(0, 2**63 - 1))
def test_the_cell_of_a_user_is_in_the_sixteenth_of_the_user_s_slot(user_id: int) -> None:
    key = f"timeline:home:{{{user_id}}}"
    cell = cell_for(key)
    assert cell.index == key_slot(key.encode()) * 16 // SLOTS
    assert cell == cell_for(key.encode())
