// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an access of the guest to a device costs, over each path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_slots::sim::VmType;

use super::access_paths::{By, guest_with};
use super::machine::{A, Seen};
use super::open;
use crate::vfio::Model;

/// How many times each load is measured; the fastest counts.
const ROUNDS: u32 = 5;

/// The cost of a load of 4 bytes.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The device whose BAR is loaded from.
    pub what: &'static str,
    /// `private`, `mapped` or `trapped`.
    pub by: &'static str,
    /// Nanoseconds of this machine's clock.
    pub ns: f64,
}

/// Measures loads from registers and from memory on a device.
///
/// # Errors
/// A message that says what is missing or went wrong.
pub fn costs() -> Result<Vec<Cost>, String> {
    let mut costs = Vec::new();
    for (model, bar, what) in [
        (Model::Edu, 0, "edu's identification register"),
        (Model::Ivshmem, 2, "ivshmem's memory"),
    ] {
        let device = Arc::new(open(model)?);
        for by in By::ALL {
            let (mut guest, _memory) = guest_with(VmType::SwProtected, &device, bar, by)?;
            // An exit takes as long as many loads.
            let count = match by {
                By::Trapped => 500,
                By::Private | By::Mapped => 2_000_000,
            };
            let mut time = |count| {
                let start = Instant::now();
                match guest.loads(A, count)? {
                    Seen::Value(_) => Ok(start.elapsed()),
                    other => Err(format!("{what}: {other:x?}")),
                }
            };
            let (mut one, mut all) = (Duration::MAX, Duration::MAX);
            for _ in 0..ROUNDS {
                one = one.min(time(1)?);
                all = all.min(time(count + 1)?);
            }
            // Do not count entering and leaving the guest.
            let best = all.saturating_sub(one);
            costs.push(Cost {
                what,
                by: by.word(),
                ns: best.as_secs_f64() * 1e9 / f64::from(count),
            });
        }
    }
    Ok(costs)
}
