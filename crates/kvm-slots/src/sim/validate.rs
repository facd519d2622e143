// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that validates and releases push-style mappings.
//!
//! Compare `RSI_VDEV_VALIDATE_MAPPING`, whose checks the guest's platform makes, and
//! `rec_exit_vdev_validate_mapping` and `kvm_complete_vdev_map_validate` of the drafts
//! for Arm CCA (see [`push`](crate::push)). The simulation has no physical addresses:
//! it passes them on and does not compare them.

use guest_ranges::AddrRange;

use super::pushed::addresses;
use super::vm::{SimVm, State};
use crate::push::{Response, ValidateExit};
use crate::vm::errno::Errno;

impl SimVm {
    /// The guest validates the mapping of the guest-physical addresses from `gpa_base`
    /// to before `gpa_top`. Returns the exit that the VMM answers by
    /// [`answer_validation`](Self::answer_validation). The pages change only then.
    ///
    /// # Errors
    /// The guest sees them, the VMM sees no exit. In this order:
    ///
    /// - ENOSYS if guests of this platform do not validate mappings
    /// - EINVAL for partial pages, an empty range, or addresses that the guest lacks
    /// - EBUSY if the VMM has not answered the latest exit
    pub fn guest_validates(
        &self,
        vdev_id: u64,
        gpa_base: u64,
        gpa_top: u64,
        pa_base: u64,
    ) -> Result<ValidateExit, Errno> {
        let nr = self.config().push_validates.ok_or(Errno::ENOSYS)?;
        self.guest_pages(gpa_base, gpa_top)?;
        if !self.config().page_size.is_aligned(pa_base) {
            return Err(Errno::EINVAL);
        }
        let unanswered = &mut self.state().pushed.unanswered;
        if unanswered.is_some() {
            return Err(Errno::EBUSY);
        }
        Ok(*unanswered.insert(ValidateExit {
            flags: 0,
            nr,
            vdev_id,
            gpa_base,
            gpa_top,
            pa_base,
        }))
    }

    /// The VMM answers the latest exit, and the guest continues. Returns the response
    /// that the guest sees. After [`Response::Accept`] it can reach the pages. The
    /// platform rejects what the VMM does not offer in one mapped range, whatever the
    /// VMM answers.
    ///
    /// # Errors
    /// ENOENT if there is no exit to answer.
    pub fn answer_validation(&self, response: Response) -> Result<Response, Errno> {
        let pushed = &mut self.state().pushed;
        let exit = pushed.unanswered.take().ok_or(Errno::ENOENT)?;
        let range = pushed.find(exit.gpa_base).and_then(addresses);
        let last = exit.gpa_top.checked_sub(1);
        let asked = last.and_then(|last| AddrRange::from_bounds(exit.gpa_base, last));
        match (response, range, asked) {
            (Response::Accept, Some(range), Some(asked)) if range.covers(asked) => {
                pushed.validated.insert(asked);
                Ok(Response::Accept)
            }
            _ => Ok(Response::Reject),
        }
    }

    /// The guest releases the guest-physical addresses from `gpa_base` to before
    /// `gpa_top`, whether it has validated them or not. There is no exit. The VMM sees
    /// it at its next [`unmap`](crate::push::PushMap::unmap).
    ///
    /// # Errors
    /// ENOSYS and EINVAL as for [`guest_validates`](Self::guest_validates).
    pub fn guest_releases(&self, gpa_base: u64, gpa_top: u64) -> Result<(), Errno> {
        self.config().push_validates.ok_or(Errno::ENOSYS)?;
        let pages = self.guest_pages(gpa_base, gpa_top)?;
        self.state().pushed.validated.remove(pages);
        Ok(())
    }

    /// Whole pages that the guest can address.
    fn guest_pages(&self, base: u64, top: u64) -> Result<AddrRange, Errno> {
        let config = self.config();
        let whole = [base, top].iter().all(|n| config.page_size.is_aligned(*n));
        let last = top.checked_sub(1).filter(|_| whole);
        let last = last.filter(|last| last.checked_shr(config.physical_bits).unwrap_or(0) == 0);
        let pages = last.and_then(|last| AddrRange::from_bounds(base, last));
        pages.ok_or(Errno::EINVAL)
    }
}

impl State {
    /// Whether the page is offered and the guest must validate it first.
    pub(super) fn is_unvalidated(&self, page: u64) -> bool {
        self.config.push_validates.is_some()
            && self.pushed.find(page).is_some()
            && !self.pushed.validated.contains(page)
    }
}
