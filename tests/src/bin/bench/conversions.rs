// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Converting pages of a guest with 1 TiB: everything but the system calls.

use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use kvm_bindings::{
    KVM_CAP_MEMORY_ATTRIBUTES, kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, Converter, ConvertibleMemory,
    ConvertibleRange, Discard, GuestPages, Home, ModelPages,
};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{
    Errno, FileSlice, GuestMemfdFlags, HostMemory, PageSize, SlotAccess, SlotBacking, SlotRange, Vm,
};
use memory_model::{GuestMemfdSides, Memory, MemoryModel, Region};
use rangemap::RangeSet;
use serde_json::json;

const PAGE: u64 = 4096;
const TIB: u64 = 1 << 40;
/// The memory consists of this many adjacent slots.
const SLOTS: u64 = 8;
const SLOT: u64 = TIB / SLOTS;
/// A host address that a process could have. It is never accessed.
const HOST: u64 = 0x5000_0000_0000;
/// The number of requests that are timed.
const REQUESTS: u64 = 1 << 21;
/// How many at a time: less than a scheduler's time slice.
const ROUND: u64 = 1 << 8;

/// A VM that accepts every call at once.
#[derive(Debug)]
struct Paper;

impl Vm for Paper {
    fn check_extension(&self, capability: u32) -> i32 {
        match capability == KVM_CAP_MEMORY_ATTRIBUTES {
            true => i32::try_from(MEMORY_ATTRIBUTE_PRIVATE).unwrap_or(0),
            false => 0,
        }
    }

    unsafe fn set_user_memory_region2(
        &self,
        _: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        Ok(())
    }

    unsafe fn set_user_memory_region(&self, _: &kvm_userspace_memory_region) -> Result<(), Errno> {
        Ok(())
    }

    fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::ENOTTY)
    }

    fn page_size(&self) -> PageSize {
        PageSize::Size4K
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        black_box((gpa, size, attributes));
        Ok(())
    }

    unsafe fn discard(&self, what: Discard) -> Result<(), Errno> {
        black_box(what);
        Ok(())
    }
}

/// Visits each change, as a mapper without work would.
struct Idle;

impl ConversionListener for Idle {
    fn name(&self) -> &str {
        "idle"
    }

    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        black_box(change.stretches.len());
        Ok(())
    }
}

/// One request: the first page, the number of pages, and whether they become
/// private.
type Request = (u64, u64, bool);

/// How a guest chooses what to convert.
const KINDS: [&str; 4] = [
    "every other page, by address",
    "every other page, all over the memory",
    "random pages, to and fro",
    "random 2 MiB, to and fro",
];

/// The `n`th request of a kind.
fn request(kind: usize, n: u64) -> Request {
    let pages = TIB / PAGE;
    // A different number for each n, spread evenly (Fibonacci hashing).
    let spread = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (turn, again) = (n / (1 << 19), n % (1 << 19));
    let (page, count, private) = match kind {
        0 => (2 * n, 1, true),
        1 => (spread(n) & !1, 1, true),
        2 => (spread(again), 1, turn % 2 == 0),
        _ => (spread(again) * 512, 512, turn % 2 == 0),
    };
    (page % pages, count, private)
}

/// Everything between the exit of a vCPU and its return, for one request.
#[inline(never)]
fn convert_once<P: GuestPages>(converter: &Converter<Paper, P>, request: Request) -> u64 {
    let (page, count, private) = request;
    let converted = converter.hypercall(page * PAGE, count, u64::from(private) << 4);
    converted.map_or(0, |converted| converted.bytes)
}

fn plain() -> Converter<Paper, ConvertibleMemory> {
    let slots = (0..SLOTS).map(|n| {
        let (file, host) = sides(n);
        let host = Some(host);
        let backing = SlotBacking::GuestMemfd { file, host };
        SlotRange::new(n * SLOT, SlotAccess::ReadWrite, backing).expect("it does not wrap")
    });
    let ranges = slots.filter_map(|slot| ConvertibleRange::new(&slot, GuestMemfdSides::Private));
    let mut memory = ConvertibleMemory::new();
    memory.set_ranges(ranges).expect("the slots lie apart");
    on_paper(memory)
}

