"""The filter of system calls: what no lab needs and what sandboxes have been left by is refused with an error."""

from __future__ import annotations

import errno
import signal
import socket
import tempfile

# Names of the kernel; the filter refuses them all. An error and not the end of the process, because libraries try
# some of them and go on without.
_REFUSED = """
acct add_key bpf clock_adjtime clock_settime create_module delete_module fanotify_init finit_module fsconfig fsmount
fsopen fspick get_kernel_syms init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages
name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise
process_vm_readv process_vm_writev ptrace quotactl reboot request_key set_mempolicy setdomainname sethostname setns
settimeofday swapoff swapon syslog umount umount2 unshare uselib userfaultfd vhangup vmsplice chroot
"""
# Without namespaces of its own, a job shares files and processes with its user.
_OUTSIDE = """
chmod chown fchmod fchmodat fchmodat2 fchown fchownat fremovexattr fsetxattr lchown lremovexattr lsetxattr mknod mknodat
removexattr setxattr utime utimensat utimes futimesat shmget msgget semget mq_open setpriority ioprio_set
sched_setscheduler sched_setattr
"""
_SIGNALS = "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal"
_NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW* flags: mount, cgroup, UTS, IPC, user, PID, net
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # typing into the terminal of the grader
_PDEATHSIG = 1


class SeccompError(RuntimeError):
    """The filter cannot be made on this machine."""


def program(namespaces: bool, signals: bool = True) -> bytes:
    """The filter, as the kernel takes it.

    Parameters
    ----------
    namespaces : whether the job has mount, process and network namespaces of its own. Without, it gets no sockets at
        all (with: UNIX sockets alone), and changes no modes, owners or times of files.
    signals : whether it may send signals; not where nothing else keeps it from the processes of its user.

    Raises
    ------
    SeccompError where pyseccomp or libseccomp is missing.
    """
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise SeccompError(f"no filter of system calls: {error}; install pyseccomp and libseccomp2") from error
    refuse = pyseccomp.ERRNO(errno.EPERM)
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    names = f"{_REFUSED} {'' if namespaces else _OUTSIDE} {'' if signals else _SIGNALS}"
    for name in names.split():
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if number >= 0:  # negative: this architecture has no such call
            rules.add_rule(refuse, number)
    argument = pyseccomp.Arg
    if namespaces:
        rules.add_rule(refuse, "socket", argument(0, pyseccomp.NE, socket.AF_UNIX))
    else:
        rules.add_rule(refuse, "socket")
    for flag in (1 << bit for bit in range(32) if _NEW_NAMESPACES >> bit & 1):
        rules.add_rule(refuse, "clone", argument(0, pyseccomp.MASKED_EQ, flag, flag))
    # A job may not outlive the grader: its own end when its parent dies stays as the sandbox set it.
    rules.add_rule(refuse, "prctl", argument(0, pyseccomp.EQ, _PDEATHSIG), argument(1, pyseccomp.NE, signal.SIGKILL))
    rules.add_rule(refuse, "prlimit64", argument(0, pyseccomp.NE, 0))
    # Its flags lie in memory, which a filter cannot see; libraries then use clone.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for request in (_TIOCSTI, _TIOCLINUX):
        rules.add_rule(refuse, "ioctl", argument(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
