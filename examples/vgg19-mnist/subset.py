"""Links the first photos of each label of a collection in parts to a smaller one.

python examples/vgg19-mnist/subset.py mnist mnist-6000 --train 600
"""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.photos.decode.decoder import is_photo_name


def main() -> None:
    """Reads the command line and makes the smaller collection; prints what it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="holds train/LABEL and test/LABEL")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--train", type=int, default=600, help="photos of each label to learn from")
    parser.add_argument("--test", type=int, default=None, help="photos of each label to test with")
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
