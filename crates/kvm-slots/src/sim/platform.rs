// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated platform that keeps the state of pages itself.

use guest_ranges::PageRange;

use super::vm::SimVm;
use crate::push::{Answer, PushPages, Released};
use crate::vm::errno::Errno;

impl SimVm {
    /// With [`Home::Platform`](crate::convert::Home::Platform): sets whether the platform
    /// refuses to make these pages private.
    pub fn set_rejected(&self, pages: PageRange, rejected: bool) {
        let state = &mut *self.state();
        match rejected {
            true => state.rejected.insert(pages.into()),
            false => state.rejected.remove(pages.into()),
        }
    }

    /// With [`Home::Platform`](crate::convert::Home::Platform): sets whether the guest
    /// holds these pages. While it does, they cannot be released.
    pub fn set_held(&self, pages: PageRange, held: bool) {
        let state = &mut *self.state();
        match held {
            true => state.held.insert(pages.into()),
            false => state.held.remove(pages.into()),
        }
    }
}

impl PushPages for SimVm {
    /// EINVAL for pages that are not whole pages of this kernel.
    fn make_private(&self, pages: PageRange) -> Result<Answer, Errno> {
        let state = &mut *self.state();
        if !pages.is_whole(self.config().page_size) {
            return Err(Errno::EINVAL);
        }
        if state.rejected.first_overlapping(pages.into()).is_some() {
            return Ok(Answer::Rejected);
        }
        state.private.insert(pages.into());
        Ok(Answer::Accepted)
    }

    /// EINVAL for pages that are not whole pages of this kernel.
    fn release(&self, pages: PageRange) -> Result<Released, Errno> {
        let state = &mut *self.state();
        if !pages.is_whole(self.config().page_size) {
            return Err(Errno::EINVAL);
        }
        if state.held.first_overlapping(pages.into()).is_some() {
            return Ok(Released::Pending);
        }
        state.private.remove(pages.into());
        Ok(Released::Done)
    }
}
