from __future__ import annotations

from pathlib import Path

from finetune.photos.crops import Crop
from finetune.web.annotate.features import Subjects


def test_subjects_are_kept_between_sessions_and_a_damaged_file_is_forgotten(tmp_path: Path):
    path = tmp_path / "subjects.json"
    subjects = Subjects(path)
    subjects.put("ab", Crop(center_x=0.25, center_y=0.5, side=0.4))
    subjects.save()
    assert not path.exists()  # little that is new is not worth a write
    subjects.save(least=1)
    assert Subjects(path).get("ab") == Crop(center_x=0.25, center_y=0.5, side=0.4)
    for text in ("nonsense", '{"ab": [1]}', '{"ab": [9, 9, 9]}', "[]"):
        path.write_text(text)
        assert Subjects(path).get("ab") is None
