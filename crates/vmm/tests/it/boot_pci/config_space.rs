// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both ways to configuration space.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use vmm::boot::pci::Function;
use vmm::boot::pci::bus::{BusFull, PciBus};
use vmm::boot::pci::function::{EmulatedFunction, FunctionDevice, WriteError};
use vmm::boot::pci::host_bridge::HostBridge;

use super::fixture::{BAR0, COMMAND, ECAM, Fixture, PCI_CONFIG_PORTS, TestDevice, WINDOW};

const ADDRESS: u64 = PCI_CONFIG_PORTS.0;
const DATA: u64 = ADDRESS + 4;

/// A host bridge and a device 1.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let device = TestDevice::new();
    let (guest, bars) = (device.guest(), TestDevice::bars(&fixture));
    fixture.plug(vec![Arc::new(EmulatedFunction::new(device, guest, bars))]);
    fixture
}

impl Fixture {
    fn select(&self, address: u32) {
        let ports = self.spaces.ports;
        self.store(ports, ADDRESS, &address.to_le_bytes());
    }

    fn data<const N: usize>(&self, port: u64) -> [u8; N] {
        self.load(self.spaces.ports, port)
    }
}

#[test]
fn linux_finds_the_address_register_and_a_host_bridge() {
    let fixture = fixture();
    let ports = fixture.spaces.ports;
    // pci_check_type1 of Linux: a byte that is not the register's, then all of it.
    fixture.store(ports, ADDRESS + 3, &[1]);
    fixture.select(0x8000_0000);
    assert_eq!(fixture.data(ADDRESS), 0x8000_0000_u32.to_le_bytes());
    fixture.select(0x8000_0008);
    assert_eq!(fixture.data(DATA + 2), [0x00, 0x06], "a host bridge");
}

#[test]
fn only_a_double_word_selects_an_address() {
    let fixture = fixture();
    let ports = fixture.spaces.ports;
    fixture.select(0x8000_0800);
    for port in ADDRESS..DATA {
        fixture.store(ports, port, &[0]);
        assert_eq!(fixture.data(port), [0xff]);
    }
    fixture.store(ports, ADDRESS + 2, &[0, 0]);
    assert_eq!(fixture.data(ADDRESS), 0x8000_0800_u32.to_le_bytes());
    fixture.select(u32::MAX);
    let without_reserved = 0x80ff_fffc_u32.to_le_bytes();
    assert_eq!(fixture.data(ADDRESS), without_reserved);
}

#[test]
fn the_ports_reach_the_same_registers_as_the_memory() {
    let fixture = fixture();
    fixture.select(0x8000_0800);
    assert_eq!(fixture.data(DATA), [0x34, 0x12, 0xe8, 0x11]);
    assert_eq!(fixture.data(DATA + 1), [0x12]);
    assert_eq!(fixture.data(DATA + 2), [0xe8, 0x11]);
    fixture.select(0x8000_0804);
    fixture.store(fixture.spaces.ports, DATA, &[2]);
    assert_eq!(fixture.config_read(1, COMMAND), 2);
    assert_eq!(fixture.data(DATA + 2), [0, 0], "the status");
}

#[test]
fn an_address_that_is_off_selects_nothing() {
    let fixture = fixture();
    fixture.select(0x0000_0804);
    fixture.store(fixture.spaces.ports, DATA, &[2, 0]);
    assert_eq!(fixture.data(DATA), [0xff; 4]);
    assert_eq!(fixture.config_read(1, COMMAND), 0);
}

#[test]
fn absent_functions_read_as_ones_and_ignore_writes() {
    let fixture = fixture();
    let memory = fixture.spaces.memory;
    for function in [2 << 15, 31 << 15, 1 << 15 | 1 << 12, 7 << 12] {
        fixture.store(memory, ECAM.0 + function + COMMAND, &[0; 4]);
        assert_eq!(fixture.load(memory, ECAM.0 + function), [0xff; 4]);
    }
    // Bus 1, and a device after the last one of bus 0.
    for address in [0x8001_0000, 0x8001_0800] {
        fixture.select(address);
        assert_eq!(fixture.data(DATA), [0xff; 4]);
    }
}

/// A function that lists the requests that it gets.
#[derive(Debug, Default)]
struct Requests(Mutex<Vec<(u64, usize)>>);

impl Function for Requests {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.0.lock().unwrap().push((offset, data.len()));
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().push((offset, data.len()));
    }
}

