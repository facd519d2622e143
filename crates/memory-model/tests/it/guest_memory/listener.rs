// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `SharedMemoryListener`: devices follow commits and conversions.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::mapped::real;
use common::{Machine, bytes, host, private_mmio};
use memory_model::{
    AddrRange, CommitError, Listener, ListenerError, Memory, PageState, Region, SharedMemory,
    SharedMemoryListener, Update,
};
use proptest::prelude::*;
use proptest::sample::select;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic, MmapRegion, Permissions,
};

type Devices = GuestMemoryAtomic<SharedMemory<MmapRegion>>;

const PAGE: u64 = 0x1000;

/// A machine, and the memory of its devices.
fn followed() -> (Machine, Arc<SharedMemoryListener<MmapRegion, ()>>) {
    let mut m = Machine::new();
    let listener = Arc::new(SharedMemoryListener::of_owners());
    let space = m.space;
    m.model.add_listener(space, 0, listener.clone()).unwrap();
    (m, listener)
}

fn page(number: u64) -> AddrRange {
    bytes(number * PAGE, PAGE.into())
}

fn real_ram(pages: u64) -> Region {
    Region::ram("ram", Memory::host_only(real(pages * PAGE)))
}

fn reads(devices: &Devices, page: u64) -> bool {
    let at = GuestAddress(page * PAGE);
    devices.memory().read_obj::<u64>(at).is_ok()
}

#[test]
fn devices_reach_memory_from_its_commit_to_its_removal() {
    let (mut m, listener) = followed();
    let devices = listener.memory();
    assert!(!reads(&devices, 1));
    let ram = m.put(real_ram(1), PAGE);
    assert!(reads(&devices, 1));
    let held = devices.memory();
    held.write_obj(7_u8, GuestAddress(PAGE)).unwrap();
    m.change(|t| t.move_to(ram, 3 * PAGE));
    assert!(!reads(&devices, 1) && reads(&devices, 3));
    let at = GuestAddress(3 * PAGE);
    assert_eq!(devices.memory().read_obj::<u8>(at).unwrap(), 7);
    // A device that holds a snapshot still reaches the mapping, which it keeps.
    m.change(|t| t.unplace(ram));
    assert!(!reads(&devices, 3));
    assert_eq!(held.read_obj::<u8>(GuestAddress(PAGE)).unwrap(), 7);
}

#[test]
fn a_listener_that_is_added_late_has_the_memory_and_the_private_pages() {
    let mut m = Machine::new();
    m.put(real_ram(2), 0);
    let (model, space) = (&mut m.model, m.space);
    model
        .set_page_state(space, page(1), PageState::Private)
        .unwrap_err();
    let file = common::file(2 * PAGE);
    let both = Memory::with_guest_memfd(real(2 * PAGE), file, memory_model::GuestMemfdSides::Both);
    m.put(Region::ram("private", both.unwrap()), 2 * PAGE);
    let (model, space) = (&mut m.model, m.space);
    model
        .set_page_state(space, page(3), PageState::Private)
        .unwrap();
    let listener = Arc::new(SharedMemoryListener::<MmapRegion, ()>::of_owners());
    model.add_listener(space, 0, listener.clone()).unwrap();
    let reached: Vec<bool> = (0..4).map(|n| reads(&listener.memory(), n)).collect();
    assert_eq!(reached, [true, true, true, false]);
    assert!(model.remove_listener(space, &listener).is_ok());
    assert!((0..4).all(|n| !reads(&listener.memory(), n)));
}

#[test]
fn a_commit_that_changes_no_memory_publishes_no_snapshot() {
    let (mut m, listener) = followed();
    m.put(real_ram(1), 0);
    let snapshot = || listener.memory().memory().into_inner();
    let before = snapshot();
    let bar = m.put(private_mmio("bar", 0x4000), 0xe000_0000);
    m.change(|t| t.move_to(bar, 0xf000_0000));
    assert!(Arc::ptr_eq(&before, &snapshot()));
    m.put(real_ram(1), PAGE);
    assert!(!Arc::ptr_eq(&before, &snapshot()));
}

/// Refuses changes while it is set.
#[derive(Default)]
struct Refuses(AtomicBool);

impl Listener<()> for Refuses {
    fn name(&self) -> &str {
        "refuses"
    }
    fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err("no".into()),
            false => Ok(()),
        }
    }
}

#[test]
fn a_refused_commit_leaves_devices_their_memory() {
    let (mut m, listener) = followed();
    let devices = listener.memory();
    let ram = m.put(real_ram(1), 0);
    let (space, refuses) = (m.space, Arc::new(Refuses::default()));
    m.model.add_listener(space, 1, refuses.clone()).unwrap();
    refuses.0.store(true, Ordering::Relaxed);
    assert!(m.try_change(|t| t.move_to(ram, PAGE)).is_err());
    assert!(reads(&devices, 0) && !reads(&devices, 1));
    // What was prepared for it is not published later.
    refuses.0.store(false, Ordering::Relaxed);
    m.put(private_mmio("bar", PAGE), 0xe000_0000);
    assert!(reads(&devices, 0) && !reads(&devices, 1));
}

