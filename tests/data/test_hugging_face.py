"""Data sets of Hugging Face: as `datasets` saves them, and from a stand-in of the hub."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import finetune, paint
from hub import serving

from finetune.data import hugging_face, unpacking
from finetune.data.catalog import need_here, resolve, resolve_labelled
from finetune.errors import DataError
from finetune.files import cache_dir

COLORS = {"apple": (200, 60, 50), "plum": (70, 60, 160)}
FEATURES = {
    "image": {"_type": "Image"},
    "kind": {"_type": "ClassLabel", "names": list(COLORS)},
    "id": {"_type": "Value", "dtype": "int64"},
}


def table(folder: Path, photos: int, seed: int = 0, labels: tuple[int, ...] = (0, 1)) -> pa.Table:
    """As `datasets` writes one: bytes and path of each image, and the features as metadata."""
    rows = []
    for number in range(photos):
        label = labels[number % len(labels)]
        color = list(COLORS.values())[label]
        file = paint(folder / f"{seed}-{number}.png", color, 1000 * seed + number, (16, 12))
        image = {"bytes": file.read_bytes(), "path": f"{number}.png"}
        rows.append({"image": image, "kind": label, "id": number})
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "kind": pa.int64(), "id": pa.int64()})
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return pa.Table.from_pylist(rows, schema.with_metadata(metadata))


def save(found: pa.Table, folder: Path) -> None:
    """What `Dataset.save_to_disk` leaves behind."""
    folder.mkdir(parents=True)
    file = str(folder / "data-00000-of-00001.arrow")
    with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, found.schema) as writer:
        writer.write_table(found)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))


def sizes(data: str) -> dict[str, int]:
    found = resolve(data)
    assert found.classes == ("apple", "plum")
    return {split: len(found.split(split)) for split in ("train", "validation", "test")}


def test_a_saved_data_set_is_split_as_class_folders_are(tmp_path):
    save(table(tmp_path, 20), tmp_path / "fruit")
    assert sizes(str(tmp_path / "fruit")) == {"train": 12, "validation": 4, "test": 4}
    found = resolve(str(tmp_path / "fruit"))
    assert found.name == "fruit"
    assert resolve_labelled(str(tmp_path / "fruit"), found.classes, "all").name == "fruit"
    assert all(photo.path.read_bytes()[:4] == b"\x89PNG" for photo in found.photos)


def test_saved_splits_are_kept_and_a_missing_one_is_drawn_from_the_training_photos(tmp_path):
    save(table(tmp_path, 20), tmp_path / "fruit/train")
    save(table(tmp_path, 8, seed=1), tmp_path / "fruit/test")
    (tmp_path / "fruit/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert sizes(str(tmp_path / "fruit")) == {"train": 16, "validation": 4, "test": 8}


def test_an_image_folder_with_metadata_is_a_table(tmp_path):
    rows = ["file_name,label,caption"]
    for number in range(10):
        for label, color in COLORS.items():
            file = paint(tmp_path / f"{label}{number}.png", color, number, (16, 12))
            rows.append(f"{file.name},{label},no matter")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    assert sizes(str(tmp_path)) == {"train": 12, "validation": 4, "test": 4}


def test_what_holds_no_photos_or_no_classes_is_refused(tmp_path):
    found = table(tmp_path, 6)
    save(found.drop_columns(["kind"]).replace_schema_metadata(), tmp_path / "plain")
    with pytest.raises(DataError, match="one column of images"):
        resolve(str(tmp_path / "plain"))
    rows = [{**row, "image": {"bytes": None, "path": "/etc/hostname"}} for row in found.to_pylist()]
    save(pa.Table.from_pylist(rows, found.schema), tmp_path / "paths")
    with pytest.raises(DataError, match="without holding them"):
        resolve(str(tmp_path / "paths"))
    save(found, tmp_path / "cut")
    content = (tmp_path / "cut/data-00000-of-00001.arrow").read_bytes()
    for damaged in (b"no arrow", content[: 2 * len(content) // 3]):
        (tmp_path / "cut/data-00000-of-00001.arrow").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            resolve(str(tmp_path / "cut"))


@pytest.mark.parametrize("split", ["../../outside", "extra", 3])
def test_a_split_of_another_name_is_refused_before_anything_is_written(split, tmp_path):
    save(table(tmp_path, 8), tmp_path / "fruit/train")
    save(table(tmp_path, 8), tmp_path / "fruit" / Path(str(split)).name)
    splits = json.dumps({"splits": ["train", split]})
    (tmp_path / "fruit/dataset_dict.json").write_text(splits)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="split.*allowed are train, validation, test"):
        resolve(str(tmp_path / "fruit"))
    assert not list(tmp_path.rglob("outside/*.png"))
    assert set(tmp_path.rglob("*.png")) <= before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("state.json", "[]"),
        ("state.json", '{"_data_files": [3]}'),
        ("dataset_dict.json", '{"split": []}'),
        ("dataset_dict.json", "[" * 5_000),
    ],
)
def test_a_damaged_description_is_said(file, text, tmp_path):
    save(table(tmp_path, 8), tmp_path / "fruit")
    (tmp_path / "fruit" / file).write_text(text)
    with pytest.raises(DataError, match="cannot be read"):
        resolve(str(tmp_path / "fruit"))


@pytest.mark.parametrize(
    "features",
    [
        "no JSON",
        json.dumps([1]),
        json.dumps(
            {
                "info": {
                    "features": {**FEATURES, "kind": {"_type": "ClassLabel", "names": ["apple"]}}
                }
            }
        ),
        json.dumps({"info": {"features": {**FEATURES, "id": {"_type": "Image"}, "image": {}}}}),
    ],
)
def test_features_that_do_not_fit_the_columns_are_refused(features, tmp_path):
    found = table(tmp_path, 8).replace_schema_metadata({"huggingface": features})
    save(found, tmp_path / "fruit")
    with pytest.raises(DataError, match="Needed: one column of images"):
        resolve(str(tmp_path / "fruit"))


def test_classes_that_are_text_under_numbered_names_are_refused(tmp_path):
    kinds = pa.array(["apple", "plum"] * 4)
    found = table(tmp_path, 8)
    index = found.schema.get_field_index("kind")
    save(found.set_column(index, "kind", kinds), tmp_path / "fruit")
    with pytest.raises(DataError, match="has a label 'apple', and 2 classes"):
        resolve(str(tmp_path / "fruit"))


def test_a_data_set_of_the_hub_is_fetched_once_and_a_dry_run_fetches_nothing(tmp_path):
    files = {}
    for split, photos, seed in (("train", 20, 0), ("validation", 6, 1), ("test", 6, 2)):
        content = io.BytesIO()
        pq.write_table(table(tmp_path, photos, seed), content)
        files[f"data/{split}-00000-of-00001.parquet"] = content.getvalue()
    with serving() as hub:
        hub.files["teacher/fruit"] = files
        there = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf")}
        plan = ("run", "--data", "hf:teacher/fruit", "--dry-run")
        done = finetune(*plan, **there)
        assert done.returncode == 3, done.stderr
        assert not any("resolve" in path for _, path in hub.requests)
        done = finetune("check", "hf:teacher/fruit", "--json", "--size", 32, **there)
        assert done.returncode == 0, done.stderr
        photos = json.loads(done.stdout)["photos"]
        assert {split: sum(found.values()) for split, found in photos.items()} == {
            "train": 20,
            "validation": 6,
            "test": 6,
        }
    again = finetune("check", "hf:teacher/fruit", **there, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    done = finetune("check", "hf:teacher/none", **there, HF_HUB_OFFLINE="1")
    assert done.returncode == 3
    assert "no route to it" in done.stderr


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """The folder of a commit, as the hub's client leaves it in its cache."""
    root = tmp_path / "snapshots/cccc"
    root.mkdir(parents=True)
    monkeypatch.setattr(hugging_face, "snapshot", lambda *_, **__: root)
    return root


