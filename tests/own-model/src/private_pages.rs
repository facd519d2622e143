// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Private pages of memory that moves: KVM keeps the attribute by address, this
//! hypervisor by the bytes of the guest_memfd.

use kvm_slots::SlotRange;
use kvm_slots::convert::{GuestPages, PageRange};

/// The private pages of the removed ranges, and the new addresses of the same
/// bytes. `None` if a page would have no address: such a change is refused.
pub fn private_pages(
    pages: &impl GuestPages,
    removed: &[SlotRange],
    added: &[SlotRange],
) -> Option<(Vec<PageRange>, Vec<PageRange>)> {
    let (mut was, mut is) = (Vec::new(), Vec::new());
    for range in removed.iter().filter(|r| r.backing().file().is_some()) {
        let Ok(all) = PageRange::new(range.gpa(), range.size()) else {
            continue;
        };
        for page in pages.private(all).flat_map(single_pages) {
            was.push(page);
            is.push(added.iter().find_map(|new| now(page, range, new))?);
        }
    }
    Some((was, is))
}

/// Page by page, because the parts of a run may move to different addresses.
fn single_pages(run: PageRange) -> impl Iterator<Item = PageRange> {
    let size = crate::page_size();
    let starts = (0..run.pages()).map(move |n| run.start() + n * size);
    starts.filter_map(move |gpa| PageRange::new(gpa, size).ok())
}

/// The address in `new` of a page of `old`.
fn now(page: PageRange, old: &SlotRange, new: &SlotRange) -> Option<PageRange> {
    let (from, to) = (old.backing().file()?, new.backing().file()?);
    let in_file = from.offset() + (page.start() - old.gpa());
    let in_new = in_file.checked_sub(to.offset())?;
    let there = from.fd() == to.fd() && in_new < new.size();
    let moved = there.then(|| PageRange::new(new.gpa() + in_new, page.size()).ok());
    moved?
}
