// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors, each with the region and the range that it concerns.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::error::Error;
use core::fmt;

use guest_ranges::{AddrRange, PAGE_SIZE};

use crate::ids::RegionId;
use crate::ids::SpaceId;
use crate::logging::Unloggable;

/// Why a change of the region tree was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The id is not of a region of this model, or the region was removed.
    #[error("{0:?} is not part of this model")]
    NoSuchRegion(RegionId),
    /// A size of zero, or above 2^64.
    #[error("'{name}' is {size:#x} bytes large; a region has 1 to 2^64 bytes")]
    BadSize {
        /// The region's name.
        name: String,
        /// The refused size, in bytes.
        size: u128,
    },
    /// The region lies in another region already.
    #[error("'{name}' is placed already; unplace it first")]
    AlreadyPlaced {
        /// The region's name.
        name: String,
    },
    /// The region lies in no other region.
    #[error("'{name}' is not placed anywhere")]
    NotPlaced {
        /// The region's name.
        name: String,
    },
    /// The region would contain itself, directly or through aliases.
    #[error("'{child}' in '{parent}' would make it contain itself")]
    Cycle {
        /// The region to be placed.
        child: String,
        /// Where it was to be placed.
        parent: String,
    },
    /// Something else uses the region.
    #[error("'{name}' is in use: {by}")]
    InUse {
        /// The region's name.
        name: String,
        /// What uses it.
        by: Use,
    },
    /// Only a ROM device has direct reads to switch.
    #[error("'{name}' is no ROM device: its reads cannot be switched")]
    NotRomDevice {
        /// The region's name.
        name: String,
    },
    /// The region is not memory, or of another size.
    #[error("'{name}' is not memory of {size:#x} bytes")]
    OtherMemory {
        /// The region's name.
        name: String,
        /// The size of the new memory, in bytes.
        size: u64,
    },
    /// Ioeventfds and coalesced ranges can be attached only to MMIO and to ROM
    /// devices.
    #[error("'{name}' does not trap: nothing can be attached to it")]
    NotTrapped {
        /// The region's name.
        name: String,
    },
    /// The attachment reaches past the end of the region.
    #[error("what is attached at offset {at:#x} ends outside of '{name}'")]
    OutsideRegion {
        /// The region's name.
        name: String,
        /// The first offset, in bytes.
        at: u64,
    },
    /// Something is attached there already, and a write could match both.
    #[error("something is attached to '{name}' at offset {at:#x} already")]
    AlreadyAttached {
        /// The region's name.
        name: String,
        /// The first offset that both cover, in bytes.
        at: u64,
    },
    /// No identical attachment exists.
    #[error("this is not attached to '{name}' at offset {at:#x}")]
    NotAttached {
        /// The region's name.
        name: String,
        /// The first offset, in bytes.
        at: u64,
    },
    /// Writes to the region cannot be logged.
    #[error("writes to '{name}' cannot be logged: {why}")]
    NotLoggable {
        /// The region's name.
        name: String,
        /// Why not.
        why: Unloggable,
    },
}

/// The use of a region that keeps it from being removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Use {
    /// It lies in another region.
    #[error("it lies in another region")]
    Placed,
    /// Regions lie in it.
    #[error("regions lie in it")]
    HasChildren,
    /// An alias shows it.
    #[error("an alias shows it")]
    AliasTarget,
    /// Ioeventfds or coalesced ranges are attached to it.
    #[error("something is attached to it")]
    HasAttachments,
    /// It is the root of an address space.
    #[error("it is the root of an address space")]
    Root,
}

/// The id is not of an address space of this model, or the space was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not part of this model")]
pub struct NoSuchSpace(pub SpaceId);

/// Why a transaction was not committed. The tree and every view are as they were
/// before it began, and so is every listener that `Refused::not_undone` does not list.
/// The listener that refused can be an exception: its own error then says so.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// The transaction would change private MMIO that the guest has accepted. The
    /// guest has to give it back first, or the host revokes it.
    Accepted {
        /// The accepted addresses that would change.
        range: AddrRange,
        /// The private MMIO region's name.
        region: String,
    },
    /// Aliases of aliases multiply so much that rendering would take too long.
    TooComplex {
        /// The address space.
        space: String,
        /// The number of regions visited before giving up.
        limit: u64,
    },
    /// A listener could not follow the change.
    Refused {
        /// The listener's name.
        listener: String,
        /// The listener's error. This error's message includes it, so
        /// [`Error::source`] returns the listener error's own source.
        source: ListenerError,
        /// The listeners that prepared and could not roll back, which can include this
        /// one. Empty if all did.
        not_undone: Vec<NotUndone>,
    },
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { range, region } => write!(
                f,
                "{range} of '{region}' was accepted by the guest and cannot change"
            ),
            Self::TooComplex { space, limit } => {
                write!(f, "rendering '{space}' took more than {limit} steps")
            }
            Self::Refused {
                listener, source, ..
            } => write!(f, "listener '{listener}' refused the change: {source}"),
        }
    }
}

