// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A model of a guest's memory: a tree of regions, the flat view that it renders
//! to, and who may access what.
//!
//! The model separates two properties: whether the *host* has a pointer to some
//! memory, and whether the *guest* reaches it directly. Ordinary RAM has both. A
//! trapped device register has neither. The **private MMIO** of a confidential
//! VM's device has only the second.
//!
//! | [`Kind`] | host address | guest access |
//! | --- | --- | --- |
//! | RAM | always | direct, or direct read-only |
//! | ROM | always | direct read-only: writes are dropped |
//! | ROM device | always | direct read and trapped write, or trapped |
//! | device RAM | always | direct, or direct read-only |
//! | private MMIO | **never** | direct, or direct read-only |
//! | MMIO, reservation | never | trapped |
//!
//! # How data flows
//!
//! 1. A [`Transaction`] changes the [`Tree`].
//! 2. Its commit renders only the addresses that can show the change. The new
//!    [`FlatView`] shares the rest with the old one.
//! 3. The commit takes the [`Diff`] of the two views. Every [`Listener`] prepares
//!    for it, and then every listener applies it. If a listener refuses, the
//!    commit fails and changes nothing.
//! 4. The commit publishes the new view.
//!
//! Lock-free readers on other threads look addresses up through a [`ViewReader`].
//! [`FlatView::access_parts`] finds who answers an exit.
//!
//! # Example
//!
//! A small machine has RAM, a serial port's registers on top of it, and a BAR
//! that only the guest may access.
//!
//! ```
//! use std::sync::Arc;
//! use memory_model::{
//!     AddrRange, Backing, CommitError, FileSlice, GuestAccess, HostMemory, Memory, MemoryModel,
//!     PrivateMmio, Region,
//! };
//!
//! #[derive(Debug)]
//! enum Device { None, Serial, Accelerator }
//!
//! // The host memory: a vector here, an mmap in a VMM. It lives as long as any
//! // view that shows it.
//! let pages = Arc::new(vec![0_u8; 0x10_0000]);
//! // SAFETY: no guest runs, and nothing else uses the vector.
//! let host = unsafe { HostMemory::new(pages.as_ptr() as u64, 0x10_0000, pages.clone()) };
//! let host = host.unwrap();
//! // The registers: any file here, a dma-buf exported by VFIO in a VMM.
//! let file = Arc::new(std::fs::File::open("/dev/null")?);
//! let registers = PrivateMmio::new(FileSlice::new(file, 0, 0x4000).unwrap());
//!
//! let mut model = MemoryModel::new();
//! let mut t = model.transaction();
//! let memory = t.add(Region::container("memory", 1 << 64).with_handle(Device::None))?;
//! let ram = t.add(Region::ram("ram", Memory::host_only(host)).with_handle(Device::None))?;
//! let serial = t.add(Region::mmio("serial", 8).with_handle(Device::Serial))?;
//! let bar = t.add(Region::private_mmio("bar0", registers).with_handle(Device::Accelerator))?;
//! t.place(ram, memory, 0, 0)?;
//! t.place(serial, memory, 0x3f8, 1)?;
//! t.place(bar, memory, 0xe000_0000, 0)?;
//! t.commit()?;
//! let space = model.add_space("memory", memory)?;
//!
//! // A vCPU thread resolves an exit.
//! let reader = model.reader(space);
//! let view = reader.view();
//! let hit = view.find(0x3f9).unwrap();
//! assert!(matches!(hit.region().handle(), Device::Serial));
//! assert_eq!(hit.access(), GuestAccess::Trap);
//!
//! // The guest reaches the BAR directly. It has no host address.
//! let bar_range = view.find(0xe000_1000).unwrap();
//! assert_eq!(bar_range.access(), GuestAccess::ReadWrite);
//! assert!(matches!(bar_range.backing(), Backing::PrivateMmio(_)));
//!
//! // Once the guest has accepted the BAR, it cannot move.
//! model.accept(space, AddrRange::new(0xe000_0000, 0x4000).unwrap())?;
//! let mut t = model.transaction();
//! t.move_to(bar, 0xf000_0000)?;
//! assert!(matches!(t.commit(), Err(CommitError::Accepted { .. })));
//! assert!(model.view(space).find(0xe000_0000).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`examples`] has more: a PC's memory map, shadowing, a BAR that moves,
//! conversions, acceptance and revocation.
//!
//! # What this crate does not do
//!
//! The crate knows neither KVM nor VFIO. It opens nothing, maps nothing and never
//! reads through an address. It contains no `unsafe`. It calls no device:
//! [`AccessRules`] plan the device accesses that carry out a guest access, and the
//! caller makes them.
//!
//! It needs the standard library: lock-free readers use `arc-swap`, which needs
//! thread-local storage, and [`Follower`] uses a mutex.
//!
//! # Features
//!
//! No feature is on by default.
//!
//! - `serde`: the module `state`, a model as data, for snapshots and migration.
//! - `vm-memory`: views as guest memory of the crate `vm-memory`, and the other way round.
//!
//! | type | what it is |
//! | --- | --- |
//! | `SharedMemory` | the part of a view that devices emulated in the VMM may access, for `virtio-queue` and other crates. It excludes private MMIO, private pages and device RAM |
//! | `SharedMemoryListener` | keeps a `GuestMemoryAtomic` of it in sync with a view |
//! | `PlainMemory` | RAM that never becomes private as a list of regions, for `linux-loader` and vhost-user |
//! | `Transaction::add_guest_memory` | the RAM of a `GuestMemoryMmap` as regions |
// Names the feature of each item on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod attachments;
mod backing;
mod diff;
mod error;
pub mod examples;
mod follower;
#[cfg(feature = "vm-memory")]
mod guest_memory;
mod ids;
mod listener;
mod logging;
mod model;
mod page_state;
mod reader;
mod region;
mod render;
mod runs;
mod space;
#[cfg(feature = "serde")]
pub mod state;
mod transaction;
mod tree;
mod validate;
mod view;