#[test]
fn memory_whose_mapping_is_not_found_refuses_the_commit() {
    let (mut m, listener) = followed();
    m.put(real_ram(1), 0);
    let root = m.root;
    let result = m.try_change(|t| {
        let id = t.add(Region::ram("other", Memory::host_only(host(PAGE))))?;
        t.place(id, root, PAGE, 0)
    });
    let Err(CommitError::Refused { listener: name, .. }) = result else {
        panic!("refused: {result:?}");
    };
    assert_eq!(name, "guest memory of devices");
    assert!(reads(&listener.memory(), 0) && !reads(&listener.memory(), 1));
}

#[test]
fn every_snapshot_follows_the_state_of_pages() {
    let (mut m, listener) = followed();
    m.put(real_ram(2), 0);
    let held = listener.memory().memory();
    listener
        .set_page_state(page(1), PageState::Private)
        .unwrap();
    for memory in [&held, &listener.memory().memory()] {
        assert!(memory.read_obj::<u8>(GuestAddress(0)).is_ok());
        assert!(memory.read_obj::<u8>(GuestAddress(PAGE)).is_err());
    }
    listener.set_page_state(page(1), PageState::Shared).unwrap();
    assert!(held.read_obj::<u8>(GuestAddress(PAGE)).is_ok());
    let half = listener.set_page_state(bytes(0, 8), PageState::Private);
    assert!(half.is_err());
}

#[test]
fn a_resync_takes_the_state_from_the_model() {
    let (mut m, listener) = followed();
    let file = common::file(PAGE);
    let both = Memory::with_guest_memfd(real(PAGE), file, memory_model::GuestMemfdSides::Both);
    m.put(Region::ram("ram", both.unwrap()), 0);
    let (model, space) = (&mut m.model, m.space);
    model
        .set_page_state(space, page(0), PageState::Private)
        .unwrap();
    assert!(reads(&listener.memory(), 0));
    listener.resync(model.private(space));
    assert!(!reads(&listener.memory(), 0));
}

/// A step of a random machine.
#[derive(Clone, Copy, Debug)]
enum Step {
    Place(usize, u64),
    Unplace(usize),
    Readonly(usize, bool),
    Convert(u64, PageState),
}

fn step() -> impl Strategy<Value = Step> {
    let state = select(vec![PageState::Private, PageState::Shared]);
    prop_oneof![
        3 => (0..3_usize, 0..6_u64).prop_map(|(n, at)| Step::Place(n, at)),
        1 => (0..3_usize).prop_map(Step::Unplace),
        1 => (0..3_usize, any::<bool>()).prop_map(|(n, on)| Step::Readonly(n, on)),
        2 => (0..8_u64, state).prop_map(|(n, state)| Step::Convert(n, state)),
    ]
}

proptest! {
    /// The oracle is a new `SharedMemory`.
    #[test]
    fn devices_reach_what_new_shared_memory_reaches(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let (mut m, listener) = followed();
        let (devices, root) = (listener.memory(), m.root);
        let both = Memory::with_guest_memfd(
            real(3 * PAGE), common::file(3 * PAGE), memory_model::GuestMemfdSides::Both);
        let all = [
            m.add(Region::ram("both", both.unwrap())),
            m.add(real_ram(2)),
            m.add(private_mmio("bar", PAGE)),
        ];
        for step in steps {
            match step {
                Step::Place(n, at) => m.change(|t| {
                    let _ = t.unplace(all[n]);
                    t.place(all[n], root, at * PAGE, 0)
                }),
                Step::Unplace(n) => m.change(|t| {
                    let _ = t.unplace(all[n]);
                    Ok(())
                }),
                Step::Readonly(n, on) => {
                    let _ = m.try_change(|t| match n {
                        0 | 1 => t.set_readonly(all[n], on),
                        _ => Ok(()),
                    });
                }
                Step::Convert(n, state) => {
                    let (model, space) = (&mut m.model, m.space);
                    if model.set_page_state(space, page(n), state).is_ok() {
                        listener.set_page_state(page(n), state).unwrap();
                    }
                }
            }
            let (model, space) = (&m.model, m.space);
            let view = model.view(space);
            let new = SharedMemory::<MmapRegion>::of_owners(&view, model.private(space)).unwrap();
            let memory = devices.memory();
            for access in [Permissions::Read, Permissions::Write] {
                for start in 0..9 {
                    for count in [0x1000, 0x1800, 0x3000] {
                        let at = GuestAddress(start * PAGE);
                        prop_assert_eq!(
                            memory.check_range(at, count, access),
                            new.check_range(at, count, access),
                            "{:?} {:#x} {:#x}", access, start, count
                        );
                    }
                }
            }
        }
    }
}
