// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty log ioctls of a simulated VM, with the kernel's checks in its order.
//!
//! Compare `kvm_get_dirty_log_protect` and `kvm_clear_dirty_log_protect`
//! (virt/kvm/kvm_main.c, Linux 6.18).

use super::dirty::{Dirty, page_numbers};
use super::dirty_ring::Ring;
use super::memslots::{Key, key};
use super::vm::SimVm;
use crate::dirty::pages::DirtyPages;
use crate::dirty::vm::{LoggingVm, ManualProtect};
use crate::vm::errno::Errno;

impl SimVm {
    /// The first checks of reading and clearing.
    fn check_log(&self, dirty: &Dirty, slot: u32) -> Result<Key, Errno> {
        if dirty.ring.is_some() && !dirty.log_beside_ring {
            return Err(Errno::ENXIO);
        }
        let key = key(slot);
        let spaces = self.config().address_spaces();
        match u32::from(key.0) < spaces && key.1 < self.config().nr_memslots {
            true => Ok(key),
            false => Err(Errno::EINVAL),
        }
    }
}

impl LoggingVm for SimVm {
    fn set_manual_protect(&self, options: ManualProtect) -> Result<(), Errno> {
        let alone = options == ManualProtect::INITIALLY_SET;
        if alone || !ManualProtect::all().contains(options) {
            return Err(Errno::EINVAL);
        }
        self.state().dirty.manual = Some(options);
        Ok(())
    }

    fn enable_dirty_ring(&self, bytes: u32) -> Result<(), Errno> {
        if !self.config().has_ring() {
            return Err(Errno::EINVAL);
        }
        let dirty = &mut self.state().dirty;
        let ring = Ring::new(bytes, dirty.page_size.bytes())?;
        if dirty.ring.is_some() || dirty.has_vcpu {
            return Err(Errno::EINVAL);
        }
        dirty.ring = Some(ring);
        Ok(())
    }

    fn enable_log_beside_ring(&self) -> Result<(), Errno> {
        let state = &mut *self.state();
        let possible = self.config().ring_needs_log && state.dirty.ring.is_some();
        if !possible || !state.memslots.is_empty() {
            return Err(Errno::EINVAL);
        }
        state.dirty.log_beside_ring = true;
        Ok(())
    }

    fn get_dirty_log(&self, slot: u32) -> Result<Vec<u64>, Errno> {
        let dirty = &mut self.state().dirty;
        let (key, page_size) = (self.check_log(dirty, slot)?, dirty.page_size);
        let manual = dirty.manual.unwrap_or(ManualProtect::empty());
        let beside_ring = dirty.log_beside_ring;
        let log = dirty.logs.get_mut(&key).ok_or(Errno::ENOENT)?;
        let words = usize::try_from(log.pages.div_ceil(64)).map_err(|_| Errno::ENOMEM)?;
        let mut bitmap = vec![0; words];
        let logged = match beside_ring {
            true => &log.beside_ring,
            false => &log.written,
        };
        for run in logged.runs() {
            for page in page_numbers(run, page_size) {
                let word = usize::try_from(page / 64).ok();
                if let Some(word) = word.and_then(|word| bitmap.get_mut(word)) {
                    *word |= 1 << (page % 64);
                }
            }
        }
        match manual.contains(ManualProtect::ENABLE) {
            true => {}
            false if beside_ring => log.clear_beside_ring(0..log.pages, page_size),
            false => log.written = DirtyPages::new(page_size),
        }
        Ok(bitmap)
    }

    fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        num_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno> {
        let num = u64::from(num_pages);
        // This check is not the kernel's: see the real VM.
        if (bitmap.len() as u64) < num.div_ceil(64) {
            return Err(Errno::EINVAL);
        }
        let dirty = &mut self.state().dirty;
        let (key, page_size) = (self.check_log(dirty, slot)?, dirty.page_size);
        let beside_ring = dirty.log_beside_ring;
        if first_page % 64 != 0 {
            return Err(Errno::EINVAL);
        }
        let log = dirty.logs.get_mut(&key).ok_or(Errno::ENOENT)?;
        let rest = log.pages.checked_sub(first_page).ok_or(Errno::EINVAL)?;
        if num > rest || (num < rest && num % 64 != 0) {
            return Err(Errno::EINVAL);
        }
        let mut cleared = DirtyPages::new(page_size);
        cleared.insert_bitmap(first_page, bitmap, num);
        for run in cleared.runs() {
            match beside_ring {
                true => log.clear_beside_ring(page_numbers(run, page_size), page_size),
                false => drop(log.written.take(page_numbers(run, page_size))),
            }
        }
        Ok(())
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        self.state().dirty.reset_rings()
    }
}
