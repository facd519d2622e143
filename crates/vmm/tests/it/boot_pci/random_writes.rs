// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes that no sane guest makes, compared with what the registers say.

use std::sync::Arc;
use std::thread;

use memory_model::AddrRange;
use proptest::collection::vec;
use proptest::prelude::*;
use vfio_private::emulate::GuestConfig;
use vfio_private::{BarIndex, BarKind};
use vmm::boot::pci::Function;
use vmm::boot::pci::function::EmulatedFunction;

use super::fixture::{BARS, COMMAND, Fixture, TestDevice, WINDOW};

/// A write to configuration space.
type Write = (u64, Vec<u8>);

/// Any bytes anywhere, and more often those that move, show and hide BARs.
fn write() -> impl Strategy<Value = Write> {
    let anywhere = (0_u64..0x1000, vec(any::<u8>(), 1..=8));
    let header = (0_u64..0x40, vec(any::<u8>(), 1..=4));
    let command = (0_u8..4).prop_map(|bits| (COMMAND, vec![bits, 0]));
    // Few places, so that BARs overlap.
    let memory = (prop::sample::select(vec![0x10, 0x18]), 0_u64..12)
        .prop_map(|(register, page)| (register, bytes(WINDOW - 0x4000 + page * 0x1000)));
    let upper = prop::sample::select(vec![0, 0x80, 0xff, u64::MAX]);
    let upper = upper.prop_map(|value| (0x14, bytes(value)));
    let ports = (0_u64..4).prop_map(|place| (0x20, bytes(0xfe0 + place * 0x20)));
    let ones = (0_u64..6).prop_map(|index| (0x10 + 4 * index, vec![0xff; 4]));
    prop_oneof![
        1 => anywhere,
        1 => header,
        3 => command,
        4 => memory,
        1 => upper,
        1 => ports,
        1 => ones,
    ]
}

/// A register of 32 bits.
fn bytes(value: u64) -> Vec<u8> {
    value.to_le_bytes()[..4].to_vec()
}

fn function(fixture: &Fixture) -> (EmulatedFunction<TestDevice>, GuestConfig) {
    let device = TestDevice::new();
    let (guest, bars) = (device.guest(), TestDevice::bars(fixture));
    (EmulatedFunction::new(device, guest.clone(), bars), guest)
}

/// Where the BARs of a kind are by the registers, the lowest number first.
fn expected(guest: &GuestConfig, kind: BarKind) -> Vec<(String, AddrRange)> {
    let windows: &[(u64, u64)] = match kind {
        BarKind::Memory => &[(WINDOW, 0x2000_0000), (1 << 39, 1 << 39)],
        BarKind::Io => &[(0x1000, 0xf000)],
    };
    let of_kind = BARS.into_iter().filter(|(_, is, ..)| *is == kind);
    let shown = of_kind.filter_map(|(index, _, size, _)| {
        let start = guest.shown(BarIndex::new(index).unwrap())?;
        let end = start.checked_add(size)?;
        let inside = |(first, size): &(u64, u64)| start >= *first && end <= *first + *size;
        let range = AddrRange::new(start, size.into())?;
        let name = format!("bar{index}");
        windows.iter().any(inside).then_some((name, range))
    });
    shown.collect()
}

/// The view shows exactly the expected BARs: at both of their ends, and beside them.
fn check(fixture: &Fixture, guest: &GuestConfig) {
    let spaces = &fixture.spaces;
    for (kind, space) in [
        (BarKind::Memory, spaces.memory),
        (BarKind::Io, spaces.ports),
    ] {
        let bars = expected(guest, kind);
        let view = spaces.model().view(space);
        let name = |address| view.find(address).map(|run| run.region().name());
        for (_, range) in &bars {
            let (start, last) = (range.start(), range.last());
            for address in [start - 1, start, last, last + 1] {
                let mut at = bars.iter().filter(|(_, bar)| bar.contains(address));
                let wanted = at.next().map(|(name, _)| name.as_str());
                assert_eq!(name(address), wanted, "{address:#x}");
            }
        }
        let is_bar = |name: &str| name.starts_with("bar");
        for run in view.ranges().filter(|run| is_bar(run.region().name())) {
            let range = run.range();
            assert!(bars.iter().any(|(_, bar)| bar.covers(range)), "{range}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn bars_show_where_the_registers_have_them(writes in vec(write(), 1..60)) {
        let fixture = Fixture::new();
        let (function, mut guest) = function(&fixture);
        for (offset, data) in writes {
            function.write(offset, &data).unwrap();
            let _ = guest.write(offset, &data);
            check(&fixture, &guest);
            let mut data = vec![0; data.len()];
            function.config_read(offset, &mut data);
        }
    }
}

#[test]
fn vcpus_may_write_configuration_space_at_the_same_time() {
    let fixture = Fixture::new();
    let functions: Vec<_> = (0..2).map(|_| Arc::new(function(&fixture).0)).collect();
    fixture.plug(vec![functions[0].clone(), functions[1].clone()]);
    thread::scope(|scope| {
        for vcpu in 0..4_u64 {
            let (fixture, functions) = (&fixture, &functions);
            scope.spawn(move || {
                for turn in 0..300 {
                    let function = &functions[usize::from(turn % 2 == 1)];
                    let page = (turn * 7 + vcpu * 5) % 16;
                    function.config_write(0x18, &bytes(WINDOW + page * 0x1000));
                    function.config_write(COMMAND, &bytes((turn + vcpu) % 4)[..2]);
                    function.config_write(0x10, &bytes(WINDOW + page * 0x4000));
                    function.config_read(COMMAND, &mut [0; 4]);
                    fixture.config_read(1 + turn % 2, 0x10);
                }
            });
        }
    });
    for function in functions {
        assert!(function.take_error().is_none());
        function.write(COMMAND, &[0, 0]).unwrap();
    }
    assert_eq!(fixture.slots.vm().memslots().len(), 1, "only RAM is left");
}
