"""Takes the big files off a run that is kept as a record only."""

from __future__ import annotations

import shutil

from finetune.files import storage_errors
from finetune.runs.folder import RunFolder


def drop_weights(run: RunFolder) -> None:
    """Removes a run's network and checkpoints; what was measured stays.

    Raises:
        StorageError: A file cannot be removed.
    """
    with storage_errors(run.path):
        run.model_file.unlink(missing_ok=True)
        for folder in (run.timm_folder, run.last_checkpoint.parent):
            if folder.is_dir():
                shutil.rmtree(folder)
