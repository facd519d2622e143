// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! BARs with private MMIO that the guest has accepted.

use std::fs::File;
use std::sync::Arc;

use memory_model::{AddrRange, CommitError, FileSlice, PrivateMmio, Region};
use vfio_private::BarKind;
use vmm::boot::pci::bars::{BarError, GuestBars};
use vmm::boot::pci::function::{EmulatedFunction, WriteError};

use super::fixture::{BARS, COMMAND, Fixture, TestDevice, WINDOW, bar, regions};

/// A function whose BAR 0 is private MMIO and shows. Its pages are accepted.
fn accepted(revokes: bool) -> (Fixture, Arc<EmulatedFunction<TestDevice>>) {
    let fixture = Fixture::new();
    // No slots: the ABI of this kernel has none for private MMIO.
    let mut model = fixture.spaces.model();
    model
        .remove_listener(fixture.spaces.memory, &fixture.slots)
        .unwrap();
    drop(model);
    let size = BARS[0].2;
    let file = Arc::new(File::open("/dev/null").unwrap());
    let registers = PrivateMmio::new(FileSlice::new(file, 0, size).unwrap());
    let piece = Region::private_mmio("bar0", registers);
    let bars = vec![regions(bar(0, BarKind::Memory, size), piece)];
    let bars = GuestBars::new(fixture.spaces.clone(), fixture.windows.clone(), bars).unwrap();
    let mut device = TestDevice::new();
    device.revokes = revokes.then(|| fixture.spaces.clone());
    let guest = device.guest();
    let function = Arc::new(EmulatedFunction::new(device, guest, bars));
    fixture.plug(vec![function.clone()]);
    function.write(0x10, &WINDOW.to_le_bytes()[..4]).unwrap();
    function.write(COMMAND, &[2, 0]).unwrap();
    let range = AddrRange::new(WINDOW, size.into()).unwrap();
    let mut model = fixture.spaces.model();
    model.accept(fixture.spaces.memory, range).unwrap();
    drop(model);
    (fixture, function)
}

#[test]
fn accepted_pages_are_revoked_before_they_are_hidden() {
    let (fixture, function) = accepted(true);
    function.write(COMMAND, &[0, 0]).unwrap();
    assert_eq!(fixture.at(fixture.spaces.memory, WINDOW), None);
    let model = fixture.spaces.model();
    assert!(model.accepted(fixture.spaces.memory).is_empty());
}

#[test]
fn accepted_pages_that_no_one_revokes_keep_the_device_decoding() {
    let (fixture, function) = accepted(false);
    let error = function.write(COMMAND, &[0, 0]).unwrap_err();
    let WriteError::Hide(BarError::Commit(CommitError::Accepted { .. })) = error else {
        panic!("{error}");
    };
    assert_eq!(fixture.config_read(1, COMMAND) & 2, 2);
    assert!(fixture.at(fixture.spaces.memory, WINDOW).is_some());
}

#[test]
fn accepted_pages_do_not_move() {
    let (fixture, function) = accepted(true);
    let moved = (WINDOW + 0x1_0000).to_le_bytes();
    let error = function.write(0x10, &moved[..4]).unwrap_err();
    let WriteError::Show(BarError::Commit(CommitError::Accepted { .. })) = error else {
        panic!("{error}");
    };
    assert!(fixture.at(fixture.spaces.memory, WINDOW).is_some());
}