def put(root: Path, file: str, photos: int, seed: int = 0) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(root.parent, photos, seed), root / file)


@pytest.mark.parametrize("file", ["{}/{}/0000.parquet", "{}/{}-00000-of-00001.parquet"])
def test_one_of_several_configurations_of_the_hub_is_named(file, fetched):
    for config, seed in (("green", 0), ("red", 10), ("train-later", 20)):
        for number, split in enumerate(("train", "validation", "test")):
            put(fetched, file.format(config, split), seed + 4 + 2 * number, seed + number)
    with pytest.raises(DataError, match="green, red, train-later, which .*hf:teacher/fruit/green"):
        resolve("hf:teacher/fruit")
    with pytest.raises(DataError, match="and 'blue' is none of them"):
        resolve("hf:teacher/fruit/blue")
    assert sizes("hf:teacher/fruit/green") == {"train": 4, "validation": 6, "test": 8}
    assert sizes("hf:teacher/fruit/red") == {"train": 14, "validation": 16, "test": 18}
    assert sizes("hf:teacher/fruit/train-later") == {"train": 24, "validation": 26, "test": 28}
    put(fetched, file.format("default", "train"), 20, 30)
    assert sizes("hf:teacher/fruit") == {"train": 12, "validation": 4, "test": 4}