pub use access::parts::{AccessPart, AccessParts};
pub use access::plan::{AccessPlan, Piece};
pub use access::responder::{AccessDirection, Responder};
pub use access::rules::{AccessError, AccessRule, AccessRules, Endianness, Sizes};
pub use attachments::active::AttachmentDiff;
pub use attachments::{EventFd, IoEventFd, Trigger};
pub use backing::{Memory, PrivateMmio};
pub use diff::Diff;
#[cfg(feature = "vm-memory")]
pub use error::MappingError;
pub use error::{
    AddListenerError, AddSpaceError, CommitError, ListenerError, NoSuchSpace, NotUndone,
    RemoveListenerError, RemoveSpaceError, StateError, TreeError, Use,
};
pub use follower::Follower;
pub use follower::follow::{ApplyPlan, Follow};
#[cfg(feature = "vm-memory")]
pub use guest_memory::{
    AddGuestMemoryError, NoRegion, PlainMemory, PlainRegion, SharedMemory, SharedMemoryListener,
};
pub use guest_ranges::{
    AddrRange, FileSlice, GuestMemfdSides, HostMemory, Owner, PAGE_SIZE, PageSet, PageState,
};
pub use ids::{RegionId, SpaceId};
pub use listener::{Listener, Update};
pub use logging::{DirtyClients, GlobalLogging, Unloggable};
pub use model::MemoryModel;
pub use reader::{ThreadReader, ViewGuard, ViewReader};
pub use region::{GuestAccess, Kind, Region, Switches};
pub use runs::Ranges;
pub use space::DEFAULT_STATE_LIMIT;
pub use transaction::Transaction;
pub use transaction::nested::Nested;
pub use tree::Tree;
pub use tree::node::Place;
pub use validate::invalid::Invalid;
pub use view::FlatView;
pub use view::flat_range::{Attributes, Backing, FlatRange};
