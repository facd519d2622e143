// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's writes to configuration space update a memory model, as in a VMM
//! that wires one to the other. BARs appear, move and disappear, and accepted
//! private MMIO is revoked before it disappears.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use memory_model::{
    AddrRange, CommitError, FileSlice, Listener, ListenerError, MemoryModel, PageSet, PrivateMmio,
    Region, RegionId, SpaceId, Switches, Transaction, Update,
};
use proptest::prelude::*;
use vfio_private::emulate::{ConfigEffect, GuestConfig};
use vfio_private::{Bar, BarIndex, BarKind, ReachEvent};

/// A device with a 32-bit BAR of 16 KiB, an I/O BAR of 32 ports and a 64-bit
/// BAR of 1 MiB. It has power management and a PCI Express reset.
const POWER: u64 = 0x40;
const EXPRESS: u64 = 0x50;

fn config() -> Vec<u8> {
    let mut config = vec![0; 256];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = usize::try_from(at).unwrap();
        config[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &[0x34, 0x12, 0x78, 0x56]);
    put(6, &[0x10]);
    put(0x14, &[1]);
    put(0x18, &[4]);
    put(0x34, &[0x40]);
    put(POWER, &[1, 0x50]);
    put(EXPRESS, &[0x10, 0]);
    put(EXPRESS + 7, &[0x10]);
    config
}

fn bars() -> [Bar; 3] {
    let bar = |number, kind, size| Bar::new(BarIndex::new(number).unwrap(), kind, size).unwrap();
    [
        bar(0, BarKind::Memory, 0x4000),
        bar(1, BarKind::Io, 0x20),
        bar(2, BarKind::Memory, 0x10_0000),
    ]
}

/// Records the pages that were revoked.
#[derive(Debug, Default)]
struct Revocations {
    lost: Mutex<Vec<AddrRange>>,
}

impl Listener<()> for Revocations {
    fn name(&self) -> &str {
        "TDISP unbind"
    }

    fn prepare(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        Ok(())
    }

    fn revoked(&self, _space: SpaceId, lost: &PageSet) {
        self.lost.lock().unwrap().extend(lost.iter());
    }
}

struct Machine {
    guest: GuestConfig,
    /// The registers that were forwarded to the device.
    device: Vec<u8>,
    model: MemoryModel<()>,
    memory: (SpaceId, RegionId),
    ports: (SpaceId, RegionId),
    regions: BTreeMap<BarIndex, RegionId>,
    revocations: Arc<Revocations>,
}

impl Machine {
    fn new() -> Self {
        let mut model = MemoryModel::new();
        let mut change = model.transaction();
        let memory = change.add(Region::container("memory", 1 << 64)).unwrap();
        let ports = change.add(Region::container("ports", 1 << 32)).unwrap();
        let mut regions = BTreeMap::new();
        for bar in bars() {
            let name = bar.index().to_string();
            let region = match bar.kind() {
                BarKind::Io => Region::mmio(&name, bar.size().into()),
                BarKind::Memory => {
                    // A VMM has the dma-buf of a private piece here.
                    let file = Arc::new(File::open("/dev/null").unwrap());
                    let slice = FileSlice::new(file, 0, bar.size()).unwrap();
                    Region::private_mmio(&name, PrivateMmio::new(slice))
                }
            };
            // Hidden until decoding is on.
            let hidden = Switches {
                enabled: false,
                ..Switches::default()
            };
            let region = change.add(region.with_switches(hidden)).unwrap();
            regions.insert(bar.index(), region);
        }
        change.commit().unwrap();
        let memory = (model.add_space("memory", memory).unwrap(), memory);
        let ports = (model.add_space("ports", ports).unwrap(), ports);
        let revocations = Arc::new(Revocations::default());
        model
            .add_listener(memory.0, 0, revocations.clone())
            .unwrap();
        Self {
            guest: GuestConfig::new(&config(), &bars()).unwrap(),
            device: config(),
            model,
            memory,
            ports,
            regions,
            revocations,
        }
    }

    /// The guest writes, and the VMM applies the effects.
    fn write(&mut self, offset: u64, data: &[u8]) {
        for effect in self.guest.write(offset, data) {
            match effect {
                ConfigEffect::Reach(ReachEvent::Revoked(_)) => self.show(BarKind::Memory, false),
                ConfigEffect::Reach(ReachEvent::Restored) => self.show(BarKind::Memory, true),
                ConfigEffect::IoDecode(on) => self.show(BarKind::Io, on),
                ConfigEffect::BarMoved { bar, to } => self.put(bar, to),
                ConfigEffect::Forward { offset, data } => {
                    let registers = self
                        .device
                        .iter_mut()
                        .skip(usize::try_from(offset).unwrap());
                    for (register, byte) in registers.zip(data) {
                        *register = byte;
                    }
                }
                ConfigEffect::IntxDisabled(_) | ConfigEffect::Msi(_) | ConfigEffect::Msix(_) => {}
            }
        }
    }

