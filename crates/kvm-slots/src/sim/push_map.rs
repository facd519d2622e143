// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The simulated platform's call for push-style mapping. No released kernel has one
//! to compare this with.

use super::files::{FileKind, Files};
use super::kernel::SimConfig;
use super::memslots::{On, Serves, SimSlot, SlotFile};
use super::pushed::addresses;
use super::vm::SimVm;
use crate::push::{PushMap, PushedRange, Released};
use crate::slots::slot::raw_fd;
use crate::vm::errno::Errno;

impl PushMap for SimVm {
    /// EINVAL for partial pages, ranges beyond the file or the guest's addresses, and
    /// files that are not a dma-buf; EBADF for a closed descriptor; EEXIST for mapped
    /// addresses.
    fn map(&self, range: &PushedRange) -> Result<(), Errno> {
        let state = &mut *self.state();
        let new = checked(range, &self.config, &state.files)?;
        if state.pushed.overlaps(&new) || state.memslots.overlaps_any(&new) {
            return Err(Errno::EEXIST);
        }
        state.pushed.ranges.insert(new.gpa, new);
        Ok(())
    }

    /// ENOENT for a range that is not exactly a mapped range. Pending while the guest
    /// has validated a page of it.
    fn unmap(&self, range: &PushedRange) -> Result<Released, Errno> {
        let pushed = &mut self.state().pushed;
        let mapped = match pushed.ranges.get(&range.gpa) {
            Some(mapped) if mapped.size == range.size => addresses(mapped),
            _ => return Err(Errno::ENOENT),
        };
        let held = mapped.and_then(|all| pushed.validated.first_overlapping(all));
        if held.is_some() {
            return Ok(Released::Pending);
        }
        pushed.ranges.remove(&range.gpa);
        Ok(Released::Done)
    }
}

fn checked(range: &PushedRange, config: &SimConfig, files: &Files) -> Result<SimSlot, Errno> {
    let PushedRange { gpa, size, file } = range;
    let (gpa, size, offset) = (*gpa, *size, file.offset());
    let pages = [gpa, size, offset]
        .iter()
        .all(|n| n % config.page_size.bytes() == 0);
    let last = size.checked_sub(1).and_then(|more| gpa.checked_add(more));
    let last = last.ok_or(Errno::EINVAL)?;
    let in_guest = last
        .checked_shr(config.physical_bits)
        .is_none_or(|beyond| beyond == 0);
    if !pages || !in_guest {
        return Err(Errno::EINVAL);
    }
    let id = files.by_descriptor(raw_fd(file.fd()))?;
    let known = files.get(id).ok_or(Errno::EINVAL)?;
    let inside = offset
        .checked_add(size)
        .is_some_and(|end| end <= known.size);
    if !inside || !matches!(known.kind, FileKind::DmaBuf { .. }) {
        return Err(Errno::EINVAL);
    }
    Ok(SimSlot {
        gpa,
        size,
        userspace_addr: 0,
        flags: 0,
        file: Some(SlotFile {
            id,
            offset,
            serves: Serves::Device(On::Other),
        }),
    })
}
