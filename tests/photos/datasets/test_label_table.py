from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.errors import CollectionError
from finetune.photos.datasets.label_table import read_label_table


def table(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def labels_of(path: Path, encoding: str | None = None) -> dict[str, tuple[str, ...]]:
    return {row.path: row.labels for row in read_label_table(path, encoding=encoding).rows}


@pytest.mark.parametrize("null", ["None", "null", "nan", "NaN", "<NA>", "#N/A", "", "  "])
def test_cells_without_a_value_are_no_label(tmp_path: Path, null: str) -> None:
    csv = table(tmp_path / "a.csv", f"path,label\n1.jpg,fox\n2.jpg,{null}\n")
    assert labels_of(csv) == {"1.jpg": ("fox",), "2.jpg": ()}
    lines = [{"file_name": "1.jpg", "label": "fox"}, {"file_name": "2.jpg", "label": null}]
    jsonl = table(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert labels_of(jsonl) == {"1.jpg": ("fox",), "2.jpg": ()}


def test_json_values_that_are_no_text_are_read(tmp_path: Path) -> None:
    values = [None, float("nan"), [None, "fox"], 3.0, [], "none"]
    lines = [json.dumps({"file_name": f"{i}", "label": v}) for i, v in enumerate(values)]
    found = labels_of(table(tmp_path / "a.jsonl", "\n".join(lines)))
    assert list(found.values()) == [(), (), ("fox",), ("3",), (), ("none",)]
    whole = [json.loads(line) for line in lines if "NaN" not in line]
    assert len(labels_of(table(tmp_path / "a.json", json.dumps(whole, indent=1)))) == 5


def test_json_text_may_hold_separators_of_lines_and_paragraphs(tmp_path: Path) -> None:
    line = json.dumps({"file_name": "a\u2028b\u0085.jpg", "label": "fox"}, ensure_ascii=False)
    path = table(tmp_path / "a.jsonl", f"{line}\n{line.replace('fox', 'owl')}\r\n")
    assert [row.line for row in read_label_table(path).rows] == [1, 2]


@pytest.mark.parametrize(
    "heading", ["filename,label,class_name", "class name,filename,label", "label,Species,filename"]
)
def test_names_are_preferred_to_class_numbers(tmp_path: Path, heading: str) -> None:
    columns = heading.split(",")
    rows = []
    for number in range(4):
        name = ["fox", "badger"][number % 2]
        cells = {"filename": f"{number}.jpg", "label": str(number % 2)}
        rows.append(",".join(cells.get(column, name) for column in columns))
    read = read_label_table(table(tmp_path / "a.csv", "\n".join([heading, *rows])))
    assert [row.labels for row in read.rows] == [("fox",), ("badger",)] * 2
    assert len(read.notes) == 1


@pytest.mark.parametrize("file", ["labels.txt", "classes.txt"])
def test_names_of_class_numbers_are_read_beside_the_table(tmp_path: Path, file: str) -> None:
    table(tmp_path / file, "キツネ\nowl\u2028s\n", encoding="utf-16")
    csv = table(tmp_path / "a.csv", "path,label\n1.jpg,0\n2.jpg,1.0\n")
    assert labels_of(csv) == {"1.jpg": ("キツネ",), "2.jpg": ("owl\u2028s",)}
    assert read_label_table(csv).notes == (f"Class numbers were replaced by the names in {file}.",)
    jsonl = table(tmp_path / "a.jsonl", '{"file_name": "1.jpg", "label": 0}\n')
    assert labels_of(jsonl) == {"1.jpg": ("キツネ",)}
    csv = table(tmp_path / "b.csv", "path,label\n1.jpg,1\n2.jpg,2\n")
    with pytest.raises(CollectionError) as caught:
        read_label_table(csv)
    assert str(caught.value) == (f"{csv}, line 3: the label is '2'; {file} beside it names 0 to 1.")


def test_the_encoding_is_also_that_of_the_names_beside(tmp_path: Path) -> None:
    table(tmp_path / "labels.txt", "カワセミ\nスズメ\n", encoding="cp932")
    csv = table(tmp_path / "a.csv", "x:画像,y:label\n1.jpg,1\n", encoding="cp932")
    assert labels_of(csv, "cp932") == {"1.jpg": ("スズメ",)}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_byte_order_marks_are_heeded(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    csv = table(tmp_path / "a.csv", f"{mark}path\tlabel\n1.jpg\tキツネ\n", encoding=encoding)
    assert labels_of(csv) == {"1.jpg": ("キツネ",)}


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\npath;label\n0.jpg;x\n",
        '"sep=\t"\r\npath\tlabel\r\n0.jpg\tx\r\n',
        "\n \r\npath,label\n\n0.jpg,x\n,\n",
        ",,\npath,label,\n0.jpg,x,\n",
        '"path";"label"\n0.jpg;x\n',
    ],
)
def test_marks_and_blank_lines_of_spreadsheets_are_passed_over(tmp_path: Path, text: str) -> None:
    assert labels_of(table(tmp_path / "a.csv", text)) == {"0.jpg": ("x",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path,label\n1.jpg,a\n"0.jpg,x\n' + "1.jpg,y\n" * 30_000, "line 3: a quote is opened"),
        ('path,label\n"0.jpg,x\n', "line 2: a quote is opened and never closed"),
        ('path,label\n"0.jpg,x\n"1.jpg,y\n', "line 2: text follows a closing quote"),
        ('path,label\n"0.jpg,x\n1.jpg,y\n",z\n', "line 2: a quote is opened and not closed"),
        ("path,label\n\na,b.jpg,x\n", "line 3 has 3 cells; the heading has 2"),
        ("x:image,y__0:a\n1.jpg,yes\n", "line 2: y__0:a is 'yes'; it must be a number"),
        ("x:image,y__0,y__1\n1.jpg,1,0\n", ": the column y__0 has no name"),
    ],
)
def test_rows_that_cannot_be_read_are_refused_with_line_and_reason(
    tmp_path: Path, text: str, message: str
) -> None:
    path = table(tmp_path / "a.csv", text)
    with pytest.raises(CollectionError) as caught:
        read_label_table(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_console_columns_without_names_take_them_from_the_file_beside(tmp_path: Path) -> None:
    table(tmp_path / "labels.txt", "fox\nowl\n")
    csv = table(tmp_path / "a.csv", "x__0:image,y__0,y__1\n1.jpg,0.9,\n2.jpg,1,1\n")
    assert labels_of(csv) == {"1.jpg": ("fox",), "2.jpg": ("fox", "owl")}


@pytest.mark.parametrize(
    "text",
    [
        "RootFolder,RelativePath,File,species\nx,siteA,1.jpg,owl\nx,siteB\\day,1.jpg,fox\n",
        "path,filename,label\nsiteA/,1.jpg,owl\nsiteB/day,siteB/day/1.jpg,fox\n",
        "folder,label,filepath\nsiteA,owl,siteA/1.jpg\nsiteB,fox,siteB/day/1.jpg\n",
    ],
)
def test_the_folder_of_a_file_may_have_a_column_of_its_own(tmp_path: Path, text: str) -> None:
    found = labels_of(table(tmp_path / "a.csv", text))
    assert found == {"siteA/1.jpg": ("owl",), "siteB/day/1.jpg": ("fox",)}


def test_labels_in_a_cell_may_be_json(tmp_path: Path) -> None:
    cells = ['{"choices": ["owl", "flying"]}', '["owl", null]', "[owl", "owl|fox"]
    rows = "".join(f'{i}.jpg,"{c.replace(chr(34), chr(34) * 2)}"\n' for i, c in enumerate(cells))
    found = labels_of(table(tmp_path / "a.csv", f"image,choice\n{rows}"))
    assert list(found.values()) == [("owl", "flying"), ("owl",), ("[owl",), ("owl", "fox")]


def test_cells_guarded_against_formulas_are_read(tmp_path: Path) -> None:
    csv = table(tmp_path / "a.csv", "path,label\n'=1.jpg,'-fox\n")
    assert labels_of(csv) == {"=1.jpg": ("-fox",)}
