// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's MSI-X table, beside one that is understood anew after each step.

// A list of one run is meant, and not the numbers in it.
#![allow(clippy::single_range_in_vec_init)]

use crate::common;

use std::collections::BTreeMap;

use common::index;
use proptest::prelude::*;
use vfio_private::emulate::{Message, MsixChange, MsixControl, MsixTable};
use vfio_private::{BarIndex, Msix};

const VECTORS: u16 = 70;
const TABLE: u64 = 0x2008;
const PBA: u64 = 0x2008 + 70 * 16 + 8;

fn table() -> MsixTable {
    MsixTable::new(Msix::with_vectors(VECTORS, (index(1), TABLE), (index(1), PBA)).unwrap())
}

const ON: MsixControl = MsixControl {
    enabled: true,
    function_mask: false,
};

const MASKED: MsixControl = MsixControl {
    enabled: true,
    function_mask: true,
};

#[test]
fn a_masked_vector_is_pending_until_it_is_unmasked() {
    let mut table = table();
    let bar = index(1);
    assert_eq!(table.signal(3), None);
    assert!(!table.is_pending(3), "MSI-X is off");
    assert_eq!(table.set_control(ON), [MsixChange::Enabled { vectors: 1 }]);
    assert_eq!(table.signal(3), None);
    let mut pending = [0; 8];
    assert_eq!(table.read(bar, PBA, &mut pending), []);
    assert_eq!(pending, [8, 0, 0, 0, 0, 0, 0, 0]);
    let entry = TABLE + 3 * 16;
    let (vector, message) = (
        3,
        Message {
            address: 0x1000,
            data: 7,
        },
    );
    assert_eq!(table.write(bar, entry, &[0, 0x10]).changes, []);
    assert_eq!(table.write(bar, entry + 8, &[7]).changes, []);
    let due = [
        MsixChange::Routed { vector, message },
        MsixChange::Deliver { vector, message },
    ];
    assert_eq!(table.write(bar, entry + 12, &[0]).changes, due);
    assert_eq!(table.signal(3), Some(message));
    assert!(!table.is_pending(3));

    assert_eq!(table.set_control(MASKED), [MsixChange::Unrouted { vector }]);
    assert_eq!(table.signal(3), None);
    assert_eq!(table.set_control(ON), due);
    assert_eq!(table.reset(), [MsixChange::Disabled]);
    // As many as it takes to reach those that are open.
    assert_eq!(
        table.set_control(MASKED),
        [MsixChange::Enabled { vectors: 1 }]
    );
    let _ = table.write(bar, entry + 12, &[0]);
    let _ = table.set_control(MsixControl::default());
    assert_eq!(
        table.set_control(MASKED),
        [MsixChange::Enabled { vectors: 4 }]
    );
}

#[test]
fn the_devices_registers_beside_the_structures_are_left_to_it() {
    let mut table = table();
    let write = table.write(index(1), TABLE - 4, &[0xff; 8]);
    assert_eq!(write.device, [0..4]);
    let mut data = [0x77; 8];
    assert_eq!(table.read(index(1), PBA - 4, &mut data), [0..4]);
    assert_eq!(data, [0x77, 0x77, 0x77, 0x77, 0, 0, 0, 0]);
    assert_eq!(table.read(index(1), PBA + 14, &mut data), [2..8]);
    // Another BAR has none of it.
    assert_eq!(table.write(index(0), TABLE, &[0; 8]).device, [0..8]);
    // The end of all offsets is no place to wrap around.
    assert_eq!(table.write(index(1), u64::MAX, &[0; 4]).device, [0..4]);
}

/// Bytes as they were written.
#[derive(Debug)]
struct Naive {
    bytes: Vec<u8>,
    pending: Vec<bool>,
    control: MsixControl,
}

impl Naive {
    fn new() -> Self {
        let mut bytes = vec![0; usize::from(VECTORS) * 16];
        for entry in bytes.chunks_mut(16) {
            entry[12] = 1;
        }
        Self {
            bytes,
            pending: vec![false; VECTORS.into()],
            control: MsixControl::default(),
        }
    }

