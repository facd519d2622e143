// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an access of the guest costs, by each way in which it can have a
//! device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access_paths::{By, guest_with};
use super::machine::{A, Seen};
use super::open;
use crate::vfio::Model;

/// How often each is measured; the best counts.
const ROUNDS: u32 = 5;

/// What a load of 4 bytes costs.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Of which device's BAR.
    pub what: &'static str,
    /// `private`, `mapped` or `trapped`.
    pub by: &'static str,
    /// Nanoseconds by this machine's clock.
    pub ns: f64,
}

/// Loads from registers, which a device answers, and from memory on a device.
///
/// # Errors
/// What is missing, or went wrong.
pub fn costs() -> Result<Vec<Cost>, String> {
    let mut costs = Vec::new();
    for (model, bar, what) in [
        (Model::Edu, 0, "edu's identification register"),
        (Model::Ivshmem, 2, "ivshmem's memory"),
    ] {
        let device = Arc::new(open(model)?);
        for by in By::ALL {
            let (mut guest, _memory) = guest_with(&device, bar, by)?;
            // An exit takes as long as many loads do.
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
            // Entering and leaving the guest is no part of a load.
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
