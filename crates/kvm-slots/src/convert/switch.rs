// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The steps of a plan that can fail: listeners and the state of pages.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;

use guest_ranges::{PAGE_SIZE, PageRange, PageState};

use super::error::{FailedStep, NotChanged};
use super::home::{Call, Changed, Home, attributes, calls};
use super::listener::ConversionListener;
use super::plan::ConversionPlan;
use super::release::{Target, prepare, unmap};
use super::sides::Stretch;
use crate::push::{Answer, Released};
use crate::vm::Vm;
use crate::vm::errno::Errno;

/// How often a call is made on pages that someone has pinned. Listeners release what
/// they hold after the first time; others, such as direct I/O, may end by themselves.
const MOST_CALLS: usize = 16;

/// The VM and the listeners that take part in each step.
pub(super) struct Steps<V> {
    pub(super) vm: V,
    pub(super) home: Home,
    pub(super) listeners: Vec<Arc<dyn ConversionListener>>,
}

/// How much of a plan was carried out.
#[derive(Clone, Copy, Default)]
pub(super) struct Progress {
    /// How many listeners have prepared, or may have made a part of the change.
    pub(super) prepared: usize,
    /// How many pages have changed.
    pub(super) changed: Changed,
}

impl<V: Vm> Steps<V> {
    /// The progress after a plan was carried out.
    pub(super) fn all_done(&self, plan: &ConversionPlan) -> Progress {
        Progress {
            prepared: self.listeners.len(),
            changed: Changed::all(plan),
        }
    }

    /// Changes the state of pages and notifies listeners. Devices have pages only while
    /// the guest has them as shared, so listeners are first to private and last to
    /// shared. After an error, or a panic of a listener, `progress` is what was done.
    pub(super) fn switch(
        &self,
        plan: &ConversionPlan,
        progress: &mut Progress,
    ) -> Result<(), FailedStep> {
        match plan.to {
            PageState::Private => {
                let unmapped = unmap(&self.listeners, plan, progress)?;
                self.change(plan, Target::Private(&unmapped), progress)
            }
            PageState::Shared => {
                self.change(plan, Target::Shared, progress)?;
                prepare(&self.listeners, plan, progress)
            }
        }
    }

    fn change(
        &self,
        plan: &ConversionPlan,
        to: Target<'_>,
        progress: &mut Progress,
    ) -> Result<(), FailedStep> {
        for planned in calls(self.home, plan) {
            let stretches = &plan.stretches[planned.from..planned.after.stretches];
            self.make(planned.call, to, stretches)
                .map_err(|why| FailedStep::State {
                    range: planned.pages,
                    why,
                })?;
            progress.changed = planned.after;
        }
        Ok(())
    }

    /// Changes the state of one stretch.
    pub(super) fn set(&self, stretch: &Stretch, to: Target<'_>) -> Result<(), NotChanged> {
        match self.home.call(stretch) {
            Some(call) => self.make(call, to, std::slice::from_ref(stretch)),
            None => Ok(()),
        }
    }

    /// Changes the state of pages without memory.
    pub(super) fn set_without_memory(
        &self,
        pages: PageRange,
        to: Target<'_>,
    ) -> Result<(), NotChanged> {
        match self.home.call_without_memory(pages) {
            Some(call) => self.make(call, to, &[]),
            None => Ok(()),
        }
    }

    /// Makes a call that changes these stretches.
    fn make(&self, call: Call, to: Target<'_>, stretches: &[Stretch]) -> Result<(), NotChanged> {
        match (call, to) {
            (Call::Vm { pages }, _) => {
                let (gpa, size) = (pages.start(), pages.size());
                Ok(self
                    .vm
                    .set_memory_attributes(gpa, size, attributes(to.state()))?)
            }
            (Call::File { fd, offset, size }, _) => {
                // SAFETY: `GuestPages` guarantees the descriptors of its stretches.
                let file = unsafe { BorrowedFd::borrow_raw(fd) };
                self.set_in_file(file, (offset, size), to.state(), stretches)
            }
            (Call::Platform { pages }, Target::Private(_)) => {
                let platform = self.vm.push_pages().ok_or(Errno::EOPNOTSUPP)?;
                match platform.make_private(pages)? {
                    Answer::Accepted => Ok(()),
                    Answer::Rejected => Err(NotChanged::Rejected),
                }
            }
            (Call::Platform { pages }, Target::Shared) => {
                let platform = self.vm.push_pages().ok_or(Errno::EOPNOTSUPP)?;
                match platform.release(pages)? {
                    Released::Done => Ok(()),
                    Released::Pending => Err(NotChanged::ReleasePending),
                }
            }
        }
    }

    /// Changes attributes in a file. If a page is pinned, listeners release it, and the
    /// call is made again.
    fn set_in_file(
        &self,
        file: BorrowedFd<'_>,
        (offset, size): (u64, u64),
        to: PageState,
        stretches: &[Stretch],
    ) -> Result<(), NotChanged> {
        let mut pinned = None;
        for _ in 0..MOST_CALLS {
            let set = self
                .vm
                .set_file_attributes(file, offset, size, attributes(to));
            let Err(error) = set else { return Ok(()) };
            let page = error.pinned_at.and_then(|at| page_at(at, stretches));
            let (Errno::EAGAIN, Some(page)) = (error.errno, page) else {
                return Err(error.errno.into());
            };
            pinned = Some(page);
            let released = self.listeners.iter().map(|listener| listener.unpin(page));
            // Every listener is asked.
            if released.filter(|released| *released).count() == 0 {
                thread::yield_now();
            }
        }
        Err(pinned.map_or(Errno::EAGAIN.into(), NotChanged::Pinned))
    }
}

/// The page at an offset of the file that these stretches are in.
fn page_at(offset: u64, stretches: &[Stretch]) -> Option<PageRange> {
    stretches.iter().find_map(|stretch| {
        let (_, start) = stretch.sides.file()?;
        let inside = offset.checked_sub(start)?;
        let gpa = stretch.range.start().checked_add(inside)? & !(PAGE_SIZE - 1);
        let page = PageRange::new(gpa, PAGE_SIZE).ok()?;
        stretch.range.intersect(page)
    })
}

#[cfg(test)]
mod tests {
    use super::super::sides::Sides;
    use super::*;

    #[test]
    fn the_page_at_an_offset_is_the_guests_page_of_that_byte() {
        let stretch = |gpa, size, fd, offset| Stretch {
            range: PageRange::new(gpa, size).unwrap(),
            sides: Sides::PrivateOnly { fd, offset },
        };
        let stretches = [
            stretch(0x5000, 0x3000, 3, 0x1000),
            stretch(0x9000, 0x1000, 3, 0x8000),
        ];
        let page = |gpa| PageRange::new(gpa, PAGE_SIZE).ok();
        for (offset, expected) in [
            (0x1000, page(0x5000)),
            (0x1fff, page(0x5000)),
            (0x2001, page(0x6000)),
            (0x3000, page(0x7000)),
            (0x8800, page(0x9000)),
            (0x0fff, None),
            (0x4000, None),
            (0x9000, None),
        ] {
            assert_eq!(page_at(offset, &stretches), expected, "{offset:#x}");
        }
    }
}
