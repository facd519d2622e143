// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! BARs of memory functions, and what their changes cost.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_slots::exit::MmioHandler;
use vmm::boot::pci::Function;
use vmm::boot::pci::function::{EmulatedFunction, WriteError};
use vmm::boot::pci::memory::{MemoryDevice, MemoryFunctionError, memory_function};

use super::fixture::{BAR0, COMMAND, ECAM, Fixture, WINDOW};

const SIZE: u64 = 0x1_0000;
const DECODE: [u8; 2] = [2, 0];
const OFF: [u8; 2] = [0, 0];
const NONE: [&str; 0] = [];

type MemoryFunction = EmulatedFunction<MemoryDevice>;

/// `count` memory functions, as devices 1, 2, ….
fn fixture(count: usize) -> (Fixture, Vec<Arc<MemoryFunction>>) {
    let fixture = Fixture::new();
    let (spaces, windows) = (&fixture.spaces, &fixture.windows);
    let function = || memory_function(spaces.clone(), windows.clone(), SIZE).unwrap();
    let functions: Vec<_> = (0..count).map(|_| Arc::new(function())).collect();
    let plugged = functions.iter().map(|function| {
        let function: Arc<dyn Function> = function.clone();
        function
    });
    fixture.plug(plugged.collect());
    (fixture, functions)
}

impl Fixture {
    /// Writes both halves of BAR 0, the upper first.
    fn place(&self, device: u64, address: u64) -> Vec<&'static str> {
        let bytes = address.to_le_bytes();
        let mut ioctls = self.config_write(device, BAR0 + 4, &bytes[4..]);
        ioctls.extend(self.config_write(device, BAR0, &bytes[..4]));
        ioctls
    }

    fn decode(&self, device: u64, command: [u8; 2]) -> Vec<&'static str> {
        self.config_write(device, COMMAND, &command)
    }

    fn memory_at(&self, address: u64) -> Option<String> {
        self.at(self.spaces.memory, address)
    }

    /// All ones to both halves, and the old values again, as Linux does it. Returns
    /// the size.
    fn size(&self, device: u64) -> (u64, Vec<&'static str>) {
        let mut ioctls = Vec::new();
        let mut mask = 0;
        for half in [0, 1] {
            let register = BAR0 + 4 * half;
            let old = self.config_read(device, register);
            ioctls.extend(self.config_write(device, register, &[0xff; 4]));
            mask |= u64::from(self.config_read(device, register)) << (32 * half);
            ioctls.extend(self.config_write(device, register, &old.to_le_bytes()));
        }
        (!(mask & !0xf) + 1, ioctls)
    }
}

#[test]
fn linux_sizes_a_shown_bar_with_one_delete_and_one_create() {
    let (fixture, _) = fixture(1);
    fixture.place(1, WINDOW);
    assert_eq!(fixture.decode(1, DECODE), ["create"]);
    assert_eq!(fixture.decode(1, OFF), ["delete"]);
    assert_eq!(fixture.size(1), (SIZE, NONE.to_vec()));
    assert_eq!(fixture.decode(1, DECODE), ["create"]);
    assert_eq!(fixture.memory_at(WINDOW).unwrap(), "memory.bar0.ram");
}

#[test]
fn sizing_and_placing_a_bar_that_is_off_costs_nothing() {
    let (fixture, _) = fixture(1);
    assert_eq!(fixture.size(1), (SIZE, NONE.to_vec()));
    assert_eq!(fixture.place(1, WINDOW), NONE);
    assert_eq!(fixture.size(1), (SIZE, NONE.to_vec()));
    assert_eq!(fixture.memory_at(WINDOW), None);
}

#[test]
fn a_write_that_changes_nothing_costs_nothing() {
    let (fixture, _) = fixture(1);
    fixture.place(1, WINDOW);
    fixture.decode(1, DECODE);
    assert_eq!(fixture.decode(1, DECODE), NONE);
    assert_eq!(fixture.place(1, WINDOW), NONE);
}

#[test]
fn a_bar_that_moves_while_it_is_shown_is_one_move() {
    let (fixture, _) = fixture(1);
    fixture.place(1, WINDOW);
    fixture.decode(1, DECODE);
    assert_eq!(fixture.place(1, WINDOW + 0x10_0000), ["move"]);
    assert_eq!(fixture.memory_at(WINDOW), None);
    let slots = fixture.slots.vm().memslots();
    assert_eq!(slots.last().unwrap().gpa, WINDOW + 0x10_0000);
}

