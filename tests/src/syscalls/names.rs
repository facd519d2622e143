// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls by the names that the page uses.

use libc::c_long;

use super::table::Page;

macro_rules! numbers {
    ($($call:ident)*) => {
        &[$((libc::$call, stringify!($call))),*]
    };
}

/// Calls of all architectures.
const EVERYWHERE: &[(c_long, &str)] = numbers! {
    SYS_brk SYS_clock_gettime SYS_clock_nanosleep SYS_clone SYS_clone3 SYS_close SYS_dup SYS_dup3 SYS_eventfd2
    SYS_execve SYS_exit SYS_exit_group SYS_fallocate SYS_fcntl SYS_fstat SYS_ftruncate SYS_futex
    SYS_getdents64 SYS_getpid SYS_getrandom SYS_gettid SYS_ioctl SYS_kill SYS_lseek SYS_madvise
    SYS_membarrier SYS_memfd_create SYS_mmap SYS_mprotect SYS_mremap SYS_munmap SYS_newfstatat
    SYS_openat SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_prlimit64 SYS_process_vm_readv
    SYS_process_vm_writev SYS_pwrite64 SYS_pwritev SYS_read SYS_readlinkat SYS_readv
    SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn
    SYS_sched_getaffinity SYS_sched_yield SYS_set_robust_list SYS_sigaltstack SYS_socket
    SYS_statx SYS_tgkill SYS_uname SYS_write SYS_writev
};

/// Calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const HERE: &[(c_long, &str)] = numbers! {
    SYS_access SYS_lstat SYS_open SYS_poll SYS_readlink SYS_stat
};
#[cfg(not(target_arch = "x86_64"))]
const HERE: &[(c_long, &str)] = &[];

/// Advice and modes that the page names.
const ADVICE: [(i32, &str); 3] = [
    (libc::MADV_DONTNEED, "MADV_DONTNEED"),
    (libc::MADV_REMOVE, "MADV_REMOVE"),
    (libc::MADV_FREE, "MADV_FREE"),
];
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// The name of a call, with the arguments that a filter can check.
pub(super) fn name(page: &Page, number: u64, arguments: &[u64; 6]) -> String {
    let known = EVERYWHERE.iter().chain(HERE);
    let mut known = known.filter(|(other, _)| u64::try_from(*other) == Ok(number));
    let Some((number, name)) = known.next() else {
        return format!("system call {number}");
    };
    let name = name.trim_start_matches("SYS_");
    // The kernel takes 32 bits of these.
    let word = |argument: usize| {
        let bytes = arguments[argument].to_le_bytes();
        i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    };
    match *number {
        libc::SYS_ioctl => {
            let request = u64::from(word(1).cast_unsigned());
            let name = page.requests.get(&request).cloned();
            name.unwrap_or_else(|| format!("ioctl({request:#x})"))
        }
        libc::SYS_mmap if word(3) & libc::MAP_ANONYMOUS != 0 => "mmap(anonymous)".into(),
        libc::SYS_mmap => "mmap(fd)".into(),
        libc::SYS_madvise => {
            let mut known = ADVICE.iter().filter(|(advice, _)| *advice == word(2));
            match known.next() {
                Some((_, advice)) => format!("madvise({advice})"),
                None => format!("madvise({})", word(2)),
            }
        }
        libc::SYS_fcntl if word(1) == libc::F_GETFD => "fcntl(F_GETFD)".into(),
        libc::SYS_fallocate if word(1) == PUNCH => "fallocate(PUNCH_HOLE)".into(),
        libc::SYS_fallocate => format!("fallocate({:#x})", word(1)),
        _ => name.into(),
    }
}
