// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Looking random addresses up, beside others that do the same.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use rangemap::RangeMap;
use serde_json::json;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::machine::{Bars, STRIDE};
use crate::moves::move_one_bar;

/// How many addresses are looked up at a time, and how often: the fastest time
/// counts, since everything else on the machine can only make it slower.
const LOOKUPS: usize = 1 << 16;
const TIMES: usize = 25;

/// Prints one JSON object a line: what, how many ranges, nanoseconds.
pub fn run() {
    for count in [4, 64, 512, 4096, 100_000] {
        let addresses = addresses(count);
        let mut machine = Bars::new(count);
        let starts: Vec<u64> = (0..count).map(|n| n * STRIDE).collect();

        say(
            "sorted array, partition_point",
            count,
            time(&addresses, |a| {
                let after = starts.partition_point(|&start| start <= a);
                after as u64
            }),
        );
        let view = machine.model.view(machine.space);
        let ranges: Vec<_> = view.ranges().cloned().collect();
        say(
            "sorted array, partition_point, and the range found",
            count,
            time(&addresses, |a| {
                let after = starts.partition_point(|&start| start <= a);
                let found = after.checked_sub(1).and_then(|at| ranges.get(at));
                let found = found.filter(|run| run.range().contains(a));
                found.map_or(0, |run| run.range().start())
            }),
        );
        let mut reader = machine.model.reader(machine.space).for_thread();
        say(
            "memory-model, ThreadReader",
            count,
            time(&addresses, |a| {
                reader.view().find(a).map_or(0, |run| run.range().start())
            }),
        );
        let shared = machine.model.reader(machine.space);
        say(
            "memory-model, ViewReader",
            count,
            time(&addresses, |a| {
                shared.view().find(a).map_or(0, |run| run.range().start())
            }),
        );
        let ns = while_committing(&mut machine, count, &addresses);
        say(
            "memory-model, ThreadReader, while another thread commits",
            count,
            ns,
        );
        peers(count, &addresses);
    }
}

/// The lookups of a thread while another one moves a BAR all the time.
fn while_committing(machine: &mut Bars, count: u64, addresses: &[u64]) -> f64 {
    let done = AtomicBool::new(false);
    let mut reader = machine.model.reader(machine.space).for_thread();
    let bar = machine.bars[0];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut there = true;
            while !done.load(Ordering::Relaxed) {
                let to = if there { count * STRIDE } else { 0 };
                move_one_bar(&mut machine.model, bar, to);
                there = !there;
            }
        });
        let ns = time(addresses, |a| {
            reader.view().find(a).map_or(0, |run| run.range().start())
        });
        done.store(true, Ordering::Relaxed);
        ns
    })
}

fn peers(count: u64, addresses: &[u64]) {
    let ranges = || (0..count).map(|n| (n * STRIDE, n * STRIDE + 0xfff));
    let tree: BTreeMap<u64, u64> = ranges().collect();
    let find = |tree: &BTreeMap<u64, u64>, a| tree.range(..=a).next_back().map_or(0, |e| *e.1);
    let locked = RwLock::new(tree.clone());
    say(
        "RwLock<BTreeMap>",
        count,
        time(addresses, |a| {
            locked.read().map_or(0, |tree| find(&tree, a))
        }),
    );
    let locked = Mutex::new(tree);
    say(
        "Mutex<BTreeMap>",
        count,
        time(addresses, |a| {
            locked.lock().map_or(0, |tree| find(&tree, a))
        }),
    );
    let map: RangeMap<u64, u64> = ranges()
        .map(|(start, last)| (start..last + 1, start))
        .collect();
    say(
        "rangemap",
        count,
        time(addresses, |a| map.get(&a).copied().unwrap_or(0)),
    );
    if let Some(memory) = guest_memory(count) {
        say(
            "vm-memory, find_region",
            count,
            time(addresses, |a| {
                memory
                    .find_region(GuestAddress(a))
                    .map_or(0, |region| region.start_addr().raw_value())
            }),
        );
    }
}

/// Ranges as vm-memory has them; more mappings than a process may have are
/// left out.
fn guest_memory(count: u64) -> Option<Arc<vm_memory::GuestMemoryMmap<()>>> {
    if count > 10_000 {
        return None;
    }
    let ranges: Vec<_> = (0..count)
        .map(|n| (GuestAddress(n * STRIDE), 0x1000))
        .collect();
    vm_memory::GuestMemoryMmap::from_ranges(&ranges)
        .ok()
        .map(Arc::new)
}

/// Nanoseconds for one lookup.
fn time(addresses: &[u64], mut lookup: impl FnMut(u64) -> u64) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        let start = Instant::now();
        let mut sum = 0_u64;
        for &address in addresses {
            sum = sum.wrapping_add(lookup(black_box(address)));
        }
        black_box(sum);
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e9 / addresses.len() as f64
}

fn say(what: &str, count: u64, ns: f64) {
    println!(
        "{}",
        json!({"what": what, "ranges": count, "ns": (ns * 100.0).round() / 100.0})
    );
}

/// Addresses inside the ranges, in no order (xorshift64*, always the same).
fn addresses(count: u64) -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let random = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        random % count * STRIDE + (random >> 40) % 0x1000
    };
    std::iter::repeat_with(next).take(LOOKUPS).collect()
}
