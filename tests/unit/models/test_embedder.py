"""What the embedder knows of items: hashed ids, attributes, content, and items never seen."""

import numpy as np
import pytest
import torch

from unipinrec.models.common.catalogue import Catalogue, id_slots
from unipinrec.models.common.embedder import ItemEmbedder
from unipinrec.models.unified.config import UnifiedConfig, preset

ITEMS = 200


def config(**options: object) -> UnifiedConfig:
    sizes = preset("tiny", num_items=ITEMS, num_actions=2).model_dump()
    return UnifiedConfig.model_validate(sizes | options)


def embedder(**options: object) -> ItemEmbedder:
    torch.manual_seed(1)
    return ItemEmbedder(config(num_attributes=9, max_attributes=3, content_dim=4, **options))


def describe(one: ItemEmbedder, cold: list[int]) -> None:
    draw = torch.Generator().manual_seed(2)
    cold_V = torch.zeros(ITEMS, dtype=torch.bool)
    cold_V[cold] = True
    one.describe(
        Catalogue(
            one.id_slot_VH,
            torch.randint(10, (ITEMS, 3), generator=draw),
            torch.randn(ITEMS, 4, generator=draw),
            cold_V,
        )
    )


def test_one_table_with_a_row_for_every_item_is_exact() -> None:
    assert id_slots(torch.arange(ITEMS) * 7 + 3, config()).flatten().tolist() == list(range(ITEMS))


@pytest.mark.parametrize("hashes", [2, 4])
def test_hash_functions_have_their_own_tables_and_tell_items_apart(hashes: int) -> None:
    rows = 400
    large = preset("tiny", num_items=2_000, num_actions=1).model_dump() | {
        "id_hashes": hashes,
        "id_rows": rows,
    }
    draw = np.random.default_rng(4)
    item_id_V = torch.from_numpy(np.unique(draw.integers(0, 2**62, size=2_000)))
    slot_VH = id_slots(item_id_V, UnifiedConfig.model_validate(large))
    assert (slot_VH // rows == torch.arange(hashes)).all()
    counts = torch.bincount(slot_VH.flatten(), minlength=hashes * rows).double()
    # 2,000 items over 400 rows: 5 each; a fair hash has a variance of 5 x (1 - 1/400).
    assert float(counts.var()) == pytest.approx(5, rel=0.25)
    pairs = torch.unique(slot_VH, dim=0)
    expected_equal = len(item_id_V) * (len(item_id_V) - 1) / 2 / rows**hashes
    assert len(item_id_V) - len(pairs) <= 3 * expected_equal + 6


def test_vectors_have_unit_length_and_are_the_same_one_by_one() -> None:
    one = embedder(id_hashes=2)
    describe(one, cold=[5])
    vector_VE = one.all_vectors()
    assert vector_VE.norm(dim=1).tolist() == pytest.approx([1.0] * ITEMS, abs=1e-5)
    assert torch.allclose(one(torch.tensor([[3], [5]])), vector_VE[[3, 5]].unsqueeze(1), atol=1e-6)


def test_a_cold_items_vector_depends_on_its_attributes_and_content_and_not_on_its_id() -> None:
    one = embedder()
    describe(one, cold=[5, 6])
    before = one.all_vectors()
    with torch.no_grad():
        one.id_table.weight.add_(1.0)
    after = one.all_vectors()
    assert torch.equal(before[[5, 6]], after[[5, 6]])
    assert (before[7] - after[7]).abs().max() > 1e-3
    with torch.no_grad():
        one.content_VF[6], one.attribute_VX[6] = one.content_VF[5], one.attribute_VX[5].flip(0)
    twins = one.all_vectors()[[5, 6]]
    assert torch.allclose(twins[0], twins[1], atol=1e-6)
    with torch.no_grad():
        one.content_VF[6] += 1
    assert (one.all_vectors()[6] - twins[1]).abs().max() > 1e-3


def test_an_id_is_hidden_where_the_caller_says() -> None:
    one = embedder()
    describe(one, cold=[])
    row = torch.tensor([7, 7, 6, 6])
    with torch.no_grad():
        hidden = one(row, torch.tensor([False, True, False, True]))
        known = one(row)
        describe(one, cold=[6, 7])
        cold = one(row)
    assert torch.equal(hidden[[0, 2]], known[[0, 2]])
    assert torch.equal(hidden[[1, 3]], cold[[1, 3]])
    assert (hidden[1] - known[1]).abs().max() > 1e-3


def test_padding_attributes_do_not_count() -> None:
    one = embedder()
    describe(one, cold=[])
    with torch.no_grad():
        one.attribute_VX[0] = torch.tensor([4, 0, 0])
        one.attribute_VX[1] = torch.tensor([0, 0, 4])
        one.content_VF[1] = one.content_VF[0]
        one.cold_V[:2] = True
    first, second = one.all_vectors()[:2]
    assert torch.allclose(first, second, atol=1e-6)


def test_a_catalogue_of_another_size_is_refused() -> None:
    one = embedder()
    other = Catalogue.of_rows(config())
    with pytest.raises(ValueError, match=r"^attribute_VX has shape \(200, 0\); allowed: \(200, 3\)$"):
        one.describe(other)
