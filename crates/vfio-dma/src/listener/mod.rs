// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What assigned devices reach by DMA: of the guest's memory the shared pages,
//! and no other.
//!
//! [`DmaListener`] is a listener twice over. As one of the model it follows the
//! view: RAM that is added is mapped, RAM that is removed is unmapped. As one of
//! the conversion engine (feature `kvm-slots`) it follows the guest: what becomes
//! private is unmapped before the guest gets it, what becomes shared is mapped
//! after.
//!
//! | memory | devices |
//! | --- | --- |
//! | RAM, shared pages | as the guest: read and write, or read |
//! | RAM, private pages | no |
//! | ROM, and a ROM device that is read directly | read |
//! | a device's mapped memory | by [`Peers`] |
//! | private MMIO, trapped registers | no |
//!
//! Where there is a guest_memfd beside the memory, shared pages are at the host
//! address and private ones in the file: the mappings are all of host addresses.
//!
//! Give it a higher priority than the memslots. It then applies before them:
//! devices lose memory before the guest does, and no one can refuse once the
//! guest has lost it. New memory is mapped in `prepare`, before the guest has it.
//! Open the devices first, as each can narrow what can be mapped
//! ([`DmaListener::device_added`]).

#[cfg(feature = "kvm-slots")]
mod convert;
mod follow;
mod target;

pub use follow::{DmaFollowError, DmaListener};
pub use target::{DmaPolicy, FindFile, Peers};