impl Error for CommitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused { source, .. } => source.source(),
            Self::Accepted { .. } | Self::TooComplex { .. } => None,
        }
    }
}

/// A listener that prepared for a change and then could not undo it.
#[derive(Debug, thiserror::Error)]
#[error("listener '{listener}' could not undo the change")]
#[non_exhaustive]
pub struct NotUndone {
    /// The listener's name.
    pub listener: String,
    /// The listener's error.
    pub source: ListenerError,
}

/// The error of a listener's method. Downcast it to get the typed error.
pub type ListenerError = Box<dyn Error + Send + Sync>;

/// Why a range could not be accepted, given back or converted. Nothing has
/// changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// There is no such space.
    #[error(transparent)]
    NoSuchSpace(#[from] NoSuchSpace),
    /// Only whole pages have a state.
    #[error("{range} does not consist of whole pages of {PAGE_SIZE} bytes")]
    Unaligned {
        /// The whole range asked for.
        range: AddrRange,
    },
    /// Some byte of the range is not of the kind that the operation needs.
    #[error("{range}: at {at:#x} there is {found}, not {needed}")]
    WrongKind {
        /// The whole range asked for.
        range: AddrRange,
        /// The first address that does not fit.
        at: u64,
        /// The kind that is there, in words.
        found: String,
        /// The kind that is needed, in words.
        needed: &'static str,
    },
    /// The state of the private pages of the space could exceed the limit.
    #[error("{range} cannot be private too: the state could take more than {limit} bytes")]
    NoRoom {
        /// The whole range asked for.
        range: AddrRange,
        /// The most bytes that the state may take.
        limit: usize,
    },
}

/// Why a view could not be made into guest memory.
#[cfg(feature = "vm-memory")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host memory of '{region}' at {range} is not in the mapping that was given for it")]
#[non_exhaustive]
pub struct MappingError {
    /// The guest's addresses.
    pub range: AddrRange,
    /// The region's name.
    pub region: String,
}

/// Why an address space could not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddSpaceError {
    /// Its root is not part of the model.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Its view cannot be rendered.
    #[error(transparent)]
    Render(#[from] CommitError),
}

/// Why an address space could not be removed. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveSpaceError {
    /// It is not part of the model.
    #[error(transparent)]
    NoSuchSpace(#[from] NoSuchSpace),
    /// A listener follows it.
    #[error("listener '{listener}' follows '{space}'; remove it first")]
    InUse {
        /// The address space.
        space: String,
        /// The first of its listeners.
        listener: String,
    },
    /// The guest has accepted pages of it.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Why a listener could not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddListenerError {
    /// There is no such space.
    #[error(transparent)]
    NoSuchSpace(#[from] NoSuchSpace),
    /// It already follows a space, this one or another.
    #[error("listener '{listener}' already follows '{space}'")]
    Follows {
        /// The listener's name.
        listener: String,
        /// The address space that it follows.
        space: String,
    },
    /// It refused the first change, from nothing to the view.
    #[error("listener '{listener}' refused to follow '{space}'")]
    Refused {
        /// The listener's name.
        listener: String,
        /// The address space.
        space: String,
        /// The listener's error.
        source: ListenerError,
    },
}

/// Why a listener could not be removed. It keeps following then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveListenerError {
    /// There is no such space.
    #[error(transparent)]
    NoSuchSpace(#[from] NoSuchSpace),
    /// It does not follow the space.
    #[error("listener '{listener}' does not follow '{space}'")]
    NotFollowing {
        /// The listener's name.
        listener: String,
        /// The address space.
        space: String,
    },
    /// [`CommitError::Accepted`], or [`CommitError::Refused`] by this listener.
    #[error(transparent)]
    Commit(#[from] CommitError),
}
