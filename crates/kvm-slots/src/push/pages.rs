// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages whose state the platform keeps.

use std::fmt::Debug;

use super::Released;
use crate::vm::errno::Errno;
use guest_ranges::PageRange;

/// The platform's answer to a request to make pages private.
// Exhaustive: pages are private or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "pages are private only if the platform has accepted"]
pub enum Answer {
    /// The pages are private.
    Accepted,
    /// The platform refuses. Nothing has changed.
    Rejected,
}

/// Changes the state of pages by calls of the platform, which keeps it
/// ([`Home::Platform`](crate::convert::Home::Platform)).
///
/// Both calls are repeatable: a page that already has the state is not an error.
pub trait PushPages: Debug + Send + Sync {
    /// Makes pages private.
    ///
    /// # Errors
    /// The reason; nothing has changed.
    fn make_private(&self, pages: PageRange) -> Result<Answer, Errno>;

    /// Makes private pages shared. After [`Released::Pending`] nothing has changed: the
    /// guest still holds one of them, so their memory must not be used.
    ///
    /// # Errors
    /// The reason; nothing has changed.
    fn release(&self, pages: PageRange) -> Result<Released, Errno>;
}
