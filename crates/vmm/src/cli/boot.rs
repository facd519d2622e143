// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm boot` on the command line.

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use kvm_slots::AbiProfile;
use memory_map::text::Layout;
use vfio_private::device::PciAddress;

use super::{print_json, width};
use crate::boot::config::{BootConfig, DeviceConfig};
use crate::boot::machine::Machine;
use crate::boot::messages::write_within;
use crate::boot::native::help;
use crate::boot::report::Report;
use crate::boot::signals::end_on_signals;
use crate::boot::terminal::{Terminal, spawn_input};
use crate::machine::number;

const EXAMPLES: &str = "\
Examples:
  vmm boot --kernel vmlinuz --initrd initrd.img
                              to the shell of an initramfs; Ctrl-A X leaves
  vmm boot --kernel vmlinuz --initrd initrd.img --device 0000:01:00.0
                              with a device that is bound to vfio-pci
  vmm boot … --device 0000:01:00.0 --abi fd-offset
                              the same, and the host cannot map its registers
  vmm boot … --device memory:1M
                              with a PCI function of plain shared memory

The guest's first serial port is the terminal. Kernel parameters start with
`console=ttyS0 panic=-1 reboot=panic_warm`. With --json the console is standard
error, and standard output is one JSON object at the end.

Exit status: 0 if the guest switched itself off, 1 if its kernel panicked, 2 if
nothing could be booted, 3 if it reset the machine (or panicked while
confidential), 4 if a vCPU could not go on or the console could not be written,
5 if the user or a signal ended it, or the reader of the console has gone.";

#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub struct BootArgs {
    // Which kernels, and on which machine, depends on the architecture.
    #[arg(long, value_name = "FILE", help = help::KERNEL)]
    kernel: PathBuf,
    /// The initramfs.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// More kernel parameters.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        allow_hyphen_values = true
    )]
    append: String,
    /// The size of RAM, in bytes or with a unit: K, M, G.
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: Size,
    /// The number of vCPUs.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: u8,
    /// A PCI function: the address of a device that is bound to vfio-pci, such as
    /// 0000:01:00.0, or `memory:SIZE`. Can be repeated.
    #[arg(long = "device", value_name = "BDF|memory:SIZE")]
    devices: Vec<Device>,
    /// The ABI for memslots without a host address, as for `run`: with one, the
    /// host maps no registers of assigned devices.
    #[arg(long, default_value = "none")]
    abi: AbiProfile,
    /// Trap every access to the registers of assigned devices. Much slower; shows
    /// what direct access saves.
    #[arg(long, conflicts_with = "abi")]
    trap: bool,
    #[arg(long, help = help::CONFIDENTIAL)]
    confidential: bool,
    /// Print one JSON object at the end, and the console on standard error.
    #[arg(long)]
    json: bool,
    /// The device file of KVM.
    #[arg(long, default_value = "/dev/kvm", value_name = "PATH")]
    kvm_device: PathBuf,
}

/// How long standard error has to take the report in words.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// The examples, and what holds on this architecture.
fn after_help() -> String {
    format!("{EXAMPLES}{}", help::NOTES)
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
struct Size(u64);

/// Why a text is not a number of bytes.
#[derive(Debug, thiserror::Error)]
#[error("not a size such as 512M")]
struct SizeError;

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let size = number::read(text).and_then(|size| u64::try_from(size).ok());
        size.map(Self).ok_or(SizeError)
    }
}

#[derive(Clone, Copy, Debug)]
struct Device(DeviceConfig);

/// Why a text is not a PCI function.
#[derive(Debug, thiserror::Error)]
#[error("neither a PCI address such as 0000:01:00.0 nor memory:SIZE")]
struct DeviceError;

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        if let Some(size) = text.strip_prefix("memory:") {
            let Size(size) = size.parse().map_err(|_| DeviceError)?;
            return Ok(Self(DeviceConfig::Memory(size)));
        }
        let address: PciAddress = text.parse().map_err(|_| DeviceError)?;
        Ok(Self(DeviceConfig::Assigned(address)))
    }
}

/// Boots the guest. Returns its exit status.
pub(super) fn boot(args: BootArgs) -> Result<ExitCode, Box<dyn Error>> {
    let json = args.json;
    let config = BootConfig {
        kernel: args.kernel,
        initrd: args.initrd,
        append: args.append,
        memory: args.memory.0,
        cpus: args.cpus,
        devices: args.devices.into_iter().map(|device| device.0).collect(),
        abi: args.abi,
        trap: args.trap,
        confidential: args.confidential,
        kvm_device: args.kvm_device,
    };
    // Its own descriptor: a write that waits must not hold a lock of the standard library.
    let console = match json {
        true => io::stderr().as_fd().try_clone_to_owned()?,
        false => io::stdout().as_fd().try_clone_to_owned()?,
    };
    let mut machine = Machine::new(&config, console)?;
    end_on_signals(machine.end.clone())?;
    let terminal = Terminal::raw()?;
    spawn_input(machine.serial.clone(), machine.end.clone())?;
    let outcome = machine.run()?;
    drop(terminal);

    let report = Report::new(&machine, outcome);
    let layout = Layout::new(width::of(io::stderr()));
    let mut text = report.text(layout);
    let printed = json.then(|| print_json(io::stdout().lock(), &report));
    if let Some(Err(error)) = printed {
        let lost = format!("the report cannot be written: {error}");
        text += &(layout.fill("vmm: ", &lost, 5) + "\n");
    }
    // A console may end in the middle of a line.
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    write_within(stderr, format!("\n{text}"), MESSAGE_TIMEOUT);
    Ok(ExitCode::from(report.status()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_and_fits_64_bits() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0).ok();
        assert_eq!(size("512M"), Some(512 << 20));
        assert_eq!(size("4096"), Some(4096));
        for text in ["", "M", "-1", "1.5G", "99999999T", "1 M", "16E"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_device_is_an_address_or_memory_of_a_size() {
        let device = |text: &str| text.parse::<Device>().map(|device| device.0).ok();
        assert_eq!(device("memory:1M"), Some(DeviceConfig::Memory(1 << 20)));
        let address = "0000:01:00.0".parse().unwrap();
        assert_eq!(
            device("0000:01:00.0"),
            Some(DeviceConfig::Assigned(address))
        );
        for text in ["", "01:00", "memory:", "memory:x", "nvme"] {
            assert_eq!(device(text), None, "{text}");
        }
    }
}
