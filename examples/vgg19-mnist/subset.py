"""Links the first photos of each label of a split collection into a smaller one.

python examples/vgg19-mnist/subset.py mnist mnist-6000 --train 600
"""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.photos.decode.photo_names import is_photo_name


def main() -> None:
    """Parses the command line, makes the smaller collection, and prints its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder with train/LABEL and test/LABEL")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--train", type=int, default=600, help="training photos per label")
    parser.add_argument("--test", type=int, default=None, help="test photos per label")
    arguments = parser.parse_args()
    for part, most in (("train", arguments.train), ("test", arguments.test)):
        count = 0
        for label in sorted(folder for folder in (arguments.photos / part).iterdir()):
            photos = sorted(photo for photo in label.iterdir() if is_photo_name(photo.name))
            target = arguments.out / part / label.name
            target.mkdir(parents=True)
            for photo in photos[:most]:
                (target / photo.name).hardlink_to(photo)
                count += 1
        print(f"{part}: {count:,} photos")


if __name__ == "__main__":
    main()