fn model() -> Converter<Paper, ModelPages<MemoryModel, ()>> {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 64)).expect("new");
    for n in 0..SLOTS {
        let (file, host) = sides(n);
        let memory = Memory::with_guest_memfd(host, file, GuestMemfdSides::Private);
        let ram = t.add(Region::ram("ram", memory.expect("of one size")));
        t.place(ram.expect("new"), root, n * SLOT, 0).expect("free");
    }
    t.commit().expect("no listener refuses");
    let space = model.add_space("memory", root).expect("it renders");
    on_paper(ModelPages::new(model, space))
}

/// The private and the shared side of a slot.
fn sides(n: u64) -> (FileSlice, HostMemory) {
    // SAFETY: no guest or device runs, so nothing accesses the addresses.
    let host = unsafe { HostMemory::new(HOST + n * SLOT, SLOT, Arc::new(())) };
    let file = FileSlice::new(Arc::new(std::io::stdin()), n * SLOT, SLOT);
    (file.expect("it has bytes"), host.expect("it has bytes"))
}

fn on_paper<P: GuestPages>(pages: P) -> Converter<Paper, P> {
    let mut converter = Converter::new(Paper, Home::VmAttributes, pages);
    converter.add_listener(Arc::new(Idle));
    converter
}

/// Prints one JSON object per line: what, how, and the rate per second.
pub fn run() {
    for (kind, how) in KINDS.iter().enumerate() {
        let converter = plain();
        let (rate, pages) = time(kind, |request| convert_once(&converter, request));
        let bytes = converter.with_pages(|pages| pages.heap_bytes());
        say("kvm-slots alone", how, rate, pages, bytes.ok());
        let converter = model();
        let (rate, pages) = time(kind, |request| convert_once(&converter, request));
        let bytes = converter.with_pages(|pages| {
            let model = pages.model();
            let spaces: Vec<_> = model.spaces().map(|(id, ..)| id).collect();
            spaces
                .into_iter()
                .map(|id| model.private(id).heap_bytes())
                .sum()
        });
        say("with memory-model", how, rate, pages, bytes.ok());
        let mut set = RangeSet::new();
        let (rate, pages) = time(kind, |request| peer(&mut set, request));
        // The minimum: two addresses for each range.
        let bytes = set.iter().count() * 16;
        say(
            "only the state, in a rangemap::RangeSet",
            how,
            rate,
            pages,
            Some(bytes),
        );
    }
}

/// Applies a request by other means, as a comparison: without slots, steps and
/// listeners.
fn peer(set: &mut RangeSet<u64>, (page, count, private): Request) -> u64 {
    let range = page * PAGE..(page + count) * PAGE;
    let held: u64 = set
        .overlapping(&range)
        .map(|part| part.end.min(range.end) - part.start.max(range.start))
        .sum();
    match private {
        true => {
            set.insert(range);
            count * PAGE - held
        }
        false => {
            set.remove(range);
            held
        }
    }
}

/// Requests and pages per second: the median of many short rounds, so that
/// other work on the machine hardly counts.
fn time(kind: usize, mut convert: impl FnMut(Request) -> u64) -> (f64, f64) {
    let mut rounds = Vec::new();
    let mut bytes = 0;
    for round in 0..REQUESTS / ROUND {
        let start = Instant::now();
        for n in round * ROUND..(round + 1) * ROUND {
            bytes += convert(black_box(request(kind, n)));
        }
        rounds.push(start.elapsed().as_secs_f64());
    }
    rounds.sort_by(f64::total_cmp);
    let rate = ROUND as f64 / rounds[rounds.len() / 2];
    (rate, rate * (bytes / PAGE) as f64 / REQUESTS as f64)
}

fn say(what: &str, how: &str, requests: f64, pages: f64, bytes: Option<usize>) {
    println!(
        "{}",
        json!({
            "what": what,
            "how": how,
            "requests_per_second": requests.round(),
            "pages_per_second": pages.round(),
            "state_bytes": bytes,
        })
    );
}

/// Makes `times` requests of a kind, for an instruction counter.
pub fn count(kind: usize, with_model: bool, times: u64) {
    let kind = kind % KINDS.len();
    match with_model {
        true => count_on(&model(), kind, times),
        false => count_on(&plain(), kind, times),
    }
}

fn count_on<P: GuestPages>(converter: &Converter<Paper, P>, kind: usize, times: u64) {
    for n in 0..times {
        black_box(convert_once(converter, request(kind, n)));
    }
}
