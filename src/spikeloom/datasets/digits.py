"""The handwritten digits that come with scikit-learn: real data that needs no download."""

from __future__ import annotations

import torch

from spikeloom.datasets.images import Images


def digits(train: bool = True, *, folds: int = 0, fold: int = 0) -> Images:
    """Load the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries within itself.

    The split is fixed. Without `folds`, one fifth of each class (360 images) is the test set, drawn with seed 0; with
    `folds`, the images are cut into that many stratified parts, shuffled with seed 0, and part `fold` is the test set.
    The images come from 43 writers who are not named, so writers are shared between the parts.

    Arguments:
        train: the training images, or else the test images.
        folds: number of parts for cross-validation; 0 for the one fixed split.
        fold: which part is the test set, from 0 to folds - 1.

    Returns:
        Images with float32 `images` [samples, 8, 8] from 0 to 1, int64 `labels`, and the ten `classes`.

    Raises:
        ValueError: if `folds` is 1 or negative, or there is no such `fold`.
        ImportError: if scikit-learn is not installed.

    >>> import spikeloom as sl
    >>> len(sl.datasets.digits(train=True)), len(sl.datasets.digits(train=False))
    (1437, 360)

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, doi:10.24432/C50P49.
    """
    check_folds(folds, fold)
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import StratifiedKFold, train_test_split
    except ImportError as error:
        raise ImportError(
            "digits needs scikit-learn, which carries the images. Write: pip install 'spikeloom[train]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    if folds:
        parts = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(pixels, labels))[fold]
    else:
        parts = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    index = torch.as_tensor(parts[0 if train else 1])
    images = (
        torch.from_numpy(pixels).float().reshape(-1, 8, 8) / 16
    )  # a pixel counts the dots, 0 to 16, of a 4 x 4 block
    return Images(images[index], torch.from_numpy(labels).long()[index], tuple("0123456789"))


def check_folds(folds: int, fold: int) -> None:
    """Raise ValueError, with a sentence, unless there is a part `fold` of `folds`.

    >>> import spikeloom as sl
    >>> sl.datasets.check_folds(5, 4)
    """
    if folds < 0 or folds == 1 or not 0 <= fold < max(folds, 1):
        raise ValueError(
            f"digits got folds={folds}, fold={fold}; expected folds=0 for the fixed split, or folds of 2 or more with "
            "a fold from 0 to folds - 1, for example folds=5, fold=0."
        )
