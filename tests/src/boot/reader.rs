// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads a disk, in the guest.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use crate::check::at;

/// The size of a read in bytes, and where reads start: O_DIRECT needs both, and
/// memory of the same alignment.
const BLOCK: usize = 4096;
/// The blocks that are read from, of the lab's disk.
const BLOCKS: u64 = 4000;
/// The reads of a round. The fastest round counts.
const READS: u64 = 500;
const ROUNDS: u64 = 6;

/// Reads blocks of a disk past the page cache, one at a time, and prints how long
/// a read takes.
///
/// # Errors
/// The disk cannot be read.
pub fn read(path: &str) -> Result<(), String> {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_DIRECT);
    let disk = options.open(path).map_err(at(path))?;
    let mut block = MmapMut::map_anon(BLOCK).map_err(at("memory"))?;
    let [mut sequential, mut random] = [Duration::MAX; 2];
    for round in 0..ROUNDS {
        let start = round * READS;
        let in_order = (start..start + READS).map(|number| number % BLOCKS);
        sequential = sequential.min(time(&disk, &mut block, in_order)?);
        // A step that has no divisor in common with the number of blocks.
        let scattered = (start..start + READS).map(|number| number * 1571 % BLOCKS);
        random = random.min(time(&disk, &mut block, scattered)?);
    }
    for (order, time) in [("sequential", sequential), ("random", random)] {
        println!("guest: {order} {}", time.as_nanos() / u128::from(READS));
    }
    Ok(())
}

fn time(
    disk: &File,
    block: &mut [u8],
    numbers: impl Iterator<Item = u64>,
) -> Result<Duration, String> {
    let start = Instant::now();
    for number in numbers {
        let read = disk.read_exact_at(block, number * BLOCK as u64);
        read.map_err(at("the disk"))?;
    }
    Ok(start.elapsed())
}
