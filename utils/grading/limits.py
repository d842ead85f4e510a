"""What a job may use, and which verdict says that it used more."""

from __future__ import annotations

import resource
from dataclasses import asdict, dataclass, field

from utils.grading.wire import Caps


@dataclass(frozen=True)
class Limits:
    """Limits of one job.

    Parameters
    ----------
    start : seconds until the harness runs, before anything of the student's does; past them the machine is at fault.
    wall : seconds from then to the end (verdict ``timeout``).
    cpu : seconds of processor time of all its processes together (``timeout``).
    memory : bytes that its processes hold together, shared pages counted once (``memory``).
    address_space : bytes that each process may map (``memory``). PyTorch alone maps 0.6 GB (CPU wheel) or 3.3 GB (CUDA
        wheel), of which it uses a fraction.
    processes : processes and threads together (``process_limit``).
    file_size : bytes of one file (``output_limit``).
    scratch : bytes of the temporary folder, and of the shared memory (``output_limit``).
    files : files and folders in the temporary folder (``output_limit``).
    output : bytes of standard output and standard error together (``output_limit``).
    results : caps on the records (``output_limit``).
    """

    start: float = 120.0
    wall: float = 60.0
    cpu: int = 60
    memory: int = 2 << 30
    address_space: int = 12 << 30
    processes: int = 64
    file_size: int = 32 << 20
    scratch: int = 64 << 20
    files: int = 10_000
    output: int = 1 << 20
    results: Caps = field(default_factory=Caps)

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "results" and not value > 0:
                raise ValueError(f"a limit is more than 0; {name} is {value}")
        if self.processes < 2:
            raise ValueError(f"a job needs 2 processes for itself; got {self.processes}")

    def rlimits(self, others: int = 0) -> dict[int, int]:
        """Limits that the kernel keeps, by their number in ``resource``.

        ``others`` are processes and threads of the user that the kernel counts with the job's. The limits on them
        and on time lie above the job's, so that the grader sees who crosses those: a bomb would keep silent about forks
        that fail, and bubblewrap does not tell the time of what the kernel ended.
        """
        return {
            resource.RLIMIT_AS: self.address_space,
            resource.RLIMIT_CPU: self.cpu + 2,
            resource.RLIMIT_FSIZE: self.file_size,
            resource.RLIMIT_NPROC: self.processes + others + 16,
            resource.RLIMIT_NOFILE: 256,
            resource.RLIMIT_CORE: 0,
        }
