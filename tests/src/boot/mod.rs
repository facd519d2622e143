// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An ordinary Linux in `vmm boot` drives the lab's devices with its own
//! drivers. The scenarios that it runs are in `xtask/lab/guest`.

#[cfg(not(target_arch = "x86_64"))]
mod aarch64;
pub mod calls;
mod confidential;
pub mod reader;
pub mod reads;
mod report;
mod run;
mod scan;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use serde::Serialize;

use crate::hardware::Message;
use crate::needs::Need;
use crate::vfio::Model;
#[cfg(not(target_arch = "x86_64"))]
use aarch64 as native;
pub(crate) use native::lacks_kernel_code;
pub use run::set_files;
use run::{Boot, Ended};
pub(crate) use run::{lacks_confidential_guest, lacks_guest};
use vfio_private::device::VfioInterface;
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

/// How the guest reaches the BARs of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bars {
    /// By memslots on the VMM's mappings.
    HostMapped,
    /// By memslots without a host address.
    Private,
    /// By exits.
    Trapped,
}

/// Some bytes of the disk as the guest wrote them. `cargo xtask hw-test` looks
/// for them in the disk's image after the lab's machine has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wrote {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub length: u64,
    /// Their SHA-256, in hexadecimal.
    pub sha256: String,
}

/// What a test does. It reports what it sees.
type Run = fn(Bars, &dyn Fn(Message)) -> Result<(), String>;

