// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a read of an assigned disk costs an ordinary Linux, by how it reaches the
//! registers of the disk's controller.

use std::process::Command;

use super::Bars;
use super::run::{Boot, Ended};
use crate::check::at;
use crate::vfio::Model;

/// The guest's initramfs with this program in it: [`super::reader`].
const INITRD: &str = "/tmp/initrd";
const WITH_READER: &str = "cp /guest/initrd /tmp/initrd && cd / && \
                           echo bin/hw-tests | cpio -o -H newc >>/tmp/initrd";

/// The cost of a read of 4 KiB.
#[derive(Clone, Debug)]
pub struct ReadCost {
    /// `private`, `mapped` or `trapped`.
    pub by: &'static str,
    /// Nanoseconds of a read that follows another, by the guest's clock.
    pub sequential: u64,
    /// Nanoseconds of a read somewhere on the disk.
    pub random: u64,
    /// The exits at the controller's registers in all.
    pub exits: u64,
}

/// Boots a guest for each way of access that the kernel has.
///
/// # Errors
/// A guest cannot be booted, or cannot read.
pub fn measure(private: bool, mut report: impl FnMut(&ReadCost)) -> Result<(), String> {
    let made = Command::new("sh").args(["-c", WITH_READER]).output();
    let made = made.map_err(at("sh"))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(format!("{INITRD}: {}", said.trim()));
    }
    let ways = [
        (Bars::Private, "private"),
        (Bars::HostMapped, "mapped"),
        (Bars::Trapped, "trapped"),
    ];
    for (bars, by) in ways {
        if bars == Bars::Private && !private {
            continue;
        }
        let boot = Boot {
            devices: &[Model::Nvme],
            initrd: Some(INITRD),
            ..Boot::new("reads", bars)
        };
        let ended = boot.run(&|_| {})?;
        report(&ReadCost {
            by,
            sequential: nanoseconds(&ended, "sequential ")?,
            random: nanoseconds(&ended, "random ")?,
            exits: ended.report.exits_at_bars(),
        });
    }
    Ok(())
}

fn nanoseconds(ended: &Ended, what: &str) -> Result<u64, String> {
    let value = ended.lines_with(what).next();
    let value = value.ok_or_else(|| format!("the guest did not report {what}"))?;
    value.parse().map_err(at(value))
}
