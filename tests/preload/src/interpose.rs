// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The C library's functions that the program calls here instead.
//!
//! Each asks the simulated kernel. If the call does not concern KVM, it is made as the
//! C library would. Their types are those of their manual pages, except that
//! pointers are addresses, and that variable arguments are fixed ones: on x86-64,
//! both are passed in the same registers, and an argument that the program does not
//! pass is a register's old value, which `open` and `syscall` ignore as the kernel
//! does.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint};

use kvm_slots::Errno;
use kvm_slots::sim::FileCall;

use crate::answer::Answered;
use crate::end::{failed, finish};
use crate::kernel::{Kernel, Mmap};
use crate::raw::system_call;
use crate::state::{ask, inside};

/// The answer of the simulated kernel or, without one, of the real kernel.
fn answer(
    question: impl FnOnce(&mut Kernel) -> Option<Answered>,
    real: impl FnOnce() -> Result<isize, Errno>,
) -> isize {
    match ask(question) {
        Some(outcome) => finish(outcome),
        None => real().unwrap_or_else(failed),
    }
}

/// The same for a function that returns an `int`.
fn answer_int(
    question: impl FnOnce(&mut Kernel) -> Option<Answered>,
    real: impl FnOnce() -> Result<isize, Errno>,
) -> c_int {
    // Descriptors, results of ioctls, 0 and -1.
    c_int::try_from(answer(question, real)).unwrap_or(-1)
}

/// Sign-extended, as the kernel ignores or checks the upper half.
fn word(number: c_int) -> usize {
    (number as isize).cast_unsigned()
}

/// As wide as an address, on x86-64.
fn wide(number: i64) -> usize {
    isize::try_from(number).unwrap_or(-1).cast_unsigned()
}

/// # Safety
/// As for `open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { openat(libc::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As for `open64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { openat(libc::AT_FDCWD, path, flags | libc::O_LARGEFILE, mode) }
}

/// # Safety
/// As for `openat64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(
    at: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { openat(at, path, flags | libc::O_LARGEFILE, mode) }
}

/// # Safety
/// As for `openat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(
    at: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    let name = match path.is_null() {
        true => c"",
        // SAFETY: the caller passes a string with its terminator.
        false => unsafe { CStr::from_ptr(path) },
    };
    let arguments = [
        word(at),
        path.expose_provenance(),
        word(flags),
        mode as usize,
        0,
        0,
    ];
    answer_int(
        |kernel| kernel.open(name.to_bytes()),
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_openat, arguments) },
    )
}

/// # Safety
/// As for `close`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    inside(|state| state.kernel.close(fd));
    // SAFETY: passed on from the caller.
    let closed = unsafe { system_call(libc::SYS_close, [word(fd), 0, 0, 0, 0, 0]) };
    c_int::try_from(closed.unwrap_or_else(failed)).unwrap_or(-1)
}

/// # Safety
/// As for `ioctl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: usize, argument: usize) -> c_int {
    answer_int(
        // SAFETY: passed on from the caller.
        |kernel| unsafe { kernel.ioctl(fd, request as u64, argument) },
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_ioctl, [word(fd), request, argument, 0, 0, 0]) },
    )
}

/// # Safety
/// As for `mmap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: usize,
    size: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> isize {
    let wanted = Mmap {
        address,
        size,
        protection,
        flags,
        fd,
        offset,
    };
    let (rights, how) = (word(protection), word(flags));
    let arguments = [address, size, rights, how, word(fd), wide(offset)];
    answer(
        // SAFETY: passed on from the caller.
        |kernel| unsafe { kernel.mmap(wanted) },
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_mmap, arguments) },
    )
}

/// # Safety
/// As for `mmap64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: usize,
    size: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> isize {
    // SAFETY: passed on from the caller.
    unsafe { mmap(address, size, protection, flags, fd, offset) }
}

/// # Safety
/// As for `munmap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(address: usize, size: usize) -> c_int {
    inside(|state| state.kernel.munmap(address, size));
    // SAFETY: passed on from the caller.
    let unmapped = unsafe { system_call(libc::SYS_munmap, [address, size, 0, 0, 0, 0]) };
    c_int::try_from(unmapped.unwrap_or_else(failed)).unwrap_or(-1)
}

/// # Safety
/// As for `madvise`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(address: usize, size: usize, advice: c_int) -> c_int {
    answer_int(
        |kernel| kernel.advise(address, size, "madvise of a guest_memfd"),
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_madvise, [address, size, word(advice), 0, 0, 0]) },
    )
}

/// # Safety
/// As for `fallocate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, offset: i64, len: i64) -> c_int {
    let arguments = [word(fd), word(mode), wide(offset), wide(len), 0, 0];
    answer_int(
        |kernel| kernel.file_call(fd, FileCall::Allocate { mode, offset, len }),
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_fallocate, arguments) },
    )
}

/// # Safety
/// As for `fallocate64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: i64, len: i64) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { fallocate(fd, mode, offset, len) }
}

/// # Safety
/// As for `ftruncate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(fd: c_int, size: i64) -> c_int {
    answer_int(
        |kernel| kernel.file_call(fd, FileCall::Truncate(size)),
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_ftruncate, [word(fd), wide(size), 0, 0, 0, 0]) },
    )
}

/// # Safety
/// As for `ftruncate64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, size: i64) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { ftruncate(fd, size) }
}

/// # Safety
/// As for `read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, bytes: usize, size: usize) -> isize {
    answer(
        |kernel| kernel.file_call(fd, FileCall::Read),
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_read, [word(fd), bytes, size, 0, 0, 0]) },
    )
}

/// # Safety
/// As for `write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: usize, size: usize) -> isize {
    answer(
        |kernel| kernel.file_call(fd, FileCall::Write),
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_write, [word(fd), bytes, size, 0, 0, 0]) },
    )
}

/// # Safety
/// As for `pread`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread(fd: c_int, bytes: usize, size: usize, offset: i64) -> isize {
    let arguments = [word(fd), bytes, size, wide(offset), 0, 0];
    answer(
        |kernel| kernel.file_call(fd, FileCall::ReadAt),
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_pread64, arguments) },
    )
}

/// # Safety
/// As for `pread64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(fd: c_int, bytes: usize, size: usize, offset: i64) -> isize {
    // SAFETY: passed on from the caller.
    unsafe { pread(fd, bytes, size, offset) }
}

/// # Safety
/// As for `pwrite`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, bytes: usize, size: usize, offset: i64) -> isize {
    let arguments = [word(fd), bytes, size, wide(offset), 0, 0];
    answer(
        |kernel| kernel.file_call(fd, FileCall::WriteAt),
        // SAFETY: passed on from the caller.
        || unsafe { system_call(libc::SYS_pwrite64, arguments) },
    )
}

/// # Safety
/// As for `pwrite64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: usize, size: usize, offset: i64) -> isize {
    // SAFETY: passed on from the caller.
    unsafe { pwrite(fd, bytes, size, offset) }
}

/// # Safety
/// As for `syscall`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    first: usize,
    second: usize,
    third: usize,
    fourth: usize,
    fifth: usize,
    sixth: usize,
) -> isize {
    answer(
        |kernel| match number {
            // The selftests have no function for it.
            libc::SYS_mbind => kernel.advise(first, second, "mbind of a guest_memfd"),
            _ => None,
        },
        // SAFETY: passed on from the caller.
        || unsafe { system_call(number, [first, second, third, fourth, fifth, sixth]) },
    )
}
