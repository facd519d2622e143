// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lookups of random addresses, compared with other data structures.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use memory_model::{AddrRange, FlatRange, ThreadReader};
use rangemap::RangeMap;
use serde_json::json;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::contention::{self, Contended, Work};
use crate::machine::{Bars, Random, STRIDE};

/// The number of addresses, and how many times each is looked up.
const LOOKUPS: usize = 1 << 16;
pub const TIMES: usize = 25;
/// How many are looked up at a time. The fastest time of each section counts,
/// because other work on the machine can only slow it down.
pub const SECTION: usize = 1 << 12;

/// Prints one JSON object per line: what, the number of ranges, nanoseconds.
pub fn run() {
    for count in [4, 64, 512, 4096, 100_000] {
        let addresses = addresses(count);
        let machine = Bars::new(count);
        let starts: Vec<u64> = (0..count).map(|n| n * STRIDE).collect();

        say(
            "sorted array of addresses, partition_point",
            count,
            time(&addresses, |a| {
                let after = starts.partition_point(|&start| start <= a);
                after as u64
            }),
        );
        let view = machine.model.view(machine.space);
        let ranges: Vec<_> = view.ranges().cloned().collect();
        say(
            "the same, and the range found in another array",
            count,
            time(&addresses, |a| find_in_array(&starts, &ranges, a)),
        );
        let bare: Vec<AddrRange> = ranges.iter().map(FlatRange::range).collect();
        say(
            "sorted array of ranges, partition_point",
            count,
            time(&addresses, |a| {
                let after = bare.partition_point(|range| range.start() <= a);
                let found = after.checked_sub(1).and_then(|at| bare.get(at));
                found
                    .filter(|range| range.contains(a))
                    .map_or(0, |range| range.start())
            }),
        );
        let mut reader = machine.model.reader(machine.space).for_thread();
        say(
            "memory-model, ThreadReader",
            count,
            time(&addresses, |a| find_in_view(&mut reader, a)),
        );
        let shared = machine.model.reader(machine.space);
        say(
            "memory-model, ViewReader",
            count,
            time(&addresses, |a| {
                shared.view().find(a).map_or(0, |run| run.range().start())
            }),
        );
        beside(count, &addresses, machine, &starts, &ranges);
        peers(count, &addresses);
    }
}

/// The same lookups while another thread works, and lookups in an array that
/// the other thread does not use.
fn beside(
    count: u64,
    addresses: &[u64],
    mut machine: Bars,
    starts: &[u64],
    ranges: &[FlatRange<()>],
) {
    let mut other = Bars::new(count);
    let work = |work: &Work| contention::commit(&mut other, count, work);
    say_contended(
        "the two arrays, while another thread commits to a model",
        count,
        contention::time(addresses, work, |a| find_in_array(starts, ranges, a)),
    );
    // The tree of runs is full before the first move, and has another level
    // after it.
    contention::move_to_and_fro(&mut machine, count);
    let mut reader = machine.model.reader(machine.space).for_thread();
    say(
        "memory-model, ThreadReader, after a move to and fro",
        count,
        time(addresses, |a| find_in_view(&mut reader, a)),
    );
    let work = |work: &Work| contention::commit_now_and_then(&mut machine, count, work);
    say_contended(
        "the same, while another thread commits to this model 10 000 times a second",
        count,
        Some(contention::time_all(addresses, work, |a| {
            find_in_view(&mut reader, a)
        })),
    );
    let work = |work: &Work| contention::commit(&mut other, count, work);
    say_contended(
        "the same, while another thread commits to another model without a pause",
        count,
        contention::time(addresses, work, |a| find_in_view(&mut reader, a)),
    );
    drop(other);
    let work = |work: &Work| contention::commit(&mut machine, count, work);
    say_contended(
        "the same, while another thread commits to this model without a pause",
        count,
        contention::time(addresses, work, |a| find_in_view(&mut reader, a)),
    );
}

/// Looks an address up as a vCPU thread does.
#[inline(always)]
fn find_in_view(reader: &mut ThreadReader<()>, a: u64) -> u64 {
    reader.view().find(a).map_or(0, |run| run.range().start())
}

/// Looks an address up with `partition_point`, with the result of a reader.
fn find_in_array(starts: &[u64], ranges: &[FlatRange<()>], a: u64) -> u64 {
    let after = starts.partition_point(|&start| start <= a);
    let found = after.checked_sub(1).and_then(|at| ranges.get(at));
    let found = found.filter(|run| run.range().contains(a));
    found.map_or(0, |run| run.range().start())
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

/// The ranges as vm-memory has them, unless there are more mappings than a
/// process may have.
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
    let mut fastest = Fastest::new(addresses);
    for _ in 0..TIMES {
        for (number, section) in addresses.chunks(SECTION).enumerate() {
            fastest.add(number, Section::of(section, &mut lookup));
        }
    }
    fastest.ns().unwrap_or(f64::NAN)
}

/// The measured times of some addresses.
#[derive(Clone, Copy)]
pub struct Section {
    pub seconds: f64,
}

impl Section {
    pub fn of(addresses: &[u64], mut lookup: impl FnMut(u64) -> u64) -> Self {
        let start = Instant::now();
        let mut sum = 0_u64;
        for &address in addresses {
            sum = sum.wrapping_add(lookup(black_box(address)));
        }
        black_box(sum);
        let seconds = start.elapsed().as_secs_f64();
        Self { seconds }
    }
}

/// The fastest time of each section, and the number of measurements.
pub struct Fastest {
    sections: Vec<(f64, usize)>,
    lookups: usize,
}

impl Fastest {
    pub fn new(addresses: &[u64]) -> Self {
        Self {
            sections: vec![(f64::INFINITY, 0); addresses.len().div_ceil(SECTION)],
            lookups: addresses.len(),
        }
    }

    pub fn add(&mut self, number: usize, section: Section) {
        let (fastest, times) = &mut self.sections[number];
        *fastest = fastest.min(section.seconds);
        *times += 1;
    }

    /// Whether each section was timed this many times.
    pub fn have_each(&self, times: usize) -> bool {
        self.sections.iter().all(|section| section.1 >= times)
    }

    /// Nanoseconds for one lookup, if every section was timed.
    pub fn ns(&self) -> Option<f64> {
        let seconds: f64 = self.sections.iter().map(|section| section.0).sum();
        let ns = seconds * 1e9 / self.lookups as f64;
        self.have_each(1).then_some(ns)
    }
}

fn say(what: &str, count: u64, ns: f64) {
    println!(
        "{}",
        json!({"what": what, "ranges": count, "ns": hundredths(ns)})
    );
}

fn say_contended(what: &str, count: u64, beside: Option<Contended>) {
    if let Some(Contended { ns, steps }) = beside {
        let steps = hundredths(steps);
        println!(
            "{}",
            json!({"what": what, "ranges": count, "ns": hundredths(ns), "steps_per_second": steps})
        );
    }
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Addresses inside the ranges, in random order.
fn addresses(count: u64) -> Vec<u64> {
    let mut random = Random::default();
    let next = || random.below(count) * STRIDE + random.below(0x1000);
    std::iter::repeat_with(next).take(LOOKUPS).collect()
}
