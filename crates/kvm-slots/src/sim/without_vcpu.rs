// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes of the simulated kernel itself to guest memory.
//!
//! Compare `kvm_write_guest` and `mark_page_dirty_in_slot` (virt/kvm/kvm_main.c, Linux
//! 6.18).

use super::reach::Bytes;
use super::vm::{SimVm, State};
use crate::vm::errno::Errno;

impl SimVm {
    /// The kernel writes `data` at `gpa` without a vCPU, as it does to save the tables of
    /// an Arm ITS. Of dirty pages, only logs report such a write.
    ///
    /// # Errors
    /// EFAULT where no slot has writable host memory. The pages before are written.
    pub fn store_without_vcpu(&self, gpa: u64, data: &[u8]) -> Result<(), Errno> {
        let state = &mut *self.state();
        let (mut gpa, mut rest) = (gpa, data);
        while !rest.is_empty() {
            let rest_of_page = state
                .page_of(gpa)
                .wrapping_add(state.page_size())
                .wrapping_sub(gpa);
            let room = usize::try_from(rest_of_page).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()));
            state.store_in_page(gpa, now)?;
            gpa = gpa.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }
}

impl State {
    fn store_in_page(&mut self, gpa: u64, data: &[u8]) -> Result<(), Errno> {
        let slot = self.memslots.find(gpa).filter(|slot| !slot.is_readonly());
        let slot = slot.ok_or(Errno::EFAULT)?;
        Bytes::Host(slot.userspace_addr + (gpa - slot.gpa)).store(&self.files, data)?;
        if let Some((key, offset)) = self.memslots.offset_at(gpa) {
            let page = offset / self.page_size();
            self.dirty.mark_without_vcpu(key, page);
        }
        Ok(())
    }
}
