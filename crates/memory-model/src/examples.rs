// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Examples for single features. This module contains no code.
//!
//! The host addresses and descriptors are made up: this crate uses neither.
//!
//! # A PC's memory map
//!
//! Two aliases show one RAM region below and above the hole for devices. Where
//! regions overlap, the one with the higher priority wins.
//!
//! ```
//! use std::sync::Arc;
//! use memory_model::{HostMemory, Memory, MemoryModel, Region};
//! # fn host(size: u64) -> Memory {
//! #     Memory::host_only(unsafe { HostMemory::new(0x7000_0000_0000, size, Arc::new(())) }.unwrap())
//! # }
//!
//! let mut model = MemoryModel::new();
//! let mut t = model.transaction();
//! let memory = t.add(Region::container("memory", 1 << 64))?;
//! let ram = t.add(Region::ram("ram", host(0x1_0000_0000)))?; // 4 GiB, placed nowhere itself
//! let low = t.add(Region::alias("low ram", ram, 0, 0xc000_0000))?;
//! let high = t.add(Region::alias("high ram", ram, 0xc000_0000, 0x4000_0000))?;
//! let vga = t.add(Region::mmio("vga", 0x2_0000))?;
//! let ioapic = t.add(Region::mmio("ioapic", 0x1000))?;
//! let bios = t.add(Region::rom("bios", host(0x4_0000)))?;
//! t.place(low, memory, 0, 0)?;
//! t.place(high, memory, 0x1_0000_0000, 0)?;
//! t.place(vga, memory, 0xa_0000, 1)?; // over RAM
//! t.place(ioapic, memory, 0xfec0_0000, 0)?;
//! t.place(bios, memory, 0xfffc_0000, 0)?;
//! t.commit()?;
//! let space = model.add_space("memory", memory)?;
//!
//! let view = model.view(space);
//! let lines = view.ranges().map(|run| {
//!     format!("{} {} {}", run.range(), run.region().name(), run.access())
//! });
//! assert_eq!(lines.collect::<Vec<_>>(), [
//!     "0x0..=0x9ffff ram direct rw",
//!     "0xa0000..=0xbffff vga trap",
//!     "0xc0000..=0xbfffffff ram direct rw",
//!     "0xfec00000..=0xfec00fff ioapic trap",
//!     "0xfffc0000..=0xffffffff bios direct ro",
//!     "0x100000000..=0x13fffffff ram direct rw",
//! ]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Shadowing a ROM, as a PC's chipset does
//!
//! Firmware starts from ROM, copies itself to the RAM beneath and then runs
//! from there, write-protected. The chipset's register switches one region on and
//! off. It adds and removes none.
//!
//! ```
//! use memory_model::{GuestAccess, MemoryModel, Region, Switches};
//! # use memory_model::{HostMemory, Memory};
//! # fn host(size: u64) -> Memory {
//! #     let owner = std::sync::Arc::new(());
//! #     Memory::host_only(unsafe { HostMemory::new(0x7000_0000_0000, size, owner) }.unwrap())
//! # }
//!
//! let mut model = MemoryModel::new();
//! let mut t = model.transaction();
//! let memory = t.add(Region::container("memory", 1 << 64))?;
//! let ram = t.add(Region::ram("ram", host(0x10_0000)))?;
//! let rom = t.add(Region::rom("rom", host(0x1_0000)))?;
//! let off = Switches { enabled: false, ..Switches::default() };
//! let shadow = t.add(Region::alias("shadow", ram, 0xf_0000, 0x1_0000).with_switches(off))?;
//! t.place(ram, memory, 0, 0)?;
//! t.place(rom, memory, 0xf_0000, 1)?;
//! t.place(shadow, memory, 0xf_0000, 2)?;
//! t.commit()?;
//! let space = model.add_space("memory", memory)?;
//! let at_f0000 = |model: &MemoryModel| {
//!     let view = model.view(space);
//!     let run = view.find(0xf_0000).unwrap();
//!     (run.region().name().to_string(), run.access())
//! };
//! assert_eq!(at_f0000(&model), ("rom".to_string(), GuestAccess::ReadOnly));
//!
//! // The guest opens the shadow and fills it ...
//! let mut t = model.transaction();
//! t.set_enabled(shadow, true)?;
//! t.commit()?;
//! assert_eq!(at_f0000(&model), ("ram".to_string(), GuestAccess::ReadWrite));
//!
//! // ... and locks it. The window is read-only. The RAM elsewhere is not.
//! let mut t = model.transaction();
//! t.set_readonly(shadow, true)?;
//! t.commit()?;
//! assert_eq!(at_f0000(&model), ("ram".to_string(), GuestAccess::ReadOnly));
//! assert_eq!(model.view(space).find(0).unwrap().access(), GuestAccess::ReadWrite);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A BAR that moves, and a listener that follows
//!
//! The guest writes a new address to a BAR. A listener, such as the table of KVM
//! memory slots, is notified of the removal and of the addition in one call.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use memory_model::{HostMemory, Listener, ListenerError, MemoryModel, Region, Update};
//!
//! #[derive(Default)]
//! struct Log(Mutex<Vec<String>>);
//!
//! impl Listener<()> for Log {
//!     fn name(&self) -> &str { "log" }
//!
//!     fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
//!         let mut log = self.0.lock().unwrap();
//!         log.extend(update.diff.removed.iter().map(|run| format!("- {}", run.range())));
//!         log.extend(update.diff.added.iter().map(|run| format!("+ {}", run.range())));
//!         Ok(())
//!     }
//! }
//!
//! let mapping = unsafe { HostMemory::new(0x7000_0000_0000, 0x4000, Arc::new(())) }.unwrap();
//! let mut model = MemoryModel::new();
//! let mut t = model.transaction();
//! let memory = t.add(Region::container("memory", 1 << 64))?;
//! let window = t.add(Region::container("bridge window", 0x1000_0000))?;
//! let bar = t.add(Region::device_ram("bar0", mapping))?;
//! t.place(window, memory, 0xe000_0000, 0)?;
//! t.place(bar, window, 0, 0)?;
//! t.commit()?;
//! let space = model.add_space("memory", memory)?;
//! let log = Arc::new(Log::default());
//! model.add_listener(space, 0, log.clone())?;
//!
//! let mut t = model.transaction();
//! t.move_to(bar, 0x10_0000)?; // an offset in the bridge's window
//! t.commit()?;
//! assert_eq!(*log.0.lock().unwrap(), [
//!     "+ 0xe0000000..=0xe0003fff", // from nothing to what was there
//!     "- 0xe0000000..=0xe0003fff",
//!     "+ 0xe0100000..=0xe0103fff",
//! ]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Converting pages between shared and private
//!
//! A confidential guest asks for a range to become private. The range may cross
//! runs, and each run has its own guest_memfd, or none. The VMM converts run by run
//! and then records the new state, because the model does not call the kernel. The
//! crate `kvm-slots` does both (`Engine`, with `ModelPages`).
//!
//! ```
//! use std::sync::Arc;
//! use memory_model::{
//!     AddrRange, Backing, FileSlice, GuestMemfdSides, HostMemory, Memory, MemoryModel, PageState,
//!     Region, StateError,
//! };
//!
//! let host = unsafe { HostMemory::new(0x7000_0000_0000, 0x10_0000, Arc::new(())) }.unwrap();
//! let file = FileSlice::new(Arc::new(std::io::stdin()), 0, 0x10_0000).unwrap();
//! let ram = Memory::with_guest_memfd(host, file, GuestMemfdSides::Private).unwrap();
//!
//! let mut model = MemoryModel::new();
//! let mut t = model.transaction();
//! let memory = t.add(Region::container("memory", 1 << 64))?;
//! let ram = t.add(Region::ram("ram", ram))?;
//! let uart = t.add(Region::mmio("uart", 0x1000))?;
//! t.place(ram, memory, 0, 0)?;
//! t.place(uart, memory, 0x8000, 1)?;
//! t.commit()?;
//! let space = model.add_space("memory", memory)?;
//!
//! // For each run: the addresses to convert, and their place in the file.
//! let range = AddrRange::new(0x4000, 0x3000).unwrap();
//! let view = model.view(space);
//! for run in view.intersecting(range).filter_map(|run| run.clipped(range)) {
//!     let Backing::Memory(memory) = run.backing() else { continue };
//!     let (file, _) = memory.guest_memfd().unwrap();
//!     assert_eq!((run.range(), file.offset(), file.size()), (range, 0x4000, 0x3000));
//! }
//! model.set_page_state(space, range, PageState::Private)?;
//! assert!(model.private(space).covers(range));
//!
//! // The guest makes one page shared again.
//! let page = AddrRange::new(0x5000, 0x1000).unwrap();
//! model.set_page_state(space, page, PageState::Shared)?;
//! assert_eq!(model.private(space).iter().count(), 2);
//!
//! // Emulated registers cannot become private, so the whole range is refused.
//! let beyond = AddrRange::new(0x7000, 0x2000).unwrap();
//! let refused = model.set_page_state(space, beyond, PageState::Private);
//! assert!(matches!(refused, Err(StateError::WrongKind { at: 0x8000, .. })));
//! assert_eq!(model.private(space).within(beyond).next(), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Private MMIO: accepted, then revoked
//!
//! A guest that has verified a device's registers at an address relies on them to
//! stay there. The VMM can move them only after a revocation, of which it notifies
//! the listeners and the guest.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use memory_model::{
//!     AddrRange, CommitError, FileSlice, Listener, ListenerError, MemoryModel, PageSet,
//!     PrivateMmio, Region, SpaceId, Update,
//! };
//!
//! /// Records the pages. In a VMM, this notifies the guest.
//! #[derive(Default)]
//! struct Lost(Mutex<Vec<AddrRange>>);
//!
//! impl Listener<()> for Lost {
//!     fn name(&self) -> &str { "lost" }
//!
//!     fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> { Ok(()) }
//!
//!     fn revoked(&self, _: SpaceId, pages: &PageSet) {
//!         self.0.lock().unwrap().extend(pages.iter());
//!     }
//! }
//!
//! let registers = FileSlice::new(Arc::new(std::io::stdin()), 0, 0x4000).unwrap();
//! let mut model = MemoryModel::new();
//! let mut t = model.transaction();
//! let memory = t.add(Region::container("memory", 1 << 64))?;
//! let bar = t.add(Region::private_mmio("bar0", PrivateMmio::new(registers)))?;
//! t.place(bar, memory, 0xe000_0000, 0)?;
//! t.commit()?;
//! let space = model.add_space("memory", memory)?;
//! let lost = Arc::new(Lost::default());
//! model.add_listener(space, 0, lost.clone())?;
//!
//! // The guest accepts one page. From now on the whole BAR is fixed.
//! let page = AddrRange::new(0xe000_1000, 0x1000).unwrap();
//! model.accept(space, page)?;
//! let mut t = model.transaction();
//! t.set_enabled(bar, false)?;
//! assert!(matches!(t.commit(), Err(CommitError::Accepted { range, .. }) if range == page));
//!
//! // The device is reset. The accepted page is lost, and the BAR can be disabled.
//! let all = AddrRange::new(0xe000_0000, 0x4000).unwrap();
//! assert!(model.revoke(space, all).iter().eq([page]));
//! assert_eq!(*lost.0.lock().unwrap(), [page]);
//! let mut t = model.transaction();
//! t.set_enabled(bar, false)?;
//! t.commit()?;
//! assert!(model.view(space).is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