def test_the_only_configuration_of_the_hub_need_not_be_named(fetched):
    put(fetched, "data/train-00000-of-00001.parquet", 20)
    put(fetched, "data/test-00000-of-00001.parquet", 8, 1)
    for data in ("hf:teacher/fruit", "hf:fruit", "hf:teacher/fruit/data"):
        assert sizes(data) == {"train": 16, "validation": 4, "test": 8}


def test_a_data_set_that_was_fetched_in_part_does_not_stand_for_the_whole(fetched):
    put(fetched, "data/train-00000-of-00002.parquet", 10)
    need_here("hf:teacher/fruit")
    assert not list(cache_dir().glob("data/hf-*"))  # a dry run only looks
    assert sizes("hf:teacher/fruit") == {"train": 6, "validation": 2, "test": 2}
    put(fetched, "data/train-00001-of-00002.parquet", 10, 1)
    assert sizes("hf:teacher/fruit") == {"train": 12, "validation": 4, "test": 4}


def test_a_table_that_stands_for_more_bytes_than_photos_have_is_refused(fetched, monkeypatch):
    """Parquet keeps a value that comes again once: a few bytes may fill any memory and disk."""
    rows = table(fetched.parent, 2000)
    one = pa.array([{"bytes": bytes(100_000), "path": "0.png"}] * 2000, rows.schema.field(0).type)
    rows = rows.set_column(0, rows.schema.field(0), one)
    pq.write_table(rows, fetched / "train.parquet", compression="zstd")
    assert (fetched / "train.parquet").stat().st_size < 2**20
    monkeypatch.setattr(unpacking, "_SPARE", 2**22)
    with pytest.raises(DataError, match=r"unpacks to more than [\d,]* bytes of photos; no more"):
        resolve("hf:teacher/fruit")
    monkeypatch.setattr(unpacking, "MAX_BYTES", 99_999)
    with pytest.raises(DataError, match="a photo of 100,000 bytes; allowed are 99,999"):
        resolve("hf:teacher/fruit")
    assert not list(cache_dir().glob("data/hf-*/*"))


def test_only_the_columns_that_are_needed_are_read_and_a_few_rows_at_once(fetched, monkeypatch):
    seen = []
    each = unpacking._each

    def noted(path, batches):
        for batch in each(path, batches):
            seen.append((batch.num_rows, batch.schema.names))
            yield batch

    monkeypatch.setattr(unpacking, "_each", noted)
    put(fetched, "train.parquet", 20)
    assert sizes("hf:teacher/fruit") == {"train": 12, "validation": 4, "test": 4}
    assert [rows for rows, _ in seen] == [8, 8, 4]
    assert {column for _, names in seen for column in names} == {"image", "kind"}


def test_the_hub_knows_a_data_set_without_its_configuration():
    assert hugging_face.hub_address("hf:teacher/fruit/red") == ("teacher/fruit", "red")
    assert hugging_face.hub_address("hf:teacher/fruit") == ("teacher/fruit", "")
    assert hugging_face.hub_address("hf:fruit") == ("fruit", "")
