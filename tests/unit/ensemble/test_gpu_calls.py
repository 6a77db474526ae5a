"""Shapes, staging and launches of the GPU's functions, none of which needs a GPU."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ensemble.executors.cuda.calls import Bucket, Buckets, Calls, Launches, candidate_sizes, history_sizes
from ensemble.executors.cuda.item_table import ROWS, ItemTable
from ensemble.executors.cuda.static_call import Field, Packing, StaticCall

CPU = torch.device("cpu")
SIZES = st.lists(st.integers(1, 700), min_size=1, max_size=5)
BATCHES = st.lists(st.integers(1, 20), min_size=1, max_size=4)


@given(sizes=SIZES, batches=BATCHES, data=st.data())
def test_every_row_is_in_one_batch_of_the_smallest_shape_that_fits(
    sizes: list[int], batches: list[int], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(1, max(sizes)), max_size=50))
    split = Buckets(sizes, batches).split(rows)
    assert sorted(place for _, places in split for place in places) == list(range(len(rows)))
    for bucket, places in split:
        assert bucket.batch == min(batch for batch in batches if batch >= len(places))
        for place in places:
            assert bucket.size == min(size for size in sizes if size >= rows[place])


@given(sizes=SIZES, batches=BATCHES, data=st.data())
def test_rows_of_one_size_fill_whole_batches_before_the_next_begins(
    sizes: list[int], batches: list[int], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(1, max(sizes)), max_size=50))
    filled: dict[int, list[int]] = {}
    for bucket, places in Buckets(sizes, batches).split(rows):
        filled.setdefault(bucket.size, []).append(len(places))
    for counts in filled.values():
        assert all(count == max(batches) for count in counts[:-1])


def test_a_row_beyond_the_largest_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a row has 129 tokens; allowed: 1 to 128$"):
        Buckets([16, 128], [1]).split([3, 129])


def test_shapes_are_captured_largest_first() -> None:
    shapes = Buckets([16, 64], [4, 1]).largest_first()
    assert shapes == [Bucket(4, 64), Bucket(1, 64), Bucket(4, 16), Bucket(1, 16)]


def test_sizes_reach_what_a_model_allows() -> None:
    assert history_sizes(1025) == [16, 64, 256, 1025]
    assert history_sizes(25) == [16, 25]
    assert candidate_sizes(656) == [128, 256, 512, 656]
    assert candidate_sizes(100) == [100]


FIELDS = {"item": Field((3, 4)), "begin": Field((3,), blank=640), "slot": Field((3,), blank=-7)}


def test_both_sides_of_a_copy_see_the_same_fields() -> None:
    packing = Packing(FIELDS)
    assert packing.words == 12 + 3 + 3
    staged_W, words_W = np.arange(packing.words), torch.zeros(packing.words, dtype=torch.int64)
    staged, fields = packing.views(staged_W), packing.views(words_W)
    staged["item"][1, 2], staged["begin"][0], staged["slot"][2] = 101, 102, 103
    words_W.copy_(torch.from_numpy(staged_W))
    assert {name: tuple(field.shape) for name, field in fields.items()} == {
        name: field.shape for name, field in FIELDS.items()
    }
    for name, field in fields.items():
        assert field.tolist() == staged[name].tolist()
    assert (fields["item"][1, 2], fields["begin"][0], fields["slot"][2]) == (101, 102, 103)


def test_blank_rows_hold_what_their_field_says() -> None:
    packing = Packing(FIELDS)
    views = packing.views(np.full(packing.words, 5))
    packing.clear(views)
    assert {name: set(view.flatten().tolist()) for name, view in views.items()} == {
        "item": {0},
        "begin": {640},
        "slot": {-7},
    }


def weighted(fields: Mapping[str, Tensor]) -> Tensor:
    return fields["item"].sum(1) + 1000 * fields["begin"]


def make_call(bucket: Bucket) -> StaticCall:
    packing = Packing({"item": Field((bucket.batch, bucket.size)), "begin": Field((bucket.batch,), 9)})
    return StaticCall(weighted, packing, CPU)


def test_a_result_needs_a_launch() -> None:
    with pytest.raises(RuntimeError, match=r"^nothing was launched$"):
        make_call(Bucket(2, 3)).result()


def test_a_launch_computes_from_its_own_rows_and_blank_ones() -> None:
    call = make_call(Bucket(2, 3))
    fields = call.blank()
    fields["item"][:] = [[1, 2, 3], [4, 5, 6]]
    fields["begin"][:] = [1, 2]
    call.launch()
    assert call.result().tolist() == [1006, 2015]
    fields = call.blank()
    fields["item"][0, 0], fields["begin"][0] = 7, 3
    call.launch()
    assert call.result().tolist() == [3007, 9000]


def told(launches: Launches) -> dict[str, float]:
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in launches.collect()
        for sample in family.samples
    }


def test_launches_and_the_rows_of_their_batches_are_counted() -> None:
    launches = Launches.on(CPU, capture=True)
    calls = Calls(Buckets([8, 16], [1, 4]), make_call, launches)
    nothing = {"unipinrec_cuda_graphs": 0, "unipinrec_launches_total/graph": 0}
    assert told(launches) == nothing | {
        "unipinrec_launches_total/eager": 0,
        "unipinrec_bucket_rows_total/user": 0,
        "unipinrec_bucket_rows_total/padding": 0,
    }, "what warms shapes up serves nobody"
    # Six rows of the smaller size are a batch of 4 and one of 2, in a shape of 4; the other one stands alone.
    assert len(list(calls.split([3, 8, 16, 1, 2, 3, 4]))) == 3
    assert told(launches) == nothing | {
        "unipinrec_launches_total/eager": 3,
        "unipinrec_bucket_rows_total/user": 7,
        "unipinrec_bucket_rows_total/padding": 2,
    }


@pytest.fixture(scope="module")
def vectors() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """More items than are converted at a time, of very different sizes, one of them zero."""
    draw = np.random.default_rng(3)
    vector_VE = draw.normal(size=(ROWS + 5, 6)) * 10.0 ** draw.integers(-3, 3, size=(ROWS + 5, 1))
    vector_VE[7] = 0
    return vector_VE.astype(np.float32)


LOOKED_UP = torch.tensor([[0, 7, ROWS - 1], [ROWS, ROWS + 4, 0]])


def test_a_float32_table_returns_the_vectors_themselves(
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    table = ItemTable(vectors, "float32", CPU)
    assert np.array_equal(table(LOOKED_UP).numpy(), vectors[LOOKED_UP.numpy()])
    assert table.bytes == vectors.size * 4


def test_a_bfloat16_table_rounds_to_eight_significant_bits(
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    table = ItemTable(vectors, "bfloat16", CPU)
    exact = vectors[LOOKED_UP.numpy()].astype(np.float64)
    fraction, exponent = np.frexp(exact)
    # NumPy rounds halves to even, as bfloat16 does.
    rounded = np.ldexp(np.round(fraction * 256) / 256, exponent)
    found = table(LOOKED_UP)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), rounded.astype(np.float32))
    assert table.bytes == vectors.size * 2


def test_an_int8_table_is_off_by_half_a_step_of_each_items_largest_component(
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    table = ItemTable(vectors, "int8", CPU)
    exact = vectors[LOOKED_UP.numpy()].astype(np.float64)
    step = np.abs(exact).max(-1, keepdims=True) / 127
    found = table(LOOKED_UP).numpy()
    assert np.allclose(
        found, step * np.rint(np.divide(exact, step, where=step > 0, out=exact * 0)), rtol=1e-6
    )
    assert (np.abs(found - exact) <= 0.5001 * step).all()
    assert table.bytes == vectors.size + 4 * len(vectors)
