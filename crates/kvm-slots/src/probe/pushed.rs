// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Probes a platform that maps memory without memslots.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use guest_ranges::FileSlice;

use super::outcome::{ProbeCheck, ProbeError, Probed};
use super::sample::Sample;
use crate::push::{PushMap, PushedRange, Released};
use crate::vm::errno::Errno;

/// Probes a platform that maps memory without memslots.
pub(super) fn pushed(
    push: &dyn PushMap,
    gpa: u64,
    size: u64,
    sample: Option<Sample>,
    stranger: BorrowedFd<'_>,
) -> Result<Probed, ProbeError> {
    // SAFETY: the caller's borrows keep the descriptors open, -1 is not a file, and
    // all mappings are removed before this returns.
    let slice = |fd: i32, offset| unsafe { FileSlice::from_raw_fd(fd, offset, size, Arc::new(())) };
    let range = |fd: i32, offset| {
        // Sizes of files are below 2^63.
        let file = slice(fd, offset).ok_or(ProbeError::File(Errno::EINVAL))?;
        Ok::<_, ProbeError>(PushedRange { gpa, size, file })
    };
    // The platform chooses the error.
    let refused = |check, range: PushedRange| match push.map(&range) {
        Err(_) => Ok(()),
        Ok(()) => {
            let errno = unmap(push, &range).err();
            let left = errno.map(|errno| ProbeError::LeftBehind { slot: 0, errno });
            Err(left.unwrap_or(ProbeError::Differs {
                check,
                expected: Err(Errno::EINVAL),
                seen: Ok(()),
            }))
        }
    };
    let done = |check, seen: Result<(), Errno>| match seen {
        Ok(()) => Ok(()),
        Err(_) => Err(ProbeError::Differs {
            check,
            expected: Ok(()),
            seen,
        }),
    };
    refused(ProbeCheck::BadDescriptor, range(-1, 0)?)?;
    refused(ProbeCheck::WrongKind, range(stranger.as_raw_fd(), 0)?)?;
    let Some(sample) = sample else {
        return Ok(Probed::Refusals);
    };
    let fd = i32::from_ne_bytes(sample.fd.to_ne_bytes());
    refused(ProbeCheck::UnalignedOffset, range(fd, 1)?)?;
    refused(ProbeCheck::WrongBytes, range(fd, sample.size)?)?;
    let right = range(fd, 0)?;
    done(ProbeCheck::Create, push.map(&right))?;
    // The addresses are in use. Without a refusal, they are mapped twice.
    let again = refused(ProbeCheck::SamePlace, right.clone());
    let unmapped = unmap(push, &right);
    again?;
    unmapped.map_err(|errno| ProbeError::LeftBehind { slot: 0, errno })?;
    match unmap(push, &right) {
        Err(_) => Ok(Probed::Made),
        Ok(()) => Err(ProbeError::Differs {
            check: ProbeCheck::DeleteAgain,
            expected: Err(Errno::ENOENT),
            seen: Ok(()),
        }),
    }
}

/// Unmaps a range. As no vCPU runs, no guest can hold it.
fn unmap(push: &dyn PushMap, range: &PushedRange) -> Result<(), Errno> {
    match push.unmap(range)? {
        Released::Done => Ok(()),
        Released::Pending => Err(Errno::EBUSY),
    }
}