/// A test, what it needs in each variant, and what it does.
#[derive(Clone, Copy, Debug)]
pub struct BootTest {
    name: &'static str,
    needs: [&'static [Need]; 2],
    run: Run,
}

const LEGACY: Need = Need::VfioInterface(VfioInterface::LegacyGroup);

/// The needs of a test with these devices, with host-mapped and private BARs.
macro_rules! needs {
    ($($model:ident),*) => {
        [
            &[Need::Kvm, Need::LinuxGuest, Need::NoBackingFd, LEGACY, $(Need::Vfio(Model::$model)),*],
            &[Need::Kvm, Need::LinuxGuest, Need::BackingFd, LEGACY, $(Need::Vfio(Model::$model)),*],
        ]
    };
}

const TESTS: [BootTest; 4] = [
    BootTest {
        name: "linux_finds_its_disk_again_after_removal_reset_and_unbinding",
        needs: needs!(Nvme),
        run: disk,
    },
    BootTest {
        name: "linux_moves_a_bar_and_uses_the_disk_behind_it",
        needs: needs!(Nvme, Ivshmem),
        run: moves,
    },
    BootTest {
        name: "linux_pings_through_its_network_card",
        needs: needs!(E1000e),
        run: net,
    },
    BootTest {
        name: "linux_uses_a_device_without_a_driver",
        needs: needs!(Edu),
        run: edu,
    },
];

/// What Linux needs without devices.
const LINUX: &[Need] = &[Need::Kvm, Need::KernelCode, Need::LinuxGuest];

/// Tests without devices of the host, in one variant.
const WITHOUT_DEVICES: [BootTest; 3] = [
    BootTest {
        name: "linux_with_1_vcpu_reads_from_its_console",
        needs: [LINUX; 2],
        run: |_, report| console(1, report),
    },
    BootTest {
        name: "linux_with_4_vcpus_reads_from_its_console",
        needs: [LINUX; 2],
        run: |_, report| console(4, report),
    },
    BootTest {
        name: "linux_moves_bars_of_memory_and_finds_its_words",
        needs: [LINUX; 2],
        run: memory,
    },
];

/// All tests in their variants, with their names and needs.
pub fn all() -> impl Iterator<Item = (String, &'static [Need], BootTest, Bars)> {
    let variants = [
        (Bars::HostMapped, "host_mapped"),
        (Bars::Private, "private"),
    ];
    let alone = WITHOUT_DEVICES.into_iter().map(|test| {
        let [needs, _] = test.needs;
        (
            format!("boot::{}", test.name),
            needs,
            test,
            Bars::HostMapped,
        )
    });
    let with_devices = TESTS.into_iter().flat_map(move |test| {
        variants
            .into_iter()
            .zip(test.needs)
            .map(move |((bars, variant), needs)| {
                (format!("boot::{variant}::{}", test.name), needs, test, bars)
            })
    });
    let confidential = confidential::TESTS.into_iter().map(|test| {
        let [_, needs] = test.needs;
        let name = format!("boot::confidential::{}", test.name);
        (name, needs, test, Bars::Private)
    });
    alone.chain(with_devices).chain(confidential)
}

impl BootTest {
    /// Runs the test.
    ///
    /// # Errors
    /// A message that says what went wrong.
    pub fn run(&self, bars: Bars, report: &dyn Fn(Message)) -> Result<(), String> {
        (self.run)(bars, report)
    }
}

/// The guest's own nvme driver writes to the disk and reads it back, after each
/// way of losing and finding the controller.
fn disk(bars: Bars, report: &dyn Fn(Message)) -> Result<(), String> {
    let boot = Boot {
        devices: &[Model::Nvme],
        ..Boot::new("disk", bars)
    };
    disk_was_found_again(&boot.run(report)?)
}

/// The scenario `disk` came to its end.
fn disk_was_found_again(ended: &Ended) -> Result<(), String> {
    ended.says("partition nvme0n1p1 start=1048576")?;
    ended.says("partition nvme0n1p2 ")?;
    for step in ["remove_and_rescan", "reset_function", "unbind_and_bind"] {
        ended.says(&format!("{step} ok"))?;
    }
    ended.wrote(4)?;
    drivers_work(ended)
}

/// The guest moves the controller's BAR to another address and back.
fn moves(bars: Bars, report: &dyn Fn(Message)) -> Result<(), String> {
    let boot = Boot {
        devices: &[Model::Nvme, Model::Ivshmem],
        first_chunk: 8,
        ..Boot::new("move", bars)
    };
    let ended = boot.run(report)?;
    ended.moved(2)?;
    ended.wrote(2)?;
    drivers_work(&ended)
}

/// The guest moves the BARs of two functions with memory, and finds its words there.
fn memory(bars: Bars, report: &dyn Fn(Message)) -> Result<(), String> {
    let boot = Boot {
        memory_functions: 2,
        ..Boot::new("memory", bars)
    };
    boot.run(report)?.moved(2)
}

/// Linux starts its processors, and its shell reads a line.
fn console(cpus: u8, report: &dyn Fn(Message)) -> Result<(), String> {
    let boot = Boot {
        cpus,
        ..Boot::new("console", Bars::HostMapped)
    };
    let ended = boot.run(report)?;
    ended.says(&format!("processors {cpus}"))?;
    ended.says("read a line")
}

/// The guest's own e1000e driver.
fn net(bars: Bars, report: &dyn Fn(Message)) -> Result<(), String> {
    let boot = Boot {
        devices: &[Model::E1000e],
        ..Boot::new("net", bars)
    };
    let ended = boot.run(report)?;
    ended.says("ping ok")?;
    ended.says("unbind_and_bind ok")?;
    drivers_work(&ended)
}

/// The guest's processes access edu's registers.
fn edu(bars: Bars, report: &dyn Fn(Message)) -> Result<(), String> {
    let boot = Boot {
        devices: &[Model::Edu],
        ..Boot::new("edu", bars)
    };
    let ended = boot.run(report)?;
    ended.says("remove_and_rescan ok")?;
    ended.report.only_msix_tables_are_trapped()
}

/// The guest counted interrupts of the device, and the VMM connected an eventfd
/// to them. Registers were reached without exits.
fn drivers_work(ended: &Ended) -> Result<(), String> {
    if let Some(count) = ended.lines_with("interrupts ").next() {
        match count.parse::<u64>() {
            Ok(1..) => {}
            _ => return Err(format!("the guest's driver had interrupts: {count}")),
        }
    }
    // One is the serial port's.
    if ended.report.irqfds() < 2 {
        return Err("no interrupt of the device has an irqfd".into());
    }
    ended.report.only_msix_tables_are_trapped()
}
