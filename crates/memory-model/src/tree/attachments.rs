// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The attachments of the regions in a tree, which counts them all.

use guest_ranges::AddrRange;

use crate::attachments::{Attachments, EventFd, IoEventKey};
use crate::ids::RegionId;
use crate::tree::Tree;

impl<H> Tree<H> {
    /// The attachments of a region, if it exists.
    pub(crate) fn attachments(&self, id: RegionId) -> Option<&Attachments> {
        self.node(id).ok().map(|node| &node.attachments)
    }

    /// Attaches or removes an ioeventfd. Returns the previous eventfd.
    pub(crate) fn set_ioeventfd(
        &mut self,
        id: RegionId,
        key: IoEventKey,
        to: Option<EventFd>,
    ) -> Option<EventFd> {
        let attached = to.is_some();
        let attachments = &mut self.node_mut(id).ok()?.attachments;
        let before = attachments.set_ioeventfd(key, to);
        self.count_attachments(before.is_some(), attached);
        before
    }

    /// Attaches or removes a coalesced range. Returns whether it was attached.
    pub(crate) fn set_coalesced(&mut self, id: RegionId, range: AddrRange, to: bool) -> bool {
        let Ok(node) = self.node_mut(id) else {
            return false;
        };
        let before = node.attachments.set_coalesced(range, to);
        self.count_attachments(before, to);
        before
    }

    /// Whether any region has an attachment.
    pub(crate) fn has_attachments(&self) -> bool {
        self.attachments != 0
    }

    fn count_attachments(&mut self, before: bool, after: bool) {
        self.attachments = self.attachments - usize::from(before) + usize::from(after);
    }
}
