import pytest

from tfserving_ext.data.catalogue import Catalogue
from tfserving_ext.errors import NannError

HEADER = "item_id,name,category_id,category\n"


def test_names(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(HEADER + '7,"BREAD, 20 OZ",1,BAKERY\n8,EGGS,2,EGGS\n9,PEARS,3,\n')
    catalogue = Catalogue.open(path)
    assert len(catalogue) == 3
    assert [catalogue.name(item) for item in (7, 8, 9, 10)] == ["BREAD, 20 OZ (BAKERY)", "EGGS", "PEARS", "item 10"]


def test_columns_are_found_by_name_and_ids_may_be_texts(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("name,price,item_id\nEGGS,2.5,sku-1\n")
    catalogue = Catalogue.open(path)
    assert [catalogue.name(item) for item in ("sku-1", "sku-2")] == ["EGGS", "item sku-2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the header is ''; item_id is missing"),
        ("7,BREAD,1,BAKERY\n", "line 1: the header is '7,BREAD,1,BAKERY'; item_id is missing"),
        ("item_id,title\n7,BREAD\n", "name is missing, item_id and name are needed"),
        (HEADER + "7,BREAD,1,BAKERY\n8,EGGS\n", "line 3: 2 fields; expected 4"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, words):
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(NannError) as error:
        Catalogue.open(path)
    assert words in str(error.value)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(NannError, match="does not exist"):
        Catalogue.open(tmp_path / "items.csv")
    (tmp_path / "items.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(NannError, match="cannot read"):
        Catalogue.open(tmp_path / "items.csv")
