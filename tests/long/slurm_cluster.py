"""A real Slurm for a test: this machine as one node in two partitions. It needs root, and Debian for the packages.

The daemons run in the foreground as children of the test and listen on loopback; nothing is left when it ends.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
CONFIGURATION = Path("/etc/slurm/slurm.conf")  # the executor plugin drops SLURM_CONF, so it must lie there
MARK = "# Written by diffsweep's tests/long/slurm_cluster.py, which may overwrite and remove it."
PARTITIONS = ("cpu-a", "cpu-b")


class Slurm:
    """The running cluster; `log` is Slurm's own list of the jobs that have ended."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "jobs.txt"
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Slurm":
        install()
        configure(self.folder)
        try:
            self._start_munge()
            self.start_controller()
            self._start("slurmd", "slurmd", "-D", "-N", "localhost")
            wait_for(lambda: "idle" in ask("sinfo", "--noheader", "--format=%t"), "no idle node")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        if "slurmctld" in self.daemons:
            subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=60)
            time.sleep(2)
        for name in ("slurmd", "slurmctld", "munged"):
            self._stop(name)
        CONFIGURATION.unlink(missing_ok=True)

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D")
        wait_for(lambda: "is UP" in ask("scontrol", "ping"), "the controller does not answer")

    def stop_controller(self) -> None:
        self._stop("slurmctld")

    def ended(self) -> list[dict[str, str]]:
        """The jobs that have ended, as Slurm's job completion plugin writes them: JobId, JobState, Partition, ..."""
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def _start_munge(self) -> None:
        if subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode == 0:
            return  # somebody's service already runs; it is not ours to stop
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        self._start("munged", "munged", "--foreground", user="munge", group="munge", extra_groups=[])
        probe = "munge -n | unmunge"
        wait_for(lambda: not subprocess.run(probe, shell=True, capture_output=True).returncode, "munge does not answer")

    def _start(self, name: str, *command: str, **options) -> None:
        program = shutil.which(command[0]) or f"/usr/sbin/{command[0]}"
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options
            )

    def _stop(self, name: str) -> None:
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def ask(*command: str) -> str:
    """What a Slurm command prints; empty when it fails, as while the controller is away."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else ""


def wait_for(condition: Callable[[], bool], complaint: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)


def install() -> None:
    """Debian's packages, if they are not there, without the services that they would start."""
    places = f"{os.environ['PATH']}:/usr/sbin"
    if all(shutil.which(program, path=places) for program in PROGRAMS):
        return
    assert os.geteuid() == 0, "this test installs Debian's slurm-wlm and munge, and so must run as root"
    no_services = Path("/usr/sbin/policy-rc.d")
    ours = not no_services.exists()
    if ours:
        no_services.write_text("#!/bin/sh\nexit 101\n")
        no_services.chmod(0o755)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(["apt-get", "-qq", "update"], check=True, env=environ)
        packages = ["slurm-wlm", "munge"]
        subprocess.run(["apt-get", "-qq", "install", "--no-install-recommends", *packages], check=True, env=environ)
    finally:
        if ours:
            no_services.unlink()


def configure(folder: Path) -> None:
    """Write slurm.conf, unless somebody else's is there."""
    if CONFIGURATION.exists():
        assert MARK in CONFIGURATION.read_text(), f"{CONFIGURATION} is somebody else's; this test does not touch it"
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    partitions = "\n".join(f"PartitionName={name} Nodes=localhost MaxTime=INFINITE State=UP" for name in PARTITIONS)
    CONFIGURATION.parent.mkdir(parents=True, exist_ok=True)
    CONFIGURATION.write_text(f"""{MARK}
ClusterName=diffsweep
SlurmctldHost=localhost
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
ReturnToService=2
KillWait=5
MinJobAge=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
NodeName=localhost CPUs={len(os.sched_getaffinity(0))} RealMemory={pages // 2**20} State=UNKNOWN
{partitions}
""")
