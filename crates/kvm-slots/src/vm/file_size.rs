// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Queries a file's size without changing the file.

use std::mem::MaybeUninit;

/// The size in bytes of the file `fd`; `None` if there is no such file or it has no
/// size. dma-bufs and guest_memfds have one.
pub(crate) fn file_size(fd: i32) -> Option<u64> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes one `stat`, for which `stat` has room. A number
    // that is not an open descriptor is an error.
    if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, so the kernel has written all of it.
    let size = unsafe { stat.assume_init() }.st_size;
    u64::try_from(size).ok().filter(|&size| size > 0)
}
