"""Electrocardiograms as spikes, with a label for each step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from spikeloom.datasets.mnist import data_directories

FOLDERS = ("qtdb", ".")
UNLABELLED = -100


@dataclass(frozen=True)
class Recordings:
    """Time series with a label for each step.

    Arguments:
        inputs: float32 tensor [T, B, channels].
        labels: int64 tensor [T, B], the index of the class in `classes`, or -100 for a step without a label.
        classes: the names of the classes.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return self.labels.shape[1]

    def __getitem__(self, index: torch.Tensor | slice) -> Recordings:
        """The recordings that an index tensor or a slice picks."""
        return replace(self, inputs=self.inputs[:, index], labels=self.labels[:, index])

    def hold_out(self, fraction: float, seed: int = 0) -> tuple[Recordings, Recordings]:
        """Split off a part of the recordings, so that settings can be chosen without a look at the test set.

        Arguments:
            fraction: the part to hold out, between 0 and 1.
            seed: which part; the same seed gives the same split.

        Returns:
            The kept recordings and the held-out ones, both in their old order.

        Raises:
            ValueError: if the fraction is not between 0 and 1.

        >>> import torch
        >>> from spikeloom.datasets import Recordings
        >>> data = Recordings(torch.zeros(5, 10, 4), torch.zeros(5, 10, dtype=torch.long), ("a",))
        >>> [len(part) for part in data.hold_out(0.2)]
        [8, 2]
        """
        if not 0 < fraction < 1:
            raise ValueError(f"hold_out got fraction={fraction}; expected a number between 0 and 1, for example 0.1.")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        held = round(fraction * len(self))
        return self[order[held:].sort().values], self[order[:held].sort().values]


def ecg(data_dir: str | Path | None = None, train: bool = True) -> Recordings:
    """Load ECG-QTDB: electrocardiograms of two leads as spikes, each step labelled with the wave that it is part of.

    Each of two leads has two channels with -1, 0 or 1 in a step of 1,300: a level crossing downwards, none, or upwards.
    Steps outside the annotated beats carry no label, -100.

    Arguments:
        data_dir: directory that holds QTDB_train.mat and QTDB_test.mat, itself or in ``qtdb/``. Without it, the
            directory that the environment variable SPIKELOOM_DATA names and then ``~/.cache/spikeloom`` are searched.
        train: the 618 training recordings, or else the 141 test recordings.

    Returns:
        Recordings with float32 `inputs` [1300, 618 or 141, 4], int64 `labels` [1300, 618 or 141] and six `classes`.

    Raises:
        FileNotFoundError: if the file is missing; the sentence names the directories that were searched.
        ValueError: if it is damaged or another file.
        ImportError: if scipy, which comes with scikit-learn, is not installed.

    Example (not run, for it needs the files)::

        data = sl.datasets.ecg("data", train=False)

    Source: P. Laguna et al., QT Database, PhysioNet, doi:10.13026/C24K53 (ODC-BY), in the form of B. Yin, F. Corradi,
    S. M. Bohté, Nature Machine Intelligence 3 (2021), doi:10.1038/s42256-021-00397-w.
    """
    name = "QTDB_train.mat" if train else "QTDB_test.mat"
    directories = data_directories(data_dir)
    places = [directory / folder / name for directory in directories for folder in FOLDERS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"ECG-QTDB's {name} was not found in {', '.join(map(str, directories))}. Get it from "
            "the repository byin-cwi/Efficient-spiking-networks on GitHub and name its directory by data_dir= or by "
            "the environment variable SPIKELOOM_DATA."
        )
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise ImportError("ecg needs scipy. Write: pip install 'spikeloom[train]'") from error
    try:
        found = loadmat(path)
        inputs, hot = torch.from_numpy(found["x"].astype("float32")), torch.from_numpy(found["y"].astype("int64"))
    except (KeyError, ValueError, TypeError, MatReadError) as error:
        raise ValueError(f"{path} is not ECG-QTDB's MATLAB file ({error}); get it again.") from error
    if inputs.dim() != 3 or inputs.shape[2] != 4 or hot.shape != (*inputs.shape[:2], 6):
        raise ValueError(
            f"{path} holds x {list(inputs.shape)} and y {list(hot.shape)}; expected [recordings, steps, 4] and "
            "[recordings, steps, 6]."
        )
    labels = torch.where(hot.sum(2) > 0, hot.argmax(2), UNLABELLED)
    # The last step carries no data.
    inputs, labels = inputs[:, :-1].transpose(0, 1).contiguous(), labels[:, :-1].T.contiguous()
    return Recordings(inputs, labels, ("P", "PQ", "QR", "RS", "ST", "TP"))