    fn routes(&self) -> BTreeMap<u16, Message> {
        let open = self.control.enabled && !self.control.function_mask;
        let entries = (0..).zip(self.bytes.chunks(16)).filter(|_| open);
        let routed = entries.filter(|(_, entry)| entry[12] & 1 == 0);
        let message = |entry: &[u8]| Message {
            address: u64::from_le_bytes(entry[..8].try_into().unwrap()) & !3,
            data: u32::from_le_bytes(entry[8..12].try_into().unwrap()),
        };
        routed
            .map(|(vector, entry)| (vector, message(entry)))
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Signal(u16),
    Control(bool, bool),
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let data = prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..20);
    // Some vectors are met again and again.
    let place = prop_oneof![
        3 => (0_u64..4, 0_u64..16).prop_map(|(vector, byte)| TABLE + vector * 21 * 16 + byte),
        1 => TABLE - 20..PBA + 40,
        1 => any::<u64>(),
    ];
    let step = prop_oneof![
        6 => (place, data).prop_map(|(offset, data)| Step::Write(offset, data)),
        3 => (0_u16..4).prop_map(|vector| Step::Signal(vector * 21)),
        1 => any::<u16>().prop_map(Step::Signal),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(on, mask)| Step::Control(on, mask)),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #[test]
    fn changes_lead_to_the_routes_and_nothing_pending_is_lost(steps in steps()) {
        let bar: BarIndex = index(1);
        let (mut table, mut naive) = (table(), Naive::new());
        let mut routes: BTreeMap<u16, Message> = BTreeMap::new();
        let mut enabled = false;
        for step in steps {
            let changes = match step {
                Step::Write(offset, data) => {
                    let write = table.write(bar, offset, &data);
                    for (at, byte) in (offset..=u64::MAX).zip(&data) {
                        let at = at.wrapping_sub(TABLE);
                        let at = usize::try_from(at).unwrap();
                        if let Some(old) = naive.bytes.get_mut(at) {
                            *old = *byte;
                        }
                    }
                    write.changes
                }
                Step::Signal(vector) => {
                    let due = naive.routes().get(&vector).copied();
                    prop_assert_eq!(table.signal(vector), due);
                    if let Some(pending) = naive.pending.get_mut(usize::from(vector)) {
                        *pending |= due.is_none() && naive.control.enabled;
                    }
                    Vec::new()
                }
                Step::Control(on, function_mask) => {
                    naive.control = MsixControl { enabled: on, function_mask };
                    table.set_control(naive.control)
                }
                Step::Reset => {
                    naive = Naive { pending: naive.pending, ..Naive::new() };
                    table.reset()
                }
            };
            let mut delivered = Vec::new();
            for change in changes {
                match change {
                    MsixChange::Enabled { vectors } => {
                        prop_assert!(!std::mem::replace(&mut enabled, true));
                        let open = |entry: &[u8]| entry[12] & 1 == 0;
                        let last = naive.bytes.chunks(16).rposition(open);
                        prop_assert_eq!(usize::from(vectors), last.unwrap_or(0) + 1);
                    }
                    MsixChange::Disabled => {
                        prop_assert!(std::mem::replace(&mut enabled, false));
                        routes.clear();
                    }
                    MsixChange::Routed { vector, message } => {
                        prop_assert!(enabled);
                        prop_assert_ne!(routes.insert(vector, message), Some(message));
                    }
                    MsixChange::Unrouted { vector } => {
                        prop_assert!(routes.remove(&vector).is_some());
                    }
                    MsixChange::Deliver { vector, message } => {
                        prop_assert_eq!(routes.get(&vector), Some(&message));
                        delivered.push(vector);
                    }
                }
            }
            prop_assert_eq!(&routes, &naive.routes());
            prop_assert_eq!(enabled, naive.control.enabled);
            for vector in 0..VECTORS {
                let pending = &mut naive.pending[usize::from(vector)];
                let due = *pending && routes.contains_key(&vector);
                prop_assert_eq!(delivered.contains(&vector), due);
                *pending &= enabled && !due;
                prop_assert_eq!(table.is_pending(vector), *pending);
            }
        }
    }

    #[test]
    fn accesses_of_any_width_agree(
        steps in steps(),
        offset in TABLE - 20..PBA + 40,
        len in 0_usize..40,
    ) {
        let mut table = table();
        let bar = index(1);
        for step in steps {
            match step {
                Step::Write(offset, data) => drop(table.write(bar, offset, &data)),
                Step::Signal(vector) => drop(table.signal(vector)),
                Step::Control(on, function_mask) => {
                    drop(table.set_control(MsixControl { enabled: on, function_mask }));
                }
                Step::Reset => drop(table.reset()),
            }
        }
        let mut whole = vec![0xa5; len];
        let devices = table.read(bar, offset, &mut whole);
        for (at, byte) in (0_usize..).zip(whole) {
            let mut one = [0xa5];
            let is_devices = !table.read(bar, offset + at as u64, &mut one).is_empty();
            prop_assert_eq!(one[0], byte);
            prop_assert_eq!(devices.iter().any(|run| run.contains(&at)), is_devices);
        }
    }
}