#[test]
fn what_the_guest_writes_to_the_memory_moves_with_it() {
    struct Never;
    impl MmioHandler for Never {
        fn mmio_read(&mut self, gpa: u64, _: &mut [u8]) {
            panic!("{gpa:#x}");
        }
        fn mmio_write(&mut self, gpa: u64, _: &[u8]) {
            panic!("{gpa:#x}");
        }
    }

    let (fixture, _) = fixture(1);
    fixture.place(1, WINDOW);
    fixture.decode(1, DECODE);
    let vm = fixture.slots.vm();
    vm.guest_store(WINDOW + 8, &[1, 2, 3, 4], &mut Never)
        .unwrap();
    fixture.place(1, WINDOW + SIZE);
    let mut data = [0; 4];
    vm.guest_load(WINDOW + SIZE + 8, &mut data, &mut Never)
        .unwrap();
    assert_eq!(data, [1, 2, 3, 4]);
}

#[test]
fn a_bar_shows_only_inside_of_a_window() {
    let (fixture, _) = fixture(1);
    fixture.decode(1, DECODE);
    let before = fixture.slots.vm().memslots();
    // RAM, the addresses above it, ECAM, the end of the lower window, the end of the
    // upper one, and the last addresses of all.
    let outside = [
        0x1_0000,
        0x4000_0000,
        ECAM.0,
        1 << 32,
        1 << 40,
        u64::MAX - (SIZE - 1) - SIZE,
    ];
    for address in outside {
        assert_eq!(fixture.place(1, address), NONE, "{address:#x}");
        assert_eq!(fixture.slots.vm().memslots(), before);
    }
    assert_eq!(fixture.memory_at(0x1_0000).unwrap(), "ram");
    assert_eq!(fixture.memory_at(ECAM.0).unwrap(), "ecam");
    for address in [ECAM.0 - SIZE, 1 << 39, (1 << 40) - SIZE] {
        fixture.place(1, address);
        assert!(fixture.memory_at(address + SIZE - 1).is_some());
    }
}

#[test]
fn of_two_functions_at_one_address_the_latest_shows() {
    let (fixture, _) = fixture(2);
    let shown = || {
        let view = fixture.spaces.model().view(fixture.spaces.memory);
        view.find(WINDOW).unwrap().id()
    };
    fixture.place(1, WINDOW);
    fixture.decode(1, DECODE);
    let first = shown();
    fixture.place(2, WINDOW);
    fixture.decode(2, DECODE);
    let second = shown();
    assert_ne!(first, second);
    fixture.place(2, WINDOW + SIZE);
    assert_eq!(shown(), first);
}

#[test]
fn a_refused_move_leaves_the_bar_where_it_was_until_the_next_write() {
    let (fixture, functions) = fixture(1);
    fixture.place(1, WINDOW);
    fixture.decode(1, DECODE);
    fixture.watch.refuses.store(true, Ordering::SeqCst);
    for at in [WINDOW + 2 * SIZE, WINDOW + SIZE] {
        assert_eq!(fixture.place(1, at), NONE);
    }
    assert!(fixture.memory_at(WINDOW).is_some());
    let error = functions[0].take_error().unwrap();
    assert!(matches!(error, WriteError::Show(_)), "{error}");
    assert!(functions[0].take_error().is_none(), "one error is kept");
    fixture.watch.refuses.store(false, Ordering::SeqCst);
    assert_eq!(fixture.decode(1, DECODE), ["move"]);
    assert!(fixture.memory_at(WINDOW).is_none());
    assert!(fixture.memory_at(WINDOW + SIZE).is_some());
}

#[test]
fn decoding_stays_on_if_the_memory_cannot_be_hidden() {
    let (fixture, functions) = fixture(1);
    fixture.place(1, WINDOW);
    fixture.decode(1, DECODE);
    fixture.watch.refuses.store(true, Ordering::SeqCst);
    assert_eq!(fixture.decode(1, OFF), NONE);
    assert_eq!(fixture.config_read(1, COMMAND) & 2, 2);
    let error = functions[0].take_error().unwrap();
    assert!(matches!(error, WriteError::Hide(_)), "{error}");
    fixture.watch.refuses.store(false, Ordering::SeqCst);
    assert_eq!(fixture.place(1, WINDOW), NONE, "nothing is left to be done");
    assert_eq!(fixture.decode(1, OFF), ["delete"]);
    assert_eq!(fixture.config_read(1, COMMAND) & 2, 0);
}

#[test]
fn device_memory_has_the_size_of_a_bar() {
    let fixture = Fixture::new();
    let new = |size| {
        let (spaces, windows) = (fixture.spaces.clone(), fixture.windows.clone());
        memory_function(spaces, windows, size).unwrap_err()
    };
    assert!(matches!(
        new(2048),
        MemoryFunctionError::TooSmall { size: 2048, .. }
    ));
    assert!(matches!(new(0x3000), MemoryFunctionError::Size(_)));
    assert!(matches!(new(1 << 63), MemoryFunctionError::Memory { .. }));
}
