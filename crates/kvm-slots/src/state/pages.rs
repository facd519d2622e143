// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a guest's pages as data.

use guest_ranges::{AddrRange, PageSet};
use serde::{Deserialize, Serialize};

use super::{VERSION, version};

/// Which pages of a guest are private and accepted, as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagesState {
    #[serde(deserialize_with = "version")]
    version: u32,
    private: PageSet,
    accepted: PageSet,
}

impl PagesState {
    pub(crate) fn new(private: PageSet, accepted: PageSet) -> Self {
        Self {
            version: VERSION,
            private,
            accepted,
        }
    }

    /// The private pages.
    pub fn private(&self) -> &PageSet {
        &self.private
    }

    /// The accepted pages of private MMIO.
    pub fn accepted(&self) -> &PageSet {
        &self.accepted
    }
}

/// Why the state does not fit a guest's memory. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PagesError {
    /// These accepted pages are not private MMIO.
    #[error("{pages} are accepted and not private MMIO")]
    NotPrivateMmio {
        /// The pages.
        pages: AddrRange,
    },
    /// These accepted pages are not private.
    #[error("{pages} are accepted and not private")]
    NotPrivate {
        /// The pages.
        pages: AddrRange,
    },
    /// The state of private pages could take more than the limit.
    #[error("the state of private pages could take more than {limit} bytes")]
    NoRoom {
        /// The limit, in bytes.
        limit: usize,
    },
}
