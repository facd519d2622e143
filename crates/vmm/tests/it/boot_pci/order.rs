// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a function does before its device sees a write, and what after.

use std::sync::{Arc, Mutex};

use memory_model::AddrRange;
use vfio_private::emulate::MsixControl;
use vmm::boot::pci::function::{EmulatedFunction, FunctionDevice};

use super::fixture::{BAR0, COMMAND, Fixture, TestDevice, WINDOW};

/// Capabilities: power management, PCI Express with function level reset, MSI-X.
const POWER: u8 = 0x40;
const EXPRESS: u8 = 0x48;
const MSIX: u8 = 0x90;

/// Logs what it is called for, and whether BAR 0 shows at the time.
#[derive(Debug)]
struct Logged {
    config: Vec<u8>,
    command: Mutex<[u8; 2]>,
    fixture: Arc<Fixture>,
    log: Mutex<Vec<String>>,
}

impl Logged {
    fn new(fixture: &Arc<Fixture>) -> Self {
        let mut config = TestDevice::new().config_space().unwrap();
        config[6] = 0x10;
        config[0x34] = POWER;
        let capabilities: [(u8, &[u8]); 3] = [
            (POWER, &[0x01, EXPRESS]),
            (EXPRESS, &[0x10, MSIX, 2, 0, 0, 0, 0, 0x10]),
            (MSIX, &[0x11, 0, 1, 0, 2, 0, 0, 0, 2, 8, 0, 0]),
        ];
        for (at, bytes) in capabilities {
            config[at.into()..][..bytes.len()].copy_from_slice(bytes);
        }
        Self {
            config,
            command: Mutex::default(),
            fixture: fixture.clone(),
            log: Mutex::default(),
        }
    }

    fn log(&self, what: &str) {
        let shows = self.fixture.at(self.fixture.spaces.memory, WINDOW);
        let shows = if shows.is_some() { "shown" } else { "hidden" };
        self.log.lock().unwrap().push(format!("{what}, {shows}"));
    }
}

impl FunctionDevice for Logged {
    fn config_read(&self, _: u64, _: &mut [u8]) {}

    fn config_write(&self, offset: u64, data: &[u8]) {
        self.log(&format!("write {offset:#x}"));
        if offset == COMMAND {
            self.command.lock().unwrap().copy_from_slice(data);
        }
    }

    /// Power control stays as it is: the device has no D3hot.
    fn config_space(&self) -> Option<Vec<u8>> {
        let mut config = self.config.clone();
        config[4..6].copy_from_slice(&*self.command.lock().unwrap());
        Some(config)
    }

    fn revoke(&self, memory: &[AddrRange]) {
        self.log(&format!("revoke {}", memory[0]));
    }

    fn intx_disabled(&self, disabled: bool) {
        self.log(&format!("intx disabled {disabled}"));
    }

    fn msix(&self, control: MsixControl) {
        self.log(&format!("msix enabled {}", control.enabled));
    }
}

/// The log of writes, after BAR 0 has its place.
fn log(writes: &[(u64, &[u8])]) -> Vec<String> {
    let fixture = Arc::new(Fixture::new());
    let device = Logged::new(&fixture);
    let bars = TestDevice::bars(&fixture);
    let guest = TestDevice::guest_of(&device.config);
    let function = EmulatedFunction::new(device, guest, bars);
    function.write(BAR0, &WINDOW.to_le_bytes()[..4]).unwrap();
    for (offset, data) in writes {
        function.write(*offset, data).unwrap();
    }
    function.device().log("end");
    std::mem::take(&mut *function.device().log.lock().unwrap())
}

const ON: (u64, &[u8]) = (COMMAND, &[2, 0]);
const REVOKE: &str = "revoke 0xc0000000..=0xc0003fff, shown";

#[test]
fn memory_shows_after_the_device_decodes_and_hides_before_it_stops() {
    let off: (u64, &[u8]) = (COMMAND, &[0, 0]);
    let expected = [
        "write 0x4, hidden",
        REVOKE,
        "write 0x4, hidden",
        "end, hidden",
    ];
    assert_eq!(log(&[ON, off]), expected);
}

/// As for a device that must decode while its memory is mapped, before the guest runs.
#[test]
fn memory_of_a_device_that_was_switched_off_shows_once_the_guest_switches_it_on() {
    let fixture = Fixture::new();
    let device = TestDevice::new();
    device.config_write(COMMAND, &[2, 0]);
    let bars = TestDevice::bars(&fixture);
    device.config_write(COMMAND, &[0, 0]);
    let guest = device.guest();
    let function = EmulatedFunction::new(device, guest, bars);
    let shown = || fixture.at(fixture.spaces.memory, WINDOW);
    function.write(BAR0, &WINDOW.to_le_bytes()[..4]).unwrap();
    assert_eq!(shown(), None);
    function.write(COMMAND, &[2, 0]).unwrap();
    assert_eq!(shown().as_deref(), Some("bar0"));
}

#[test]
fn memory_is_hidden_during_a_reset() {
    let reset: (u64, &[u8]) = (0x48 + 8, &[0, 0x80]);
    let expected = [
        "write 0x4, hidden",
        REVOKE,
        "write 0x50, hidden",
        "end, shown",
    ];
    assert_eq!(log(&[ON, reset]), expected);
}

#[test]
fn memory_shows_again_if_the_device_ignores_the_power_state() {
    let sleep: (u64, &[u8]) = (0x40 + 4, &[3, 0]);
    let expected = [
        "write 0x4, hidden",
        REVOKE,
        "write 0x44, hidden",
        "end, shown",
    ];
    assert_eq!(log(&[ON, sleep]), expected);
}

#[test]
fn the_device_learns_of_msix_and_of_the_interrupt_line() {
    let msix: (u64, &[u8]) = (0x90 + 2, &[0, 0x80]);
    let line: (u64, &[u8]) = (COMMAND, &[0, 4]);
    let expected = [
        "msix enabled true, hidden",
        "intx disabled true, hidden",
        "write 0x4, hidden",
        "end, hidden",
    ];
    assert_eq!(log(&[msix, line]), expected);
}
