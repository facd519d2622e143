// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls of the real kernel. The C library's functions are the interposed ones,
//! also for this library.

use std::arch::asm;
use std::ffi::c_long;

use kvm_slots::Errno;

/// Makes a system call. Arguments that it does not have are ignored.
///
/// # Errors
/// The kernel's error.
///
/// # Safety
/// As for the system call.
pub(crate) unsafe fn system_call(number: c_long, arguments: [usize; 6]) -> Result<isize, Errno> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let result: c_long;
    // SAFETY: this is how the kernel is called on x86-64 (System V ABI, A.2.1): it keeps
    // all registers but these three, and accesses no memory but what the caller has
    // vouched for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // The kernel returns errors as the last 4095 negative numbers.
    match i32::try_from(result) {
        Ok(error @ -4095..=-1) => Err(Errno(-error)),
        // A long is as wide as an address, so this does not fail.
        _ => isize::try_from(result).map_err(|_| Errno::EINVAL),
    }
}

/// Writes to the standard error output.
pub(crate) fn say(text: &str) {
    let bytes = [2, text.as_ptr().expose_provenance(), text.len(), 0, 0, 0];
    // SAFETY: the bytes can be read, and the call changes no memory.
    let _ = unsafe { system_call(libc::SYS_write, bytes) };
}
