// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How large a file is, asked without a change to it.

use std::mem::MaybeUninit;

/// The size in bytes of the file that `fd` names; `None` if it names none, or
/// one that has no size. dma-bufs and guest_memfds have one.
pub(crate) fn file_size(fd: i32) -> Option<u64> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes one `stat` to where there is room for one. A
    // number that names no file is an error.
    if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, so all of it was written.
    let size = unsafe { stat.assume_init() }.st_size;
    u64::try_from(size).ok().filter(|&size| size > 0)
}
