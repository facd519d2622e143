// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Linux in a confidential VM drives devices whose registers only it can reach.
//!
//! Two parts of this need no VM. `memory_model::SharedMemory` refuses the VMM's own
//! accesses to private pages and private MMIO, as
//! `what_is_private_or_a_device_or_nothing_is_not_reached` in memory-model tests. A page
//! is out of the IOMMU before its attributes make it private: `boot::dma_order` in vmm.

use sha2::{Digest, Sha256};
use vfio_private::device::VfioInterface;

use super::run::{Boot, Guest, RAM, SEED};
use super::scan::{Scan, scan};
use super::{Bars, BootTest, disk_was_found_again, drivers_work};
use crate::hardware::Message;
use crate::needs::Need;
use crate::vfio::Model;

/// What a confidential guest with one device needs.
const fn needs(model: Model) -> [Need; 8] {
    [
        Need::Kvm,
        Need::BackingFd,
        Need::PrivatePages,
        Need::HypercallExits,
        Need::LinuxGuest,
        Need::ConfidentialGuest,
        Need::VfioInterface(VfioInterface::LegacyGroup),
        Need::Vfio(model),
    ]
}

const NVME: &[Need] = &needs(Model::Nvme);
const EDU: &[Need] = &needs(Model::Edu);

/// The tests, all with private BARs.
pub const TESTS: [BootTest; 4] = [
    BootTest {
        name: "devices_reach_only_what_linux_shares_while_it_uses_its_disk",
        needs: [NVME; 2],
        run: |_, report| disk(report),
    },
    BootTest {
        name: "a_secret_in_private_memory_is_nowhere_in_what_the_host_can_read",
        needs: [NVME; 2],
        run: |_, report| secret(report),
    },
    BootTest {
        name: "a_guest_that_reads_a_register_before_accepting_it_ends_with_a_memory_fault",
        needs: [EDU; 2],
        run: |_, report| touch(report),
    },
    BootTest {
        name: "linux_uses_its_disk_again_after_its_registers_were_revoked_during_reads",
        needs: [NVME; 2],
        run: |_, report| revoke(report),
    },
];

/// The bounce buffers of a Linux with this little RAM, in bytes.
const BOUNCE_BUFFERS: u64 = 64 << 20;

/// More than Linux shares for everything else, such as nvme's queues.
const REST: u64 = 4 << 20;

/// How often the scenario `revoke` resets the controller.
const RESETS: usize = 3;

fn confidential<'a>(scenario: &'a str, devices: &'a [Model]) -> Boot<'a> {
    Boot {
        devices,
        guest: Guest::Confidential,
        ..Boot::new(scenario, Bars::Private)
    }
}

/// The scenario of ordinary guests. Meanwhile, devices reach bounce buffers and
/// little else.
fn disk(report: &dyn Fn(Message)) -> Result<(), String> {
    let boot = Boot {
        first_chunk: 16,
        ..confidential("disk", &[Model::Nvme])
    };
    let ended = boot.run(report)?;
    disk_was_found_again(&ended)?;
    // A rescan and a reset switch decoding off, and thereby revoke. Unbinding does not.
    match ended.report.revocations() {
        2 => {}
        other => return Err(ended.because(&format!("{other} revocations"))),
    }
    let dma = ended.report.dma().ok_or("no report of DMA")?;
    let due = BOUNCE_BUFFERS..BOUNCE_BUFFERS + REST;
    match due.contains(&dma.mapped) && dma.mapped == dma.shared {
        true => Ok(()),
        false => Err(format!("devices reach something else: {dma:?}")),
    }
}

/// The host reads all that it can of a guest with a secret. The same scan finds
/// the secret of the same kernel in an ordinary VM.
fn secret(report: &dyn Fn(Message)) -> Result<(), String> {
    let control = Boot {
        guest: Guest::NotConfidential,
        while_reading: secret_is_found,
        ..Boot::new("secret", Bars::Private)
    };
    let private = Boot {
        while_reading: secret_is_nowhere,
        ..confidential("secret", &[Model::Nvme])
    };
    for boot in [control, private] {
        boot.run(report)?.says("secret kept")?;
    }
    Ok(())
}

fn secret_is_found(process: u32, report: &dyn Fn(Message)) -> Result<(), String> {
    match scan_for_secret(process, report)?.found.is_empty() {
        true => Err("the scan does not find the secret of an ordinary guest".into()),
        false => Ok(()),
    }
}

fn secret_is_nowhere(process: u32, report: &dyn Fn(Message)) -> Result<(), String> {
    match scan_for_secret(process, report)?.found.as_slice() {
        [] => Ok(()),
        found => Err(format!("the host can read the secret: {found:?}")),
    }
}

/// Looks for the secret, as bytes and as text. All of RAM's shared side is read.
fn scan_for_secret(process: u32, report: &dyn Fn(Message)) -> Result<Scan, String> {
    let secret = Sha256::digest(format!("secret {SEED}"));
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let seen = scan(process, &[&secret, text.as_bytes()])?;
    let (mib, count) = (seen.bytes >> 20, seen.found.len());
    report(Message::Progress(format!(
        "scanned {mib} MiB, found in {count} mappings"
    )));
    match mib {
        RAM.. => Ok(seen),
        _ => Err(format!("the scan has seen {mib} MiB, and RAM is {RAM} MiB")),
    }
}

/// Decoding is switched on past the kernel, and a register is read.
fn touch(report: &dyn Fn(Message)) -> Result<(), String> {
    let ended = confidential("touch", &[Model::Edu]).until_end(report)?;
    let address = ended.lines_with("touches address=0x").next();
    let address = address.and_then(|text| u64::from_str_radix(text, 16).ok());
    let address = address.ok_or_else(|| ended.because("the guest did not touch"))?;
    ended.report.is_fault_before_acceptance(address)?;
    match ended.status.code() {
        Some(4) => Ok(()),
        _ => Err(format!("the VMM ended with {}", ended.status)),
    }
}

/// The controller is reset while another process reads from the disk.
fn revoke(report: &dyn Fn(Message)) -> Result<(), String> {
    let boot = Boot {
        first_chunk: 24,
        // One reads while the other resets.
        cpus: 2,
        ..confidential("revoke", &[Model::Nvme])
    };
    let ended = boot.run(report)?;
    ended.says("processors 2")?;
    ended.wrote(2)?;
    let accepted = ended.lines_with("reset accepted=").map(str::parse::<u64>);
    let accepted: Vec<u64> = accepted.collect::<Result<_, _>>().unwrap_or_default();
    if accepted.len() != RESETS || !accepted.is_sorted_by(|before, after| before < after) {
        return Err(ended.because(&format!("not accepted at each reset: {accepted:?}")));
    }
    match ended.report.revocations() {
        RESETS => drivers_work(&ended),
        other => Err(format!("{other} revocations at {RESETS} resets")),
    }
}
