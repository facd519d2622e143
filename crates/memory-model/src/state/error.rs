// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why data does not describe a model.

use alloc::string::String;

use crate::error::{AddSpaceError, CommitError, StateError, TreeError};

/// Why a model could not be restored. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError<E> {
    /// The caller could not supply a region's memory or eventfd.
    #[error("region '{region}': {source}")]
    Supply {
        /// The region's name.
        region: String,
        /// The caller's error.
        source: E,
    },
    /// The caller supplied memory that does not fit the region.
    #[error("region '{region}': {why}")]
    Backing {
        /// The region's name.
        region: String,
        /// What does not fit.
        why: WrongBacking,
    },
    /// A number that is not one of a region, or an alias before its target.
    #[error("{what} refers to region {number}, which is not one of the {count} before it")]
    Reference {
        /// What refers to it, in words.
        what: String,
        /// The number.
        number: usize,
        /// How many regions it could refer to.
        count: usize,
    },
    /// An ioeventfd for writes of an impossible size or value.
    #[error("region '{region}': no write of {size} bytes triggers the ioeventfd at {at:#x}")]
    Trigger {
        /// The region's name.
        region: String,
        /// The offset of the ioeventfd.
        at: u64,
        /// The number of bytes.
        size: u64,
    },
    /// Clients of dirty logs that this crate does not know.
    #[error("{bits:#x} are not clients of dirty logs")]
    Clients {
        /// The unknown bits.
        bits: u8,
    },
    /// The regions form no tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The tree cannot be rendered.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// An address space cannot be added.
    #[error(transparent)]
    Space(#[from] AddSpaceError),
    /// The state of pages does not fit the address space.
    #[error("address space '{space}': {source}")]
    Pages {
        /// The address space.
        space: String,
        /// What does not fit.
        source: StateError,
    },
}

/// How memory does not fit a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrongBacking {
    /// The region has another kind of backing, or none.
    #[error("it has another kind of memory")]
    Kind,
    /// The memory has another size.
    #[error("it has {saved:#x} bytes, and the memory {supplied:#x}")]
    Size {
        /// The region's size.
        saved: u128,
        /// The memory's size.
        supplied: u64,
    },
    /// The guest_memfd holds other pages, or there is none.
    #[error("its guest_memfd holds other pages")]
    Sides,
}