#[test]
fn a_function_gets_aligned_requests_of_up_to_four_bytes() {
    let fixture = Fixture::new();
    let function = Arc::<Requests>::default();
    fixture.plug(vec![function.clone()]);
    let (memory, ports) = (fixture.spaces.memory, fixture.spaces.ports);
    let device = ECAM.0 + (1 << 15);
    let requests = || std::mem::take(&mut *function.0.lock().unwrap());
    fixture.load::<8>(memory, device + 8);
    assert_eq!(requests(), [(8, 4), (12, 4)]);
    fixture.store(memory, device + 0x42, &[0; 4]);
    assert_eq!(requests(), [(0x42, 2), (0x44, 2)]);
    fixture.store(memory, device + 0xffd, &[0; 8]);
    assert_eq!(requests(), [(0xffd, 1), (0xffe, 2)]);
    fixture.select(0x8000_0840);
    fixture.store(ports, DATA - 2, &[0; 8]);
    assert_eq!(requests(), [(0x40, 4)]);
    fixture.load::<4>(ports, DATA + 1);
    assert_eq!(requests(), [(0x41, 1), (0x42, 2)]);
}

#[test]
fn accesses_that_cross_a_double_word_are_split() {
    let fixture = fixture();
    let memory = fixture.spaces.memory;
    let device = ECAM.0 + (1 << 15);
    let whole = [0x34, 0x12, 0xe8, 0x11, 0, 0, 0, 0];
    assert_eq!(fixture.load(memory, device), whole);
    assert_eq!(fixture.load(memory, device + 2), [0xe8, 0x11, 0, 0]);
    // From the end of device 1 to the start of device 2, which is absent.
    let end = fixture.load(memory, device + 0x7ffe);
    assert_eq!(end, [0xff; 4]);
    fixture.store(memory, device + 1, &[0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(fixture.config_read(1, COMMAND), 2);
}

#[test]
fn a_function_has_no_interrupt_line_and_no_rom() {
    let fixture = fixture();
    assert_eq!(fixture.config_read(1, 0x3c), 0);
    fixture.config_write(1, 0x30, &0xffff_f800_u32.to_le_bytes());
    assert_eq!(fixture.config_read(1, 0x30), 0);
}

#[test]
fn configuration_space_ends_where_the_device_has_none() {
    let fixture = fixture();
    assert_eq!(fixture.config_read(0, 0x100), u32::MAX);
    assert_eq!(fixture.config_read(1, 0x100), u32::MAX);
}

#[test]
fn a_bus_has_32_devices() {
    let bridge = || Arc::new(HostBridge::new());
    let mut bus = PciBus::new(bridge());
    for device in 1..32 {
        assert_eq!(bus.add(bridge()), Ok(device));
    }
    assert_eq!(bus.add(bridge()), Err(BusFull));
}

/// A device whose writes wait while the test has the lock.
#[derive(Debug)]
struct SlowDevice {
    device: TestDevice,
    is_writing: AtomicBool,
    busy: Mutex<()>,
}

impl FunctionDevice for SlowDevice {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.device.config_read(offset, data);
    }

    fn config_write(&self, _: u64, _: &[u8]) {
        self.is_writing.store(true, Ordering::SeqCst);
        drop(self.busy.lock().unwrap());
    }
}

#[test]
fn taking_an_error_does_not_wait_for_a_device() {
    let fixture = Fixture::new();
    let device = TestDevice::new();
    let (guest, bars) = (device.guest(), TestDevice::bars(&fixture));
    let device = SlowDevice {
        device,
        is_writing: AtomicBool::new(false),
        busy: Mutex::new(()),
    };
    let function = EmulatedFunction::new(device, guest, bars);
    let busy = function.device().busy.lock().unwrap();
    thread::scope(|scope| {
        let writes = scope.spawn(|| function.config_write(COMMAND, &[2, 0]));
        while !function.device().is_writing.load(Ordering::SeqCst) && !writes.is_finished() {
            thread::yield_now();
        }
        assert!(!writes.is_finished(), "the device is not written");
        assert!(function.take_error().is_none());
        drop(busy);
    });
}

/// A device whose configuration space is empty once its memory may have changed.
#[derive(Debug)]
struct DamagedDevice(TestDevice);

impl FunctionDevice for DamagedDevice {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.0.config_read(offset, data);
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        self.0.config_write(offset, data);
    }

    fn config_space(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

#[test]
fn of_two_errors_of_one_write_the_first_is_kept() {
    let fixture = Fixture::new();
    let device = TestDevice::new();
    let (guest, bars) = (device.guest(), TestDevice::bars(&fixture));
    let function = EmulatedFunction::new(DamagedDevice(device), guest, bars);
    function.write(BAR0, &WINDOW.to_le_bytes()[..4]).unwrap();
    function.write(BAR0 + 4, &[0; 4]).unwrap();
    // The configuration space is invalid, and then the BAR cannot show.
    fixture.watch.refuses.store(true, Ordering::SeqCst);
    let error = function.write(COMMAND, &[2, 0]).unwrap_err();
    assert!(matches!(error, WriteError::Config(_)), "{error}");
}