    fn write32(&mut self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read32(&self, offset: u64) -> u32 {
        let at = usize::try_from(offset).unwrap();
        let mut data = [0; 4];
        data.copy_from_slice(&self.device[at..at + 4]);
        self.guest.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn show(&mut self, kind: BarKind, on: bool) {
        let of_kind = bars().into_iter().filter(|bar| bar.kind() == kind);
        let regions: Vec<RegionId> = of_kind.map(|bar| self.regions[&bar.index()]).collect();
        self.change(|change| {
            for region in &regions {
                change.set_enabled(*region, on).unwrap();
            }
        });
    }

    fn put(&mut self, bar: BarIndex, to: Option<u64>) {
        let region = self.regions[&bar];
        let is_io = bars()
            .iter()
            .any(|b| b.index() == bar && b.kind() == BarKind::Io);
        let (_, root) = if is_io { self.ports } else { self.memory };
        let is_placed = self.model.tree().place(region).unwrap().is_some();
        self.change(|change| {
            match (is_placed, to) {
                (true, Some(to)) => change.move_to(region, to),
                (true, None) => change.unplace(region),
                (false, Some(to)) => change.place(region, root, to, 0),
                (false, None) => Ok(()),
            }
            .unwrap();
        });
    }

    /// One transaction. Accepted pages that the change would take from the
    /// guest are revoked first.
    fn change(&mut self, make: impl Fn(&mut Transaction<'_, ()>)) {
        loop {
            let mut change = self.model.transaction();
            make(&mut change);
            match change.commit() {
                Ok(()) => return,
                Err(CommitError::Accepted { range, .. }) => {
                    let lost = self.model.revoke(self.memory.0, range);
                    assert!(!lost.is_empty(), "nothing is refused for nothing");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// The BAR at an address, and the offset in it.
    fn found(&self, space: SpaceId, address: u64) -> Option<(BarIndex, u64)> {
        let view = self.model.view(space);
        let run = view.find(address)?;
        let (bar, _) = self
            .regions
            .iter()
            .find(|(_, region)| **region == run.id())?;
        Some((*bar, run.offset_of(address)?))
    }

    fn in_memory(&self, address: u64) -> Option<(u8, u64)> {
        let (bar, offset) = self.found(self.memory.0, address)?;
        Some((bar.get(), offset))
    }

    fn lost(&self) -> Vec<AddrRange> {
        std::mem::take(&mut self.revocations.lost.lock().unwrap())
    }
}

const A: u64 = 0xe000_0000;
const B: u64 = 0x12_3450_0000;

/// Sizes and places the BARs as a guest's firmware or kernel does.
fn set_up() -> Machine {
    let mut machine = Machine::new();
    for (register, size) in [
        (0x10, 0xffff_c000),
        (0x14, 0xffff_ffe1),
        (0x18, 0xfff0_0004),
    ] {
        machine.write32(register, u32::MAX);
        assert_eq!(machine.read32(register), size);
        machine.write32(register, 0);
    }
    machine.write32(0x1c, u32::MAX);
    assert_eq!(machine.read32(0x1c), u32::MAX);
    machine.write32(0x10, 0xe000_0000);
    machine.write32(0x14, 0xc000);
    machine.write32(0x18, 0x3450_0000);
    machine.write32(0x1c, 0x12);
    assert_eq!((machine.in_memory(A), machine.in_memory(B)), (None, None));
    machine.write(4, &[3, 0]);
    machine
}

fn pages(start: u64, size: u128) -> AddrRange {
    AddrRange::new(start, size).unwrap()
}

#[test]
fn the_flat_view_follows_a_guest_that_sizes_and_moves_bars() {
    let mut machine = set_up();
    assert_eq!(machine.in_memory(A + 0x3fff), Some((0, 0x3fff)));
    assert_eq!(machine.in_memory(A + 0x4000), None);
    assert_eq!(machine.in_memory(B + 0xf_1234), Some((2, 0xf_1234)));
    let port = BarIndex::new(1).unwrap();
    assert_eq!(machine.found(machine.ports.0, 0xc01f), Some((port, 0x1f)));
    // Move a BAR while decoding is on.
    machine.write32(0x10, 0xf000_0000);
    assert_eq!(
        (machine.in_memory(A), machine.in_memory(0xf000_0000)),
        (None, Some((0, 0)))
    );
    // While the guest sizes the BAR, it is at no address.
    machine.write32(0x10, u32::MAX);
    assert_eq!(
        (
            machine.in_memory(0xf000_0000),
            machine.in_memory(0xffff_c000)
        ),
        (None, None)
    );
    machine.write32(0x10, 0xe000_0000);
    // Memory and I/O decoding are independent.
    machine.write(4, &[1, 0]);
    assert_eq!((machine.in_memory(A), machine.in_memory(B)), (None, None));
    assert!(machine.found(machine.ports.0, 0xc000).is_some());
    machine.write(4, &[2, 0]);
    assert_eq!(machine.in_memory(B), Some((2, 0)));
    assert!(machine.found(machine.ports.0, 0xc000).is_none());
}

#[test]
fn accepted_pages_are_revoked_with_the_device_and_must_be_accepted_again() {
    let mut machine = set_up();
    let (space, range) = (machine.memory.0, pages(A, 0x2000));
    // Writes that disable the device, and writes that enable it again.
    let ways: [(u64, &[u8], u64, &[u8]); 4] = [
        (4, &[0, 0], 4, &[2, 0]),
        (POWER + 4, &[3], POWER + 4, &[0]),
        (EXPRESS + 8, &[0, 0x80], EXPRESS + 8, &[0, 0]),
        (0x10, &[0, 0, 0, 0xd0], 0x10, &[0, 0, 0, 0xe0]),
    ];
    for (away, gone, back, returned) in ways {
        machine.model.accept(space, range).unwrap();
        machine.write(away, gone);
        assert_eq!(machine.lost(), [range], "{gone:x?} at {away:#x}");
        assert!(machine.model.accepted(space).is_empty());
        machine.write(back, returned);
        assert_eq!(machine.in_memory(A), Some((0, 0)));
        assert!(
            machine.model.accepted(space).is_empty(),
            "nothing comes back by itself"
        );
        assert_eq!(machine.lost(), []);
    }
    // Writes that do not affect memory revoke nothing.
    machine.model.accept(space, range).unwrap();
    machine.write(4, &[2, 4]);
    machine.write32(0x14, 0xd000);
    machine.write(POWER + 4, &[1]);
    assert_eq!(machine.lost(), []);
    assert!(machine.model.accepted(space).covers(range));
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Accept(u64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let offset = prop_oneof![
        8 => 0x10_u64..0x20,
        3 => Just(4),
        1 => POWER + 3..POWER + 6,
        1 => EXPRESS + 8..EXPRESS + 10,
        1 => 0_u64..0x100,
    ];
    // Few places, so that BARs overlap.
    let byte = prop_oneof![
        Just(0),
        Just(0xff),
        Just(3),
        Just(0x10),
        Just(0x80),
        any::<u8>()
    ];
    let step = prop_oneof![
        6 => (offset, prop::collection::vec(byte, 1..9)).prop_map(|(at, data)| Step::Write(at, data)),
        2 => (0_u64..3, 0_u64..4).prop_map(|(bar, page)| Step::Accept(bar, page)),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    /// After any writes, the BARs are where the guest placed them, and only
    /// visible pages are accepted.
    #[test]
    fn the_view_is_what_the_guest_wrote(steps in steps()) {
        let mut machine = Machine::new();
        for step in steps {
            match step {
                Step::Write(offset, data) => machine.write(offset, &data),
                Step::Accept(number, page) => {
                    let bar = bars()[usize::try_from(number).unwrap()].index();
                    let space = machine.memory.0;
                    if let Some(at) = machine.guest.shown(bar) {
                        let range = pages(at + page * 0x1000, 0x1000);
                        // The BAR may be hidden by another one, or be an I/O
                        // BAR.
                        let _ = machine.model.accept(space, range);
                    }
                }
            }
            let mut shown: Vec<(Bar, u64)> = Vec::new();
            for bar in bars().into_iter() {
                shown.extend(machine.guest.shown(bar.index()).map(|at| (bar, at)));
            }
            for space in [machine.memory.0, machine.ports.0] {
                let kind = if space == machine.memory.0 { BarKind::Memory } else { BarKind::Io };
                for probe in shown.iter().flat_map(|(bar, at)| [*at, at + (bar.size() - 1)]) {
                    let mut due = shown.iter().filter(|(bar, at)| {
                        bar.kind() == kind && probe.checked_sub(*at).is_some_and(|n| n < bar.size())
                    });
                    let found = machine.found(space, probe);
                    match found {
                        // If two BARs are at one address, either is right.
                        Some((bar, offset)) => prop_assert!(
                            due.any(|(b, at)| b.index() == bar && probe - at == offset)
                        ),
                        None => prop_assert!(due.next().is_none()),
                    }
                }
                let view = machine.model.view(space);
                let bytes: u128 = view.ranges().map(|run| run.range().size()).sum();
                let shown = shown.iter().filter(|(bar, _)| bar.kind() == kind);
                prop_assert!(bytes <= shown.map(|(bar, _)| u128::from(bar.size())).sum());
            }
            for range in machine.model.accepted(machine.memory.0).iter() {
                for page in (range.start()..=range.last()).step_by(0x1000) {
                    prop_assert!(machine.in_memory(page).is_some());
                }
            }
        }
    }
}
