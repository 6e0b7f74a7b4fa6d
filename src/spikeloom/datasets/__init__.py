"""Real data (MNIST, Fashion-MNIST, the digits of scikit-learn, ECG), synthetic tasks, and a loader of whole batches."""

from spikeloom.datasets.batches import BatchLoader as BatchLoader
from spikeloom.datasets.batches import EpochSampler as EpochSampler
from spikeloom.datasets.batches import mix as mix
from spikeloom.datasets.digits import check_folds as check_folds
from spikeloom.datasets.digits import digits as digits
from spikeloom.datasets.ecg import Recordings as Recordings
from spikeloom.datasets.ecg import ecg as ecg
from spikeloom.datasets.evidence import evidence_accumulation as evidence_accumulation
from spikeloom.datasets.idx import read_idx as read_idx
from spikeloom.datasets.images import Images as Images
from spikeloom.datasets.images import shifted as shifted
from spikeloom.datasets.mnist import data_directories as data_directories
from spikeloom.datasets.mnist import fashion_mnist as fashion_mnist
from spikeloom.datasets.mnist import mnist as mnist
from spikeloom.datasets.patterns import rate_patterns as rate_patterns
from spikeloom.datasets.yin_yang import yin_yang as yin_yang
